from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from influencerformer.metrics.point_coverage import PointCoverage

NAMES = ["chair", "table"]
MEANS = ("mCov", "mWCov", "mPrec", "mRec")
Scene = tuple[Tensor, Tensor, Tensor, Tensor]


def points(*runs: tuple[int, int]) -> Tensor:
    """(label, points) one after the other."""
    return torch.cat([torch.full((count,), label) for label, count in runs])


def classes(*labels: int) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64)


def compute(*scenes: Scene) -> dict[str, Any]:
    metric = PointCoverage(NAMES)
    for i, scene in enumerate(scenes):
        metric.update(str(i), *scene)
    return metric.compute()


def means(*scenes: Scene) -> list[float]:
    found = compute(*scenes)
    return [found[name] for name in MEANS]


def approx(*values: float) -> Any:
    return pytest.approx(list(values), abs=1e-12, nan_ok=True)


def test_perfect_predictions() -> None:
    labels = points((1, 10), (2, 5), (0, 3), (-1, 2))
    found = compute((labels.clamp(min=0), classes(0, 1), labels, classes(0, 1)))
    ones = {"Cov": 1.0, "WCov": 1.0, "Prec": 1.0, "Rec": 1.0}
    assert found == {**{name: 1.0 for name in MEANS}, "per_class": {"chair": ones, "table": ones}}


def test_a_case_by_hand() -> None:
    """Instances of 30 and 10 points; predictions of 24 in the first (0.8) and of 4 + 6 over both.

    The second covers the first by 6/34 and the other by 4/16 = 1/4: best IoUs 0.8 and 0.25.
    """
    truth = points((1, 30), (2, 10))
    predicted = points((1, 24), (2, 10), (0, 6))
    expected = [(0.8 + 0.25) / 2, (30 * 0.8 + 10 * 0.25) / 40, 1 / 2, 1 / 2]
    assert means((predicted, classes(0, 0), truth, classes(0, 0))) == approx(*expected)


def test_coverage_is_a_mean_over_scenes_precision_and_recall_are_not() -> None:
    """One scene with a found instance, one with two missed and a wrong prediction."""
    found = points((1, 10)), classes(0), points((1, 10)), classes(0)
    missed = points((0, 10), (1, 10)), classes(0), points((1, 5), (2, 5), (0, 10)), classes(0, 0)
    assert means(found, missed) == approx(1 / 2, 1 / 2, 1 / 2, 1 / 3)
    # A scene without the class counts for precision alone.
    absent = points((1, 10)), classes(0), points((1, 10)), classes(1)
    values = compute(found, absent)["per_class"]["chair"]
    assert values == {"Cov": 1.0, "WCov": 1.0, "Prec": 0.5, "Rec": 1.0}


def test_classes_weigh_the_same_and_only_those_of_the_truth_count() -> None:
    truth, predicted = points((1, 10), (2, 20), (3, 10)), points((1, 10), (0, 30))
    assert means((predicted, classes(0), truth, classes(0, 1, 1))) == approx(*[1 / 2] * 4)
    # A prediction of a class that the truth lacks counts nowhere.
    found = compute((points((1, 10), (2, 10)), classes(0, 1), points((1, 10), (0, 10)), classes(0)))
    assert [found[name] for name in MEANS] == approx(1, 1, 1, 1)
    assert list(found["per_class"]["table"].values()) == approx(*[math.nan] * 4)


def test_another_class_covers_nothing() -> None:
    assert means((points((1, 10)), classes(1), points((1, 10)), classes(0))) == approx(0, 0, 0, 0)


def test_merged_and_split_instances() -> None:
    merged = points((1, 50)), classes(0), points((1, 30), (2, 20)), classes(0, 0)
    assert means(merged) == approx(0.5, 0.6 * 0.6 + 0.4 * 0.4, 1, 1 / 2)
    split = points((1, 30), (2, 20)), classes(0, 0), points((1, 50)), classes(0)
    assert means(split) == approx(0.6, 0.6, 1 / 2, 1)


def test_an_iou_of_exactly_one_half_counts() -> None:
    assert means((points((1, 10), (0, 10)), classes(0), points((1, 20)), classes(0))) == approx(0.5, 0.5, 1, 1)
    assert means((points((1, 9), (0, 11)), classes(0), points((1, 20)), classes(0)))[2:] == approx(0, 0)
    # Two halves are both right, and find one instance.
    assert means((points((1, 10), (2, 10)), classes(0, 0), points((1, 20)), classes(0)))[2:] == approx(1, 1)


def test_ignored_points_are_on_no_side_and_background_counts() -> None:
    truth, predicted = points((1, 10), (-1, 30)), points((1, 40))
    assert means((predicted, classes(0), truth, classes(0))) == approx(1, 1, 1, 1)
    # A prediction on ignored points alone is not there.
    assert means((points((1, 10), (2, 30)), classes(0, 0), truth, classes(0))) == approx(1, 1, 1, 1)
    assert means((predicted, classes(0), truth.clamp(min=0), classes(0))) == approx(0.25, 0.25, 0, 0)


