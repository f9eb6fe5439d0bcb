"""Closed-form gradients against finite differences in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mask_cases import Batch, value_and_gradients
from torch import Tensor
from torch.autograd import gradcheck

from influencerformer.losses import mask_influencer, mask_influencer_loss, membership
from influencerformer.losses.condensation import condensation
from influencerformer.losses.mask_sums import mask_sums
from influencerformer.losses.membership import Segments
from influencerformer.losses.pair_potential import pair_potential
from influencerformer.losses.targets import MaskTargets, make_targets

FORMS = ["matrix", "scatter", "masks", "blocks", "blocks of masks"]


@pytest.fixture(params=FORMS)
def targets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MaskTargets:
    """Two images with 9 pixels, of which some are ignored, and 3 instances, of which one is absent."""
    labels = torch.tensor([[1, 1, 2, 0, 3, -1, 2, 0, 1], [2, 2, 0, 0, 1, 1, 1, -1, -1]])
    classes = torch.tensor([[0, 1, 0], [1, 0, -1]])
    if request.param == "scatter":
        monkeypatch.setattr(membership, "DENSE_LIMIT", 0)
    if "blocks" in request.param:
        monkeypatch.setattr(membership, "BLOCK", 1)
        monkeypatch.setattr(membership, "FEWEST_QUERIES", 3)
        monkeypatch.setattr(membership, "PIXEL_BLOCK", 2 * 4 * 4)  # pieces of four pixels
    if "masks" not in request.param:
        return make_targets(9, 2, torch.float64, labels, None, classes)
    masks = labels[:, None] == torch.tensor([[1], [2], [3]])
    masks[0, 1, 0] = masks[1, 0, 1] = True  # overlap
    return make_targets(9, 2, torch.float64, labels, masks, classes)


def logits(num_queries: int = 4, seed: int = 0, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, num_queries, 9, generator=g, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("split", [True, False])
def test_sums(targets: MaskTargets, split: bool) -> None:
    segments = Segments(targets)
    assert gradcheck(
        lambda x: tuple(mask_sums(x, segments, rep_weight=0.7, bg_weight=0.3, split_softplus=split)), logits(scale=3)
    )


def test_softplus_of_any_logit_is_finite_and_exact() -> None:
    """Also beyond where e^s overflows; small values to an absolute rounding error."""
    targets = make_targets(7, 1, torch.float32, torch.ones(1, 7, dtype=torch.long), None, torch.zeros(1, 1).long())
    values = torch.tensor([-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4])
    for value in values:
        x = value.expand(1, 1, 7).clone().requires_grad_()
        total = mask_sums(x, Segments(targets)).total_softplus.sum()
        torch.testing.assert_close(total, 7 * torch.nn.functional.softplus(value), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.autograd.grad(total, x)[0], value.sigmoid().expand(1, 1, 7))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.3, 2.0, 0.7)])
def test_pair_potential(targets: MaskTargets, weights: tuple[float, float, float]) -> None:
    attr, rep, bg = weights

    def potentials(x: Tensor) -> tuple[Tensor, Tensor]:
        found = pair_potential([x], Segments(targets), attr_weight=attr, rep_weight=rep, bg_weight=bg)
        assert not found.iou().requires_grad
        return found.pixel(), found.overlap()

    assert gradcheck(potentials, logits())


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.3, 2.0, 0.7)])
def test_claimed_potential(targets: MaskTargets, weights: tuple[float, float, float]) -> None:
    attr, rep, bg = weights
    claims = torch.rand(2, 2, 4, 3, dtype=torch.float64)

    def claimed(x: Tensor) -> tuple[Tensor, Tensor]:
        found = pair_potential([x, 2 * x], Segments(targets), attr_weight=attr, rep_weight=rep, bg_weight=bg)
        pixel, overlap = found.claimed(claims)
        torch.testing.assert_close(pixel, (claims * found.pixel()).sum())
        torch.testing.assert_close(overlap, (claims * found.overlap()).sum())
        return pixel, overlap

    assert gradcheck(claimed, logits())


@pytest.mark.parametrize("rep_margin", [0.0, 0.3])
@pytest.mark.parametrize("padded", [False, True])
def test_condensation(targets: MaskTargets, rep_margin: float, padded: bool) -> None:
    query_mask = torch.tensor([[True] * 4, [True, True, True, False]]) if padded else None
    assert gradcheck(
        lambda x: condensation(x, Segments(targets), rep_margin=rep_margin, query_mask=query_mask)[:2],
        logits(seed=1),
    )


def test_condensation_is_smooth_where_all_queries_agree(targets: MaskTargets) -> None:
    """Equal logits have no direction; the softening keeps the gradient finite there."""
    x = torch.zeros(2, 4, 9, dtype=torch.float64, requires_grad=True)
    attraction, repulsion, _ = condensation(x, Segments(targets))
    grad = torch.autograd.grad(attraction.sum() + repulsion.sum(), x)[0]
    assert grad.isfinite().all()


@pytest.mark.parametrize("form", ["matrix", "scatter", "masks"])
@pytest.mark.parametrize(
    "options",
    [{}, {"rep_margin": 0.2, "attr_weight": 0.5, "rep_weight": 2.0, "bg_weight": 0.3}, {"no_object_weight": 0.7}],
)
def test_whole_loss_with_frozen_claims(form: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims are constants of the gradient, so finite differences hold them fixed."""
    batch = Batch(11, layers=2, counts=(3, 2), queries=4, pixels=9)
    truth: dict[str, Any] = {"instance_masks": batch.instance_masks()} if form == "masks" else {}
    if form == "scatter":
        monkeypatch.setattr(membership, "DENSE_LIMIT", 0)
    transport, calls = mask_influencer.partial_transport, []

    def frozen(*args: Any, **kw: Any) -> Tensor:
        if not calls:
            calls.append(transport(*args, **kw))
        return calls[0]

    monkeypatch.setattr(mask_influencer, "partial_transport", frozen)

    def loss(masks: Tensor, class_logits: Tensor) -> Tensor:
        return mask_influencer_loss(
            masks, batch.labels, class_logits, batch.classes, temperature=0.3, **options, **truth
        )["loss"]

    assert gradcheck(loss, (batch.masks.requires_grad_(), batch.class_logits.requires_grad_()), fast_mode=True)
    assert calls[0].shape == (2, 2, 4, 3)


