"""From samples to the batch that transformers' mask models take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.data.sample import Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(image: Tensor) -> Tensor:
    """(3, H, W) uint8 RGB to float32, by ImageNet mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    return (image.to(torch.float32) / 255.0 - mean) / std


def collate(samples: Sequence[Sample], size_divisor: int = 32) -> dict[str, Any]:
    """Stack samples, padded at the bottom and right to the largest of them.

    Args:
        samples: B samples of any sizes.
        size_divisor: height and width are rounded up to a multiple of this (the backbone's total stride).

    Returns:
        pixel_values: (B, 3, H, W) float32, normalised, zero padded.
        pixel_mask: (B, H, W) int64, 1 real pixel, 0 padding.
        mask_labels: B tensors, each either (H, W) int64 (0 background, 1..K instances, -1 ignored or padding)
            or, where instances overlap, (K, H, W) int8 (1 member, 0 not, -1 ignored or padding).
        class_labels: B tensors (K,) int64.
        names, image_ids: lists of B.
        sizes: list of B (h, w) before padding.
    """
    if not samples:
        raise ValueError("collate needs at least one sample")
    height = _round_up(max(s.size[0] for s in samples), size_divisor)
    width = _round_up(max(s.size[1] for s in samples), size_divisor)
    pixel_values = torch.zeros(len(samples), 3, height, width)
    pixel_mask = torch.zeros(len(samples), height, width, dtype=torch.int64)
    for i, sample in enumerate(samples):
        h, w = sample.size
        pixel_values[i, :, :h, :w] = normalize(sample.image)
        pixel_mask[i, :h, :w] = 1
    return {
        "pixel_values": pixel_values,
        "pixel_mask": pixel_mask,
        "mask_labels": [_mask_labels(sample, height, width) for sample in samples],
        "class_labels": [sample.class_labels for sample in samples],
        "names": [sample.name for sample in samples],
        "image_ids": [sample.image_id for sample in samples],
        "sizes": [sample.size for sample in samples],
    }


def _mask_labels(sample: Sample, height: int, width: int) -> Tensor:
    h, w = sample.size
    padding = (0, width - w, 0, height - h)
    if sample.instance_labels is not None:
        return F.pad(sample.instance_labels, padding, value=-1)
    assert sample.instance_masks is not None
    if sample.num_instances == 0:
        # No mask is left that could carry the ignored pixels: only a label map can.
        return F.pad(-sample.ignored().to(torch.int64), padding, value=-1)
    masks = sample.instance_masks.to(torch.int8)
    if sample.ignore is not None:
        masks.masked_fill_(sample.ignore, -1)
    return F.pad(masks, padding, value=-1)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
