"""How a validation is shared out among processes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from influencerformer.data.eval_sampler import EvalSampler


def batches(samples: int, ranks: int, size: int) -> list[list[tuple[list[int], bool]]]:
    """Each rank's batches, and whether another one has it too."""
    found = []
    for rank in range(ranks):
        sampler = EvalSampler(list(range(samples)), ranks, rank, size)  # type: ignore[arg-type]
        loader = DataLoader(list(range(samples)), batch_size=size, sampler=sampler)  # type: ignore[arg-type]
        assert len(list(sampler)) == len(sampler)
        found.append([(batch.tolist(), sampler.repeats(i)) for i, batch in enumerate(loader)])
    return found


def test_seven_samples_in_batches_of_two_on_three_ranks() -> None:
    assert batches(7, 3, 2) == [
        [([0, 1], False), ([6], False)],
        [([2, 3], False), ([0, 1], True)],
        [([4, 5], False), ([2, 3], True)],
    ]


def test_a_rank_without_a_batch_of_its_own_keeps_pace() -> None:
    assert batches(2, 3, 1) == [[([0], False)], [([1], False)], [([0], True)]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))
def test_every_batch_is_that_of_one_process_and_counts_once(samples: int, ranks: int, size: int) -> None:
    found = batches(samples, ranks, size)
    assert len({len(own) for own in found}) == 1
    counted = sorted(batch for own in found for batch, repeated in own if not repeated)
    assert counted == [list(range(i, min(i + size, samples))) for i in range(0, samples, size)]


@pytest.mark.parametrize("size", [1, 4])
def test_one_process_takes_all_in_order(size: int) -> None:
    sampler = EvalSampler.of_trainer(list(range(6)), None, size)  # type: ignore[arg-type]
    assert list(sampler) == [0, 1, 2, 3, 4, 5]
