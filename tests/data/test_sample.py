from __future__ import annotations

from typing import Any

import pytest
import torch

from influencerformer.data.sample import Sample


def make(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "name": "x",
        "image": torch.zeros(3, 2, 3, dtype=torch.uint8),
        "class_labels": torch.tensor([4, 0]),
        "instance_labels": torch.tensor([[0, 1, 2], [-1, 1, 0]]),
        "instance_masks": None,
        "ignore": None,
        "image_id": 5,
    }
    return Sample(**(fields | changes))


def test_masks_and_ignored_agree_between_both_forms() -> None:
    sample = make()
    twin = make(instance_labels=None, instance_masks=sample.masks(), ignore=sample.ignored())
    assert torch.equal(twin.masks(), sample.masks())
    assert torch.equal(twin.ignored(), sample.ignored())
    assert sample.masks()[0].tolist() == [[False, True, False], [False, True, False]]
    assert sample.size == (2, 3)
    assert sample.num_instances == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(2, 3, 3, dtype=torch.uint8)}, r"image must be \(3, H, W\) uint8"),
        ({"image": torch.zeros(3, 2, 3)}, "got .* float32"),
        ({"class_labels": torch.zeros(2)}, r"class_labels must be \(K,\) int64"),
        ({"class_labels": torch.tensor([0, -1])}, "not be negative"),
        ({"instance_labels": None}, "exactly one of"),
        ({"instance_masks": torch.zeros(2, 2, 3, dtype=torch.bool)}, "exactly one of"),
        (
            {"instance_labels": torch.zeros(3, 2, dtype=torch.int64)},
            r"instance_labels must be \(2, 3\) int64",
        ),
        ({"instance_labels": torch.full((2, 3), 3)}, r"must lie in -1\.\.2"),
        ({"instance_labels": torch.full((2, 3), -2)}, r"must lie in -1\.\.2"),
        ({"ignore": torch.zeros(2, 3, dtype=torch.bool)}, "ignore goes with instance_masks"),
        (
            {"instance_labels": None, "instance_masks": torch.zeros(1, 2, 3, dtype=torch.bool)},
            r"instance_masks must be \(2, 2, 3\) bool",
        ),
    ],
)
def test_inconsistent_fields_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)
