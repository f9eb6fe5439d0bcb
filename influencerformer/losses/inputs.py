"""Checks and brings to one shape what a mask loss is given; shared by the Influencer Loss and its baseline."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Predictions of L decoder layers for B images: mask_logits L x (B, Q, N), class_logits (L, B, Q, C + 1)."""

    mask_logits: list[Tensor]
    class_logits: Tensor | None
    query_mask: Tensor | None
    targets: MaskTargets
    nonfinite: Tensor


def _finite(name: str, logits: Tensor, nonfinite: NonFinite) -> tuple[Tensor, Tensor]:
    """The logits without NaN and inf, and how many there were."""
    if nonfinite == "skip":
        count = (~logits.isfinite()).sum()
        return logits.nan_to_num(nan=0.0, posinf=SATURATED, neginf=-SATURATED), count
    # a sum is one fast pass, and not finite if any value is not; the search is for the message
    if not bool(logits.detach().sum().isfinite()):
        bad = ~logits.isfinite()
        if bool(bad.any()):
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name} holds {int(bad.sum())} of {logits.numel()} values that are NaN or infinite (first: {where}): "
                "the model has diverged or overflowed; lower the learning rate, clip gradients, or use bfloat16 "
                "instead of float16"
            )
    return logits, torch.zeros((), dtype=torch.long, device=logits.device)


def full_precision(values: Tensor) -> Tensor:
    """float16 and bfloat16 to float32; other dtypes as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


Logits = Tensor | Sequence[Tensor]


def _layers(name: str, logits: Logits) -> list[Tensor]:
    """L tensors (B, Q, X) from (Q, X), (B, Q, X), (L, B, Q, X), or from a sequence of L tensors (B, Q, X)."""
    if isinstance(logits, Tensor):
        if logits.ndim not in (2, 3, 4):
            raise ValueError(
                f"{name} must be (Q, N), (B, Q, N) or (L, B, Q, N), got {tuple(logits.shape)}: "
                "flatten the pixels of an image into one axis"
            )
        return list(logits) if logits.ndim == 4 else [logits.reshape(-1, *logits.shape[-2:])]
    layers = list(logits)
    if not layers or any(layer.ndim != 3 or layer.shape != layers[0].shape for layer in layers):
        shapes = [tuple(layer.shape) for layer in layers]
        raise ValueError(f"{name} as a sequence must be L tensors (B, Q, N) of one shape, got {shapes}")
    return layers


def full_precision_region(logits: Logits) -> torch.autocast:
    """A region without autocast on the logits' device."""
    first = logits if isinstance(logits, Tensor) else next(iter(logits), None)
    return torch.autocast("cpu" if first is None else first.device.type, enabled=False)


def make_inputs(
    mask_logits: Logits,
    instance_labels: Tensor | None,
    class_logits: Logits | None,
    class_labels: Tensor | None,
    instance_masks: Tensor | None,
    query_mask: Tensor | None,
    num_points: int | None,
    nonfinite: NonFinite | None,
) -> MaskInputs:
    """See :func:`influencerformer.losses.mask_influencer_loss` for the arguments and the errors."""
    masks = _layers("mask_logits", mask_logits)
    if not masks[0].is_floating_point():
        raise TypeError(f"mask_logits must be floating point, got {masks[0].dtype}")
    if isinstance(mask_logits, Tensor) and mask_logits.ndim == 2:
        instance_labels, class_labels, instance_masks, query_mask = (
            t if t is None else t[None] for t in (instance_labels, class_labels, instance_masks, query_mask)
        )
    batch, num_queries, num_pixels = masks[0].shape
    if num_queries == 0:
        raise ValueError("mask_logits hold no query")
    classes = None
    if class_logits is not None:
        classes = _layers("class_logits", class_logits)
        expected = (len(masks), batch, num_queries)
        found = (len(classes), *classes[0].shape[:-1])
        if found != expected or classes[0].shape[-1] < 2:
            raise ValueError(
                f"class_logits must be (L, B, Q, C + 1) = {(*expected, 'C + 1')} with no-object last, "
                f"got {(*found, classes[0].shape[-1])}"
            )
    if query_mask is not None and query_mask.shape != (batch, num_queries):
        raise ValueError(f"query_mask must be (B, Q) = {(batch, num_queries)}, got {tuple(query_mask.shape)}")
    if query_mask is not None and query_mask.dtype != torch.bool:
        raise TypeError(f"query_mask must be bool, got {query_mask.dtype}")

    nonfinite = nonfinite or ("raise" if masks[0].device.type == "cpu" else "skip")
    checked = [_finite("mask_logits", full_precision(layer), nonfinite) for layer in masks]
    masks, bad = [layer for layer, _ in checked], torch.stack([count for _, count in checked]).sum()
    stacked = None
    if classes is not None:
        stacked, bad_classes = _finite("class_logits", full_precision(torch.stack(classes)), nonfinite)
        stacked, bad = stacked.to(masks[0].dtype), bad + bad_classes

    targets = make_targets(num_pixels, batch, masks[0].dtype, instance_labels, instance_masks, class_labels)
    if stacked is not None and class_labels is not None and class_labels.device.type == "cpu":
        num_classes = stacked.shape[-1] - 1
        if class_labels.numel() and int(class_labels.max()) >= num_classes:
            raise ValueError(
                f"class_labels go up to {int(class_labels.max())}, but class_logits has only C = {num_classes} classes "
                "(0..C-1) and no-object last"
            )
    if num_points is not None and num_points < num_pixels:
        columns = torch.randint(num_pixels, (batch, num_points), device=masks[0].device)
        targets = targets.select(columns)
        index = columns[:, None].expand(-1, num_queries, -1)
        masks = [layer.gather(-1, index) for layer in masks]
    return MaskInputs(masks, stacked, query_mask, targets, bad)
