"""From events to the batch that the track models take: lists, one tensor an event, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from influencerformer.data.tracks.sample import Event, features


def collate_events(events: Sequence[Event]) -> dict[str, Any]:
    """Lists of B entries.

    Returns:
        names: as in the events.
        features: (N_i, NUM_HIT_FEATURES) float32.
        positions: (N_i, 3) float32, mm.
        instance_labels: (N_i,) int64, 0 background, 1..K_i particles.
        class_labels: (K_i,) int64, all 0: there is one class.
        events: the events themselves.
    """
    if not events:
        raise ValueError("collate_events needs at least one event")
    return {
        "names": [event.name for event in events],
        "features": [features(event) for event in events],
        "positions": [event.positions for event in events],
        "instance_labels": [event.particle_labels for event in events],
        "class_labels": [torch.zeros(event.num_particles, dtype=torch.int64) for event in events],
        "events": list(events),
    }