def test_instances_and_predictions_without_a_point_do_not_count() -> None:
    labels = points((1, 10), (0, 2))
    # Of the truth's class 1 there is no point: the class is absent.
    assert means((labels, classes(0, 0), labels, classes(0, 0))) == approx(1, 1, 1, 1)
    found = compute((labels, classes(0), labels, classes(0, 1)))
    assert math.isnan(found["per_class"]["table"]["Cov"])
    assert found["mRec"] == 1


def test_nothing_predicted() -> None:
    assert means((points((0, 10)), classes(), points((1, 10)), classes(0))) == approx(0, 0, 0, 0)


def test_no_truth() -> None:
    nothing = approx(*[math.nan] * 4)
    assert means((points((1, 10)), classes(0), points((0, 10)), classes())) == nothing
    assert means((classes(), classes(), classes(), classes())) == nothing
    assert means() == nothing


def plain(scenes: list[Scene]) -> list[float]:
    """The definition, mask by mask; every class has instances and predictions."""
    coverage, weighted, precision, recall = [], [], [], []
    for c in range(len(NAMES)):
        cov, wcov, right, predictions, instances = [], [], 0, 0, 0
        for predicted, labels, truth, truth_classes in scenes:
            pred = [predicted == m + 1 for m in range(len(labels)) if labels[m] == c]
            true = [truth == k + 1 for k in range(len(truth_classes)) if truth_classes[k] == c]
            ious = [[float((p & t).sum() / (p | t).sum()) for p in pred] for t in true]
            if true:
                best = [max(row, default=0.0) for row in ious]
                sizes = [int(t.sum()) for t in true]
                cov.append(sum(best) / len(best))
                wcov.append(sum(b * s for b, s in zip(best, sizes, strict=True)) / sum(sizes))
            right += sum(max((row[p] for row in ious), default=0.0) >= 0.5 for p in range(len(pred)))
            predictions += len(pred)
            instances += len(true)
        coverage.append(sum(cov) / len(cov))
        weighted.append(sum(wcov) / len(wcov))
        precision.append(right / predictions)
        recall.append(right / instances)
    return [sum(values) / len(values) for values in (coverage, weighted, precision, recall)]


def random_scenes(seed: int) -> Iterator[Scene]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        sizes = torch.randint(5, 40, (9,), generator=generator)
        truth = torch.arange(9).repeat_interleave(sizes)
        predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.8, truth.roll(6), 0)
        # Shifted by a few points, a fifth of them missing, two instances in one.
        predicted[predicted == 7] = 6
        yield (
            predicted.unique(return_inverse=True)[1],
            torch.randint(0, 2, (7,), generator=generator),
            truth,
            torch.randint(0, 2, (8,), generator=generator),
        )


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_plain_definition(seed: int) -> None:
    scenes = list(random_scenes(seed))
    assert means(*scenes) == pytest.approx(plain(scenes), abs=1e-6)


def test_scenes_and_processes_add_up() -> None:
    scenes = list(random_scenes(0))
    whole = compute(*scenes)
    ranks = PointCoverage(NAMES), PointCoverage(NAMES)
    # Scene 3 is given to both ranks.
    for rank, numbers in zip(ranks, ((3, 1), (0, 2, 3)), strict=True):
        for i in numbers:
            rank.update(str(i), *scenes[i])
    states = [pickle.loads(pickle.dumps(rank.state())) for rank in ranks]
    for rank in ranks:
        for state in states:
            rank.merge(state)
        assert [rank.compute()[name] for name in MEANS] == pytest.approx([whole[name] for name in MEANS])


def test_reset_forgets() -> None:
    metric = PointCoverage(NAMES)
    scene = next(random_scenes(0))
    metric.update("scene", *scene)
    with pytest.raises(ValueError, match=r"scene 'scene' was added before: call reset\(\) between evaluations"):
        metric.update("scene", *scene)
    metric.reset()
    assert math.isnan(metric.compute()["mCov"])
    metric.update("scene", *scene)


LABELS, CLASS = points((0, 2), (1, 2)), classes(1)


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ((LABELS[:3], CLASS, LABELS, CLASS), r"scene 'x': point_labels must be \(4,\), got \(3,\)"),
        ((LABELS + 1, CLASS, LABELS, CLASS), r"scene 'x': point_labels must lie in 0\.\.1, got 1\.\.2"),
        ((LABELS - 1, CLASS, LABELS, CLASS), r"scene 'x': point_labels must lie in 0\.\.1, got -1\.\.0"),
        ((LABELS.int(), CLASS, LABELS, CLASS), r"point_labels must be one-dimensional int64, got \(4,\) int32"),
        ((LABELS, CLASS + 1, LABELS, CLASS), r"scene 'x': labels must lie in 0\.\.1, got 2\.\.2"),
        ((LABELS, CLASS, LABELS, classes()), r"scene 'x': instance_labels must lie in -1\.\.0, got 0\.\.1"),
    ],
)
def test_what_does_not_fit_is_refused(scene: Scene, message: str) -> None:
    metric = PointCoverage(NAMES)
    with pytest.raises(ValueError, match=message):
        metric.update("x", *scene)
    assert metric.state() == {}
