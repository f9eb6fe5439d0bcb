"""The Influencer Loss for embeddings: agreement with loops, optimum, invariance, gradients, edges, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from influencerformer.losses import InfluencerLoss, embedding, influencer_loss
from influencerformer.losses.embedding import LOG_FLOOR

OPTIONS: dict[str, dict[str, float]] = {
    "defaults": {},
    "weights": {"attr_weight": 2.0, "rep_weight": 0.5, "bg_weight": 3.0, "influencer_weight": 0.7},
    "margins": {"rep_margin": 0.6, "influencer_margin": 2.0},
}


def points(seed: int = 0, count: int = 14, instances: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Two-dimensional embeddings close enough to repel, with background and one ignored point."""
    g = torch.Generator().manual_seed(seed)
    f, h = (torch.randn(count, 2, generator=g, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, instances + 1, (count,), generator=g)
    if count:
        labels[-1] = -1
    return f, h, labels


def reference(
    followers: Tensor,
    influencers: Tensor,
    instance_labels: Tensor,
    attr_weight: float = 1,
    rep_weight: float = 1,
    bg_weight: float = 1,
    influencer_weight: float = 1,
    rep_margin: float = 1,
    influencer_margin: float = 1,
) -> dict[str, float]:
    """Loops over the equations of the docstring."""
    kept = [n for n, label in enumerate(instance_labels.tolist()) if label != -1]
    label = {n: int(instance_labels[n]) for n in kept}

    def distance(a: Tensor, b: Tensor) -> float:
        return math.dist(a.tolist(), b.tolist())

    attractions = []
    for k in {k for k in label.values() if k > 0}:
        members = [n for n in kept if label[n] == k]
        logs = []
        for j in members:
            squares = [distance(followers[i], influencers[j]) ** 2 / rep_margin**2 for i in members]
            logs.append(math.log(sum(squares) / len(squares) + LOG_FLOOR))
        attractions.append(math.exp(sum(logs) / len(logs)))
    repulsion, near = 0.0, 0
    for i in kept:
        for j in kept:
            d = distance(followers[i], influencers[j])
            if d < rep_margin and (label[i] != label[j] or label[i] == 0):
                near += 1
                repulsion += (bg_weight if label[i] == 0 else 1) * (rep_margin - d) ** 2
    duplicates, close = 0.0, 0
    for j in kept:
        for other in kept:
            d = distance(influencers[j], influencers[other])
            if j < other and d < influencer_margin:
                close += 1
                duplicates += influencer_margin - d
    parts = {
        "attraction": attr_weight * sum(attractions) / max(1, len(attractions)),
        "repulsion": rep_weight * repulsion / max(1, near),
        "influencers": influencer_weight * duplicates / max(1, close),
    }
    return {"loss": sum(parts.values()), **parts}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(option: str, seed: int) -> None:
    expected = reference(*points(seed), **OPTIONS[option])
    found = influencer_loss(*points(seed), **OPTIONS[option])
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-7), name
    assert InfluencerLoss(**OPTIONS[option])(*points(seed))["loss"] == found["loss"]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12), instances=st.integers(0, 4))
def test_equals_the_loops_on_any_size(seed: int, count: int, instances: int) -> None:
    expected = reference(*points(seed, count, instances))
    found = influencer_loss(*points(seed, count, instances))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-7, abs=1e-12), name


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = influencer_loss(*points(1, 40))
    monkeypatch.setattr(embedding, "CHUNK_PAIRS", 100)
    torch.testing.assert_close(influencer_loss(*points(1, 40)), expected)


def condensed() -> tuple[Tensor, Tensor, Tensor]:
    """Followers at their instance's centre, the first influencer of each there too, the others far from all."""
    labels = torch.tensor([1, 1, 1, 2, 2, 3])
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    followers = centres[labels - 1]
    influencers = torch.tensor([[0, 0], [9, 9], [-9, 9], [3, 0], [9, -9], [0, 3]], dtype=torch.float64)
    return followers, influencers, labels


def test_perfect_condensation() -> None:
    """One good influencer is enough: the geometric mean falls far below that of bad ones. Gradients are finite."""
    f, g, labels = condensed()
    f, g = f.requires_grad_(), g.requires_grad_()
    result = influencer_loss(f, g, labels)
    result["loss"].backward()
    assert f.grad is not None
    assert g.grad is not None
    assert f.grad.isfinite().all()
    assert g.grad.isfinite().all()
    assert result["repulsion"] == 0
    assert result["influencers"] == 0
    assert result["attraction"] < 0.3


def test_single_points_condense_to_the_floor() -> None:
    f = 3 * torch.eye(4)
    result = influencer_loss(f, f.clone(), torch.arange(1, 5))
    assert result["loss"].item() == pytest.approx(LOG_FLOOR, rel=1e-3)


@pytest.mark.parametrize("mistake", ["stray follower", "duplicate influencer", "instances at one place"])
def test_mistakes_cost(mistake: str) -> None:
    f, g, labels = condensed()
    right = influencer_loss(f, g, labels)["loss"]
    if mistake == "stray follower":
        f[1] = torch.tensor([3.0, 0.1])
    elif mistake == "duplicate influencer":
        g[1] = g[0] + 0.01
    else:
        f[3:5], g[3] = f[0], g[0] + 0.01
    assert influencer_loss(f, g, labels)["loss"] > right + 0.05


