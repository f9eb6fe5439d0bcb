"""A training step on an accelerator never waits for a value: tensors of the meta device have none to look at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from influencerformer.losses import MaskInfluencerLoss, mask_influencer_loss

LAYERS, BATCH, QUERIES, PIXELS = 2, 2, 80, 300


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without values."""
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)


def predictions(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Mask and class logits."""
    return empty(LAYERS, BATCH, QUERIES, PIXELS, dtype=dtype), empty(LAYERS, BATCH, QUERIES, 4, dtype=dtype)


def truth(instances: int) -> tuple[Tensor, Tensor]:
    """A label map and classes."""
    return empty(BATCH, PIXELS, dtype=torch.int64), empty(BATCH, instances, dtype=torch.int64)


def options(name: str, instances: int) -> dict[str, Any]:
    """Arguments beside logits and labels."""
    return {
        "plain": {},
        "queries": {"query_mask": empty(BATCH, QUERIES, dtype=torch.bool)},
        "claims": {"claim_mask": empty(BATCH, QUERIES, instances, dtype=torch.bool)},
        "objectness": {"objectness": empty(LAYERS, BATCH, QUERIES)},
        "overlapping": {"instance_masks": empty(BATCH, instances, PIXELS, dtype=torch.bool)},
        "points": {"num_points": 50},
        "weights": {"attr_weight": 2.0, "rep_margin": 0.1, "quality": 0.5, "shared_claims": True},
    }[name]


@pytest.mark.parametrize("instances", [0, 7, 60, 90], ids="K={}".format)
@pytest.mark.parametrize("name", ["plain", "queries", "claims", "objectness", "overlapping", "points", "weights"])
def test_forward_and_backward_look_at_no_value(name: str, instances: int) -> None:
    masks, classes = predictions()
    labels, class_labels = truth(instances)
    result = mask_influencer_loss(masks, labels, classes, class_labels, **options(name, instances))
    result["loss"].backward()
    assert masks.grad is not None
    assert masks.grad.shape == masks.shape
    assert classes.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_looks_at_no_value(dtype: torch.dtype) -> None:
    masks, classes = predictions(dtype)
    criterion = MaskInfluencerLoss(total_steps=10)
    labels, class_labels = truth(7)
    criterion(masks, labels, classes, class_labels)["loss"].backward()
    assert masks.grad is not None
    assert masks.grad.dtype == dtype


def test_a_ragged_batch_looks_at_no_value() -> None:
    sizes = ((5, 40), (9, 30))
    masks = [[empty(q, n) for q, n in sizes] for _ in range(LAYERS)]
    classes = [[empty(q, 4) for q, _ in sizes] for _ in range(LAYERS)]
    labels = [empty(n, dtype=torch.int64) for _, n in sizes]
    result = mask_influencer_loss(masks, labels, classes, [empty(k, dtype=torch.int64) for k in (3, 70)])
    result["loss"].backward()
    assert all(image.grad is not None for layer in masks for image in layer)


def test_a_look_would_be_found() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        mask_influencer_loss(predictions()[0], truth(7)[0], nonfinite="raise")
