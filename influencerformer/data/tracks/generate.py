"""Generated events: charged particles through TrackML's detector, as the raw tables of an event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from influencerformer.data.tracks.detector import LAYERS, TECHNOLOGY
from influencerformer.data.tracks.helix import Helices
from influencerformer.data.tracks.tables import EventTables, Table
from influencerformer.data.tracks.transport import BARREL, Crossings, cross_layers, normals
from influencerformer.data.tracks.weights import hit_weights
from influencerformer.errors import UserError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FIELD = 2.0
"""Tesla, along z."""
_MAX_PT = 100.0
_BEAM_WIDTH, _BEAM_LENGTH = 0.01, 5.0
_DECAY_LENGTH, _DECAY_ANGLE = 10.0, 0.1
_SENSOR_GAP = 2.0
_MAX_CELLS = 20
# Charge for each mm of silicon, about TrackML's.
_CHARGE = 0.6

_LOW, _HIGH, _PLACE = (np.array([getattr(layer, name) for layer in LAYERS]) for name in ("low", "high", "place"))
_PITCH = np.array([TECHNOLOGY[layer.volume].pitch for layer in LAYERS])
_THICKNESS = np.array([TECHNOLOGY[layer.volume].thickness for layer in LAYERS])
_DETECTOR = np.array([(layer.volume, layer.layer) for layer in LAYERS])


def generate_event(
    seed: int,
    num_particles: int,
    *,
    noise: float = 0.1,
    efficiency: float = 0.97,
    overlap: float = 0.03,
    displaced: float = 0.05,
    min_pt: float = 0.5,
    max_eta: float = 3.0,
) -> EventTables:
    """Shoots particles through the 48 layers of TrackML's detector.

    Transverse momenta fall as 1 / pT^3 from `min_pt` on; directions are uniform in azimuth and pseudorapidity,
    charges are of either sign. Particles start within 10 um of the beam line and 5 mm along it (standard
    deviations), or, some of them, from decays 10 mm away on average. They follow helices in 2 T outwards, scatter in
    each layer and leave hits with the resolution of the layer's cells (pitch / sqrt(12)). The layers are ideal
    cylinders and discs; where sensors overlap, a second hit lies 2 mm behind the first. There is no loss of energy,
    no secondary particle, and no merging of hits.

    The same arguments give the same numbers on every machine, rounded as they are written (lengths to 0.1 um), but
    for the rare one that lies on the edge of rounding.

    Args:
        seed: 0 or more.
        num_particles: 1 or more.
        noise: fraction of all hits that belong to no particle; spread as the hits over the layers.
        efficiency: probability that a crossed layer gives a hit.
        overlap: probability of a second hit in the same layer.
        displaced: fraction of particles that come from decays.
        min_pt: GeV.
        max_eta: largest absolute pseudorapidity.

    Raises:
        UserError: for an argument out of range.
    """
    _check(seed, num_particles, noise, efficiency, overlap, displaced, min_pt, max_eta)
    rng = np.random.Generator(np.random.PCG64(seed))
    particles = _shoot(rng, num_particles, displaced, min_pt, max_eta)
    crossings = cross_layers(particles, rng)
    hits = _with_noise(rng, _signals(rng, crossings, num_particles, efficiency, overlap), noise)
    hits = hits.select(np.lexsort((rng.random(len(hits.layer)), _modules(hits), hits.layer)))
    return _tables(rng, hits, particles)


OPTIONS = tuple(generate_event.__kwdefaults__ or ())
"""Names of the options of `generate_event`."""


@dataclass(frozen=True)
class _Hits:
    """N hits: particle (-1 noise), step along it, layer, true and measured position, direction of flight."""

    particle: Integers
    step: Floats
    layer: Integers
    true: Floats
    position: Floats
    direction: Floats

    def select(self, which: npt.NDArray[np.int64]) -> _Hits:
        return _Hits(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def _shoot(rng: np.random.Generator, count: int, displaced: float, min_pt: float, max_eta: float) -> Helices:
    # 1 - u lies in (0, 1].
    pt = np.minimum(min_pt / np.sqrt(1 - rng.random(count)), max(_MAX_PT, min_pt))
    slope = np.sinh(rng.uniform(-max_eta, max_eta, count))
    phi = rng.uniform(-np.pi, np.pi, count)
    charge = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    vertex = rng.standard_normal((count, 3)) * (_BEAM_WIDTH, _BEAM_WIDTH, _BEAM_LENGTH)
    flight = np.where(rng.random(count) < displaced, rng.exponential(_DECAY_LENGTH, count), 0.0)
    way = phi + _DECAY_ANGLE * rng.standard_normal(count)
    vertex += flight[:, None] * np.stack([np.cos(way), np.sin(way), slope], 1)
    return Helices(vertex, phi, slope, pt * np.hypot(1.0, slope), charge, FIELD)


def _signals(
    rng: np.random.Generator, crossings: Crossings, num_particles: int, efficiency: float, overlap: float
) -> _Hits:
    """Measured hits of the crossings. Numbers are drawn for each particle and step, used or not."""
    place = (crossings.step, crossings.particle)
    shape = (int(crossings.step.max(initial=0)) + 1, num_particles)
    seen = rng.random(shape)[place] < efficiency
    again = seen & (rng.random(shape)[place] < overlap)
    errors = rng.standard_normal((2, *shape, 2))
    normal = normals(crossings.layer, crossings.position)
    across = np.maximum(np.abs((crossings.direction * normal).sum(1)), 0.2)
    behind = crossings.position + crossings.direction * (_SENSOR_GAP / across)[:, None]
    parts = []
    for which, position, error, later in (
        (seen, crossings.position, errors[0][place], 0.0),
        (again, behind, errors[1][place], 0.5),
    ):
        layer = crossings.layer[which]
        measured = _smeared(layer, position[which], error[which])
        step = crossings.step[which] + later
        parts.append((crossings.particle[which], step, layer, position[which], measured, crossings.direction[which]))
    return _Hits(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _axes(layer: Integers, position: Floats) -> tuple[Floats, Floats]:
    """(M, 3) unit vectors within layers: along phi, and along z (cylinders) or the radius (discs)."""
    radius = np.hypot(position[:, 0], position[:, 1])
    cosine, sine, zero = position[:, 0] / radius, position[:, 1] / radius, np.zeros(len(radius))
    radial = np.stack([cosine, sine, zero], 1)
    return np.stack([-sine, cosine, zero], 1), np.where(BARREL[layer][:, None], [0.0, 0.0, 1.0], radial)


def _smeared(layer: Integers, position: Floats, error: Floats) -> Floats:
    shift = error * _PITCH[layer] / np.sqrt(12)
    along, across = _axes(layer, position)
    return position + shift[:, :1] * along + shift[:, 1:] * across


def _with_noise(rng: np.random.Generator, hits: _Hits, noise: float) -> _Hits:
    count = round(len(hits.layer) * noise / (1 - noise))
    layer = hits.layer[rng.integers(0, max(len(hits.layer), 1), count)]
    phi = rng.uniform(-np.pi, np.pi, count)
    along = rng.uniform(_LOW[layer], _HIGH[layer])
    radius, z = np.where(BARREL[layer], _PLACE[layer], along), np.where(BARREL[layer], along, _PLACE[layer])
    position = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], 1)
    # Directions as of particles from anywhere.
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    added = _Hits(np.full(count, -1), np.zeros(count), layer, position, position, direction)
    return _Hits(*(np.concatenate([getattr(hits, name), getattr(added, name)]) for name in hits.__dataclass_fields__))


def _modules(hits: _Hits) -> Integers:
    """(N,) numbers of sensors of some 30 x 100 mm, 1 and up in each layer."""
    x, y, z = hits.true.T
    radius = np.hypot(x, y)
    along = np.where(BARREL[hits.layer], z, radius) - _LOW[hits.layer]
    sectors = np.ceil(2 * np.pi * np.where(BARREL[hits.layer], _PLACE[hits.layer], _HIGH[hits.layer]) / 30)
    sector = np.floor((np.arctan2(y, x) / (2 * np.pi) + 0.5) * sectors).astype(np.int64) % sectors.astype(np.int64)
    row = np.clip(np.floor(along / 100), 0, None).astype(np.int64)
    return 1 + row * sectors.astype(np.int64) + sector


def _tables(rng: np.random.Generator, hits: _Hits, particles: Helices) -> EventTables:
    count = len(particles.phi)
    # Beyond 2^53 and odd: ids that do not survive a conversion to float64, as some of TrackML's do not.
    ids = 2**53 + 1 + 1024 * np.arange(1, count + 1)
    hit_id = np.arange(1, len(hits.layer) + 1)
    pt = particles.momentum / np.hypot(1.0, particles.slope)
    momenta = np.stack([pt * np.cos(particles.phi), pt * np.sin(particles.phi), pt * particles.slope], 1)
    noise = hits.particle < 0
    flying = np.where(noise[:, None], 0.0, hits.direction * particles.momentum[hits.particle][:, None])
    detector = _DETECTOR[hits.layer]
    return EventTables(
        hits={
            "hit_id": hit_id,
            **_columns("xyz", hits.position),
            "volume_id": detector[:, 0],
            "layer_id": detector[:, 1],
            "module_id": _modules(hits),
        },
        truth={
            "hit_id": hit_id,
            "particle_id": np.where(noise, 0, ids[hits.particle]),
            **_columns(("tx", "ty", "tz"), hits.true),
            **_columns(("tpx", "tpy", "tpz"), flying, 5),
            "weight": hit_weights(hits.particle, hits.step, pt).round(10),
        },
        particles={
            "particle_id": ids,
            **_columns(("vx", "vy", "vz"), particles.position, 5),
            **_columns(("px", "py", "pz"), momenta, 5),
            "q": particles.charge.astype(np.int64),
            "nhits": np.bincount(hits.particle[~noise], minlength=count),
        },
        cells=_cells(rng, hits, hit_id),
    )


def _columns(names: str | tuple[str, ...], values: Floats, decimals: int = 4) -> Table:
    return {name: values[:, index].round(decimals) for index, name in enumerate(names)}


def _cells(rng: np.random.Generator, hits: _Hits, hit_id: Integers) -> Table:
    """More cells and more charge for particles that cross the sensor at an angle."""
    normal = normals(hits.layer, hits.true)
    across = np.maximum(np.abs((hits.direction * normal).sum(1)), 0.05)
    thickness = _THICKNESS[hits.layer]
    numbers = []
    for axis, start, pitch in zip(
        _axes(hits.layer, hits.true), rng.random((2, len(across))), _PITCH[hits.layer].T, strict=True
    ):
        shadow = thickness * np.abs((hits.direction * axis).sum(1)) / across
        numbers.append(1 + np.floor(shadow / pitch + start).astype(np.int64))
    count = np.minimum(numbers[0] + numbers[1] - 1, _MAX_CELLS)
    charge = _CHARGE * thickness / across * np.exp(0.3 * rng.standard_normal(len(across)))
    hit = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(hit)) - np.repeat(np.cumsum(count) - count, count)
    corner = rng.integers(0, 1000, (2, len(count)))
    first = np.minimum(place, numbers[0][hit] - 1)
    return {
        "hit_id": hit_id[hit],
        "ch0": corner[0][hit] + first,
        "ch1": corner[1][hit] + place - first,
        "value": ((charge / count)[hit] * rng.uniform(0.8, 1.2, len(hit))).round(6),
    }


def _check(
    seed: int,
    num_particles: int,
    noise: float,
    efficiency: float,
    overlap: float,
    displaced: float,
    min_pt: float,
    max_eta: float,
) -> None:
    for name, value, holds, wanted in (
        ("seed", seed, seed >= 0, "0 or larger"),
        ("num_particles", num_particles, num_particles >= 1, "1 or larger"),
        ("noise", noise, 0 <= noise < 1, "0 or larger and below 1"),
        ("efficiency", efficiency, 0 < efficiency <= 1, "above 0 and at most 1"),
        ("overlap", overlap, 0 <= overlap <= 1, "in 0..1"),
        ("displaced", displaced, 0 <= displaced <= 1, "in 0..1"),
        ("min_pt", min_pt, 0.05 <= min_pt < np.inf, "0.05 GeV or larger"),
        ("max_eta", max_eta, 0 < max_eta <= 4, "above 0 and at most 4"),
    ):
        if not holds:
            raise UserError(f"{name} of generated events must be {wanted}, got {value}")
