"""Partial entropic transport: its constraints, its limits and the theorem that its use rests on."""

from __future__ import annotations

import math

import mask_reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from influencerformer.losses.transport import partial_transport, single_claim_transport


def random_potential(seed: int, num_queries: int, count: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    potential = scale * torch.rand(num_queries, count, generator=g, dtype=torch.float64)
    return potential, 0.2 * torch.rand(num_queries, generator=g, dtype=torch.float64)


def everything(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def minimum(potential: Tensor, none: Tensor, temperature: float) -> Tensor:
    """(...) values of the transport problem, the no-object column included, at convergence."""
    claims = partial_transport(potential, none, everything(potential.shape[-1]), temperature, iterations=500)
    full = torch.cat([1 - claims.sum(-1, keepdim=True), claims], -1)
    costs = torch.cat([none[..., None], potential], -1)
    return (full * (costs + temperature * (full.log() - 1))).sum((-2, -1))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    num_queries=st.integers(1, 6),
    count=st.integers(1, 6),
    iterations=st.integers(1, 12),
    temperature=st.sampled_from([1.0, 0.5, 0.1, 0.02]),
)
def test_equals_the_loop(seed: int, num_queries: int, count: int, iterations: int, temperature: float) -> None:
    potential, none = random_potential(seed, num_queries, count)
    claims = partial_transport(potential, none, everything(count), temperature, iterations=iterations)
    expected = mask_reference.transport(potential.tolist(), none.tolist(), temperature, iterations)
    torch.testing.assert_close(claims, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    num_queries=st.integers(1, 6),
    count=st.integers(1, 5),
    temperature=st.sampled_from([1.0, 0.1, 0.02]),
    single=st.booleans(),
    scale=st.sampled_from([1.0, 300.0]),
)
def test_claim_mask_equals_the_loop(
    seed: int, num_queries: int, count: int, temperature: float, single: bool, scale: float
) -> None:
    """Where queries may claim some instances only, one at most (which can be computed by query alone) or several."""
    potential, none = random_potential(seed, num_queries, count, scale)
    g = torch.Generator().manual_seed(seed)
    if single:
        allowed = torch.randint(count + 1, (num_queries, 1), generator=g) == torch.arange(count)
    else:
        allowed = torch.rand(num_queries, count, generator=g) < 0.6
    exists = allowed.any(0)
    claims = partial_transport(potential, none, exists, temperature, claim_mask=allowed)
    if single:
        candidates = (allowed * torch.arange(1, count + 1)).sum(-1) - 1
        chosen = potential.gather(-1, candidates.clamp(min=0)[:, None])[:, 0]
        alone = single_claim_transport(chosen, none, candidates, count, temperature)
        torch.testing.assert_close(claims.sum(-1), alone, rtol=1e-8, atol=1e-12)
    expected = mask_reference.transport(potential.tolist(), none.tolist(), temperature, 10, allowed.tolist())
    torch.testing.assert_close(claims, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(claims.sum(0), exists.double())
    assert (claims[~allowed] == 0).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    num_queries=st.integers(1, 8),
    count=st.integers(1, 8),
    iterations=st.integers(1, 3),
    temperature=st.sampled_from([0.5, 0.02, 1e-3]),
    scale=st.sampled_from([1.0, 1e4]),
)
def test_every_instance_is_claimed_however_few_the_iterations(
    seed: int, num_queries: int, count: int, iterations: int, temperature: float, scale: float
) -> None:
    potential, none = random_potential(seed, num_queries, count, scale)
    claims = partial_transport(potential, none, everything(count), temperature, iterations=iterations)
    assert (claims >= 0).all()
    torch.testing.assert_close(claims.sum(0), torch.ones(count, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.5, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_no_query_answers_more_than_one_unit(seed: int, temperature: float) -> None:
    potential, none = random_potential(seed, 6, 4)
    claims = partial_transport(potential, none, everything(4), temperature, iterations=500)
    assert (claims.sum(1) <= 1 + 1e-6).all()


def test_more_instances_than_queries_share_the_queries() -> None:
    potential, none = random_potential(0, 2, 5)
    claims = partial_transport(potential, none, everything(5), 0.1)
    torch.testing.assert_close(claims.sum(0), torch.ones(5, dtype=torch.float64))
    assert claims.sum(1).max() > 1
    assert claims.isfinite().all()


def test_cold_limit_is_the_assignment_of_least_cost() -> None:
    problems, expected = [], []
    for seed in range(20):
        potential, _ = random_potential(seed, 7, 4)
        rows, columns = linear_sum_assignment(potential.numpy())
        best = potential[rows, columns].sum()
        gaps = []
        for pair in zip(rows, columns, strict=True):
            without = potential.clone()
            without[pair] += 100
            second = linear_sum_assignment(without.numpy())
            gaps.append(without[second].sum() - best)
        if min(gaps) > 0.05:  # no near tie
            problems.append(potential)
            expected.append(torch.zeros_like(potential))
            expected[-1][rows, columns] = 1
    assert len(problems) > 8
    claims = partial_transport(torch.stack(problems), torch.zeros(7), everything(4), 2e-3, iterations=3000)
    torch.testing.assert_close(claims, torch.stack(expected), atol=1e-2, rtol=0)


def test_cold_limit_weighs_the_no_object_potential() -> None:
    """The cheapest pair is not taken where its query is dearer to leave out of no-object than another."""
    potential = torch.tensor([[0.3], [0.4]])
    claims = partial_transport(potential, torch.tensor([0.0, 0.5]), everything(1), 5e-3, iterations=200)
    torch.testing.assert_close(claims, torch.tensor([[0.0], [1.0]]), atol=1e-3, rtol=0)


def test_hot_limit_is_even() -> None:
    potential, none = random_potential(0, 5, 2)
    claims = partial_transport(potential, none, everything(2), 1e4)
    torch.testing.assert_close(claims, torch.full_like(claims, 1 / 5), atol=1e-3, rtol=0)


def test_first_projection_is_a_softmin_with_a_push() -> None:
    potential, none = random_potential(3, 4, 1)
    claims = partial_transport(potential, none, everything(1), 0.3, iterations=1)
    push = -torch.logaddexp(-none / 0.3, -potential[:, 0] / 0.3)
    torch.testing.assert_close(claims[:, 0], (push - potential[:, 0] / 0.3).softmax(0))


@pytest.mark.parametrize("temperature", [0.5, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_minimum_is_the_claims(seed: int, temperature: float) -> None:
    """Danskin's theorem, by central differences; the same for the no-object column."""
    potential, none = random_potential(seed, 4, 3)
    claims = partial_transport(potential, none, everything(3), temperature, iterations=500)
    step = 1e-4
    change = step * torch.eye(12, dtype=torch.float64).view(12, 4, 3)
    slope = minimum(potential + change, none.expand(12, 4), temperature)
    slope = (slope - minimum(potential - change, none.expand(12, 4), temperature)) / (2 * step)
    torch.testing.assert_close(slope.view(4, 3), claims, atol=1e-6, rtol=0)

    change = step * torch.eye(4, dtype=torch.float64)
    slope = minimum(potential.expand(4, 4, 3), none + change, temperature)
    slope = (slope - minimum(potential.expand(4, 4, 3), none - change, temperature)) / (2 * step)
    torch.testing.assert_close(slope, 1 - claims.sum(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_is_the_minimum(seed: int) -> None:
    """No feasible neighbour is cheaper: mass moved round any rectangle of two queries and two columns."""
    potential, none = random_potential(seed, 4, 3)
    temperature = 0.4
    claims = partial_transport(potential, none, everything(3), temperature, iterations=500)
    full = torch.cat([1 - claims.sum(1, keepdim=True), claims], 1)
    costs = torch.cat([none[:, None], potential], 1)

    def value(plan: Tensor) -> float:
        return ((plan * costs).sum() + temperature * (plan * (plan.log() - 1)).sum()).item()

    best = value(full)
    for move in (1e-3, -1e-3):
        for a in range(4):
            for b in range(a):
                for c in range(4):
                    for d in range(c):
                        plan = full.clone()
                        plan[a, c] += move
                        plan[b, d] += move
                        plan[a, d] -= move
                        plan[b, c] -= move
                        if (plan > 0).all():
                            assert value(plan) > best


def test_padding_is_zero_and_without_influence() -> None:
    potential, none = random_potential(1, 5, 3)
    expected = partial_transport(potential, none, everything(3), 0.1)
    g = torch.Generator().manual_seed(5)
    larger = 100 * torch.randn(8, 7, generator=g, dtype=torch.float64)
    larger[:5, :3] = potential
    larger_none = torch.cat([none, torch.full((3,), -50.0, dtype=torch.float64)])
    claims = partial_transport(
        larger, larger_none, torch.arange(7) < 3, 0.1, query_mask=torch.arange(8) < 5, iterations=10
    )
    torch.testing.assert_close(claims[:5, :3], expected)
    assert (claims[5:] == 0).all()
    assert (claims[:, 3:] == 0).all()


def test_leading_indices_are_independent() -> None:
    pairs = [random_potential(seed, 4, 3) for seed in range(6)]
    potential = torch.stack([p for p, _ in pairs]).view(2, 3, 4, 3)
    none = torch.stack([n for _, n in pairs]).view(2, 3, 4)
    exists = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    claims = partial_transport(potential, none, exists, 0.1)
    for layer in range(2):
        for image in range(3):
            alone = partial_transport(potential[layer, image], none[layer, image], exists[image], 0.1)
            torch.testing.assert_close(claims[layer, image], alone)
    assert claims[:, 2].abs().sum() == 0


def test_no_instances() -> None:
    assert partial_transport(torch.zeros(3, 0), torch.zeros(3), everything(0), 0.1).shape == (3, 0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        partial_transport(torch.zeros(3, 1), torch.zeros(3), everything(1), temperature)


def test_claims_are_constants() -> None:
    potential = torch.rand(3, 2, requires_grad=True)
    assert not partial_transport(potential, torch.zeros(3), everything(2), 0.1).requires_grad
