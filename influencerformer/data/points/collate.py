"""From point samples to the batch that the point models take: lists, one tensor a room, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from influencerformer.data.points.sample import PointSample

NUM_FEATURES = 6
"""Of a point: red, green, blue in -0.5..0.5; metres from the room's middle in x and y, above its lowest point in z."""


def point_features(coordinates: Tensor, colors: Tensor) -> Tensor:
    """(N, 3) float32 metres and (N, 3) uint8 colours to (N, NUM_FEATURES) float32."""
    place = coordinates
    if len(coordinates):
        low, high = coordinates.amin(0), coordinates.amax(0)
        middle = (low + high) / 2
        place = coordinates - torch.stack([middle[0], middle[1], low[2]])
    return torch.cat([colors.to(torch.float32) / 255 - 0.5, place], 1)


def collate_points(samples: Sequence[PointSample]) -> dict[str, Any]:
    """Lists of B entries.

    Returns:
        coordinates: (N_i, 3) float32, metres.
        features: (N_i, NUM_FEATURES) float32.
        instance_labels: (N_i,) int64, 0 background, 1..K_i instances, -1 ignored.
        class_labels: (K_i,) int64.
        superpoints: (N_i,) int64; only if every sample has them.
        names, sample_ids: as in the samples.
    """
    if not samples:
        raise ValueError("collate_points needs at least one sample")
    batch: dict[str, Any] = {
        "coordinates": [sample.coordinates for sample in samples],
        "features": [point_features(sample.coordinates, sample.colors) for sample in samples],
        "instance_labels": [sample.instance_labels for sample in samples],
        "class_labels": [sample.class_labels for sample in samples],
        "names": [sample.name for sample in samples],
        "sample_ids": [sample.sample_id for sample in samples],
    }
    superpoints = [sample.superpoints for sample in samples]
    if all(value is not None for value in superpoints):
        batch["superpoints"] = superpoints
    return batch
