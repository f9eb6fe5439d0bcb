"""Checks and brings to one shape what a mask loss is given; shared by the Influencer Loss and its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from influencerformer.losses.targets import MaskTargets, make_targets

SATURATED = 1e4
"""Logits beyond this are as good as certain: infinite ones are brought back to it."""

NonFinite = Literal["raise", "skip"]


@dataclass(frozen=True)
class MaskInputs:
    """Predictions of L decoder layers for B images: mask_logits (L, B, Q, N), class_logits (L, B, Q, C + 1)."""

    mask_logits: Tensor
    class_logits: Tensor | None
    query_mask: Tensor | None
    targets: MaskTargets
    nonfinite: Tensor


def _finite(name: str, logits: Tensor, nonfinite: NonFinite) -> tuple[Tensor, Tensor]:
    """The logits without NaN and inf, and how many there were."""
    bad = ~logits.isfinite()
    count = bad.sum()
    if nonfinite == "raise":
        if bool(count):
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name} holds {int(count)} of {logits.numel()} values that are NaN or infinite (first at {where}): "
                "the model has diverged or overflowed; lower the learning rate, clip gradients, or use bfloat16 "
                "instead of float16"
            )
        return logits, count
    return logits.nan_to_num(nan=0.0, posinf=SATURATED, neginf=-SATURATED), count


def full_precision(values: Tensor) -> Tensor:
    """float16 and bfloat16 to float32; other dtypes as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def make_inputs(
    mask_logits: Tensor,
    instance_labels: Tensor | None,
    class_logits: Tensor | None,
    class_labels: Tensor | None,
    instance_masks: Tensor | None,
    query_mask: Tensor | None,
    num_points: int | None,
    nonfinite: NonFinite | None,
) -> MaskInputs:
    """See :func:`influencerformer.losses.mask_influencer_loss` for the arguments and the errors."""
    if not mask_logits.is_floating_point():
        raise TypeError(f"mask_logits must be floating point, got {mask_logits.dtype}")
    if mask_logits.ndim not in (2, 3, 4):
        raise ValueError(
            f"mask_logits must be (Q, N), (B, Q, N) or (L, B, Q, N), got {tuple(mask_logits.shape)}: "
            "flatten the pixels of an image into one axis"
        )
    if mask_logits.ndim == 2:
        instance_labels, class_labels, instance_masks, query_mask = (
            t if t is None else t[None] for t in (instance_labels, class_labels, instance_masks, query_mask)
        )
    leading = (1,) * (4 - mask_logits.ndim)
    if class_logits is not None:
        expected = mask_logits.shape[:-1]
        if class_logits.shape[:-1] != expected or class_logits.shape[-1] < 2:
            raise ValueError(
                f"class_logits must be (..., Q, C + 1) = {(*expected, 'C + 1')} with no-object last, "
                f"got {tuple(class_logits.shape)}"
            )
        class_logits = class_logits.reshape(*leading, *class_logits.shape)
    mask_logits = mask_logits.reshape(*leading, *mask_logits.shape)
    _, batch, num_queries, num_pixels = mask_logits.shape
    if num_queries == 0:
        raise ValueError(f"mask_logits {tuple(mask_logits.shape)} hold no query")
    if query_mask is not None and query_mask.shape != (batch, num_queries):
        raise ValueError(f"query_mask must be (B, Q) = {(batch, num_queries)}, got {tuple(query_mask.shape)}")

    nonfinite = nonfinite or ("raise" if mask_logits.device.type == "cpu" else "skip")
    mask_logits, bad = _finite("mask_logits", full_precision(mask_logits), nonfinite)
    if class_logits is not None:
        class_logits, bad_classes = _finite("class_logits", full_precision(class_logits), nonfinite)
        class_logits, bad = class_logits.to(mask_logits.dtype), bad + bad_classes

    targets = make_targets(num_pixels, batch, mask_logits.dtype, instance_labels, instance_masks, class_labels)
    if class_logits is not None and class_labels is not None and class_labels.device.type == "cpu":
        num_classes = class_logits.shape[-1] - 1
        if class_labels.numel() and int(class_labels.max()) >= num_classes:
            raise ValueError(
                f"class_labels go up to {int(class_labels.max())}, but class_logits has only C = {num_classes} classes "
                "(0..C-1) and no-object last"
            )
    if num_points is not None and num_points < num_pixels:
        columns = torch.randint(num_pixels, (batch, num_points), device=mask_logits.device)
        targets = targets.select(columns)
        mask_logits = mask_logits.gather(-1, columns[None, :, None].expand(*mask_logits.shape[:-1], num_points))
    return MaskInputs(mask_logits, class_logits, query_mask, targets, bad)
