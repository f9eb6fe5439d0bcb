"""Particles on their way through the detector: which layers they cross, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from influencerformer.data.tracks.detector import LAYERS, TECHNOLOGY
from influencerformer.data.tracks.helix import Helices

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PION_MASS = 0.13957
"""GeV."""
_AWAY = 1e-3

_BARRELS = sorted((layer.place, index) for index, layer in enumerate(LAYERS) if layer.barrel)
_RADII = np.array([place for place, _ in _BARRELS] + [np.inf])
_BARREL_IDS = np.array([index for _, index in _BARRELS])
_PLANES = np.array([-np.inf, *sorted({layer.place for layer in LAYERS if not layer.barrel}), np.inf])
_MAX_STEPS = len(_BARRELS) + len(_PLANES) // 2
_MATERIAL = np.array([TECHNOLOGY[layer.volume].material for layer in LAYERS])
_LOW, _HIGH = (np.array([getattr(layer, name) for layer in LAYERS]) for name in ("low", "high"))
BARREL = np.array([layer.barrel for layer in LAYERS])
"""(NUM_LAYERS,) cylinder or disc."""


def _disc_ids() -> Integers:
    """(planes, 3) layers at each z: up to three discs, one around the other; -1 where there is none."""
    ids = np.full((len(_PLANES), 3), -1, dtype=np.int64)
    for index, layer in enumerate(LAYERS):
        if not layer.barrel:
            row = ids[np.searchsorted(_PLANES, layer.place)]
            row[np.flatnonzero(row < 0)[0]] = index
    return ids


_DISC_IDS = _disc_ids()


@dataclass(frozen=True)
class Crossings:
    """M places where particles go through sensors, by step and then by particle.

    Attributes:
        particle: (M,) number of the particle.
        layer: (M,) number of the layer.
        step: (M,) counts up along each particle's way.
        position: (M, 3) mm.
        direction: (M, 3) unit vector along the momentum.
    """

    particle: Integers
    layer: Integers
    step: Integers
    position: Floats
    direction: Floats


def cross_layers(particles: Helices, rng: np.random.Generator) -> Crossings:
    """Follows P particles outwards until they leave the detector or turn back towards the beam line.

    In each layer they are deflected by multiple scattering (Highland's formula, PDG section 34.3; pions); they lose
    no energy. Numbers are drawn for all particles and steps at once, so that one particle's way does not change
    another's.
    """
    count = len(particles.phi)
    kicks = rng.standard_normal((_MAX_STEPS, 2, count))
    alive = np.ones(count, dtype=bool)
    found: list[tuple[Integers, Integers, Integers, Floats, Floats]] = []
    for step in range(_MAX_STEPS):
        length, layers = _next_surface(particles)
        alive &= np.isfinite(length)
        particles = particles.moved(np.where(alive, length, 0.0))
        alive &= particles.outward
        layer = _layer_here(particles, layers)
        hit = alive & (layer >= 0)
        direction = _directions(particles)
        which = np.flatnonzero(hit)
        found.append((which, layer[hit], np.full(len(which), step), particles.position[hit], direction[hit]))
        particles = _scattered(particles, np.where(hit, _angle(particles, layer, direction), 0.0), kicks[step])
    return Crossings(*(np.concatenate(parts) for parts in zip(*found, strict=True)))  # type: ignore[arg-type]


def _next_surface(particles: Helices) -> tuple[Floats, Integers]:
    """(P,) transverse path to the nearest cylinder or plane, and (P, 3) layers that may lie there, -1 for none."""
    radius = np.hypot(particles.position[:, 0], particles.position[:, 1])
    barrel = np.searchsorted(_RADII, radius + _AWAY)
    z, forward = particles.position[:, 2], particles.slope > 0
    plane = np.where(forward, np.searchsorted(_PLANES, z + _AWAY), np.searchsorted(_PLANES, z - _AWAY, "right") - 1)
    to_barrel, to_plane = particles.length_to_cylinder(_RADII[barrel]), particles.length_to_plane(_PLANES[plane])
    ids = np.where(
        (to_barrel <= to_plane)[:, None],
        np.append(_BARREL_IDS, -1)[barrel, None] * [1, 0, 0] - [0, 1, 1],
        _DISC_IDS[plane],
    )
    return np.minimum(to_barrel, to_plane), ids


def _layer_here(particles: Helices, layers: Integers) -> Integers:
    """(P,) the one of (P, 3) layers that reaches to where the particle is, -1 for none."""
    radius = np.hypot(particles.position[:, 0], particles.position[:, 1])[:, None]
    along = np.where(BARREL[layers], particles.position[:, 2:], radius)
    inside = (layers >= 0) & (along >= _LOW[layers]) & (along <= _HIGH[layers])
    return np.where(inside, layers, -1).max(1)


def _directions(particles: Helices) -> Floats:
    transverse = 1 / np.hypot(1.0, particles.slope)
    parts = (np.cos(particles.phi), np.sin(particles.phi), particles.slope)
    return np.stack([part * transverse for part in parts], 1)


def normals(layer: Integers, position: Floats) -> Floats:
    """(M, 3) unit vectors across layers at points on them."""
    radius = np.hypot(position[:, 0], position[:, 1])
    outward = np.stack([position[:, 0] / radius, position[:, 1] / radius, np.zeros(len(radius))], 1)
    return np.where(BARREL[layer][:, None], outward, [0.0, 0.0, 1.0])


def _angle(particles: Helices, layer: Integers, direction: Floats) -> Floats:
    """(P,) standard deviation in radians of the deflection in a plane."""
    across = np.abs((direction * normals(layer, particles.position)).sum(1))
    material = _MATERIAL[layer] / np.maximum(across, 0.1)
    velocity = particles.momentum / np.hypot(particles.momentum, PION_MASS)
    return 0.0136 / (velocity * particles.momentum) * np.sqrt(material) * (1 + 0.038 * np.log(material))


def _scattered(particles: Helices, angle: Floats, kicks: Floats) -> Helices:
    """The particles deflected by `angle` times (2, P) standard normal numbers; the momentum's size stays."""
    dip = np.arctan(particles.slope) + angle * kicks[1]
    phi = particles.phi + angle * kicks[0] * np.hypot(1.0, particles.slope)
    return replace(particles, phi=phi, slope=np.tan(dip))
