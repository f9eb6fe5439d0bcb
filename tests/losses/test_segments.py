"""Sums over sorted pixels equal those by products and by hand, also where 1 + e^s leaves no room for a product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses import mask_influencer_loss, pair_potential
from influencerformer.losses.membership import Membership, Scratch
from influencerformer.losses.segments import SortedSegments
from influencerformer.losses.targets import make_targets

INSTANCES = 5


def truth(seed: int = 0, pixels: int = 37) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, INSTANCES + 1, (2, pixels), generator=generator)


def sorted_segments(labels: Tensor, background: float = 1.0) -> tuple[SortedSegments, Tensor]:
    classes = torch.zeros(len(labels), INSTANCES, dtype=torch.int64)
    targets = make_targets(labels.shape[1], len(labels), torch.float64, labels, None, classes)
    membership = Membership(targets)
    weight = membership.foreground + background * membership.background
    return SortedSegments(membership, weight), weight


@pytest.mark.parametrize("scale", [0.1, 3.0, 15.0, 60.0, 500.0])
@pytest.mark.parametrize("background", [1.0, 0.1])
def test_sums_equal_those_pixel_by_pixel(scale: float, background: float) -> None:
    labels = truth()
    logits = scale * torch.randn(2, 4, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    segments, weight = sorted_segments(labels, background)
    logit, sigma, softplus, total = segments.block_sums(logits, Scratch())
    for image in range(2):
        for query in range(4):
            row = logits[image, query]
            for segment in range(INSTANCES + 1):
                inside = row[labels[image] == segment]
                torch.testing.assert_close(logit[image, query, segment], inside.sum())
                torch.testing.assert_close(sigma[image, query, segment], inside.sigmoid().sum())
            torch.testing.assert_close(softplus[image, query], (F.softplus(row) * weight[image]).sum())
            torch.testing.assert_close(total[image, query], row.sigmoid()[labels[image] >= 0].sum())


def test_largest_float32_products_do_not_overflow() -> None:
    segments, weight = sorted_segments(torch.ones(1, 64, dtype=torch.int64))
    for largest in (8.99, 9.01, 18.99, 38.99, 79.9):
        logits = torch.full((1, 2, 64), largest)
        segments.weight = weight.float()
        total = segments.block_sums(logits, Scratch())[2]
        torch.testing.assert_close(total, torch.full((1, 2), 64 * largest), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "labels", [torch.zeros(1, 6), torch.full((1, 6), -1), torch.full((1, 6), 3), torch.zeros(1, 0)]
)
def test_images_of_one_kind_of_pixel(labels: Tensor) -> None:
    labels = labels.long()
    segments, weight = sorted_segments(labels)
    logits = torch.randn(1, 3, labels.shape[1], dtype=torch.float64)
    logit, _, softplus, _ = segments.block_sums(logits, Scratch())
    torch.testing.assert_close(softplus, (F.softplus(logits) * weight[:, None]).sum(-1))
    torch.testing.assert_close(logit.sum(-1), (logits * (labels >= 0)[:, None]).sum(-1))


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_those_by_products(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, generator = truth(seed), torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 7, 37, generator=generator, dtype=torch.float64)
    classes = torch.randn(3, 2, 7, 4, generator=generator, dtype=torch.float64)
    class_labels = torch.randint(3, (2, INSTANCES), generator=generator)
    found = []
    for least in (0, 1000):
        monkeypatch.setattr(pair_potential, "SORTED_FROM", least)
        leaf = logits.clone().requires_grad_()
        loss = mask_influencer_loss(leaf, labels, classes, class_labels, bg_weight=0.3)["loss"]
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1])
