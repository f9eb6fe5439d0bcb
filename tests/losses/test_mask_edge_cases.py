"""Truths and predictions at the edge of what occurs: the loss and its gradients stay finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import Batch, Planted, value_and_gradients
from torch import Tensor

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss

LOSSES = [mask_influencer_loss, hungarian_mask_loss]


def finite(loss: Any, *args: Any, **kw: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = value_and_gradients(loss, *args, **kw)
    assert all(t.isfinite().all() for t in found)
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["labels", "masks", "masks and labels"])
@pytest.mark.parametrize("counts", [(0,), (0, 0)])
def test_no_instances(loss: Any, form: str, counts: tuple[int, ...]) -> None:
    """Masks are free, and every query is taught no-object."""
    batch = Batch(0, counts=counts)
    truth = {} if form == "labels" else {"instance_masks": batch.instance_masks()}
    labels = None if form == "masks" else batch.labels
    _, masks, classes = finite(loss, batch.masks, labels, batch.class_logits, batch.classes, **truth)
    assert (masks == 0).all()
    assert (classes[..., -1] < 0).all()
    assert (classes[..., :-1] > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scatter_or_masks", ["labels", "masks"])
def test_image_without_instances_beside_others(loss: Any, scatter_or_masks: str) -> None:
    batch = Batch(1, counts=(2, 0, 3))
    truth = {"instance_masks": batch.instance_masks()} if scatter_or_masks == "masks" else {}
    _, masks, _ = finite(loss, *batch.arguments, **truth)
    assert (masks[:, 1] == 0).all()
    assert (masks[:, 0] != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_more_instances_than_queries(loss: Any) -> None:
    batch = Batch(2, counts=(7,), queries=3)
    _, masks, _ = finite(loss, *batch.arguments)
    assert (masks != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_everything_ignored(loss: Any) -> None:
    batch = Batch(3)
    _, masks, classes = finite(loss, batch.masks, torch.full_like(batch.labels, -1), *batch.arguments[2:])
    assert (masks == 0).all()
    assert (classes[..., -1] < 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", [0, 1])
def test_one_pixel(loss: Any, label: int) -> None:
    masks, classes = torch.randn(4, 1), torch.randn(4, 3)
    _, grad, _ = finite(loss, masks, torch.tensor([label]), classes, torch.tensor([1]))
    assert (grad != 0).any() == bool(label)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_query(loss: Any, count: int) -> None:
    batch = Batch(4, counts=(count,), queries=1)
    finite(loss, *batch.arguments)


def test_one_query_may_be_perfect() -> None:
    right = Planted(torch.tensor([0, 0, 1, 1]), torch.tensor([1]), 1)
    assert mask_influencer_loss(*right.arguments)["loss"] < 1e-6


def test_one_real_query_beside_padding_may_be_perfect() -> None:
    right = Planted(torch.tensor([0, 0, 1, 1]), torch.tensor([1]), 3)
    real = torch.tensor([True, False, False])
    assert mask_influencer_loss(*right.arguments, query_mask=real)["loss"] < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("magnitude", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_huge_logits(loss: Any, magnitude: float, dtype: torch.dtype) -> None:
    batch = Batch(5, dtype=dtype)
    masks, classes = (t.sign() * magnitude for t in (batch.masks, batch.class_logits))
    finite(loss, masks, batch.labels, classes, batch.classes)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_equal_logits(loss: Any, value: float) -> None:
    """The start of a run, where all queries look alike."""
    batch = Batch(6)
    finite(loss, torch.full_like(batch.masks, value), batch.labels, torch.zeros_like(batch.class_logits), batch.classes)


def test_instances_already_differ_where_queries_hardly_do() -> None:
    """With queries all but equal, condensation separates the pixels of two instances from the first step."""
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([1] * 6 + [2] * 6)
    masks = 1e-2 * torch.randn(8, 12, generator=g)
    for _ in range(50):
        _, grad, _ = value_and_gradients(
            mask_influencer_loss,
            masks,
            labels,
            torch.zeros(8, 2),
            torch.zeros(2, dtype=torch.long),
            mask_weight=0.0,
            dice_weight=0.0,
            class_weight=0.0,
        )
        masks = masks - 0.1 * grad
    column = masks - masks.mean(0)
    cosine = torch.nn.functional.cosine_similarity(column[:, :, None], column[:, None], dim=0)
    assert cosine[:6, :6].min() > 0.5
    assert cosine[:6, 6:].max() < 0.5


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["mask_logits", "class_logits"])
def test_skipping_bad_values(loss: Any, bad: float, where: str) -> None:
    batch = Batch(7, layers=2)
    broken = batch.masks if where == "mask_logits" else batch.class_logits
    broken[0, 0, 1, 2] = broken[1, 1, 0, 0] = bad
    result = loss(*batch.arguments, nonfinite="skip")
    assert result["nonfinite"] == 2
    _, masks, classes = finite(loss, *batch.arguments, nonfinite="skip")
    grad = masks if where == "mask_logits" else classes
    assert grad[0, 0, 1, 2] == 0
    assert (grad != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_skipping_everything_bad(loss: Any) -> None:
    batch = Batch(8)
    broken = torch.full_like(batch.masks, torch.nan)
    finite(loss, broken, batch.labels, batch.class_logits, batch.classes, nonfinite="skip")


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_skipped_in_good_values(loss: Any) -> None:
    batch = Batch(9)
    raising = loss(*batch.arguments, nonfinite="raise")
    skipping = loss(*batch.arguments, nonfinite="skip")
    torch.testing.assert_close(skipping, raising, rtol=0, atol=0)
    assert skipping["nonfinite"] == 0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    queries=st.integers(1, 5),
    scale=st.sampled_from([1e-6, 1.0, 30.0, 1e4]),
    temperature=st.sampled_from([0.5, 0.02]),
)
def test_anything_random_is_finite(
    seed: int, counts: list[int], queries: int, scale: float, temperature: float
) -> None:
    batch = Batch(seed, counts=tuple(counts), queries=queries, pixels=8, dtype=torch.float32, layers=2)
    masks, classes = scale * batch.masks, scale * batch.class_logits
    finite(mask_influencer_loss, masks, batch.labels, classes, batch.classes, temperature=temperature)
    finite(hungarian_mask_loss, masks, batch.labels, classes, batch.classes)
