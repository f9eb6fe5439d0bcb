"""Events of a few hits, made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from influencerformer.data.tracks.sample import Event, Particles


def event_of(
    truth: Sequence[int],
    others: Sequence[int] = (),
    weights: Sequence[float] | None = None,
    pt: Sequence[float] | None = None,
    eta: Sequence[float] | None = None,
    name: str = "e",
) -> Event:
    """An event whose hits are of the particles `truth` (0 noise); those in `others` are not of interest."""
    ids = torch.tensor(truth, dtype=torch.int64)
    kept = sorted(set(truth) - {0} - set(others))
    labels = torch.tensor([kept.index(i) + 1 if i in kept else 0 for i in truth], dtype=torch.int64)
    count = len(kept)
    hits = torch.arange(1, len(truth) + 1)
    return Event(
        name=name,
        positions=torch.stack([30.0 + 40 * hits, 5.0 * hits, 3.0 * hits], 1),
        layers=torch.zeros(len(truth), dtype=torch.int64),
        cells=None,
        particle_labels=labels,
        particle_ids=ids,
        weights=torch.tensor(weights) if weights is not None else (ids > 0).float(),
        hit_ids=hits,
        particles=Particles(
            ids=torch.tensor(kept, dtype=torch.int64),
            pt=torch.tensor(pt) if pt is not None else torch.ones(count),
            eta=torch.tensor(eta) if eta is not None else torch.zeros(count),
            phi=torch.zeros(count),
            vertex=torch.zeros(count, 3),
            charge=torch.ones(count, dtype=torch.int64),
            num_hits=torch.bincount(labels, minlength=count + 1)[1:],
        ),
    )
