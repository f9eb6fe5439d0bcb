"""From mask maps of any resolution to columns of pixels that predictions and truth share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.targets import IGNORED

EDGE_WIDTH = 2
"""Pixels of the truth on either side of an outline that count as edge."""


class ImagePoints(NamedTuple):
    """Predictions and truth at P points of each image.

    Attributes:
        mask_logits: (L, B, Q, P).
        instance_labels: (B, P) int64 with -1 ignored; where ``instance_masks`` is set only its -1 entries count.
        instance_masks: (B, K, P) bool, or None where the truth is label maps.
    """

    mask_logits: Tensor
    instance_labels: Tensor
    instance_masks: Tensor | None


def _edge_map(truth: Tensor) -> Tensor:
    """(H, W) bool: pixels near an outline. truth is a label map (H, W) or masks (K, H, W)."""
    if truth.ndim == 3:
        # one number a pixel that tells every subset of overlapping instances from its neighbours', up to rare ties
        codes = torch.arange(1, len(truth) + 1, device=truth.device, dtype=torch.float32).sqrt()
        values = torch.einsum("k,khw->hw", codes, (truth > 0).float())
    else:
        values = truth.float()
    values = values[None]
    width = 2 * EDGE_WIDTH + 1
    highest = F.max_pool2d(values, width, 1, EDGE_WIDTH)
    lowest = -F.max_pool2d(-values, width, 1, EDGE_WIDTH)
    return (highest != lowest)[0]


def _random_points(truth: Tensor, num_points: int, edge_fraction: float) -> Tensor:
    """(P, 2) x, y in [0, 1]: a part spread evenly, a part near the outlines of the truth."""
    height, width = truth.shape[-2:]
    points = torch.rand(num_points, 2, device=truth.device)
    num_edge = int(edge_fraction * num_points)
    if num_edge:
        # the small weight elsewhere keeps the draw valid for an image without outlines
        weights = _edge_map(truth).flatten().float() + 1e-6
        chosen = torch.multinomial(weights, num_edge, replacement=True)
        corner = torch.stack([chosen % width, chosen.div(width, rounding_mode="floor")], -1)
        size = torch.tensor([width, height], device=truth.device)
        points[:num_edge] = (corner + points[:num_edge]) / size
    return points


def _grid_points(height: int, width: int, device: torch.device) -> Tensor:
    """(H * W, 2) x, y in [0, 1]: the centres of a grid."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def _truth_at(truth: Tensor, points: Tensor) -> Tensor:
    """(P,) labels or (K, P) mask values of the pixels in which the points lie."""
    height, width = truth.shape[-2:]
    x = (points[:, 0] * width).long().clamp(max=width - 1)
    y = (points[:, 1] * height).long().clamp(max=height - 1)
    return truth[..., y, x]


def sample_image_points(
    mask_logits: Sequence[Tensor],
    truths: Sequence[Tensor],
    num_points: int | None = None,
    edge_fraction: float = 0.0,
) -> ImagePoints:
    """Reads predictions (bilinear) and truth (at its own resolution) at points shared by all queries and layers.

    Args:
        mask_logits: L tensors (B, Q, h, w), one a decoder layer.
        truths: B tensors, all label maps (H, W) integer with -1 ignored, or all masks (K, H, W), where a negative
            value marks an ignored pixel. Each covers the image that its mask logits cover.
        num_points: P random points an image; None takes the h x w centres of the mask logits' grid, as they are.
        edge_fraction: the part of the random points that is drawn near the truth's outlines.
    """
    height, width = mask_logits[0].shape[-2:]
    device = mask_logits[0].device
    if num_points is None:
        grid = _grid_points(height, width, device)
        points = [grid] * len(truths)
        logits = torch.stack([layer.flatten(-2) for layer in mask_logits])
    else:
        points = [_random_points(truth, num_points, edge_fraction) for truth in truths]
        where = (2 * torch.stack(points) - 1)[:, None]
        logits = torch.stack(
            [
                F.grid_sample(
                    layer, where.to(layer.dtype), mode="bilinear", padding_mode="border", align_corners=False
                ).squeeze(2)
                for layer in mask_logits
            ]
        )
    values = [_truth_at(truth, at) for truth, at in zip(truths, points, strict=True)]
    if truths[0].ndim == 2:
        return ImagePoints(logits, torch.stack(values).long(), None)
    most = max(len(v) for v in values)
    masks = torch.stack([F.pad(v > 0, (0, 0, 0, most - len(v))) for v in values])
    ignored = torch.stack([(v < 0).any(0) for v in values])
    return ImagePoints(logits, torch.where(ignored, IGNORED, 0), masks)
