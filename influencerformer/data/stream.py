"""One endless, resumable stream of training samples, whatever they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from influencerformer.data.accumulation import TrainLoader
from influencerformer.data.bad_samples import (
    BAD_SAMPLES_FILE,
    BadDataError,
    Guarded,
    GuardedCollate,
    GuardedLoader,
    Ledger,
    OnBadSample,
    Take,
    most_tries,
)
from influencerformer.data.eval_sampler import EvalSampler
from influencerformer.data.progress import progress
from influencerformer.data.workers import leave_signals_to_the_trainer
from influencerformer.errors import UserError

Item = TypeVar("Item")
Source = TypeVar("Source", bound=Dataset[Any])


class Draw(NamedTuple):
    """What a worker needs to know to make one training sample."""

    epoch: int
    position: int


class StreamSampler(DistributedSampler[Draw]):
    """One endless stream of shuffled epochs, of which each pass over the loader takes the next epoch's length.

    The place in the stream is the number of batches the run has behind it. So a resumed run goes on with the
    very next batch, wherever in an epoch it stopped, and the epoch travels with each index to workers, which
    would not learn of it otherwise. It is a DistributedSampler so that Lightning leaves it in place on several
    devices.

    Args:
        dataset: what is sampled from.
        num_replicas, rank: number of processes and this one's.
        seed: of the order.
        batch_size: of each process; an epoch leaves out a last incomplete batch, unless it is the only one.
        batches_done: gives the number of batches behind the run; where it gives None, `set_epoch` counts.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_replicas: int,
        rank: int,
        seed: int,
        batch_size: int,
        batches_done: Callable[[], int | None],
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=_spread(seed))
        self.batch_size = batch_size
        self.batches_done = batches_done

    @classmethod
    def of_trainer(cls, dataset: Dataset[Any], trainer: Trainer | None, seed: int, batch_size: int) -> StreamSampler:
        """The sampler of this process in a run; without a trainer, that of a single process."""
        if trainer is None:
            return cls(dataset, 1, 0, seed, batch_size, lambda: None)

        def batches_done() -> int:
            """Training batches that the run has behind it, counted over resumptions."""
            return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]

        return cls(dataset, trainer.world_size, trainer.global_rank, seed, batch_size, batches_done)

    def __len__(self) -> int:
        total = super().__len__()
        return total - total % self.batch_size if total >= self.batch_size else total

    def __iter__(self) -> Iterator[Draw]:
        length = len(self)
        done = self.batches_done()
        start = self.epoch * length if done is None else done * min(self.batch_size, length)
        epoch, skipped = divmod(start, length)
        return chain(self._one_epoch(epoch)[skipped:], self._one_epoch(epoch + 1)[:skipped])

    def _one_epoch(self, epoch: int) -> list[Draw]:
        current, self.epoch = self.epoch, epoch
        positions: Iterator[int] = super().__iter__()  # type: ignore[assignment]
        self.epoch = current
        return [Draw(epoch, position) for position in islice(positions, len(self))]


