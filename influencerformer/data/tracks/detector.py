"""The surfaces of TrackML's detector as ideal cylinders and discs, in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Layer(NamedTuple):
    """One cylinder or disc.

    Attributes:
        volume, layer: as in TrackML's files.
        place: radius of a cylinder, z of a disc.
        low, high: where it begins and ends: z of a cylinder, radius of a disc.
        barrel: cylinder or disc.
    """

    volume: int
    layer: int
    place: float
    low: float
    high: float
    barrel: bool


@dataclass(frozen=True)
class Technology:
    """What a part of the detector is made of.

    Attributes:
        pitch: sides of a cell along phi and across it.
        thickness: of the silicon.
        material: of a layer in radiation lengths at normal incidence.
    """

    pitch: tuple[float, float]
    thickness: float
    material: float


PIXELS = Technology((0.05, 0.05625), 0.3, 0.02)
SHORT_STRIPS = Technology((0.08, 1.2), 0.5, 0.025)
LONG_STRIPS = Technology((0.12, 10.8), 0.5, 0.025)


def _discs(volume: int, places: tuple[int, ...], low: float, high: float) -> list[Layer]:
    return [Layer(volume, 2 * n, z, low, high, False) for n, z in enumerate(places, start=1)]


def _barrel(volume: int, radii: tuple[int, ...], half: float) -> list[Layer]:
    return [Layer(volume, 2 * n, r, -half, half, True) for n, r in enumerate(radii, start=1)]


_PIXEL_DISCS = (600, 700, 820, 960, 1100, 1300, 1500)
_STRIP_DISCS = (1220, 1500, 1800, 2150, 2550, 2950)


def _mirrored(places: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-z for z in reversed(places))


LAYERS: tuple[Layer, ...] = (
    *_discs(7, _mirrored(_PIXEL_DISCS), 30, 176),
    *_barrel(8, (32, 72, 116, 172), 491),
    *_discs(9, _PIXEL_DISCS, 30, 176),
    *_discs(12, _mirrored(_STRIP_DISCS), 240, 702),
    *_barrel(13, (260, 360, 500, 660), 1084),
    *_discs(14, _STRIP_DISCS, 240, 702),
    *_discs(16, _mirrored(_STRIP_DISCS), 755, 1020),
    *_barrel(17, (820, 1020), 1084),
    *_discs(18, _STRIP_DISCS, 755, 1020),
)
"""All 48, in the order of volume and layer; the place in this list is the layer id of the package."""

NUM_LAYERS = len(LAYERS)

TECHNOLOGY = {
    **dict.fromkeys((7, 8, 9), PIXELS),
    **dict.fromkeys((12, 13, 14), SHORT_STRIPS),
    **dict.fromkeys((16, 17, 18), LONG_STRIPS),
}
"""By volume."""

_ID_OF = np.full((20, 20), -1, dtype=np.int64)
_ID_OF[[layer.volume for layer in LAYERS], [layer.layer for layer in LAYERS]] = range(NUM_LAYERS)


def layer_ids(detector: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(N, 2) volume and layer to (N,) places in `LAYERS`, -1 where the detector has no such layer."""
    volume, layer = detector.clip(-1, len(_ID_OF) - 1).T
    return np.where((volume >= 0) & (layer >= 0), _ID_OF[volume, layer], -1)


def layer_pairs(ids: Tensor) -> Tensor:
    """(N,) places in `LAYERS` to (N, 2) volume and layer."""
    return torch.tensor([(layer.volume, layer.layer) for layer in LAYERS])[ids]
