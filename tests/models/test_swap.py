"""Swapping the criterion of transformers' models: in one line, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import KINDS, criterion_of, images, label_maps, tiny_model
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss, mask_influencer_loss
from influencerformer.models import set_progress, use_hungarian_loss, use_influencer_loss

SWAPS: list[Callable[..., Any]] = [use_influencer_loss, use_hungarian_loss]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swap", SWAPS)
def test_outputs_stay_and_a_loss_comes(kind: str, swap: Callable[..., Any]) -> None:
    model = tiny_model(kind).eval()
    maps, classes = label_maps()
    before = model(images())
    assert swap(model) is model
    after = model(pixel_values=images(), mask_labels=maps, class_labels=classes)
    assert torch.equal(after.masks_queries_logits, before.masks_queries_logits)
    assert torch.equal(after.class_queries_logits, before.class_queries_logits)
    assert after.loss.isfinite()
    assert model(images()).loss is None
    model.train()
    model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss.backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.class_predictor.parameters()]
    assert all(reached)
    parts = criterion_of(model).parts
    assert {"claim_mask", "claim_dice", "existence"} <= set(parts)
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("kind", ["mask2former", "maskformer"])
def test_loss_is_that_of_all_layers_on_the_mask_grid(kind: str) -> None:
    """Deep supervision: the loss of the auxiliary logits and the output, by the function itself."""
    auxiliary = {"use_auxiliary_loss": True, "output_hidden_states": True, "output_auxiliary_logits": True}
    model = use_influencer_loss(tiny_model(kind, **auxiliary), temperature=0.1).eval()
    maps, classes = label_maps()
    output = model(pixel_values=images(), mask_labels=maps, class_labels=classes, output_hidden_states=True)
    layers = [*output.auxiliary_logits, output]
    assert len(layers) > 2
    masks = torch.stack([layer["masks_queries_logits"].flatten(2) for layer in layers])
    class_logits = torch.stack([layer["class_queries_logits"] for layer in layers])
    labels = torch.stack([m[2::4, 2::4].flatten() for m in maps])
    padded = torch.tensor([[2, 0, 2], [1, -1, -1]])
    weights = {name: getattr(criterion_of(model).loss, name) for name in ("class_weight", "mask_weight", "dice_weight")}
    expected = mask_influencer_loss(masks, labels, class_logits, padded, temperature=0.1, **weights)["loss"]
    torch.testing.assert_close(output.loss, expected)
    last = mask_influencer_loss(masks[-1], labels, class_logits[-1], padded, temperature=0.1, **weights)["loss"]
    assert output.loss > 1.5 * last


def test_eomt_sums_the_loss_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the criterion once a block and once at the end; the schedule counts accordingly."""
    model = use_influencer_loss(tiny_model("eomt"), total_steps=10)
    maps, classes = label_maps()
    losses = []
    criterion = criterion_of(model)
    criterion.register_forward_hook(lambda module, inputs, output: losses.append(output["loss_influencer"].detach()))
    loss = model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss
    assert len(losses) == 3
    torch.testing.assert_close(loss.detach(), torch.stack(losses).sum())
    for _ in range(9):
        model(pixel_values=images(), mask_labels=maps, class_labels=classes)
    assert criterion.loss.temperature == pytest.approx(0.02)
    assert criterion.loss.annealing.calls == criterion.loss.annealing.total_steps


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_from_the_configuration_unless_given(kind: str) -> None:
    named = "cross_entropy_weight" if kind == "maskformer" else "class_weight"
    config = {named: 1.5, "mask_weight": 4.0, "dice_weight": 3.0, "no_object_weight": 0.2}
    for swap in SWAPS:
        loss = criterion_of(swap(tiny_model(kind, **config), mask_weight=7.0)).loss
        assert (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight) == (1.5, 7.0, 3.0, 0.2)


def test_options_reach_the_loss() -> None:
    model = use_influencer_loss(
        tiny_model("mask2former"), num_points=50, edge_fraction=0.25, temperature=(0.4, 0.1), total_steps=7
    )
    criterion = criterion_of(model)
    assert (criterion.num_points, criterion.edge_fraction) == (50, 0.25)
    assert (criterion.loss.temperature, criterion.loss.annealing.total_steps) == (0.4, 7)


def test_swapping_again() -> None:
    model = tiny_model("mask2former")
    stock = criterion_of(model)
    for _ in range(2):
        assert isinstance(criterion_of(use_influencer_loss(model)).loss, MaskInfluencerLoss)
        assert isinstance(criterion_of(use_hungarian_loss(model)).loss, HungarianMaskLoss)
    assert torch.equal(criterion_of(model).empty_weight, stock.empty_weight)


def test_training_mode_is_taken_over() -> None:
    assert not criterion_of(use_influencer_loss(tiny_model("mask2former").eval())).training
    assert criterion_of(use_influencer_loss(tiny_model("mask2former").train())).training


def test_set_progress() -> None:
    model = use_influencer_loss(tiny_model("mask2former"), temperature=(0.5, 0.02))
    set_progress(model, 0.35)
    assert criterion_of(model).loss.temperature == pytest.approx(0.1)
    set_progress(nn.Sequential(model), 1.0)
    assert criterion_of(model).loss.temperature == pytest.approx(0.02)
    set_progress(use_hungarian_loss(tiny_model("mask2former")), 0.5)
    set_progress(tiny_model("mask2former"), 0.5)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Linear(1, 1),
        lambda: ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])),
        lambda: nn.ModuleDict({"criterion": nn.CrossEntropyLoss()}),
    ],
)
def test_other_models_are_refused(swap: Callable[..., Any], other: Callable[[], nn.Module]) -> None:
    model = other()
    with pytest.raises(TypeError, match=f"expected a MaskFormer, Mask2Former or EoMT .* got {type(model).__name__}"):
        swap(model)


@pytest.mark.parametrize("swap", SWAPS)
def test_unknown_option(swap: Callable[..., Any]) -> None:
    model = tiny_model("mask2former")
    before = criterion_of(model)
    with pytest.raises(TypeError, match="temprature"):
        swap(model, temprature=0.1)
    assert criterion_of(model) is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 0}, "num_points must be at least 1 or None, got 0"),
        ({"edge_fraction": 1.5}, r"edge_fraction must be in \[0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_influencer_loss(tiny_model("mask2former"), **options)


def test_model_may_be_copied_after_a_step() -> None:
    model = use_influencer_loss(tiny_model("mask2former"), total_steps=5)
    start = criterion_of(model).loss.temperature
    maps, classes = label_maps()
    model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss.backward()
    twin = copy.deepcopy(model)
    assert criterion_of(twin).loss.temperature == criterion_of(model).loss.temperature < start


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    model = use_influencer_loss(tiny_model("mask2former"))
    maps, classes = label_maps()
    with torch.autocast("cpu", dtype=dtype):
        loss = model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
