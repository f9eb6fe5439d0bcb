"""Which prediction finds which instance, and what is wrong with each point."""

from __future__ import annotations

import numpy as np
import pytest
from clouds import planted_cloud
from hypothesis import given, settings
from hypothesis import strategies as st

from influencerformer.pictures.cloud_instances import (
    Cloud,
    Instances,
    PointError,
    match_instances,
    overlaps,
    point_errors,
)


def instances(labels: list[int], classes: list[int], scores: list[float] | None = None) -> Instances:
    return Instances(
        np.array(labels, dtype=np.int64),
        np.array(classes, dtype=np.int64),
        None if scores is None else np.array(scores),
    )


def test_prediction_finds_the_instance_of_its_class_at_half_iou() -> None:
    truth = instances([1, 1, 2, 2, 3, 3, 0, -1], [0, 0, 1])
    found = match_instances(instances([1, 0, 2, 2, 3, 3, 0, 0], [0, 1, 1]), truth)
    assert found.found.tolist() == [1, 0, 3]
    assert found.iou.tolist() == [0.5, 1.0, 1.0]
    assert found.finder(3).tolist() == [1, 0, 3]


def test_iou_below_one_half_finds_nothing_and_ignored_points_do_not_count() -> None:
    truth = instances([1, 1, 1, 0, -1, -1], [0])
    assert match_instances(instances([1, 0, 0, 1, 0, 0], [0]), truth).found.tolist() == [0]
    assert match_instances(instances([1, 0, 0, 1, 0, 0], [0]), truth).iou.tolist() == [0.25]
    assert match_instances(instances([1, 1, 1, 0, 1, 1], [0]), truth).iou.tolist() == [1.0]


def test_instance_is_found_once_by_the_better_score() -> None:
    truth = instances([1, 1, 1, 1], [0])
    halves = [1, 1, 2, 2]
    assert match_instances(instances(halves, [0, 0], [0.2, 0.9]), truth).found.tolist() == [0, 1]
    assert match_instances(instances(halves, [0, 0], [0.9, 0.2]), truth).found.tolist() == [1, 0]
    assert match_instances(instances(halves, [0, 0]), truth).found.tolist() == [1, 0]


def test_nothing_to_match() -> None:
    some, none = instances([1, 0], [0]), instances([0, 0], [])
    assert match_instances(some, none).found.tolist() == [0]
    assert match_instances(some, none).iou.tolist() == [0.0]
    assert match_instances(none, some).finder(1).tolist() == [0]
    assert point_errors(some, none, match_instances(some, none)).tolist() == [PointError.FALSE, PointError.BACKGROUND]
    assert point_errors(none, some, match_instances(none, some)).tolist() == [PointError.MISSED, PointError.BACKGROUND]


def test_every_kind_of_error() -> None:
    cases = [
        # truth label, predicted label, what it is
        *[(1, 1, PointError.CORRECT)] * 8,
        (1, 0, PointError.MISSED),  # left out by the prediction that finds 1
        (1, 2, PointError.FALSE),  # claimed by the finder of 2
        (1, 3, PointError.FALSE),  # a stray point of a piece that lies in 4
        *[(2, 2, PointError.CORRECT)] * 6,
        *[(3, 0, PointError.MISSED)] * 3,
        (3, 1, PointError.MISSED),  # no prediction finds 3, whoever covers it
        *[(4, 3, PointError.SPLIT)] * 3,  # two pieces of 4, both below IoU 0.5
        *[(4, 4, PointError.SPLIT)] * 3,
        *[(4, 0, PointError.MISSED)] * 2,
        *[(5, 5, PointError.WRONG_CLASS)] * 4,
        *[(0, 0, PointError.BACKGROUND)] * 2,
        (0, 1, PointError.FALSE),
        (0, 6, PointError.FALSE),
        *[(-1, 1, PointError.IGNORED), (-1, 0, PointError.IGNORED)],
    ]
    truth = instances([t for t, _, _ in cases], [0, 0, 0, 1, 2])
    prediction = instances([p for _, p, _ in cases], [0, 0, 1, 1, 0, 0])
    matches = match_instances(prediction, truth)
    assert matches.found.tolist() == [1, 2, 0, 0, 0, 0]
    errors = point_errors(prediction, truth, matches)
    assert errors.dtype == np.uint8
    assert [PointError(error) for error in errors] == [kind for _, _, kind in cases]


