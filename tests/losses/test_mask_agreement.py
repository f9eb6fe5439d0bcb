"""The vectorised losses agree with plain loops over queries, instances and pixels."""

from __future__ import annotations

from typing import Any

import mask_reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import Batch

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss, membership

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "pixel weights": {"attr_weight": 0.7, "rep_weight": 2.5, "bg_weight": 0.3},
    "weights": {"class_weight": 1.0, "mask_weight": 20.0, "dice_weight": 1.0, "condensation_weight": 0.5},
    "margin": {"rep_margin": 0.4},
    "no-object": {"no_object_weight": 0.5},
    "quality": {"quality": 0.5},
    "soft": {"temperature": 0.5, "iterations": 3},
    "no condensation": {"condensation_weight": 0.0},
    "shared claims": {"shared_claims": True, "temperature": 0.5},
}


def close(result: dict[str, torch.Tensor], expected: dict[str, float]) -> None:
    for name, value in result.items():
        if name != "nonfinite":
            assert value.item() == pytest.approx(expected[name], rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scatter", [False, True])
def test_influencer(option: str, scatter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if scatter:
        monkeypatch.setattr(membership, "DENSE_LIMIT", 0)
    batch = Batch(1, layers=2, counts=(3, 1, 2))
    close(
        mask_influencer_loss(*batch.arguments, **OPTIONS[option]),
        mask_reference.mask_loss(*batch.arguments, **OPTIONS[option]),
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    queries=st.integers(2, 6),
    temperature=st.sampled_from([0.5, 0.1, 0.02]),
    margin=st.sampled_from([0.0, 0.2]),
)
def test_influencer_on_any_size(seed: int, counts: list[int], queries: int, temperature: float, margin: float) -> None:
    """Also without instances, and with more instances than queries."""
    batch = Batch(seed, counts=tuple(counts), queries=queries, pixels=9)
    options = {"temperature": temperature, "rep_margin": margin}
    close(mask_influencer_loss(*batch.arguments, **options), mask_reference.mask_loss(*batch.arguments, **options))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    temperature=st.sampled_from([0.5, 0.02]),
    single=st.booleans(),
    no_object_weight=st.sampled_from([0.1, 1.0]),
)
def test_objectness_and_claim_mask(
    seed: int, counts: list[int], temperature: float, single: bool, no_object_weight: float
) -> None:
    """Also where nobody may claim an instance, and where every query may claim one instance at most."""
    batch = Batch(seed, layers=2, counts=tuple(counts))
    g = torch.Generator().manual_seed(seed)
    objectness = torch.randn(*batch.masks.shape[:3], generator=g, dtype=torch.float64)
    if single:
        choice = torch.randint(max(counts) + 1, batch.masks.shape[1:3], generator=g)
        claim_mask = choice[..., None] == torch.arange(1, max(counts) + 1)
    else:
        claim_mask = torch.rand(*batch.masks.shape[1:3], max(counts), generator=g) < 0.4
    allowed = [mask[:, :count].tolist() for mask, count in zip(claim_mask, counts, strict=True)]
    options = {"temperature": temperature, "no_object_weight": no_object_weight, "objectness": objectness}
    close(
        mask_influencer_loss(*batch.arguments, claim_mask=claim_mask, **options),
        mask_reference.mask_loss(*batch.arguments, claim_mask=allowed, **options),
    )


def test_influencer_without_classes() -> None:
    batch = Batch(2)
    result = mask_influencer_loss(batch.masks, batch.labels, None, batch.classes)
    close(result, mask_reference.mask_loss(batch.masks, batch.labels, None, batch.classes))
    assert result["existence"] == 0


@pytest.mark.parametrize("option", ["defaults", "weights", "no-object"])
def test_baseline(option: str) -> None:
    batch = Batch(3, layers=2, counts=(3, 1, 2))
    options = {k: v for k, v in OPTIONS[option].items() if k != "condensation_weight"}
    close(
        hungarian_mask_loss(*batch.arguments, **options),
        mask_reference.mask_loss(*batch.arguments, **options, hungarian=True),
    )
