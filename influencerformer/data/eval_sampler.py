"""How validation samples are shared out among processes: in whole batches, none counted twice."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from lightning import Trainer
from torch.utils.data import Dataset, DistributedSampler


class EvalSampler(DistributedSampler[int]):
    """Deals the batches of one process's validation out in turn, so that each is what it would be there.

    Every process makes the same number of batches, as they exchange values in each; what a process makes only to
    keep pace, `repeats` tells. It is a DistributedSampler so that Lightning leaves it in place on several devices.

    Args:
        dataset: what is sampled from, in its order.
        num_replicas, rank: number of processes and this one's.
        batch_size: of every batch but the last.
    """

    def __init__(self, dataset: Dataset[object], num_replicas: int, rank: int, batch_size: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        assert isinstance(dataset, Sized)
        starts = range(0, len(dataset), batch_size)
        self.num_batches = len(starts)
        self._batches = [list(range(start, min(start + batch_size, len(dataset)))) for start in starts]

    @classmethod
    def of_trainer(cls, dataset: Dataset[object], trainer: Trainer | None, batch_size: int) -> EvalSampler:
        """The sampler of this process in a run; without a trainer, that of a single process."""
        if trainer is None:
            return cls(dataset, 1, 0, batch_size)
        return cls(dataset, trainer.world_size, trainer.global_rank, batch_size)

    def repeats(self, batch_idx: int) -> bool:
        """Whether this process's batch is one that another process has as well."""
        return self._number(batch_idx) >= self.num_batches

    def _number(self, batch_idx: int) -> int:
        return batch_idx * self.num_replicas + self.rank

    def _own(self) -> list[list[int]]:
        rounds = -(-self.num_batches // self.num_replicas)
        return [self._batches[self._number(i) % self.num_batches] for i in range(rounds)]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._own())

    def __iter__(self) -> Iterator[int]:
        return (index for batch in self._own() for index in batch)
