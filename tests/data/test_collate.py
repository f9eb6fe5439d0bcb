from __future__ import annotations

from typing import Any

import pytest
import torch

from influencerformer.data.collate import IMAGENET_MEAN, IMAGENET_STD, collate
from influencerformer.data.sample import Sample


def sample(height: int, width: int, kind: str, count: int = 2) -> Sample:
    labels = torch.zeros(height, width, dtype=torch.int64)
    labels[0, :count] = torch.arange(1, count + 1)
    labels[1, 1] = -1
    fields: dict[str, Any] = {"name": f"{height}x{width}", "image_id": height, "class_labels": torch.arange(count)}
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    partition = Sample(image=image, instance_labels=labels, instance_masks=None, ignore=None, **fields)
    if kind == "labels":
        return partition
    return Sample(image=image, instance_labels=None, instance_masks=partition.masks(), ignore=labels == -1, **fields)


def test_batch_follows_the_convention() -> None:
    samples = [sample(5, 9, "labels"), sample(7, 4, "masks"), sample(3, 3, "masks", count=0)]
    batch = collate(samples, size_divisor=4)
    assert batch["pixel_values"].shape == (3, 3, 8, 12)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [45, 28, 9]
    assert batch["sizes"] == [(5, 9), (7, 4), (3, 3)]
    assert batch["names"] == ["5x9", "7x4", "3x3"]
    assert batch["image_ids"] == [5, 7, 3]
    padding = batch["pixel_mask"] == 0
    assert not bool(batch["pixel_values"].movedim(1, -1)[padding].any())
    value = (128 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(batch["pixel_values"][1, :, 0, 0], value)

    labels, masks, empty = batch["mask_labels"]
    assert (labels.dtype, masks.dtype, empty.dtype) == (torch.int64, torch.int8, torch.int64)
    assert (labels.shape, masks.shape, empty.shape) == ((8, 12), (2, 8, 12), (8, 12))
    assert samples[0].instance_labels is not None
    assert torch.equal(labels[:5, :9], samples[0].instance_labels)
    assert bool((labels[padding[0]] == -1).all())
    assert torch.equal(masks[:, :7, :4] == 1, samples[1].masks())
    assert bool((masks[:, 1, 1] == -1).all())
    assert bool((masks[:, padding[1]] == -1).all())
    # Without instances the ignored pixels must not get lost.
    assert int(empty[1, 1]) == -1
    assert int(empty[0, 0]) == 0
    assert [c.tolist() for c in batch["class_labels"]] == [[0, 1], [0, 1], []]


def test_default_padding_and_empty_batch() -> None:
    assert collate([sample(33, 5, "labels")])["pixel_values"].shape[2:] == (64, 32)
    with pytest.raises(ValueError, match="at least one"):
        collate([])
