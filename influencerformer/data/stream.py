"""One endless, resumable stream of training samples, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, SequentialSampler

Item = TypeVar("Item")


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
        # DistributedSampler shuffles by seed + epoch: spread the seeds, so that runs do not share orders.
        spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=spread)
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


class TrainDataset(Dataset[Item]):
    """Samples after a random transform; indexed by `Draw`, which with the seed settles all randomness."""

    def __init__(self, dataset: Dataset[Item], transform: Callable[[Item, torch.Generator], Item], seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> Item:
        state = np.random.SeedSequence((self.seed, *draw)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        return self.transform(self.dataset[draw.position], generator)


class StreamDataModule(LightningDataModule, Generic[Item]):
    """The loaders that every data module of the package has.

    Attributes:
        train_transform: a random transform of a sample.
        collate: makes a batch of samples.
        batch_size, eval_batch_size: samples in a batch of training and of validation.
        num_workers: processes that load data; 0 loads in the training process.
        seed: of order and augmentation.
    """

    train_transform: Callable[[Item, torch.Generator], Item]
    collate: Callable[[list[Item]], dict[str, Any]]
    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int

    def dataset(self, part: Literal["train", "val"]) -> Dataset[Item]:
        """The samples as they are on disk, untransformed."""
        raise NotImplementedError

    def eval_dataset(self) -> Dataset[Item]:
        """The validation samples as the model sees them."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Item]:
        dataset = TrainDataset(self.dataset("train"), self.train_transform, self.seed)
        # A last incomplete batch is left out, unless it is the only one.
        sampler = StreamSampler.of_trainer(dataset, self.trainer, self.seed, self.batch_size)
        return self._loader(dataset, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[Item]:
        dataset = self.eval_dataset()
        return self._loader(dataset, SequentialSampler(dataset), self.eval_batch_size)  # type: ignore[arg-type]

    def _loader(self, dataset: Dataset[Item], sampler: Sampler[Any], batch_size: int) -> DataLoader[Item]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
        )
