"""The loss is zero at the right configuration and larger at every mistake, at every temperature of the schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from mask_cases import MISTAKES, NUM_CLASSES, Planted, duplicated, merged, planted_configurations, possible

from influencerformer.losses import MaskInfluencerLoss, hungarian_mask_loss, mask_influencer_loss

TEMPERATURES = [0.5, 0.2, 0.1, 0.05, 0.02]
SIZES = [(1, 2), (2, 3), (2, 4), (3, 3), (3, 16), (5, 8), (5, 50), (8, 9)]
"""Instances and queries."""
MARGIN = 0.05
"""Every mistake costs more than this."""


def scene(count: int, num_queries: int, background: int = 20) -> Planted:
    """Instances of 1, 2, 3, 4, 1, ... pixels before a background."""
    sizes = [background] + [1 + k % 4 for k in range(count)]
    labels = torch.arange(count + 1).repeat_interleave(torch.tensor(sizes))
    return Planted(labels, torch.arange(count) % NUM_CLASSES, num_queries)


def influencer(configuration: Planted, temperature: float) -> float:
    return mask_influencer_loss(*configuration.arguments, temperature=temperature)["loss"].item()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("count", "num_queries"), SIZES)
def test_right_is_zero(count: int, num_queries: int, temperature: float) -> None:
    assert 0 <= influencer(scene(count, num_queries), temperature) < (1e-2 if temperature > 0.3 else 1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_costs(mistake: Callable[[Planted], Planted], temperature: float) -> None:
    rights = [right for right in (scene(*size) for size in SIZES) if possible(mistake, right)]
    assert rights
    for right in rights:
        assert influencer(mistake(right), temperature) > influencer(right, temperature) + MARGIN


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_costs_in_a_large_sparse_image(mistake: Callable[[Planted], Planted], temperature: float) -> None:
    """Small instances in many pixels: the pixel term says little, so overlap and class must hold the claims."""
    right = scene(4, 50, background=5000)
    assert influencer(mistake(right), temperature) > influencer(right, temperature) + MARGIN


@pytest.mark.parametrize("temperature", [t for t in TEMPERATURES if t <= MaskInfluencerLoss().temperature])
def test_duplicate_of_one_pixel_among_very_many_queries(temperature: float) -> None:
    """The hardest case, which bounds the start of the schedule: from about 0.45 on the duplicate would be cheaper."""
    right = Planted(torch.tensor([0] * 10_000 + [1]), torch.tensor([0]), 300)
    assert influencer(duplicated(right), temperature) > influencer(right, temperature) + MARGIN


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_all_duplicated_and_all_merged(temperature: float) -> None:
    """The configurations that a published formulation prefers to the right one (docs/loss.md)."""
    right = scene(2, 4)
    doubled = right.copy()
    doubled.masks[2:], doubled.class_logits[2:] = right.masks[:2], right.class_logits[:2]
    covering = right.copy()
    covering.masks[:3] = torch.maximum(right.masks[0], right.masks[1])
    covering.class_logits[:3] = right.class_logits[0]
    assert influencer(doubled, temperature) > influencer(right, temperature) + 1
    assert influencer(covering, temperature) > influencer(right, temperature) + 1


@pytest.mark.parametrize("temperature", TEMPERATURES)
@settings(max_examples=15)
@given(right=planted_configurations())
def test_random_configurations(right: Planted, temperature: float) -> None:
    zero = influencer(right, temperature)
    assert 0 <= zero < 1e-2
    for mistake in MISTAKES:
        if possible(mistake, right):
            assert influencer(mistake(right), temperature) > zero + MARGIN, mistake.__name__


@settings(max_examples=15)
@given(right=planted_configurations())
def test_gradient_vanishes_at_the_optimum(right: Planted) -> None:
    masks = right.masks.requires_grad_()
    classes = right.class_logits.requires_grad_()
    mask_influencer_loss(masks, right.labels, classes, right.classes, temperature=0.02)["loss"].backward()
    assert masks.grad is not None
    assert classes.grad is not None
    assert masks.grad.abs().max() < 1e-3
    assert classes.grad.abs().max() < 1e-3


@pytest.mark.parametrize("mistake", MISTAKES)
def test_baseline_has_the_same_optimum(mistake: Callable[[Planted], Planted]) -> None:
    right = scene(3, 5)
    zero = hungarian_mask_loss(*right.arguments)["loss"]
    assert 0 <= zero < 1e-6
    assert hungarian_mask_loss(*mistake(right).arguments)["loss"] > zero + MARGIN


def test_condensation_alone_sees_a_merge() -> None:
    """It speaks about pixels, so it sees what pixels share and not which query is spare."""
    right = scene(3, 5)
    parts = mask_influencer_loss(*right.arguments)
    assert parts["attraction"] + parts["repulsion"] < 1e-3
    parts = mask_influencer_loss(*merged(right).arguments)
    assert parts["repulsion"] > 0.5
    parts = mask_influencer_loss(*duplicated(right).arguments)
    assert parts["attraction"] + parts["repulsion"] < 1e-3
