from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.metrics.point_ap import PointAP

NAMES = ["chair", "table"]
Prediction = tuple[int, float, Tensor | slice]


def truth(*sizes: int) -> Tensor:
    """Instances 1, 2, ... of so many points one after the other; negative sizes are ignored points, then 50 void."""
    parts, number = [], 0
    for size in sizes:
        number += size > 0
        parts.append(torch.full((abs(size),), number if size > 0 else -1))
    return torch.cat([*parts, torch.zeros(50, dtype=torch.int64)])


def add(
    metric: PointAP, name: str, labels: Tensor, classes: list[int], predictions: list[Prediction]
) -> dict[str, Any]:
    masks = torch.zeros(len(predictions), len(labels), dtype=torch.bool)
    for mask, (*_, points) in zip(masks, predictions, strict=True):
        mask[points] = True
    metric.update(
        name,
        masks,
        torch.tensor([score for _, score, _ in predictions]),
        torch.tensor([label for label, *_ in predictions], dtype=torch.int64),
        labels,
        torch.tensor(classes, dtype=torch.int64),
    )
    return metric.compute()


def compute(
    labels: Tensor, classes: list[int], predictions: list[Prediction], min_points: int = 10
) -> tuple[float, float, float]:
    """AP, AP50 and AP25 of one scene."""
    found = add(PointAP(NAMES, min_points), "scene", labels, classes, predictions)
    return found["AP"], found["AP50"], found["AP25"]


def flat(found: dict[str, Any]) -> dict[str, float]:
    values = {(name, label): v for label, of in found["per_class"].items() for name, v in of.items()}
    return {**{name: v for name, v in found.items() if name != "per_class"}, **values}


def approx(*values: float) -> Any:
    return pytest.approx(values, abs=1e-9, nan_ok=True)


def test_perfect_predictions() -> None:
    metric = PointAP(NAMES, min_points=10)
    add(metric, "a", truth(20, 30), [0, 1], [(0, 0.3, slice(0, 20)), (1, 0.9, slice(20, 50))])
    found = add(metric, "b", truth(40), [0], [(0, 0.9, slice(0, 40))])
    ones = {"AP": 1.0, "AP50": 1.0, "AP25": 1.0, "Prec50": 1.0, "Rec50": 1.0}
    assert found == {**ones, "per_class": {"chair": ones, "table": ones}}
    # Asking twice changes nothing.
    assert metric.compute() == found


def test_a_case_by_hand() -> None:
    """Right at 0.9, wrong at 0.8, right at 0.7 with an IoU of 13/20 = 0.65.

    To t = 0.6 the curve goes (recall, precision) (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3): its area is
    1/2 + 1/2 (1/2 + 2/3) / 2. From 0.65 on (an IoU must be above) the last one is wrong: 1/2.
    """
    labels = truth(20, 20)
    found = add(
        PointAP(["chair"], 10),
        "scene",
        labels,
        [0, 0],
        [(0, 0.7, slice(20, 33)), (0, 0.9, slice(0, 20)), (0, 0.8, torch.tensor([*range(0, 8), *range(33, 40)]))],
    )
    low, high = 1 / 2 + 7 / 24, 1 / 2
    assert found["AP50"] == pytest.approx(low)
    # Three of the nine thresholds are below 0.65.
    assert found["AP"] == pytest.approx((3 * low + 6 * high) / 9)
    # F1 is 2/3 at 0.9 (precision 1, recall 1/2) and 4/5 at 0.7 (2/3 and 1).
    assert (found["Prec50"], found["Rec50"]) == approx(2 / 3, 1)
    assert found["per_class"] == {"chair": {name: found[name] for name in ("AP", "AP50", "AP25", "Prec50", "Rec50")}}


def test_ap_ends_at_a_threshold_of_090() -> None:
    """IoU 91/100 passes all nine thresholds, 90/100 all but the last."""
    assert compute(truth(100), [0], [(0, 0.5, slice(0, 91))]) == approx(1, 1, 1)
    assert compute(truth(100), [0], [(0, 0.5, slice(0, 90))]) == approx(8 / 9, 1, 1)


def test_an_iou_of_exactly_one_half_is_no_match_at_one_half() -> None:
    assert compute(truth(20), [0], [(0, 0.5, slice(0, 10))]) == approx(0, 0, 1)
    assert compute(truth(20), [0], [(0, 0.5, slice(0, 11))])[1] == 1


