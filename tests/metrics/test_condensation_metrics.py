from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.metrics.condensation import CondensationQuality


def quality(*clouds: tuple[list[int], list[int]]) -> dict[str, float]:
    metric = CondensationQuality()
    for found, true in clouds:
        metric.update(torch.tensor(found, dtype=torch.int64), torch.tensor(true, dtype=torch.int64))
    return metric.compute()


def test_the_truth_itself_is_perfect() -> None:
    expected = {"purity": 1.0, "efficiency": 1.0, "duplicate_rate": 0.0, "found": 2, "instances": 2}
    assert quality(([7, 7, 3, 0], [1, 1, 2, 0])) == expected


def test_a_split_instance_is_pure_found_once_and_has_a_duplicate() -> None:
    # Instance 1 has 5 points: parts of 3 and 2, IoU 0.6 and 0.4. Instance 2 is found whole.
    result = quality(([1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 1, 2]))
    assert result == {
        "purity": 1.0,
        "efficiency": 1.0,
        "duplicate_rate": pytest.approx(1 / 3),
        "found": 3,
        "instances": 2,
    }


def test_two_merged_instances_cost_purity_and_the_smaller_one() -> None:
    # One found instance of 6 points on instances of 4 and 2: IoU 4/6 and 2/6.
    result = quality(([1] * 6, [1, 1, 1, 1, 2, 2]))
    assert result["purity"] == pytest.approx(4 / 6)
    assert result["efficiency"] == 0.5
    assert result["duplicate_rate"] == 0


def test_an_iou_of_exactly_one_half_is_not_enough() -> None:
    assert quality(([1, 1], [1, 2]))["efficiency"] == 0
    assert quality(([1, 1, 0], [1, 1, 1]))["efficiency"] == 1


def test_background_is_never_pure_and_never_a_duplicate() -> None:
    # Two found instances on background alone, one true instance that nothing finds.
    result = quality(([1, 1, 2, 0], [0, 0, 0, 1]))
    assert result == {"purity": 0.0, "efficiency": 0.0, "duplicate_rate": 0.0, "found": 2, "instances": 1}
    # Three background points and one of the instance: a quarter is pure.
    assert quality(([1, 1, 1, 1], [0, 0, 0, 5]))["purity"] == 0.25


def test_single_points_are_pure_but_duplicates() -> None:
    result = quality((list(range(1, 9)), [1] * 8))
    assert result == {"purity": 1.0, "efficiency": 0.0, "duplicate_rate": 7 / 8, "found": 8, "instances": 1}


def test_ignored_points_count_on_neither_side() -> None:
    assert quality(([1, 1, 1, 2], [1, 1, -1, -1])) == quality(([1, 1], [1, 1]))


def test_clouds_are_added_up_by_points_and_instances() -> None:
    # Purity 3/3 and 1/2; of one instance one is found, of two none.
    result = quality(([1, 1, 1], [1, 1, 1]), ([1, 1], [1, 2]))
    assert result["purity"] == pytest.approx(4 / 5)
    assert result["efficiency"] == pytest.approx(1 / 3)
    assert result["found"] == 2
    assert result["instances"] == 3


def test_what_is_not_defined_is_nan() -> None:
    nothing = quality()
    assert all(math.isnan(nothing[name]) for name in ("purity", "efficiency", "duplicate_rate"))
    none_found = quality(([0, 0], [1, 1]))
    assert math.isnan(none_found["purity"])
    assert none_found["efficiency"] == 0
    assert math.isnan(none_found["duplicate_rate"])
    assert math.isnan(quality(([1, 1], [0, 0]))["efficiency"])
    assert quality(([1, 2], [-1, -1]))["found"] == 0


def test_reset_forgets() -> None:
    metric = CondensationQuality()
    metric.update(torch.tensor([1, 1]), torch.tensor([1, 2]))
    metric.reset()
    metric.update(torch.tensor([1, 1]), torch.tensor([1, 1]))
    assert metric.compute()["instances"] == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=30))
def test_agrees_with_loops_over_sets(points: list[tuple[int, int]]) -> None:
    found, true = [f for f, _ in points], [t for _, t in points]
    known = [i for i, t in enumerate(true) if t >= 0]
    parts = {k: {i for i in known if found[i] == k} for k in sorted({found[i] for i in known} - {0})}
    truths = {k: {i for i in known if true[i] == k} for k in sorted({true[i] for i in known} - {0})}
    pure = sum(max((len(p & t) for t in truths.values()), default=0) for p in parts.values())
    seen: list[int] = []
    duplicates = hits = 0
    for p in parts.values():
        shares = {k: len(p & t) for k, t in truths.items()}
        best = max(shares, key=lambda k: shares[k], default=0)
        if best and shares[best]:
            duplicates += best in seen
            seen.append(best)
    for t in truths.values():
        hits += any(len(p & t) / len(p | t) > 0.5 for p in parts.values())
    result = quality((found, true))
    size = sum(map(len, parts.values()))
    assert result["purity"] == pytest.approx(pure / size if size else math.nan, nan_ok=True)
    assert result["efficiency"] == pytest.approx(hits / len(truths) if truths else math.nan, nan_ok=True)
    assert result["duplicate_rate"] == pytest.approx(duplicates / len(parts) if parts else math.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("found", "true", "error", "message"),
    [
        (torch.ones(2), torch.ones(2).long(), TypeError, r"found_labels must be integers, got torch\.float32"),
        (torch.ones(2).long(), torch.ones(2).bool(), TypeError, r"instance_labels must be integers, got torch\.bool"),
        (torch.ones(2).long(), torch.ones(3).long(), ValueError, r"must both be \(N,\), got \(2,\) and \(3,\)"),
        (torch.ones(2, 2).long(), torch.ones(2, 2).long(), ValueError, r"must both be \(N,\), got \(2, 2\)"),
        (torch.tensor([-1]), torch.tensor([1]), ValueError, "found_labels must be 0 or more, got -1"),
        (torch.tensor([1]), torch.tensor([-2]), ValueError, "instance_labels must be -1 or more, got -2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(found: Tensor, true: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CondensationQuality().update(found, true)