def test_duplicate_within_a_found_instance_is_split() -> None:
    truth = instances([1] * 6, [0])
    prediction = instances([1, 1, 1, 1, 2, 2], [0, 0])
    errors = point_errors(prediction, truth, match_instances(prediction, truth))
    assert errors.tolist() == [PointError.CORRECT] * 4 + [PointError.SPLIT] * 2


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Instances, Instances]:
    """A prediction with scores and a truth over the same points."""
    points = draw(st.integers(1, 30))
    parts = []
    for lowest in (0, -1):
        count = draw(st.integers(0, 5))
        labels = draw(st.lists(st.integers(lowest, count), min_size=points, max_size=points))
        classes = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
        parts.append((labels, classes))
    count = len(parts[0][1])
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=count, max_size=count))
    return instances(*parts[0], scores), instances(*parts[1])


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_matches_and_overlaps_agree_with_plain_loops(pair: tuple[Instances, Instances]) -> None:
    prediction, truth = pair
    assert prediction.scores is not None
    counted = truth.labels >= 0
    shared = overlaps(prediction, truth)
    taken: set[int] = set()
    found = [0] * prediction.count
    for p in sorted(range(prediction.count), key=lambda index: -prediction.scores[index]):
        mine = (prediction.labels == p + 1) & counted
        best, best_iou = 0, 0.0
        for t in range(truth.count + 1):
            theirs = truth.labels == t
            assert shared[p, t] == (mine & theirs).sum()
            iou = (mine & theirs).sum() / max((mine | theirs).sum(), 1)
            if t and t not in taken and truth.classes[t - 1] == prediction.classes[p] and iou > best_iou:
                best, best_iou = t, iou
        if best_iou >= 0.5:
            found[p] = best
            taken.add(best)
    assert match_instances(prediction, truth).found.tolist() == found


@given(labelled())
@settings(max_examples=60, deadline=None)
def test_errors_are_complete_and_correct_points_are_those_of_finders(pair: tuple[Instances, Instances]) -> None:
    prediction, truth = pair
    matches = match_instances(prediction, truth)
    for error, p, t in zip(point_errors(prediction, truth, matches), prediction.labels, truth.labels, strict=True):
        finds = p > 0 and t > 0 and matches.found[p - 1] == t
        assert (error == PointError.CORRECT) == finds
        assert (error == PointError.IGNORED) == (t == -1)
        assert (error == PointError.BACKGROUND) == (t == 0 and p == 0)
        if error == PointError.MISSED:
            assert t > 0
            assert p == 0 or t not in matches.found
        if error in (PointError.SPLIT, PointError.WRONG_CLASS):
            assert matches.found[p - 1] == 0
            assert (error == PointError.SPLIT) == (prediction.classes[p - 1] == truth.classes[t - 1])


@pytest.mark.parametrize(
    ("labels", "classes", "scores", "message"),
    [
        (
            np.zeros((2, 2), np.int64),
            np.zeros(0, np.int64),
            None,
            r"labels must be a one-dimensional .* \(2, 2\) int64",
        ),
        (np.zeros(2), np.zeros(0, np.int64), None, r"labels must be .* integers, got \(2,\) float64"),
        (np.zeros(2, np.int64), [0], None, "classes must be .* got list"),
        (np.zeros(2, np.int64), np.array([-1]), None, "classes must not be negative"),
        (np.array([0, 3]), np.array([1, 1]), None, r"labels must lie in -1\.\.2 .* got 0\.\.3"),
        (np.array([-2, 0]), np.array([1, 1]), None, r"labels must lie in -1\.\.2 .* got -2\.\.0"),
        (np.array([1]), np.array([0]), np.zeros(2), r"scores must be \(1,\) as classes are, got \(2,\) float64"),
        (np.array([1]), np.array([0]), np.array([np.nan]), "scores hold NaN"),
    ],
)
def test_bad_instances_are_refused(labels: np.ndarray, classes: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instances(labels, classes, scores)


def test_bad_clouds_are_refused_by_name() -> None:
    good = planted_cloud()
    points, colors, short = good.coordinates, good.colors, instances([0], [])
    ignoring = Instances(np.full(len(points), -1), np.zeros(0, np.int64))
    infinite = points.copy()
    infinite[3, 1] = np.inf
    for change, message in [
        ({"coordinates": points[:, :2]}, r"'hall': coordinates must be \(N, 3\) floats, got \(3125, 2\) float32"),
        ({"coordinates": infinite}, "'hall': coordinates hold NaN or infinite values"),
        ({"coordinates": points[:0], "colors": colors[:0]}, "'hall': there is no point to show"),
        ({"colors": colors[:4]}, r"'hall': colors must be \(3125, 3\) uint8, got \(4, 3\) uint8"),
        ({"truth": short}, "'hall': truth has 1 labels for 3125 points"),
        ({"predictions": {"Mine": short}}, "'hall': prediction 'Mine' has 1 labels for 3125 points"),
        ({"predictions": {"Mine": ignoring}}, "'hall': prediction 'Mine' has labels below 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Cloud(**{"name": "hall", "coordinates": points, "colors": colors, **change})