def test_quality_targets_are_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The IoU that weighs a class target sends no gradient to the masks."""
    batch = Batch(12)
    _, plain, plain_classes = value_and_gradients(mask_influencer_loss, *batch.arguments)
    _, tied, tied_classes = value_and_gradients(mask_influencer_loss, *batch.arguments, quality=1.0)
    torch.testing.assert_close(tied, plain)
    assert not torch.allclose(tied_classes, plain_classes)


def test_claims_send_no_gradient_to_classes() -> None:
    """Class logits enter the claims, which are constants, and the existence alone."""
    batch = Batch(13)
    _, _, with_masks = value_and_gradients(mask_influencer_loss, *batch.arguments)
    existence_only = {"mask_weight": 0.0, "dice_weight": 0.0, "condensation_weight": 0.0}
    parts = mask_influencer_loss(*batch.arguments)
    assert parts["claim_mask"] > 0
    masks = batch.masks.requires_grad_()
    grad = torch.autograd.grad(mask_influencer_loss(masks, *batch.arguments[1:], **existence_only)["loss"], masks)[0]
    assert (grad == 0).all()
    assert (with_masks != 0).any()


@pytest.mark.parametrize("part", ["attraction", "claim_mask", "loss"])
def test_a_step_against_the_gradient_lowers_the_loss(part: str) -> None:
    batch = Batch(14)
    before, masks, classes = value_and_gradients(mask_influencer_loss, *batch.arguments, temperature=0.5)
    after = mask_influencer_loss(
        batch.masks - 1e-2 * masks, batch.labels, batch.class_logits - 1e-2 * classes, batch.classes, temperature=0.5
    )
    assert after["loss"] < before