def _spread(seed: int) -> int:
    """DistributedSampler shuffles by seed + epoch: seeds are spread, so that runs do not share orders."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


class TrainDataset(Dataset[Item]):
    """Samples after a random transform; indexed by `Draw`, which with the seed settles all randomness."""

    def __init__(self, dataset: Dataset[Item], transform: Callable[[Item, torch.Generator], Item], seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> Item:
        return self.drawn_from(draw, draw.position)

    def drawn_from(self, draw: Draw, position: int) -> Item:
        """What `draw` makes of the sample at `position`, its own or one that takes its place."""
        state = np.random.SeedSequence((self.seed, *draw)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        return self.transform(self.dataset[position], generator)

    def candidates(self, draw: Draw) -> Iterator[int]:
        """The position of a draw, then those that follow it in the order of its epoch, round to its own."""
        yield draw.position
        generator = torch.Generator().manual_seed(_spread(self.seed) + draw.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()  # as DistributedSampler shuffles
        place = order.index(draw.position)
        yield from order[place + 1 :]
        yield from order[:place]


class StreamDataModule(LightningDataModule, Generic[Item, Source]):
    """What every data module of the package has: options, parts of type Source, loaders.

    Attributes:
        train_transform: a random transform of a sample.
        collate: makes a batch of samples.
        format, root: of the data.
        batch_size, eval_batch_size: samples in a batch of training and of validation.
        num_workers: processes that load data; 0 loads in the training process.
        seed: of order and augmentation.
        on_bad_sample: stop at a sample that cannot be used, or skip it. A skipped sample is replaced in training by the
            next usable one in the order of its epoch; in validation it is left out, and it is said how many were
            evaluated. See docs/bad_data.md.

    Raises:
        UserError: numbers below what they can be, or an unknown `on_bad_sample`.
    """

    train_transform: Callable[[Item, torch.Generator], Item]
    collate: Callable[[list[Item]], dict[str, Any]]

    def __init__(
        self, format: str, root: str, batch_size: int, num_workers: int, seed: int, on_bad_sample: OnBadSample
    ) -> None:
        super().__init__()
        least = {"batch_size": (batch_size, 1), "num_workers": (num_workers, 0), "seed": (seed, 0)}
        for option, (value, limit) in least.items():
            if value < limit:
                raise UserError(f"{option} must be {limit} or larger, got {value}")
        if on_bad_sample not in get_args(OnBadSample):
            raise UserError(f"on_bad_sample must be stop or skip, got {on_bad_sample!r}")
        self.format = format
        self.root = Path(root)
        self.batch_size = batch_size
        self.eval_batch_size = 1
        self.num_workers = num_workers
        self.seed = seed
        self.on_bad_sample: OnBadSample = on_bad_sample
        self._datasets: dict[str, Source] = {}

    @property
    def check_command(self) -> str:
        """The command that lists everything amiss in the data."""
        return f"influencerformer check {shlex.quote(f'{self.format}:{self.root}')}"

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0..C-1."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """C, without no-object."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Open the parts that `stage` (fit, validate, ...; None for all) needs: errors come early."""
        self.dataset("val")
        if stage in ("fit", None):
            self.dataset("train")

    def ledger(self, part: Literal["train", "val"]) -> Ledger:
        """The bad samples of a part; of a training, they are also kept in the run's folder."""
        ledgers: dict[str, Ledger] = self.__dict__.setdefault("_ledgers", {})
        if part not in ledgers:
            ledgers[part] = Ledger(part, self.on_bad_sample, self.check_command)
        if self.trainer is not None and self.trainer.state.fn == "fit":
            ledgers[part].keep_in(Path(self.trainer.default_root_dir) / BAD_SAMPLES_FILE)
        return ledgers[part]

    def opened(self, part: Literal["train", "val"], open_part: Callable[[Take | None], Any]) -> Any:
        """A part of the data, without the samples that are known to be bad where these are skipped.

        Args:
            part: train or val.
            open_part: opens it; handed what takes defects, or None to stop at the first.

        Raises:
            UserError: the data cannot be used.
        """
        ledger = self.ledger(part)
        if self.on_bad_sample == "stop":
            try:
                return open_part(None)
            except BadDataError as error:
                raise UserError(f"{error}; {ledger.advice}") from None
        dataset = open_part(ledger.take)
        ledger.total = len(dataset) + sum(defect.sample is not None for defect in ledger.bad.values())
        ledger.check_share()
        return self._usable(dataset, ledger) if part == "val" else dataset

    def open_part(self, part: Literal["train", "val"], take: Take | None) -> Any:
        """Opens a part anew; `take` is handed what is amiss, in place of an error at the first."""
        return self._open(part, take)

    def _open(self, part: Any, take: Take | None) -> Any:
        raise NotImplementedError

    def _usable(self, dataset: Any, ledger: Ledger) -> Any:
        """Reads every sample of a validation once: processes must agree on which ones are left out."""
        kept = []
        for index in progress(range(len(dataset)), "Reading validation data"):
            try:
                dataset[index]
            except Exception as error:  # a reader of broken files may raise anything
                ledger.take(dataset.defect(error, index))
            else:
                kept.append(index)
        rank_zero_info(f"validation: {len(kept)} of {ledger.total} samples can be used and are evaluated")
        return dataset if len(kept) == len(dataset) else dataset.keep(kept)

    def dataset(self, part: Literal["train", "val"]) -> Source:
        """The samples as they are on disk, untransformed."""
        if part not in self._datasets:
            self._datasets[part] = self.opened(part, partial(self.open_part, part))
        return self._datasets[part]

    def eval_dataset(self) -> Dataset[Item]:
        """The validation samples as the model sees them."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        source = self.dataset("train")
        dataset = TrainDataset(source, self.train_transform, self.seed)
        # A last incomplete batch is left out, unless it is the only one.
        sampler = StreamSampler.of_trainer(dataset, self.trainer, self.seed, self.batch_size)
        tries = 1 if self.on_bad_sample == "stop" else most_tries(len(dataset))
        guarded = Guarded(source, dataset.drawn_from, dataset.candidates, tries)
        options = self._loader_options(sampler, self.batch_size)
        return TrainLoader(guarded, self.ledger("train"), self.trainer, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        dataset = self.eval_dataset()
        guarded = Guarded(self.dataset("val"), partial(_of_index, dataset), _index_alone)
        sampler = EvalSampler.of_trainer(dataset, self.trainer, self.eval_batch_size)
        return GuardedLoader(guarded, self.ledger("val"), **self._loader_options(sampler, self.eval_batch_size))

    def _loader_options(self, sampler: Sampler[Any], batch_size: int) -> dict[str, Any]:
        return {
            "batch_size": batch_size,
            "sampler": sampler,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "collate_fn": GuardedCollate(self.collate),
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": leave_signals_to_the_trainer,
            "generator": torch.Generator(),  # a pass over the loader draws none of the run's random numbers
        }


def _of_index(dataset: Dataset[Item], key: int, index: int) -> Item:
    return dataset[index]


def _index_alone(key: int) -> list[int]:
    return [key]
