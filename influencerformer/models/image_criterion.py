"""What every criterion on images does: points, classes, loss, parts for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influencerformer.losses.checks import check_integers
from influencerformer.losses.hungarian import HungarianMaskLoss
from influencerformer.losses.image_points import sample_image_points
from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.losses.targets import IGNORED


def pad_classes(class_labels: Sequence[Tensor], device: torch.device) -> Tensor:
    """B tensors (K_i,) to (B, K) int64 padded with -1.

    Raises:
        TypeError, ValueError: no tensors, not integers, not one axis, or no image.
    """
    if not len(class_labels):
        raise ValueError("the truth holds no image: class labels are needed for each")
    for i, one in enumerate(class_labels):
        check_integers(f"class labels of image {i}", one, "0..C-1")
        if one.ndim != 1:
            raise ValueError(f"class labels of image {i} must be (K,), got {tuple(one.shape)}")
    most = max((len(c) for c in class_labels), default=0)
    return torch.stack([F.pad(c.to(device).long(), (0, most - len(c)), value=-1) for c in class_labels])


def _check_logits(mask_logits: Sequence[Tensor]) -> None:
    """Layers of one shape (B, Q, h, w) with cells."""
    for layer in mask_logits:
        if not isinstance(layer, Tensor) or not layer.is_floating_point():
            found = layer.dtype if isinstance(layer, Tensor) else type(layer).__name__
            raise TypeError(f"mask logits must be floating-point tensors (B, Q, h, w), got {found}")
        if layer.ndim != 4 or layer.shape != mask_logits[0].shape or 0 in layer.shape[2:]:
            shapes = [tuple(one.shape) for one in mask_logits]
            raise ValueError(f"mask logits must be (B, Q, h, w) in all layers, with cells, got {shapes}")


def _as_maps(mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The truth of each image, checked, all of one form and one size."""
    if not len(mask_labels):
        raise ValueError("the truth holds no image: give mask_labels and class_labels for each")
    if len(mask_labels) != len(class_labels):
        raise ValueError(f"{len(mask_labels)} mask_labels came with {len(class_labels)} class_labels")
    truths = []
    for i, (truth, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        if not isinstance(truth, Tensor):
            raise TypeError(f"mask_labels[{i}] must be a tensor, got {type(truth).__name__} in its place")
        if not isinstance(classes, Tensor):
            raise TypeError(f"class_labels[{i}] must be a tensor, got {type(classes).__name__} in its place")
        if truth.ndim in (2, 3) and 0 in truth.shape[-2:]:
            raise ValueError(f"mask_labels[{i}] has no pixel: {tuple(truth.shape)}")
        if truth.ndim not in (2, 3):
            raise ValueError(
                f"mask_labels[{i}] must be an instance map (H, W) or masks (K, H, W), got {tuple(truth.shape)}"
            )
        if truth.ndim == 2 and (truth.is_floating_point() or truth.dtype == torch.bool):
            raise TypeError(
                f"mask_labels[{i}] is an instance map of {truth.dtype}; it must hold integers "
                "(0 background, 1..K instances, -1 ignored)"
            )
        if truth.ndim == 3 and len(truth) != len(classes):
            raise ValueError(f"mask_labels[{i}] holds {len(truth)} masks, class_labels[{i}] {len(classes)} classes")
        truths.append(truth.to(device).long() if truth.ndim == 2 else truth.to(device))
    if len({truth.ndim for truth in truths}) > 1:
        truths = [masks_of(truth, len(c)) for truth, c in zip(truths, class_labels, strict=True)]
    height = max(truth.shape[-2] for truth in truths)
    width = max(truth.shape[-1] for truth in truths)
    return [_pad_ignored(truth, height, width) for truth in truths]


def masks_of(truth: Tensor, count: int) -> Tensor:
    """A label map (H, W) as masks (K, H, W) int8 with -1 ignored; masks as they are."""
    if truth.ndim == 3:
        return truth
    values = torch.arange(1, count + 1, device=truth.device)[:, None, None]
    return (truth == values).to(torch.int8).masked_fill(truth < 0, -1)


def _pad_ignored(truth: Tensor, height: int, width: int) -> Tensor:
    pad = (0, width - truth.shape[-1], 0, height - truth.shape[-2])
    if not any(pad):
        return truth
    if truth.dtype in (torch.bool, torch.uint8):
        truth = (truth > 0).to(torch.int8)
    return F.pad(truth, pad, value=IGNORED)


class ImageCriterion(nn.Module):
    """A mask loss on images: (Q, h, w) mask logits against a truth at its own resolution.

    Args:
        loss: MaskInfluencerLoss or HungarianMaskLoss.
        num_points: random cells of the mask logits' grid an image; None takes all cells.
        edge_fraction: the part of these cells that is drawn near outlines.

    Attributes:
        parts: detached scalars of the last call, for the log.
    """

    def __init__(
        self,
        loss: MaskInfluencerLoss | HungarianMaskLoss,
        num_points: int | None = None,
        edge_fraction: float = 0.5,
    ) -> None:
        super().__init__()
        if num_points is not None and num_points < 1:
            raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
        if not 0 <= edge_fraction <= 1:
            raise ValueError(f"edge_fraction must be in [0, 1], got {edge_fraction}")
        self.loss = loss
        self.num_points = num_points
        self.edge_fraction = edge_fraction
        self.parts: dict[str, Tensor] = {}

    def forward(
        self,
        mask_logits: Sequence[Tensor],
        class_logits: Sequence[Tensor],
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
    ) -> Tensor:
        """The loss.

        Args:
            mask_logits: L tensors (B, Q, h, w), the last of them the output layer's.
            class_logits: L tensors (B, Q, C + 1).
            mask_labels: B instance maps (H, W) of integers (0 background, 1..K, -1 ignored), or masks (K, H, W) with
                negative values at ignored pixels. Smaller ones are padded at the right and below, ignored there.
            class_labels: B tensors (K,) of classes.
        """
        _check_logits(mask_logits)
        device = mask_logits[0].device
        truths = _as_maps(mask_labels, class_labels, device)
        classes = pad_classes(class_labels, device)
        if len(truths) != len(mask_logits[0]):
            raise ValueError(f"mask logits of {len(mask_logits[0])} images came with the truth of {len(truths)}")
        points = sample_image_points(mask_logits, truths, self.num_points, self.edge_fraction)
        result = self.loss(
            points.mask_logits,
            points.instance_labels,
            list(class_logits),
            classes,
            instance_masks=points.instance_masks,
        )
        self.parts = {name: value.detach() for name, value in result.items() if name != "loss"}
        return result["loss"]