def test_a_duplicate_costs_where_its_score_is_not_below_all_right_ones() -> None:
    """Right at 0.9, its duplicate at 0.8, right at 0.7: the area is 1/2 + 1/2 (1/2 + 2/3) / 2."""
    labels, classes = truth(20, 20), [0, 0]
    right: list[Prediction] = [(0, 0.9, slice(0, 20)), (0, 0.7, slice(20, 40))]
    assert compute(labels, classes, [*right, (0, 0.8, slice(0, 20))]) == approx(*[1 / 2 + 7 / 24] * 3)
    assert compute(labels, classes, [*right, (0, 0.6, slice(0, 20))]) == approx(1, 1, 1)


def test_of_two_matches_the_better_score_is_right_whatever_the_order() -> None:
    """The better score is that of the tighter or of the looser mask: the outcome counts once as right at 0.9."""
    labels, classes = truth(20, 20), [0, 0]
    second: Prediction = (0, 0.7, slice(20, 40))
    for first in ([(0, 0.9, slice(0, 20)), (0, 0.8, slice(0, 19))], [(0, 0.8, slice(0, 20)), (0, 0.9, slice(0, 19))]):
        for predictions in (first, first[::-1]):
            assert compute(labels, classes, [*predictions, second])[1] == pytest.approx(1 / 2 + 7 / 24)


def test_a_merged_mask_finds_the_larger_instance_alone() -> None:
    """30 + 20 points in one mask: IoU 0.6 and 0.4. Right for the first at 0.5; at 0.25 it may be right for one only."""
    assert compute(truth(30, 20), [0, 0], [(0, 0.9, slice(0, 50))])[1:] == approx(1 / 2, 1 / 2)
    # Two of 25: exactly 0.5 with either, a match of none.
    assert compute(truth(25, 25), [0, 0], [(0, 0.9, slice(0, 50))])[1:] == approx(0, 1 / 2)


def test_a_split_instance_is_found_by_its_larger_part() -> None:
    """IoU 0.6 right, 0.4 wrong with the better score: precision 0 at recall 0, 1/2 at recall 1: area 1/4."""
    predictions: list[Prediction] = [(0, 0.5, slice(0, 24)), (0, 0.9, slice(24, 40))]
    assert compute(truth(40), [0], predictions)[1] == pytest.approx(1 / 4)


def test_at_025_instances_take_the_first_free_prediction_in_the_order_given() -> None:
    """A mask over both instances (score 0.2) comes first and goes to instance 1, so 2 is left to the other mask.

    Instance 1 takes the mask over both, then its own at 0.9, by which it counts as right at 0.9 and wrong at 0.2;
    instance 2 finds the first mask taken: it is missed.
    """
    both, one = (0, 0.2, slice(0, 40)), (0, 0.9, slice(0, 20))
    assert compute(truth(20, 20), [0, 0], [both, one])[2] == pytest.approx(1 / 2)
    # The other way round instance 1 takes its own mask; that over both is wrong for 1 and right for 2, both at 0.2:
    # from recall 1/2 to 1 precision falls from 1 to 2/3.
    assert compute(truth(20, 20), [0, 0], [one, both])[2] == pytest.approx(1 / 2 + 5 / 12)


def test_void_excuses_a_prediction_above_the_threshold_not_at_it() -> None:
    """Wrong at 0.9 and right at 0.5 is (0, 0), (1, 1/2), an area of 1/4; without the wrong one it is 1."""
    labels, right = truth(40, -40), (0, 0.5, slice(0, 40))
    for void in (slice(40, 60), slice(80, 100)):  # ignored and background alike
        start, end = void.start, void.stop
        half = torch.tensor([*range(10), *range(start, start + 10)])
        assert compute(labels, [0], [right, (0, 0.9, half)])[1] == pytest.approx(1 / 4), "exactly half of it is void"
        more = torch.tensor([*range(9), *range(start, start + 10)])
        assert compute(labels, [0], [right, (0, 0.9, more)])[1] == 1
        assert compute(labels, [0], [right, (0, 0.9, torch.arange(start, end))]) == approx(1, 1, 1)


def test_small_predictions_are_not_there() -> None:
    labels = truth(40, 40)
    right: list[Prediction] = [(0, 0.5, slice(0, 40))]
    assert compute(labels, [0, 1], [*right, (0, 0.9, slice(40, 49))])[1] == pytest.approx(1 / 2)
    assert compute(labels, [0, 1], [*right, (0, 0.9, slice(40, 50))])[1] == pytest.approx(1 / 8)
    # The default is the protocol's: 100 points.
    assert PointAP(NAMES).min_points == 100


