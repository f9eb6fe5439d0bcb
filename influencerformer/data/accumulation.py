"""Training batches that know what else the optimiser step holds which their gradient goes into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning import Trainer
from torch.utils.data import Dataset

from influencerformer.data.bad_samples import GuardedLoader, Ledger

ACCUMULATION = "accumulation"


class TrainLoader(GuardedLoader):
    """Training batches; where a step accumulates the gradients of several, each says what the others hold.

    Args:
        dataset, ledger, options: of GuardedLoader.
        trainer: of the run, which says how many batches a step takes; None leaves the batches as they are.
    """

    def __init__(self, dataset: Dataset[Any], ledger: Ledger, trainer: Trainer | None, **options: Any) -> None:
        super().__init__(dataset, ledger, **options)
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.trainer is None or self.trainer.accumulate_grad_batches == 1:
            yield from super().__iter__()
        else:
            yield from look_ahead(super().__iter__(), steps_ahead(self.trainer), self.trainer.accumulate_grad_batches)


def steps_ahead(trainer: Trainer) -> Iterator[int]:
    """How many batches each optimiser step takes, from the run's next batch to the end of the epoch.

    As Lightning steps: after every `accumulate_grad_batches` batches of an epoch, and after its last.
    """
    every = trainer.accumulate_grad_batches
    place = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # type: ignore[attr-defined]
    end = trainer.num_training_batches
    while place < end:
        size = int(min(every - place % every, end - place))
        yield size
        place += size


def look_ahead(batches: Iterable[dict[str, Any]], sizes: Iterable[int], divisor: int) -> Iterator[dict[str, Any]]:
    """The batches, each with what the others of its step hold as batch["accumulation"].

    That is a dict: "batches", the number that the step's gradient is divided by; "instances" and "images" of the
    others together.

    Args:
        batches: with a list "names", one entry an image, and "class_labels", one label an instance in each.
        sizes: batches of each step in turn; a step's batches are fetched before its first is given.
        divisor: what Lightning divides the gradient of a step by, whatever the step's size.
    """
    source = iter(batches)
    for size in sizes:
        step = [batch for _, batch in zip(range(size), source, strict=False)]
        instances, images = sum(map(_instances, step)), sum(len(batch["names"]) for batch in step)
        for batch in step:
            others = {"instances": instances - _instances(batch), "images": images - len(batch["names"])}
            yield {**batch, ACCUMULATION: {"batches": divisor, **others}}
        if len(step) < size:
            return
    yield from source


def _instances(batch: Mapping[str, Any]) -> int:
    return sum(len(labels) for labels in batch["class_labels"])
