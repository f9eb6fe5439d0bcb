"""Instances from embeddings."""

from __future__ import annotations

import pytest
import torch

from influencerformer.losses import condense, embedding


def test_points_join_their_nearest_influencer() -> None:
    followers = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [9.0, 9.0]])
    influencers = torch.tensor([[0.0, 0.0], [50.0, 0.0], [5.1, 0.0], [70.0, 0.0]])
    found = condense(followers, influencers, 0.5)
    assert found[0] == found[1] > 0
    assert found[2] > 0
    assert found[2] != found[0]
    assert found[3] == 0


def test_instances_are_numbered_from_one_without_gaps() -> None:
    places = torch.arange(6.0)[:, None] * 10
    assert condense(places, places, 1.0).tolist() == [1, 2, 3, 4, 5, 6]
    far = places.clone()
    far[[1, 4]] += 5
    assert sorted(condense(places, far, 1.0).tolist()) == [0, 0, 1, 2, 3, 4]


def test_nobody_near() -> None:
    assert condense(torch.zeros(3, 2), torch.full((3, 2), 9.0), 1.0).tolist() == [0, 0, 0]


def test_no_points() -> None:
    assert condense(torch.zeros(0, 2), torch.zeros(0, 2), 1.0).shape == (0,)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    followers, influencers = torch.randn(50, 2), torch.randn(50, 2)
    expected = condense(followers, influencers, 0.3)
    monkeypatch.setattr(embedding, "CHUNK_PAIRS", 60)
    assert torch.equal(condense(followers, influencers, 0.3), expected)