def test_descent_condenses() -> None:
    """From random embeddings: followers of an instance meet, those of different instances part."""
    torch.manual_seed(0)
    labels = torch.arange(1, 5).repeat_interleave(6)
    f, g = torch.randn(24, 3, requires_grad=True), torch.randn(24, 3, requires_grad=True)
    optimizer = torch.optim.Adam([f, g], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        influencer_loss(f, g, labels)["loss"].backward()
        optimizer.step()
    found = embedding.condense(f.detach(), g.detach(), 0.5)
    assert len(found.unique()) == 4
    for k in range(1, 5):
        assert len(found[labels == k].unique()) == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_gradcheck(option: str) -> None:
    f, g, labels = points(2, 9)
    assert gradcheck(
        lambda a, b: influencer_loss(a, b, labels, **OPTIONS[option])["loss"],
        (f.requires_grad_(), g.requires_grad_()),
    )


@pytest.mark.parametrize("where", ["equal", "on each other", "far"])
def test_gradients_are_finite_where_points_coincide(where: str) -> None:
    f = torch.zeros(6, 3)
    g = torch.full((6, 3), 1e6 if where == "far" else 0.0)
    if where == "on each other":
        f = torch.randn(6, 3)
        g = f.clone()
    f, g = f.requires_grad_(), g.requires_grad_()
    value = influencer_loss(f, g, torch.tensor([0, 0, 1, 1, 2, 3]))["loss"]
    value.backward()
    assert value.isfinite()
    assert f.grad is not None
    assert g.grad is not None
    assert f.grad.isfinite().all()
    assert g.grad.isfinite().all()


def test_background_only_repels() -> None:
    f, g, _ = points(3, 8)
    labels = torch.zeros(8, dtype=torch.long)
    result = influencer_loss(f, g, labels)
    assert result["attraction"] == 0
    assert result["repulsion"] > 0
    assert influencer_loss(f, g, labels, bg_weight=0.0)["repulsion"] == 0


def test_background_pushes_influencers_away_from_itself() -> None:
    f = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    g = torch.tensor([[9.0, 9.0], [0.5, 0.0]], requires_grad=True)
    influencer_loss(f, g, torch.tensor([0, 1]), attr_weight=0.0)["loss"].backward()
    assert g.grad is not None
    assert g.grad[1, 0] < 0  # descent moves it to larger x
    assert g.grad[0].abs().sum() == 0


@pytest.mark.parametrize("labels", [[], [-1, -1, -1], [0, 0, 0]])
def test_nothing_to_condense(labels: list[int]) -> None:
    f = (torch.arange(3 * len(labels)).view(-1, 3) * 5.0).requires_grad_()
    g = f.detach().clone().add(100).requires_grad_()
    result = influencer_loss(f, g, torch.tensor(labels, dtype=torch.long))
    assert result["loss"] == 0
    result["loss"].backward()
    assert f.grad is not None
    assert (f.grad == 0).all()


def test_ignored_points_are_as_if_absent() -> None:
    f, g, labels = points(4)
    kept = labels >= 0
    torch.testing.assert_close(influencer_loss(f, g, labels), influencer_loss(f[kept], g[kept], labels[kept]))


def test_order_names_and_place_do_not_matter() -> None:
    f, g, labels = points(5, 40)
    expected = influencer_loss(f, g, labels)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(influencer_loss(f[order], g[order], labels[order]), expected)
    renamed = torch.where(labels > 0, 1000 - 7 * labels, labels)
    torch.testing.assert_close(influencer_loss(f, g, renamed), expected)
    torch.testing.assert_close(influencer_loss(f + 50, g + 50, labels), expected)


def test_near_pairs_are_found_far_from_the_origin() -> None:
    """In single precision and with enough points for a distance by matrix product to be used."""
    f, g, labels = (t.float() if t.is_floating_point() else t for t in points(6, 60))
    expected = influencer_loss(f, g, labels)
    torch.testing.assert_close(influencer_loss(f + 500, g + 500, labels), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    f, g, labels = points(7)
    f, g = f.to(dtype).requires_grad_(), g.to(dtype).requires_grad_()
    result = influencer_loss(f, g, labels)
    result["loss"].backward()
    assert result["loss"].dtype == torch.float32
    assert f.grad is not None
    assert f.grad.dtype == dtype
    expected = influencer_loss(f.detach().double(), g.detach().double(), labels)["loss"]
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "shapes": ({"influencers": torch.zeros(4, 2)}, ValueError, r"must both be \(N, D\), got \(4, 3\) and \(4, 2\)"),
    "dimensions": ({"followers": torch.zeros(2, 4, 3)}, ValueError, r"must both be \(N, D\)"),
    "float labels": ({"instance_labels": torch.zeros(4)}, TypeError, r"instance_labels must be integers.*float32"),
    "labels": (
        {"instance_labels": torch.zeros(5).long()},
        ValueError,
        r"instance_labels must be \(N,\) = \(4,\), got \(5,\)",
    ),
    "nan": ({"followers": torch.full((4, 3), torch.nan)}, ValueError, "followers holds 12 of 12 values"),
    "inf": ({"influencers": torch.full((4, 3), torch.inf)}, ValueError, "influencers holds 12 of 12 values"),
    "margin": ({"rep_margin": 0.0}, ValueError, "margins must be positive and finite, got 0.0"),
    "influencer margin": ({"influencer_margin": -1.0}, ValueError, "margins must be positive"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str) -> None:
    changes, error, message = WRONG[case]
    arguments: dict[str, Any] = {
        "followers": torch.zeros(4, 3),
        "influencers": torch.zeros(4, 3),
        "instance_labels": torch.zeros(4).long(),
    }
    with pytest.raises(error, match=message):
        influencer_loss(**{**arguments, **changes})
