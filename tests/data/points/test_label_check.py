from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influencerformer.data.points.label_check import (
    check_points,
    check_range,
    instance_repairs,
    number_instances,
    whole_colors,
)
from influencerformer.errors import UserError


def test_instances_are_numbered_without_gaps_and_split_by_class() -> None:
    instance = np.array([70, 70, 4, 70, -9, 4, 5])
    classes = np.array([2, 2, 0, 1, 7, 0, 0])
    labels, found, split = number_instances(instance, classes, instance >= 0)
    assert labels.tolist() == [4, 4, 1, 3, 0, 1, 2]
    assert found.tolist() == [0, 0, 1, 2]
    assert split == [70]
    assert (labels.dtype, found.dtype) == (np.int64, np.int64)


def test_numbers_as_large_as_64_bits_do_not_collide() -> None:
    instance = np.array([2**62, 2**62 + 1, -(2**62)])
    labels, found, split = number_instances(instance, np.array([40, 40, 3]), np.ones(3, dtype=np.bool_))
    assert labels.tolist() == [2, 3, 1]
    assert found.tolist() == [3, 40, 40]
    assert split == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 3)), max_size=30))
def test_one_instance_for_each_pair(points: list[tuple[int, int]]) -> None:
    pairs = np.array(points, dtype=np.int64).reshape(-1, 2)
    labels, classes, split = number_instances(pairs[:, 0], pairs[:, 1], pairs[:, 0] >= 0)
    kept = sorted({pair for pair in points if pair[0] >= 0})
    assert labels.tolist() == [kept.index(pair) + 1 if pair[0] >= 0 else 0 for pair in points]
    assert classes.tolist() == [pair[1] for pair in kept]
    assert split == sorted({i for i, _ in kept if sum(i == other for other, _ in kept) > 1})


def test_repairs_of_instances() -> None:
    assert instance_repairs(np.array([1]), [], "f") == []
    assert [str(r) for r in instance_repairs(np.array([1, 2]), [7], "f")] == [
        "f: instance 7 of several classes, split by class"
    ]
    several, none = instance_repairs(np.array([], dtype=np.int64), [1, 2, 3, 4], "f")
    assert several.what == "instances 1, 2, 3 and 1 more of several classes, split by class"
    assert none.what == "read without an instance: it has none"


@pytest.mark.parametrize(
    ("colors", "expected", "repair"),
    [
        (np.array([[0, 255, 7]], dtype=np.uint8), [[0, 255, 7]], None),
        (np.array([[0, 255, 7]], dtype=np.float32), [[0, 255, 7]], None),
        (np.array([[0, 1, 1]], dtype=np.float64), [[0, 1, 1]], None),
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]], "colours from 0 to 1 multiplied by 255"),
        (np.array([[0.6, 2.4, 9.0]]), [[1, 2, 9]], "colours with fractions rounded: 1 points"),
        (
            np.array([[0, 256, -3], [1, 2, 3]]),
            [[0, 255, 0], [1, 2, 3]],
            "colours clipped to 0..255: 1 points, from -3 to 256",
        ),
    ],
)
def test_colours_become_bytes(colors: np.ndarray, expected: list[list[int]], repair: str | None) -> None:
    whole, repairs = whole_colors(colors, "f")
    assert whole.dtype == np.uint8
    assert whole.tolist() == expected
    assert [r.what for r in repairs] == ([] if repair is None else [repair])


def test_what_cannot_be_mended_is_refused() -> None:
    with pytest.raises(UserError, match="f: colours hold NaN"):
        whole_colors(np.array([[0.0, np.nan, 1.0]]), "f")
    with pytest.raises(UserError, match="f: 1 of 2 points have NaN or infinite coordinates"):
        check_points(np.array([[0.0, 1.0, np.inf], [1.0, 1.0, 1.0]]), "f")
    with pytest.raises(UserError, match="f holds no point"):
        check_points(np.empty((0, 3)), "f")
    check_range(np.array([], dtype=np.int64), 0, 1, "f", "classes")
    check_range(np.array([0, 12]), 0, 12, "f", "classes")
    with pytest.raises(UserError, match="f holds classes from -1 to 13, expected 0 to 12"):
        check_range(np.array([-1, 13]), 0, 12, "f", "classes")
