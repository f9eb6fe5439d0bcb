"""What a point sample promises, and the batch made of samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from influencerformer.data.points.collate import NUM_FEATURES, collate_points, point_features
from influencerformer.data.points.sample import PointSample, compact_labels


def sample(**changes: Any) -> PointSample:
    given = PointSample(
        "hall",
        torch.tensor([[0.0, 0, 1], [2, 4, 1], [1, 1, 3]]),
        torch.tensor([[0, 255, 51], [0, 0, 0], [255, 255, 255]], dtype=torch.uint8),
        torch.tensor([3, 5]),
        torch.tensor([2, -1, 1]),
        torch.tensor([4, 0, 4]),
        7,
    )
    return replace(given, **changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"coordinates": torch.zeros(3, 2)}, "coordinates"),
        ({"coordinates": torch.zeros(3, 3, dtype=torch.float64)}, "coordinates"),
        ({"coordinates": torch.full((3, 3), torch.nan)}, "NaN"),
        ({"colors": torch.zeros(3, 3)}, "colors"),
        ({"class_labels": torch.tensor([3, -5])}, "class_labels"),
        ({"instance_labels": torch.tensor([1, 2, 3])}, r"-1\.\.2"),
        ({"instance_labels": torch.tensor([1, 2])}, "instance_labels"),
        ({"superpoints": torch.tensor([0, 1])}, "superpoints"),
        ({"superpoints": torch.tensor([0, 1, -1])}, "superpoints"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=f"hall.*{word}"):
        sample(**changes)


def test_selection_drops_instances_and_numbers_anew() -> None:
    part = sample().select(torch.tensor([True, True, False]))
    assert part.instance_labels.tolist() == [1, -1]
    assert part.class_labels.tolist() == [5]
    assert part.superpoints is not None
    assert part.superpoints.tolist() == [1, 0]


def test_labels_without_gaps() -> None:
    labels, classes = compact_labels(torch.tensor([-1, 0, 4, 2, 4]), torch.tensor([9, 8, 7, 6]))
    assert labels.tolist() == [-1, 0, 2, 1, 2]
    assert classes.tolist() == [8, 6]


def test_features_are_colour_and_place_in_the_room() -> None:
    one = sample()
    features = point_features(one.coordinates, one.colors)
    assert features.shape == (3, NUM_FEATURES)
    torch.testing.assert_close(features[0], torch.tensor([-0.5, 0.5, -0.3, -1.0, -2.0, 0.0]))
    moved = point_features(one.coordinates + torch.tensor([5.0, -7, 2]), one.colors)
    torch.testing.assert_close(moved, features)


def test_a_batch_is_lists() -> None:
    batch = collate_points([sample(), sample(name="cellar")])
    assert batch["names"] == ["hall", "cellar"]
    assert [len(x) for x in batch["coordinates"]] == [3, 3]
    assert batch["sample_ids"] == [7, 7]
    assert len(batch["superpoints"]) == 2


def test_superpoints_only_if_all_have_them() -> None:
    assert "superpoints" not in collate_points([sample(), sample(superpoints=None)])


def test_no_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate_points([])
