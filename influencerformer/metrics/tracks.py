"""How many particles are found, and how clean the tracks are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from influencerformer.data.tracks.sample import Event
from influencerformer.metrics.track_fit import fit_tracks
from influencerformer.metrics.track_matching import FAKE, OTHER, TrackMatches, match_tracks
from influencerformer.metrics.track_rates import BinnedRate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Rate = Literal["efficiency", "perfect_efficiency", "duplicate_rate", "fake_rate"]
Quantity = Literal["pt", "eta"]

VALUES = (
    "efficiency",
    "perfect_efficiency",
    "fake_rate",
    "duplicate_rate",
    "precision",
    "purity",
    "completeness",
    "trackml_score",
)
"""Names of what `TrackMetrics.compute` gives."""

EDGES: dict[Quantity, Floats] = {
    "pt": np.array([0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0]),
    "eta": np.linspace(-4, 4, 17),
}
"""Bins unless others are given; pT in GeV."""


@dataclass(frozen=True)
class EventTracks:
    """What is kept of one event: K particles of interest, T tracks that count.

    Attributes:
        pt, eta: (K,) of the particles.
        found, perfect: (K,).
        num_tracks: (K,) tracks with the majority of their hits from the particle.
        track_pt, track_eta: (T,) fitted to the tracks' hits.
        fake: (T,).
        matched: number of tracks with the double majority, then hits that they share with their particles, hits of
            these tracks, and hits of these particles.
        score: TrackML's; nan where no hit of a particle of interest has a weight.
    """

    pt: Floats
    eta: Floats
    found: Bools
    perfect: Bools
    num_tracks: Integers
    track_pt: Floats
    track_eta: Floats
    fake: Bools
    matched: tuple[int, int, int, int]
    score: float


class TrackMetrics:
    r"""Collects predicted tracks event by event.

    A track is the set of hits with one label. It is **of** a particle that has more than half of its hits, and **fake**
    if there is none (noise is no particle). It **finds** the particle if it also has more than half of the particle's
    hits: the double majority, which at most one track can have. With all events taken together:

    - efficiency: particles of interest that are found, of all of them; perfect_efficiency: those of which a track has
      exactly the hits.
    - fake_rate: fakes, of all tracks. duplicate_rate: tracks of a particle beyond its first one, of all tracks.
    - precision: tracks that find a particle, of all tracks. 1 - precision is what some call the fake rate: it counts
      fakes, duplicates and fragments alike.
    - purity and completeness, of the tracks that find a particle: hits of that particle in them, of all hits of the
      tracks, and of all hits of the particles.
    - trackml_score: the weight of the hits of their particle in tracks that find one, of the weight of all hits of
      particles of interest, averaged over the events. With cuts that keep every particle it is the score of the
      TrackML challenge (score_event of trackml-library), but for hits of label 0, which are a track there and none
      here. TrackML gives noise and particles of fewer than four hits no weight.

    Particles that fail the cuts of the reader need not be found, and tracks of them are left out of all of the above:
    they are neither right nor fake. Without particles of interest efficiencies and the score are nan; without tracks
    the other values are 0. There is no average precision: tracks have no scores by which they could be ranked.

    Source: trackml-library for the double majority; fakes and duplicates by the majority of a track's hits, as in ACTS.

    Args:
        min_hits: tracks of fewer hits are no tracks, as particles of fewer hits are not of interest by `Cuts()`.
    """

    def __init__(self, min_hits: int = 3) -> None:
        if min_hits < 1:
            raise ValueError(f"min_hits must be 1 or larger, got {min_hits}")
        self.min_hits = min_hits
        self._events: dict[str, EventTracks] = {}

    def reset(self) -> None:
        """Forget all events."""
        self._events = {}

    def update(self, name: str, tracks_of_hits: Tensor, event: Event) -> None:
        """Add the prediction for one event.

        Args:
            name: of the event, unique.
            tracks_of_hits: (N,) integer label of each hit's track, any numbers above 0; 0 none.
            event: with its truth.

        Raises:
            ValueError: an event that was added before, one without truth, or labels that do not fit it.
        """
        if name in self._events:
            raise ValueError(f"event {name!r} was added before: call reset() between evaluations")
        matches = match_tracks(tracks_of_hits, event, self.min_hits)
        self._events[name] = _kept(matches, tracks_of_hits.detach().cpu().numpy(), event)

    def state(self) -> dict[str, EventTracks]:
        """What was collected, for `merge` in another process."""
        return dict(self._events)

    def merge(self, state: Mapping[str, EventTracks]) -> None:
        """Add what another process collected; events known to both count once."""
        self._events.update(state)

    def compute(self) -> dict[str, float]:
        """The `VALUES`, each in 0..1; for a perfect prediction fake_rate and duplicate_rate are 0, all others 1."""
        found, perfect, num_tracks, fake = (self._all(name) for name in ("found", "perfect", "num_tracks", "fake"))
        right, shared, track_hits, particle_hits = (int(total) for total in self._all("matched").reshape(-1, 4).sum(0))
        scores = self._all("score")
        duplicates = int(np.maximum(num_tracks - 1, 0).sum())
        return {
            "efficiency": _ratio(int(found.sum()), len(found), np.nan),
            "perfect_efficiency": _ratio(int(perfect.sum()), len(perfect), np.nan),
            "fake_rate": _ratio(int(fake.sum()), len(fake)),
            "duplicate_rate": _ratio(duplicates, len(fake)),
            "precision": _ratio(right, len(fake)),
            "purity": _ratio(shared, track_hits),
            "completeness": _ratio(shared, particle_hits),
            "trackml_score": float(np.nanmean(scores)) if np.isfinite(scores).any() else np.nan,
        }

    def _all(self, name: str) -> npt.NDArray[Any]:
        """One attribute of all events in a row."""
        values = [np.atleast_1d(getattr(event, name)) for event in self._events.values()]
        return np.concatenate([np.zeros(0), *values])

    def counts(self) -> dict[str, int]:
        """Numbers of events, of particles of interest and of tracks that count."""
        events = self._events.values()
        return {
            "events": len(events),
            "particles": sum(len(event.found) for event in events),
            "tracks": sum(len(event.fake) for event in events),
        }

    def against(self, rate: Rate, quantity: Quantity, edges: Floats | None = None) -> BinnedRate:
        """A rate in bins of transverse momentum (GeV) or pseudorapidity.

        Efficiencies are binned by the true values of the particles. So is the duplicate rate, which here is the
        fraction of particles with two tracks or more. The fake rate is binned by the values fitted to the tracks:
        fakes have no true ones.

        Args:
            rate: which.
            quantity: pt or eta.
            edges: (B + 1,) of the bins, `EDGES` unless given.
        """
        of_tracks = rate == "fake_rate"
        field = {"efficiency": "found", "perfect_efficiency": "perfect", "duplicate_rate": "num_tracks"}.get(
            rate, "fake"
        )
        values, passed = self._all(f"track_{quantity}" if of_tracks else quantity), self._all(field)
        return BinnedRate.of(
            values, passed > (1 if field == "num_tracks" else 0), EDGES[quantity] if edges is None else edges
        )


def _kept(matches: TrackMatches, tracks: Integers, event: Event) -> EventTracks:
    particles = event.particles
    counted = matches.particle != OTHER
    labels = matches.labels[counted]
    inside = np.isin(tracks, labels)
    positions = event.positions.numpy().astype(np.float64)[inside]
    pt, eta = fit_tracks(positions, np.searchsorted(labels, tracks[inside]), len(labels))
    double = matches.double
    num_hits = particles.num_hits.numpy()[matches.particle[double] - 1]
    sums = (matches.shared[double], matches.sizes[double], num_hits)
    weight = float(event.weights.numpy()[event.particle_labels.numpy() > 0].astype(np.float64).sum())
    return EventTracks(
        pt=particles.pt.numpy().astype(np.float64),
        eta=particles.eta.numpy().astype(np.float64),
        found=matches.found,
        perfect=matches.perfect,
        num_tracks=matches.num_tracks,
        track_pt=pt,
        track_eta=eta,
        fake=matches.particle[counted] == FAKE,
        matched=(int(double.sum()), *(int(values.sum()) for values in sums)),  # type: ignore[arg-type]
        score=float(matches.weights[double].sum()) / weight if weight > 0 else np.nan,
    )


def _ratio(part: int, whole: int, undefined: float = 0.0) -> float:
    return part / whole if whole else undefined