def test_small_instances_are_neither_missed_nor_wrong_to_find() -> None:
    labels = truth(40, 9, 9)
    right: Prediction = (0, 0.5, slice(0, 40))
    assert compute(labels, [0, 0, 0], [right]) == approx(1, 1, 1)
    assert compute(truth(40, 10), [0, 0], [right]) == approx(1 / 2, 1 / 2, 1 / 2)
    # Found with a better score than the one that counts: IoU 9/10.
    assert compute(labels, [0, 0, 0], [right, (0, 0.9, slice(40, 50))])[1] == 1
    # Not found, but 6 of 11 points lie on small ones: excused as void is; not so where they are of another class.
    many = torch.tensor([*range(35, 40), *range(40, 43), *range(49, 52)])
    assert compute(labels, [0, 0, 0], [right, (0, 0.9, many)])[1] == 1
    assert compute(labels, [0, 1, 1], [right, (0, 0.9, many)])[1] == pytest.approx(1 / 4)


def test_only_small_instances_is_no_truth() -> None:
    assert compute(truth(9), [0], [(0, 0.9, slice(0, 20))]) == approx(math.nan, math.nan, math.nan)


def test_instances_without_a_point_do_not_count() -> None:
    assert compute(truth(20), [0, 1], [(0, 0.9, slice(0, 20))], min_points=1) == approx(1, 1, 1)


def test_a_class_absent_from_the_truth_is_left_out_and_one_absent_from_the_predictions_is_zero() -> None:
    found = add(PointAP(["chair", "table", "sofa"], 10), "scene", truth(20, 20), [0, 1], [(0, 0.9, slice(0, 20))])
    assert found["AP"] == pytest.approx(1 / 2)
    assert [found["per_class"][name]["AP50"] for name in ("chair", "table", "sofa")] == approx(1, 0, math.nan)
    found = add(PointAP(NAMES, 10), "scene", truth(20), [0], [(0, 0.9, slice(0, 20)), (1, 0.9, slice(0, 20))])
    assert (found["AP"], found["per_class"]["table"]["AP"]) == approx(1, math.nan)


def test_another_class_is_no_match() -> None:
    assert compute(truth(20), [0], [(1, 0.9, slice(0, 20))]) == approx(0, 0, 0)


def test_nothing_predicted() -> None:
    assert compute(truth(20), [0], []) == approx(0, 0, 0)


def test_no_truth_at_all() -> None:
    assert compute(truth(), [], [(0, 0.9, slice(0, 20))]) == approx(math.nan, math.nan, math.nan)
    empty = PointAP(NAMES).compute()
    assert (empty["AP"], empty["Prec50"], empty["per_class"]["chair"]["AP50"]) == approx(math.nan, math.nan, math.nan)


def test_a_scene_without_points() -> None:
    metric = PointAP(NAMES)
    none = torch.zeros(0, dtype=torch.int64)
    metric.update(
        "empty", torch.zeros(2, 0, dtype=torch.bool), torch.ones(2), torch.zeros(2, dtype=torch.int64), none, none
    )
    assert math.isnan(metric.compute()["AP"])


def test_equal_scores_are_taken_together() -> None:
    """One right and one wrong of one score: (0, 1), (1, 1/2): 3/4, in either order."""
    predictions: list[Prediction] = [(0, 0.5, slice(0, 20)), (0, 0.5, slice(20, 40))]
    for given_order in (predictions, predictions[::-1]):
        assert compute(truth(20, 20), [0, 1], given_order)[1] == pytest.approx(3 / 8)


def scene(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 6, (20,), generator=generator).repeat_interleave(15)
    classes = torch.randint(0, 2, (5,), generator=generator)
    masks = labels == torch.randint(0, 6, (12, 1), generator=generator)
    masks ^= torch.rand(masks.shape, generator=generator) < 0.15
    scores = torch.randint(0, 8, (12,), generator=generator) / 8
    return masks, scores, torch.randint(0, 2, (12,), generator=generator), labels, classes


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 4), st.integers(0, 999))
def test_scenes_and_processes_add_up_in_any_order(order: list[int], split: int, seed: int) -> None:
    whole = PointAP(NAMES, 10)
    for i in range(5):
        whole.update(str(i), *scene(seed + i))
    ranks = PointAP(NAMES, 10), PointAP(NAMES, 10)
    for place, i in enumerate(order):
        ranks[place < split].update(str(i), *scene(seed + i))
    # A sampler that fills up the last batch gives a scene to both ranks.
    ranks[0].update("twice", *scene(seed + 5))
    ranks[1].update("twice", *scene(seed + 5))
    whole.update("twice", *scene(seed + 5))
    states = [pickle.loads(pickle.dumps(rank.state())) for rank in ranks]
    for rank in ranks:
        for state in states:
            rank.merge(state)
        assert flat(rank.compute()) == pytest.approx(flat(whole.compute()), nan_ok=True)


