"""Batches of events as one run of hits, checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influencerformer.errors import UserError


class Hits(NamedTuple):
    """The hits of B events, one event after the other.

    Attributes:
        features: (T, F) floating point.
        positions: (T, 3) x, y, z in mm.
        sizes: hits of each event, 1 or more.
    """

    features: Tensor
    positions: Tensor
    sizes: list[int]


def event_name(batch: Mapping[str, Any], index: int) -> str:
    """The name of an event of a batch, for messages; its number where it has none."""
    names = batch.get("names")
    return str(names[index] if names else index)


def pack_hits(batch: Mapping[str, Any], in_features: int) -> Hits:
    """The hits of a batch.

    Args:
        batch: "features", B tensors (N_i, F), and "positions", B tensors (N_i, 3); optionally "names", B strings.
        in_features: F that the network was built for.

    Raises:
        UserError: an event without hits, features of another width, or values that are not finite.
        ValueError: positions that do not fit the features. All name the event.
    """
    features, positions = batch["features"], batch["positions"]
    if len(features) != len(positions) or not features:
        raise ValueError(
            f"expected the features and positions of 1 or more events, got {len(features)} and {len(positions)}"
        )
    for index, (one, place) in enumerate(zip(features, positions, strict=True)):
        name = event_name(batch, index)
        if one.ndim != 2 or one.shape[1] != in_features:
            raise UserError(f"event {name}: the network takes {in_features} features a hit, got {tuple(one.shape)}")
        if not len(one):
            raise UserError(f"event {name} has no hits: leave it out")
        if place.shape != (len(one), 3):
            raise ValueError(f"event {name}: positions must be ({len(one)}, 3), got {tuple(place.shape)}")
        if not bool(one.isfinite().all()) or not bool(place.isfinite().all()):
            raise UserError(f"event {name}: features or positions hold NaN or infinite values")
    return Hits(torch.cat(list(features)), torch.cat(list(positions)), [len(one) for one in features])
