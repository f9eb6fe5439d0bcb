"""Which particle each predicted track is, by the hits that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from influencerformer.data.tracks.sample import Event

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FAKE, OTHER = 0, -1
"""In `TrackMatches.particle`: no particle has the majority of the hits; a particle that is not of interest has it."""


@dataclass(frozen=True)
class TrackMatches:
    """T predicted tracks against K particles of interest.

    Attributes:
        labels: (T,) label of each track, ascending.
        sizes: (T,) its hits.
        particle: (T,) the particle with more than half of its hits: 1..K, `OTHER`, or `FAKE` where there is none.
            Noise is no particle.
        shared: (T,) hits of that particle in the track; 0 for a fake.
        weights: (T,) weights of those hits.
        double: (T,) double majority: it has also more than half of the hits of that particle, which is of interest.
        found: (K,) whether a track has the double majority.
        perfect: (K,) whether a track has exactly the particle's hits.
        num_tracks: (K,) tracks with this `particle`.
    """

    labels: Integers
    sizes: Integers
    particle: Integers
    shared: Integers
    weights: Floats
    double: Bools
    found: Bools
    perfect: Bools
    num_tracks: Integers


def match_tracks(tracks_of_hits: Tensor, event: Event, min_hits: int = 1) -> TrackMatches:
    """Matches the tracks of one event to its particles.

    Args:
        tracks_of_hits: (N,) integer label of each hit's track, any numbers above 0; 0 none.
        event: with its truth.
        min_hits: tracks of fewer hits are left out.

    Raises:
        ValueError: labels that do not fit the event, or an event without truth.
    """
    tracks = _checked(tracks_of_hits, event)
    particles = event.particle_labels.numpy()
    # Noise is 0, particles of interest 1..K, others K + 1 and up: each its own.
    count = event.num_particles
    ids = event.particle_ids.numpy()
    others = (particles == 0) & (ids != 0)
    truth = particles.copy()
    truth[others] = count + 1 + np.unique(ids[others], return_inverse=True)[1]

    labels, sizes = np.unique(tracks[tracks > 0], return_counts=True)
    labels, sizes = labels[sizes >= min_hits], sizes[sizes >= min_hits]
    inside = np.isin(tracks, labels)
    width = int(truth.max(initial=0)) + 1
    pair = np.searchsorted(labels, tracks[inside]) * width + truth[inside]
    pairs, place, shared = np.unique(pair, return_inverse=True, return_counts=True)
    weights = np.bincount(place, event.weights.numpy()[inside].astype(np.float64), minlength=len(pairs))
    row, partner = pairs // width, pairs % width
    majority = (2 * shared > sizes[row]) & (partner > 0)
    row, partner, shared, weights = row[majority], partner[majority], shared[majority], weights[majority]

    particle = np.full(len(labels), FAKE, dtype=np.int64)
    particle[row] = np.where(partner <= count, partner, OTHER)
    of_interest = particle > 0
    own, total = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels))
    own[row], total[row] = shared, weights
    num_hits = np.append(0, event.particles.num_hits.numpy())[particle.clip(min=0)]
    double = of_interest & (2 * own > num_hits)
    found, perfect = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    found[particle[double] - 1] = True
    perfect[particle[double & (own == num_hits) & (own == sizes)] - 1] = True
    return TrackMatches(
        labels=labels,
        sizes=sizes,
        particle=particle,
        shared=own,
        weights=total,
        double=double,
        found=found,
        perfect=perfect,
        num_tracks=np.bincount(particle[of_interest], minlength=count + 1)[1:],
    )


def _checked(tracks_of_hits: Tensor, event: Event) -> Integers:
    """The labels as an array."""
    where = f"event {event.name!r}"
    if not event.has_truth:
        raise ValueError(f"{where} has no truth to compare tracks with")
    if tuple(tracks_of_hits.shape) != (len(event),) or tracks_of_hits.is_floating_point():
        kind = str(tracks_of_hits.dtype).removeprefix("torch.")
        raise ValueError(
            f"{where}: tracks_of_hits must be ({len(event)},) integers, got {tuple(tracks_of_hits.shape)} {kind}"
        )
    labels: Integers = tracks_of_hits.detach().cpu().numpy().astype(np.int64)
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{where}: tracks_of_hits must be 0 (no track) or larger, got {int(labels.min())}")
    return labels