def test_the_order_of_predictions_does_not_matter_from_one_half_on() -> None:
    for seed in range(5):
        masks, scores, classes, *rest = scene(seed)
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
        first, second = PointAP(NAMES, 10), PointAP(NAMES, 10)
        first.update("scene", masks, scores, classes, *rest)
        second.update("scene", masks[order], scores[order], classes[order], *rest)
        for value in ("AP", "AP50"):
            assert first.compute()[value] == pytest.approx(second.compute()[value])


def test_the_state_is_small() -> None:
    """A table of the predictions, not their masks."""
    metric = PointAP(NAMES)
    num_points = 200_000
    labels = torch.arange(num_points) // 2500
    masks = labels == torch.arange(80)[:, None]
    classes = torch.zeros(79, dtype=torch.int64)
    metric.update("large", masks, torch.rand(80), torch.zeros(80, dtype=torch.int64), labels, classes)
    assert len(pickle.dumps(metric.state())) < 10_000
    assert metric.compute()["AP"] == pytest.approx(1)


def test_reset_forgets() -> None:
    metric = PointAP(NAMES, 10)
    metric.update("scene", *scene(0))
    with pytest.raises(ValueError, match=r"scene 'scene' was added before: call reset\(\) between evaluations"):
        metric.update("scene", *scene(0))
    metric.reset()
    assert math.isnan(metric.compute()["AP"])
    metric.update("scene", *scene(0))


NONE = torch.zeros(0, dtype=torch.int64)
MASK = torch.ones(1, 4, dtype=torch.bool)
ONE, TRUTH, CLASS = torch.ones(1), torch.tensor([0, 1, -1, 1]), torch.tensor([1])


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ((MASK[:, :3], ONE, CLASS, TRUTH, CLASS), r"scene 'x': masks must be \(n, 4\) bool, got \(1, 3\) bool"),
        ((MASK[0], ONE, CLASS, TRUTH, CLASS), r"scene 'x': masks must be \(n, 4\) bool, got \(4,\) bool"),
        ((MASK.float(), ONE, CLASS, TRUTH, CLASS), r"masks must be \(n, 4\) bool, got \(1, 4\) float32"),
        ((MASK, torch.ones(2), CLASS, TRUTH, CLASS), r"scene 'x': scores must be \(1,\), got \(2,\)"),
        ((MASK, ONE * math.nan, CLASS, TRUTH, CLASS), r"scene 'x': scores hold NaN or infinite values"),
        ((MASK, ONE, NONE, TRUTH, CLASS), r"scene 'x': labels must be \(1,\), got \(0,\)"),
        ((MASK, ONE, CLASS + 1, TRUTH, CLASS), r"scene 'x': labels must lie in 0\.\.1, got 2\.\.2"),
        ((MASK, ONE, CLASS, TRUTH, CLASS - 2), r"scene 'x': class_labels must lie in 0\.\.1, got -1\.\.-1"),
        (
            (MASK, ONE, CLASS, TRUTH, CLASS.int()),
            r"scene 'x': class_labels must be one-dimensional int64, got \(1,\) int32",
        ),
        ((MASK, ONE, CLASS, TRUTH, NONE), r"scene 'x': instance_labels must lie in -1\.\.0, got -1\.\.1"),
        ((MASK, ONE, CLASS, TRUTH - 1, CLASS), r"scene 'x': instance_labels must lie in -1\.\.1, got -2\.\.0"),
        ((MASK, ONE, CLASS, TRUTH[None], CLASS), r"instance_labels must be one-dimensional int64, got \(1, 4\) int64"),
    ],
)
def test_what_does_not_fit_is_refused(given_values: tuple[Tensor, ...], message: str) -> None:
    metric = PointAP(NAMES)
    with pytest.raises(ValueError, match=message):
        metric.update("x", *given_values)
    assert metric.state() == {}


def test_min_points_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="min_points must be 1 or larger, got 0"):
        PointAP(NAMES, 0)
