"""Checkpoints go both ways between the stock criterion and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import KINDS, criterion_of, images, label_maps, tiny_model
from torch import nn

from influencerformer.models import use_hungarian_loss, use_influencer_loss


def logits(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = model.eval()(images())
    return output.masks_queries_logits, output.class_queries_logits


def step(model: nn.Module, times: int = 2) -> None:
    maps, classes = label_maps()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(times):
        optimizer.zero_grad()
        model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swap", [use_influencer_loss, use_hungarian_loss])
def test_trained_with_ours_loads_into_the_stock_model(kind: str, swap: Any, tmp_path: Path) -> None:
    model = swap(tiny_model(kind))
    step(model)
    model.save_pretrained(tmp_path)
    stock, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert all(key.startswith("criterion.loss.") for key in report["unexpected_keys"])
    assert type(criterion_of(stock)) is type(criterion_of(tiny_model(kind)))
    torch.testing.assert_close(logits(stock), logits(model))
    maps, classes = label_maps()
    masks = [(m == torch.arange(1, len(c) + 1)[:, None, None]).float() for m, c in zip(maps, classes, strict=True)]
    assert stock(pixel_values=images(), mask_labels=masks, class_labels=classes).loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_stock_checkpoint_goes_on_with_ours(kind: str, tmp_path: Path) -> None:
    stock = tiny_model(kind, seed=3)
    stock.save_pretrained(tmp_path)
    model = use_influencer_loss(type(stock).from_pretrained(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(logits(model), logits(stock), strict=True))
    assert {key for key in model.state_dict() if not key.startswith("criterion.loss.")} == set(stock.state_dict())
    step(model)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_load_into_a_swapped_model_with_the_counter(kind: str, tmp_path: Path) -> None:
    """As a training loop resumes: the model is built, swapped, and its state read."""
    model = use_influencer_loss(tiny_model(kind), total_steps=10)
    start = criterion_of(model).loss.temperature
    step(model, 3)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    resumed = use_influencer_loss(tiny_model(kind, seed=1), total_steps=10)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert criterion_of(resumed).loss.temperature == criterion_of(model).loss.temperature < start
    torch.testing.assert_close(logits(resumed), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_stock_state_loads_strictly_but_for_the_counter(kind: str) -> None:
    found = use_influencer_loss(tiny_model(kind)).load_state_dict(tiny_model(kind, seed=1).state_dict(), strict=False)
    assert not found.unexpected_keys
    assert found.missing_keys == ["criterion.loss.annealing.calls"]
    use_hungarian_loss(tiny_model(kind)).load_state_dict(tiny_model(kind).state_dict())
