"""Claims of a crowd, whose queries are nearly alike for every instance."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from influencerformer.losses import mask_influencer_loss
from influencerformer.losses.crowd import COLDEST, CROWD, STAGES, crowd_temperatures
from influencerformer.losses.transport import partial_transport

QUERIES, INSTANCES = 96, 80


def nearly_equal(spread: float) -> Tensor:
    """(1, 1, Q, K) potentials about 5, as far apart as said."""
    return 5 + spread * torch.rand(1, 1, QUERIES, INSTANCES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spread", [0.3, 0.01, 1e-3])
def test_nearly_equal_queries_are_told_apart(spread: float) -> None:
    potential, none = nearly_equal(spread), torch.full((1, 1, QUERIES), 0.1)
    exists = torch.ones(1, INSTANCES, dtype=torch.bool)
    temperatures = crowd_temperatures(potential, exists, 0.2)
    claims = partial_transport(potential, none, exists, temperatures)[0, 0]
    rows, columns = linear_sum_assignment(potential[0, 0].numpy())
    assert claims[rows, columns].mean() > 0.5
    assert claims.sum(1).max() < 1.5
    if spread < 0.1:
        assert partial_transport(potential, none, exists, 0.2)[0, 0].max() < 0.05, "all alike at a fixed temperature"


def test_the_temperature_is_that_of_the_schedule_where_it_tells_queries_apart() -> None:
    potential = nearly_equal(100.0)
    exists = torch.ones(1, INSTANCES, dtype=torch.bool)
    assert bool((crowd_temperatures(potential, exists, 0.02) > 0.018).all())
    few = torch.arange(INSTANCES)[None] < CROWD
    assert torch.equal(crowd_temperatures(nearly_equal(0.01), few, 0.2), torch.full((1, 1, STAGES), 0.2))


def test_temperatures_fall_and_stay_positive() -> None:
    exists = torch.ones(1, INSTANCES, dtype=torch.bool)
    for potential in (nearly_equal(0.01), nearly_equal(0.0), nearly_equal(0.01)[:, :, :1]):
        temperatures = crowd_temperatures(potential, exists, 0.2)[0, 0]
        assert bool((temperatures[1:] <= temperatures[:-1]).all())
        assert temperatures[0] == pytest.approx(0.2)
        assert temperatures[-1] >= COLDEST * 0.99


def test_queries_that_may_not_claim_are_not_counted() -> None:
    potential, exists = nearly_equal(0.01), torch.ones(1, INSTANCES, dtype=torch.bool)
    closed = torch.cat([potential, torch.full((1, 1, 5, INSTANCES), torch.inf)], 2)
    torch.testing.assert_close(crowd_temperatures(closed, exists, 0.2), crowd_temperatures(potential, exists, 0.2))
    alone = potential.clone()
    alone[:, :, 1:] = torch.inf
    assert torch.equal(crowd_temperatures(alone, exists, 0.2), torch.full((1, 1, STAGES), 0.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_does_not_feel_a_crowd_beside_it(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    masks = torch.randn(2, 2, 90, 400, generator=g).to(dtype).requires_grad_()
    classes = torch.randn(2, 2, 90, 2, generator=g).to(dtype)
    labels = torch.stack([torch.arange(400) % 81, torch.arange(400) % 11])
    kinds = torch.zeros(2, 80, dtype=torch.int64)
    kinds[1, 10:] = -1
    mask_influencer_loss(masks, labels, classes, kinds, condensation_weight=0.0, temperature=0.2)["loss"].backward()
    assert masks.grad is not None
    for image, count in ((0, 80), (1, 10)):
        alone = masks.detach()[:, image : image + 1].clone().requires_grad_()
        truth = labels[image : image + 1], classes[:, image : image + 1], kinds[image : image + 1, :count]
        mask_influencer_loss(alone, *truth, condensation_weight=0.0, temperature=0.2)["loss"].backward()
        assert alone.grad is not None
        torch.testing.assert_close(alone.grad[:, 0] * count / 90, masks.grad[:, image], rtol=1e-4, atol=1e-7)
