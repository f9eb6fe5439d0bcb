"""Metrics of tracks on events made by hand and against plain loops over hits."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from track_events import event_of

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.sample import Event
from influencerformer.metrics.track_matching import FAKE, OTHER, match_tracks
from influencerformer.metrics.tracks import VALUES, TrackMetrics

PERFECT = {name: 0.0 if name in ("fake_rate", "duplicate_rate") else 1.0 for name in VALUES}


def measured(event: Event, tracks: list[int] | torch.Tensor, min_hits: int = 1) -> dict[str, float]:
    metrics = TrackMetrics(min_hits)
    metrics.update(event.name, torch.as_tensor(tracks), event)
    return metrics.compute()


def test_a_perfect_prediction_scores_one_whatever_its_labels() -> None:
    event = event_of([5, 5, 5, 0, 9, 9, 9, 9, 0])
    assert measured(event, [7, 7, 7, 0, 2, 2, 2, 2, 0]) == PERFECT


@pytest.mark.parametrize("cuts", [Cuts(), Cuts(min_pt=0.8)])
def test_a_perfect_prediction_of_a_generated_event_scores_one(cuts: Cuts) -> None:
    event = assemble_event("e", generate_event(0, 100), cuts)
    assert measured(event, event.particle_labels, 3) == pytest.approx(PERFECT)


def test_all_hits_in_one_track_score_nothing() -> None:
    event = event_of([1, 1, 1, 2, 2, 2, 3, 3, 3])
    found = measured(event, [1] * 9)
    assert found == {**dict.fromkeys(VALUES, 0.0), "fake_rate": 1.0}


def test_no_tracks_at_all() -> None:
    assert measured(event_of([1, 1, 1, 2, 2, 2]), [0] * 6) == dict.fromkeys(VALUES, 0.0)


def test_more_than_half_is_needed_on_both_sides_and_half_is_not_enough() -> None:
    # Track 1: 2 of its 4 hits are of particle 1. Track 2: all its hits are of particle 2, but half of them only.
    event = event_of([1, 1, 1, 3, 3, 3, 3, 3, 2, 2, 2, 2])
    matches = match_tracks(torch.tensor([1, 1, 0, 1, 1, 3, 3, 3, 2, 2, 0, 0]), event)
    assert matches.particle.tolist() == [FAKE, 2, 3]
    assert matches.double.tolist() == [False, False, True]
    assert matches.found.tolist() == [False, False, True]
    assert matches.sizes.tolist() == [4, 2, 3]
    assert matches.shared.tolist() == [0, 2, 3]
    found = measured(event, [1, 1, 0, 1, 1, 3, 3, 3, 2, 2, 0, 0])
    assert found["efficiency"] == pytest.approx(1 / 3)
    assert found["perfect_efficiency"] == 0
    assert found["fake_rate"] == pytest.approx(1 / 3)
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["duplicate_rate"] == 0
    assert (found["purity"], found["completeness"]) == (1.0, pytest.approx(3 / 5))


def test_a_split_particle_is_found_once_and_duplicated_once() -> None:
    event = event_of([1, 1, 1, 1, 1, 2, 2, 2])
    found = measured(event, [4, 4, 4, 6, 6, 2, 2, 2])
    assert found["efficiency"] == 1
    assert found["perfect_efficiency"] == 0.5
    assert found["duplicate_rate"] == pytest.approx(1 / 3)
    assert found["fake_rate"] == 0
    assert found["precision"] == pytest.approx(2 / 3)
    assert (found["purity"], found["completeness"]) == (1.0, 6 / 8)


def test_two_fragments_without_a_majority_of_the_particle_are_one_duplicate() -> None:
    found = measured(event_of([1] * 6), [1, 1, 1, 2, 2, 2])
    assert (found["efficiency"], found["duplicate_rate"], found["fake_rate"], found["precision"]) == (0, 0.5, 0, 0)


def test_noise_in_a_track_costs_purity_and_noise_alone_is_a_fake() -> None:
    event = event_of([1, 1, 1, 0, 0, 0, 0])
    found = measured(event, [1, 1, 1, 1, 2, 2, 2])
    assert found["efficiency"] == 1
    assert found["perfect_efficiency"] == 0
    assert found["purity"] == 3 / 4
    assert found["fake_rate"] == 0.5


def test_tracks_of_particles_that_fail_the_cuts_count_neither_way() -> None:
    event = event_of([1, 1, 1, 2, 2, 2, 3, 3, 3, 3], others=[2, 3])
    both = [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert match_tracks(torch.tensor(both), event).particle.tolist() == [1, OTHER, OTHER]
    assert measured(event, both) == PERFECT
    assert measured(event, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]) == PERFECT
    # Two of them in one track, half each, are no particle's.
    mixed = measured(event_of([1, 1, 1, 2, 2, 3, 3], others=[2, 3]), [1, 1, 1, 2, 2, 2, 2])
    assert (mixed["efficiency"], mixed["fake_rate"], mixed["precision"]) == (1.0, 0.5, 0.5)
    # Hits of others within a track of a particle of interest cost purity as noise does.
    assert measured(event, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0])["purity"] == 3 / 4


def test_tracks_of_too_few_hits_are_no_tracks() -> None:
    event = event_of([1, 1, 1, 1, 0, 0])
    tracks = [1, 1, 1, 0, 2, 2]
    assert measured(event, tracks, 2)["fake_rate"] == 0.5
    assert measured(event, tracks, 3)["fake_rate"] == 0.0
    assert measured(event, tracks, 4)["efficiency"] == 0.0
    assert TrackMetrics().min_hits == 3
    with pytest.raises(ValueError, match="min_hits must be 1 or larger, got 0"):
        TrackMetrics(0)


def test_the_score_is_the_weight_of_the_right_hits_in_tracks_that_find_a_particle() -> None:
    event = event_of([1, 1, 1, 2, 2, 2, 2, 0], weights=[0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.0])
    # Track 1 has two hits of particle 1, and one of particle 2 whose weight does not count; track 2 two of four.
    found = measured(event, [1, 1, 0, 1, 2, 2, 0, 0])
    assert found["trackml_score"] == pytest.approx(0.3 / 1.0)


def test_the_score_is_out_of_the_weight_of_the_particles_of_interest_and_a_mean_over_events() -> None:
    one = event_of([1, 1, 1, 2, 2, 2], others=[2], weights=[0.1, 0.1, 0.2, 0.3, 0.3, 0.3], name="one")
    two = event_of([1] * 9, weights=[1.0] * 9, name="two")
    metrics = TrackMetrics()
    metrics.update("one", torch.tensor([1, 1, 1, 2, 2, 2]), one)
    metrics.update("two", torch.zeros(9, dtype=torch.int64), two)
    assert metrics.compute()["trackml_score"] == pytest.approx(0.5)
    assert metrics.compute()["efficiency"] == pytest.approx(0.5)
    assert metrics.counts() == {"events": 2, "particles": 2, "tracks": 1}


def test_rates_pool_particles_over_events_not_means_of_events() -> None:
    metrics = TrackMetrics(1)
    metrics.update("a", torch.tensor([1, 1]), event_of([1, 1]))
    metrics.update("b", torch.tensor([0] * 6), event_of([1, 1, 2, 2, 3, 3]))
    assert metrics.compute()["efficiency"] == pytest.approx(1 / 4)


def test_what_is_not_defined() -> None:
    nothing = measured(event_of([0, 0, 0]), [1, 1, 1])
    assert np.isnan([nothing[name] for name in ("efficiency", "perfect_efficiency", "trackml_score")]).all()
    assert nothing["fake_rate"] == 1.0
    empty = TrackMetrics().compute()
    assert list(empty) == list(VALUES)
    assert np.isnan(empty["efficiency"])
    # An event without particles of interest does not spoil the score of others.
    metrics = TrackMetrics()
    metrics.update("a", torch.zeros(3, dtype=torch.int64), event_of([0, 0, 0]))
    metrics.update("b", torch.ones(3, dtype=torch.int64), event_of([4, 4, 4]))
    assert metrics.compute()["trackml_score"] == 1.0


def test_processes_merge_what_they_saw_and_count_no_event_twice() -> None:
    event = event_of([1, 1, 1, 2, 2, 2])
    predictions = {name: torch.tensor(tracks) for name, tracks in (("a", [1] * 6), ("b", [1, 1, 1, 2, 2, 2]))}
    whole, first, second = TrackMetrics(), TrackMetrics(), TrackMetrics()
    for metrics, seen in ((whole, "ab"), (first, "a"), (second, "ab")):
        for name in seen:
            metrics.update(name, predictions[name], event)
    first.merge(pickle.loads(pickle.dumps(second.state())))
    assert first.compute() == whole.compute()
    assert first.counts()["events"] == 2
    first.reset()
    assert first.counts()["events"] == 0


def test_rates_against_momentum_and_pseudorapidity() -> None:
    event = event_of([1, 1, 1, 2, 2, 2, 3, 3, 3, 3], pt=[0.6, 0.65, 4.0], eta=[-1.0, 1.0, 1.1])
    metrics = TrackMetrics(1)
    metrics.update("e", torch.tensor([1, 1, 1, 0, 0, 0, 2, 2, 3, 3]), event)
    momentum = metrics.against("efficiency", "pt", np.array([0.5, 1.0, 5.0]))
    assert (momentum.passed.tolist(), momentum.total.tolist()) == ([1, 0], [2, 1])
    direction = metrics.against("efficiency", "eta", np.array([-2.0, 0.0, 2.0]))
    assert (direction.passed.tolist(), direction.total.tolist()) == ([1, 0], [1, 2])
    assert metrics.against("duplicate_rate", "pt", np.array([0.5, 1.0, 5.0])).passed.tolist() == [0, 1]
    assert metrics.against("perfect_efficiency", "pt", np.array([0.5, 1.0, 5.0])).passed.tolist() == [1, 0]
    assert int(metrics.against("efficiency", "pt").total.sum()) == 3
    fakes = metrics.against("fake_rate", "eta", np.array([-4.0, 4.0]))
    assert (fakes.passed.tolist(), fakes.total.tolist()) == ([0], [3])
    assert TrackMetrics().against("fake_rate", "pt").total.tolist() == [0] * 10


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), r"event 'e': tracks_of_hits must be \(3,\) integers, got \(5,\) int64"),
        (torch.zeros(3), r"event 'e': tracks_of_hits must be \(3,\) integers, got \(3,\) float32"),
        (torch.tensor([0, -1, 2]), r"event 'e': tracks_of_hits must be 0 \(no track\) or larger, got -1"),
    ],
)
def test_labels_that_do_not_fit_the_event(tracks: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrackMetrics().update("e", tracks, event_of([1, 1, 1]))


def test_an_event_added_twice_or_without_truth() -> None:
    metrics, event = TrackMetrics(), event_of([1, 1, 1])
    metrics.update("e", torch.ones(3, dtype=torch.int64), event)
    with pytest.raises(ValueError, match=r"event 'e' was added before: call reset\(\)"):
        metrics.update("e", torch.ones(3, dtype=torch.int64), event)
    none = torch.zeros(3, dtype=torch.int64)
    bare = Event("bare", event.positions, event.layers, None, none, none, none.float(), event.hit_ids, has_truth=False)
    with pytest.raises(ValueError, match="event 'bare' has no truth"):
        metrics.update("bare", torch.ones(3, dtype=torch.int64), bare)


def by_loops(event: Event, tracks: list[int], min_hits: int) -> dict[str, Any]:
    """The definitions, word by word."""
    ids, labels = event.particle_ids.tolist(), event.particle_labels.tolist()
    interesting = {i for i, label in zip(ids, labels, strict=True) if label}
    weights = dict(enumerate(event.weights.tolist()))
    members = {t: [n for n, label in enumerate(tracks) if label == t] for t in set(tracks) - {0}}
    members = {t: hits for t, hits in members.items() if len(hits) >= min_hits}
    counted = fakes = duplicates = right = shared = track_hits = particle_hits = 0
    found, perfect, score, seen = set(), set(), 0.0, Counter[int]()
    for hits in members.values():
        particle, number = Counter(ids[n] for n in hits).most_common(1)[0]
        if particle == 0 or number * 2 <= len(hits):
            fakes += 1
            counted += 1
            continue
        if particle not in interesting:
            continue
        counted += 1
        duplicates += seen[particle] > 0
        seen[particle] += 1
        if number * 2 > ids.count(particle):
            right += 1
            found.add(particle)
            shared, track_hits, particle_hits = (
                shared + number,
                track_hits + len(hits),
                particle_hits + ids.count(particle),
            )
            score += sum(weights[n] for n in hits if ids[n] == particle)
            if number == len(hits) == ids.count(particle):
                perfect.add(particle)
    total = sum(weights[n] for n, label in enumerate(labels) if label)
    return {
        "efficiency": len(found) / len(interesting) if interesting else np.nan,
        "perfect_efficiency": len(perfect) / len(interesting) if interesting else np.nan,
        "fake_rate": fakes / max(counted, 1),
        "duplicate_rate": duplicates / max(counted, 1),
        "precision": right / max(counted, 1),
        "purity": shared / max(track_hits, 1),
        "completeness": shared / max(particle_hits, 1),
        "trackml_score": score / total if total else np.nan,
    }


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=24
    ),
    st.sets(st.integers(1, 4)),
    st.integers(1, 3),
)
def test_the_values_are_those_of_plain_loops(
    hits: list[tuple[int, int, float]], others: set[int], min_hits: int
) -> None:
    truth, tracks, weights = map(list, zip(*hits, strict=True))
    event = event_of(truth, sorted(others), weights)
    assert measured(event, tracks, min_hits) == pytest.approx(by_loops(event, tracks, min_hits), nan_ok=True)
