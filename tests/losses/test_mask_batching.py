"""Batches, decoder layers and the two forms of the truth against their parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import Batch, value_and_gradients

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss, membership
from influencerformer.losses.targets import make_targets

LOSSES = [mask_influencer_loss, hungarian_mask_loss]
PER_INSTANCE = ("claim_mask", "claim_dice", "attraction", "repulsion")


@pytest.mark.parametrize("loss", LOSSES)
def test_instances_weigh_the_same_in_every_image(loss: Any) -> None:
    """Mask parts are sums over the instances of all images, divided by their number."""
    counts = (3, 1, 5)
    batch = Batch(0, counts=counts, queries=6, pixels=30)
    together = loss(*batch.arguments)
    for name in PER_INSTANCE:
        if name in together:
            expected = sum(
                count
                * loss(batch.masks[0, i], batch.labels[i], batch.class_logits[0, i], batch.classes[i, :count])[name]
                for i, count in enumerate(counts)
            )
            torch.testing.assert_close(together[name], expected / sum(counts))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_image_in_three_shapes(loss: Any) -> None:
    batch = Batch(1, counts=(3,))
    expected = loss(*batch.arguments)["loss"]
    classes = batch.class_logits
    torch.testing.assert_close(loss(batch.masks[0], batch.labels, classes[0], batch.classes)["loss"], expected)
    single = loss(batch.masks[0, 0], batch.labels[0], classes[0, 0], batch.classes[0])
    torch.testing.assert_close(single["loss"], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_layers_add_up_and_only_the_last_condenses(loss: Any) -> None:
    batch = Batch(2, layers=3, counts=(2, 3))
    together = loss(*batch.arguments)
    alone = [loss(batch.masks[i], batch.labels, batch.class_logits[i], batch.classes) for i in range(3)]
    for name in ("claim_mask", "claim_dice", "existence"):
        torch.testing.assert_close(together[name], sum(part[name] for part in alone))
    for name in ("attraction", "repulsion"):
        if name in together:
            torch.testing.assert_close(together[name], alone[-1][name])
    parts = [value for name, value in together.items() if name not in ("loss", "nonfinite")]
    torch.testing.assert_close(together["loss"], torch.stack(parts).sum())


@pytest.mark.parametrize("loss", LOSSES)
def test_layers_as_a_list_are_the_same(loss: Any) -> None:
    batch = Batch(2, layers=3, counts=(2, 3))
    expected = loss(*batch.arguments)["loss"]
    listed = loss(list(batch.masks), batch.labels, list(batch.class_logits), batch.classes)["loss"]
    torch.testing.assert_close(listed, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("limit", [0, 48])
def test_label_map_equals_masks(loss: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "DENSE_LIMIT", limit)
    batch = Batch(3, layers=2, counts=(3, 1, 2))
    expected = value_and_gradients(loss, *batch.arguments)
    ignored = torch.where(batch.labels < 0, -1, 0)
    again = value_and_gradients(
        loss, batch.masks, ignored, batch.class_logits, batch.classes, instance_masks=batch.instance_masks()
    )
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_masks_alone_ignore_nothing(loss: Any) -> None:
    batch = Batch(3, ignored=False)
    expected = value_and_gradients(loss, *batch.arguments)
    masks = batch.instance_masks().to(torch.uint8)
    again = value_and_gradients(loss, batch.masks, None, batch.class_logits, batch.classes, instance_masks=masks)
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_masks_count_no_ignored_pixel(loss: Any) -> None:
    """A mask that is set where the pixel is ignored equals one that is not."""
    batch = Batch(3)
    ignored = torch.where(batch.labels < 0, -1, 0)
    masks = batch.instance_masks()
    arguments = (batch.masks, ignored, batch.class_logits, batch.classes)
    expected = value_and_gradients(loss, *arguments, instance_masks=masks)
    real = (batch.classes >= 0)[..., None]
    again = value_and_gradients(loss, *arguments, instance_masks=masks | ((batch.labels < 0)[:, None] & real))
    torch.testing.assert_close(again, expected)


def test_scatter_equals_product_on_many_instances() -> None:
    """On either side of the switch between the two ways to sum."""
    values = {}
    for limit in (10**6, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(membership, "DENSE_LIMIT", limit)
            batch = Batch(4, layers=2, counts=(60, 3), queries=7, pixels=150)
            values[limit] = value_and_gradients(mask_influencer_loss, *batch.arguments)
    torch.testing.assert_close(values[0], values[10**6])


def test_overlapping_instances() -> None:
    """A pixel of two instances is a member of both, and background of neither."""
    masks = torch.tensor([[[True, True, True, False, False], [False, False, True, True, False]]])
    logits = torch.full((3, 5), -20.0, dtype=torch.float64)
    logits[:2] = torch.where(masks[0], 20.0, -20.0)
    classes = torch.tensor([[20.0, -20.0], [20.0, -20.0], [-20.0, 20.0]], dtype=torch.float64)
    right = mask_influencer_loss(logits, None, classes, torch.tensor([0, 0]), instance_masks=masks[0])
    assert right["claim_mask"] + right["claim_dice"] + right["existence"] < 1e-6
    logits[0, 2] = -20
    wrong = mask_influencer_loss(logits, None, classes, torch.tensor([0, 0]), instance_masks=masks[0])
    assert wrong["claim_mask"] > 1


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from([0, 48]))
def test_membership_gathers_and_spreads_as_transposes(seed: int, limit: int) -> None:
    """<gather(x), y> = <x, spread(y)>, in every form of the truth."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (2, 9), generator=g)
    overlapping = torch.rand(2, 3, 9, generator=g) < 0.4
    for form in (labels, None):
        targets = make_targets(
            9, 2, torch.float64, labels, None if form is not None else overlapping, torch.zeros(2, 3).long()
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(membership, "DENSE_LIMIT", limit)
            form_membership = membership.Membership(targets)
        values = torch.randn(2, 5, 9, generator=g, dtype=torch.float64)
        sums = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
        totals = torch.randn(2, 5, generator=g, dtype=torch.float64)
        gathered, total = form_membership.gather(values)
        forth = (gathered * sums).sum() + (total * totals).sum()
        spread = form_membership.spread(sums, totals, torch.empty_like(values))
        torch.testing.assert_close(forth, (values * spread).sum())
        alone = form_membership.spread(sums, None, torch.zeros_like(values))
        torch.testing.assert_close((gathered * sums).sum(), (values * alone).sum())
        added = form_membership.spread(sums, None, spread.clone(), add=True)
        torch.testing.assert_close(added, spread + alone)
        torch.testing.assert_close(total, (values * (labels >= 0)[:, None]).sum(-1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", ["labels", "masks"])
def test_random_pixels_estimate_the_loss(loss: Any, form: str) -> None:
    """Classes decide the claims here, so potentials on drawn pixels scatter around those on all; all is exact."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 400), generator=g)
    labels[:, :40] = -1
    batch = Batch(5, counts=(2, 2), pixels=400)
    truth = {"instance_masks": (labels[:, None] == torch.tensor([[1], [2]]))} if form == "masks" else {}
    arguments = (batch.masks, labels, batch.class_logits, batch.classes)
    expected = loss(*arguments, **truth, class_weight=1e3)
    torch.testing.assert_close(loss(*arguments, **truth, num_points=400, class_weight=1e3), expected)
    torch.manual_seed(0)
    draws = torch.stack([loss(*arguments, **truth, num_points=200, class_weight=1e3)["claim_mask"] for _ in range(20)])
    assert draws.std() > 0
    assert (draws.mean() - expected["claim_mask"]).abs() < 0.05 * expected["claim_mask"]
    torch.manual_seed(0)
    torch.testing.assert_close(loss(*arguments, **truth, num_points=200, class_weight=1e3)["claim_mask"], draws[0])
