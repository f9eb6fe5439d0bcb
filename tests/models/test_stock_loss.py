"""transformers' own criterion behind instance maps, for comparisons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import KINDS, criterion_of, images, label_maps, masks_of, tiny_model
from torch import nn

from influencerformer.models import set_progress, use_hungarian_loss, use_influencer_loss, use_stock_loss


def seeded_loss(model: nn.Module, truths: Any, classes: Any) -> torch.Tensor:
    torch.manual_seed(0)  # of the sampled points
    return model(pixel_values=images(), mask_labels=truths, class_labels=classes).loss


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_model_as_it_was(kind: str) -> None:
    maps, classes = label_maps()
    maps = [m.clamp(min=0) for m in maps]
    masks = [m.float() for m in masks_of(maps, classes)]
    expected = seeded_loss(tiny_model(kind).eval(), masks, classes)
    model = use_stock_loss(tiny_model(kind)).eval()
    for truths in (maps, masks, [m.bool() for m in masks]):
        torch.testing.assert_close(seeded_loss(model, truths, classes), expected)
    set_progress(model, 0.5)


def test_ignored_pixels_are_background() -> None:
    maps, classes = label_maps()
    model = use_stock_loss(tiny_model("mask2former")).eval()
    expected = seeded_loss(model, [m.clamp(min=0) for m in maps], classes)
    torch.testing.assert_close(seeded_loss(model, maps, classes), expected)
    torch.testing.assert_close(seeded_loss(model, masks_of(maps, classes), classes), expected)


def test_number_of_points() -> None:
    model = use_stock_loss(tiny_model("mask2former"), num_points=77)
    stock = criterion_of(model).criterion
    assert stock.num_points == stock.matcher.num_points == 77


@pytest.mark.parametrize("swap", [use_influencer_loss, use_hungarian_loss, use_stock_loss])
def test_a_swapped_criterion_is_not_taken_for_the_stock_one(swap: Any) -> None:
    model = swap(tiny_model("mask2former"))
    with pytest.raises(TypeError, match="expected a model with transformers' own criterion, its criterion is a"):
        use_stock_loss(model)


def test_ours_may_follow() -> None:
    model = use_influencer_loss(use_stock_loss(tiny_model("mask2former")))
    maps, classes = label_maps()
    assert seeded_loss(model, maps, classes).isfinite()
    assert set(tiny_model("mask2former").state_dict()) <= set(model.state_dict())
