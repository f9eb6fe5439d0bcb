"""The condensation network, and tracks from embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from track_batches import NUM_FEATURES, batch_of, events_of, permuted

from influencerformer.errors import UserError
from influencerformer.losses import condense, influencer_loss
from influencerformer.losses.influencer_choice import choose_influencers
from influencerformer.models.tracks.condensation import CondensationTracker, condensed_tracks, drop_short


def small_model(**options: object) -> CondensationTracker:
    torch.manual_seed(0)
    return CondensationTracker(NUM_FEATURES, 8, 2, 2, 4, 3, **options).double()  # type: ignore[arg-type]


def doubled(batch: dict) -> dict:
    return {
        name: [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
        for name, values in batch.items()
    }


def test_outputs_have_the_documented_shapes() -> None:
    outputs = small_model()(doubled(batch_of(20, 7)))
    assert outputs.loss is None
    assert [tuple(f.shape) for f in outputs.followers] == [(20, 3), (7, 3)]
    assert [tuple(g.shape) for g in outputs.influencers] == [(20, 3), (7, 3)]


def test_the_loss_is_the_mean_over_events() -> None:
    model, batch = small_model(loss_options={"attr_weight": 2.0}), doubled(batch_of(20, 7, truth=True))
    outputs = model(batch)
    each = [
        influencer_loss(f, g, labels, attr_weight=2.0)["loss"]
        for f, g, labels in zip(outputs.followers, outputs.influencers, batch["instance_labels"], strict=True)
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(each).mean())
    assert outputs.loss is not None
    torch.testing.assert_close(torch.stack(list(model.criterion.parts.values())).sum(), outputs.loss.detach())
    outputs.loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_an_event_without_particles_trains() -> None:
    outputs = small_model()(doubled(batch_of(9, particles=0, truth=True)))
    assert outputs.loss is not None
    outputs.loss.backward()
    assert bool(outputs.loss.isfinite())


def test_events_do_not_see_each_other_and_order_does_not_matter() -> None:
    model, batch = small_model().eval(), doubled(batch_of(20, 7))
    together = model(batch)
    torch.testing.assert_close(model(events_of(batch, 1)).followers[0], together.followers[1])
    orders = [torch.randperm(20), torch.randperm(7)]
    moved = model(permuted(batch, orders))
    torch.testing.assert_close(moved.influencers[0], together.influencers[0][orders[0]])


def test_tracks_of_planted_embeddings() -> None:
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    followers = centres[labels] + 0.01 * torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    tracks = condensed_tracks(followers, followers.roll(1, 0), 0.5)
    assert tracks.tolist() == [tracks[0]] * 3 + [tracks[3]] * 4 + [0, 0]
    assert sorted({int(tracks[0]), int(tracks[3])}) == [1, 2]
    assert condensed_tracks(followers, followers, 0.5, min_hits=2).max() == 3


def test_duplicate_influencers_make_one_track() -> None:
    followers = torch.zeros(6, 2)
    influencers = torch.tensor([[0.1, 0.0]] * 3 + [[-0.1, 0.0]] * 3)
    followers[3:, 0] = -0.05
    assert condensed_tracks(followers, influencers, 0.5).tolist() == [1] * 6


def test_followers_far_from_all_influencers_are_in_no_track() -> None:
    followers, influencers = torch.zeros(5, 2), torch.full((5, 2), 9.0)
    assert condensed_tracks(followers, influencers, 0.5).tolist() == [0] * 5
    assert condensed_tracks(followers[:0], influencers[:0], 0.5).tolist() == []


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.1, 0.5, 2.0]), st.integers(1, 4))
@settings(deadline=None)
def test_tracks_are_those_of_the_dense_functions(seed: int, count: int, radius: float, min_hits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    followers = torch.randn(count, 2, generator=generator)
    influencers = followers + 0.2 * torch.randn(count, 2, generator=generator)
    nearest = torch.cdist(followers, influencers).min(1)
    candidates = influencers[nearest.indices[nearest.values < radius].unique()]
    chosen = choose_influencers(followers, candidates, radius, min_hits)
    expected = drop_short(condense(followers, candidates[chosen], radius), min_hits) if len(chosen) else None
    found = condensed_tracks(followers, influencers, radius, min_hits)
    assert torch.equal(found, torch.zeros(count, dtype=torch.int64) if expected is None else expected)


def test_short_tracks_are_dropped_and_the_others_numbered_anew() -> None:
    tracks = torch.tensor([0, 1, 1, 2, 2, 2, 3, 4, 4, 4])
    assert drop_short(tracks, 3).tolist() == [0, 0, 0, 1, 1, 1, 0, 2, 2, 2]
    assert drop_short(torch.zeros(4, dtype=torch.int64)).tolist() == [0] * 4


def test_the_radius_travels_in_the_state_dict() -> None:
    model, other = small_model(loss_options={"rep_margin": 2.0}), small_model()
    assert float(model.radius) == 1.0
    assert model.radii == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0])
    model.radius.fill_(0.25)
    other.load_state_dict(model.state_dict())
    assert float(other.radius) == 0.25


def test_unknown_options_of_the_loss_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"loss_options do not fit .* 'bogus'"):
        small_model(loss_options={"bogus": 1})
