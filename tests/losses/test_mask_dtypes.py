"""Half precision in and out, computed in single; autocast leaves the loss alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mask_cases import Batch, value_and_gradients

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss

LOSSES = [mask_influencer_loss, hungarian_mask_loss]
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_dtypes(loss: Any, dtype: torch.dtype) -> None:
    batch = Batch(0, layers=2, dtype=dtype)
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    assert value.dtype == (torch.float32 if dtype in HALVES else dtype)
    assert masks.dtype == dtype
    assert classes.dtype == dtype

    exact = [t.double() for t in (batch.masks, batch.class_logits)]
    expected = value_and_gradients(loss, exact[0], batch.labels, exact[1], batch.classes)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=0)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-4)
    # the gradients of condensation and claims are rounded before they are added
    atol = tolerance * float(expected[1].abs().max()) if dtype in HALVES else 1e-5
    torch.testing.assert_close(masks.double(), expected[1], rtol=tolerance, atol=atol)
    torch.testing.assert_close(classes.double(), expected[2], rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_mask_and_class_logits_may_differ_in_dtype(loss: Any) -> None:
    batch = Batch(0)
    expected = loss(*batch.arguments)["loss"]
    mixed = loss(batch.masks.float(), batch.labels, batch.class_logits, batch.classes)["loss"]
    torch.testing.assert_close(mixed.double(), expected, rtol=1e-5, atol=0)
    mixed = loss(batch.masks.half(), batch.labels, batch.class_logits.bfloat16(), batch.classes)["loss"]
    torch.testing.assert_close(mixed.double(), expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_does_not_change_the_loss(loss: Any) -> None:
    batch = Batch(1, layers=2, dtype=torch.float32)
    expected = value_and_gradients(loss, *batch.arguments)
    masks, classes = batch.masks.requires_grad_(), batch.class_logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(masks, batch.labels, classes, batch.classes)["loss"]
    again = value.detach(), *torch.autograd.grad(value, (masks, classes))
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_backward_inside_autocast_keeps_the_gradients_of_the_claims() -> None:
    """Not recommended by PyTorch, yet common: the sums over pixels must not be rounded to bfloat16."""
    batch = Batch(1, layers=2, dtype=torch.float32)
    expected = value_and_gradients(mask_influencer_loss, *batch.arguments, condensation_weight=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = value_and_gradients(mask_influencer_loss, *batch.arguments, condensation_weight=0.0)
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_of_a_network_around_the_loss(loss: Any) -> None:
    batch = Batch(2, dtype=torch.float32)
    layer = torch.nn.Linear(17, 17)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = layer(batch.masks)
        assert masks.dtype == torch.bfloat16
        value = loss(masks, batch.labels, batch.class_logits, batch.classes)["loss"]
    value.backward()
    assert value.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_dtypes_of_the_truth(dtype: torch.dtype) -> None:
    batch = Batch(3, ignored=False, counts=(2, 2))
    expected = mask_influencer_loss(*batch.arguments)["loss"]
    labels, classes = batch.labels.to(dtype), batch.classes.to(dtype)
    value = mask_influencer_loss(batch.masks, labels, batch.class_logits, classes)["loss"]
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_parts_are_detached_and_loss_is_not() -> None:
    batch = Batch(4)
    result = mask_influencer_loss(batch.masks.requires_grad_(), *batch.arguments[1:])
    assert result["loss"].requires_grad
    assert not any(value.requires_grad for name, value in result.items() if name != "loss")
    assert all(value.ndim == 0 for value in result.values())
