"""From mask maps to columns of pixels that predictions and truth share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.targets import IGNORED


class ImagePoints(NamedTuple):
    """Predictions and truth at P cells of the mask logits' grid, the same for all queries and layers.

    Attributes:
        mask_logits: L tensors (B, Q, P).
        instance_labels: (B, P) int64 with -1 ignored; where ``instance_masks`` is set only its -1 entries count.
        instance_masks: (B, K, P) bool, or None where the truth is label maps.
    """

    mask_logits: list[Tensor]
    instance_labels: Tensor
    instance_masks: Tensor | None


def _thinned(truth: Tensor, height: int, width: int) -> Tensor:
    """The truth (..., H, W) at the centres of a grid of height x width cells."""
    y = ((torch.arange(height, device=truth.device) + 0.5) * (truth.shape[-2] / height)).long()
    x = ((torch.arange(width, device=truth.device) + 0.5) * (truth.shape[-1] / width)).long()
    return truth[..., y[:, None], x]


def _at_edges(codes: Tensor) -> Tensor:
    """(B, h, w) bool: cells with another value beside them."""
    values = codes[:, None].float()
    return (F.max_pool2d(values, 3, 1, 1) != -F.max_pool2d(-values, 3, 1, 1))[:, 0]


def _draw(codes: Tensor, num_points: int, edge_fraction: float) -> Tensor:
    """(B, P) cells: a part drawn evenly, a part near outlines. codes (B, h, w) tell instances apart."""
    batch, num_cells = len(codes), codes[0].numel()
    even = torch.randint(num_cells, (batch, num_points), device=codes.device)
    num_edge = int(edge_fraction * num_points)
    if num_edge:
        # the small weight elsewhere keeps the draw valid for an image without outlines
        weights = _at_edges(codes).flatten(1).float() + 1e-6
        even[:, :num_edge] = torch.multinomial(weights, num_edge, replacement=True)
    return even


def sample_image_points(
    mask_logits: Sequence[Tensor],
    truths: Sequence[Tensor],
    num_points: int | None = None,
    edge_fraction: float = 0.5,
) -> ImagePoints:
    """Reads predictions and truth at cells of the mask logits' grid; the truth is taken at a cell's centre.

    Args:
        mask_logits: L tensors (B, Q, h, w), one a decoder layer.
        truths: B tensors, all label maps (H, W) integer with -1 ignored, or all masks (K, H, W), where a negative
            value marks an ignored pixel. Each covers the image that its mask logits cover.
        num_points: P cells an image, drawn with replacement; None, or at least h x w, takes every cell once.
        edge_fraction: the part of the drawn cells that lies near the truth's outlines.
    """
    height, width = mask_logits[0].shape[-2:]
    thinned = [_thinned(truth, height, width) for truth in truths]
    masks = None
    if thinned[0].ndim == 2:
        labels = torch.stack(thinned).long()
        codes = labels
    else:
        most = max(len(truth) for truth in thinned)
        masks = torch.stack([F.pad(truth > 0, (0, 0, 0, 0, 0, most - len(truth))) for truth in thinned])
        ignored = torch.stack([(truth < 0).any(0) for truth in thinned])
        labels = torch.where(ignored, IGNORED, 0)
        # one number for every subset of overlapping instances, up to rare ties
        roots = torch.arange(1, most + 1, device=labels.device, dtype=torch.float32).sqrt()
        codes = torch.einsum("k,bkhw->bhw", roots, masks.float())
    logits = [layer.flatten(2) for layer in mask_logits]
    labels, masks = labels.flatten(1), masks if masks is None else masks.flatten(2)
    if num_points is None or num_points >= height * width:
        return ImagePoints(logits, labels, masks)
    cells = _draw(codes, num_points, edge_fraction)
    index = cells[:, None].expand(-1, logits[0].shape[1], -1)
    logits = [layer.gather(2, index) for layer in logits]
    if masks is not None:
        masks = masks.gather(2, cells[:, None].expand(-1, masks.shape[1], -1))
    return ImagePoints(logits, labels.gather(1, cells), masks)
