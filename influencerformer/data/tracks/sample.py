"""One collision event: hits, and the particles that made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from influencerformer.data.tracks.detector import NUM_LAYERS, layer_pairs

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Particles:
    """The particles of interest of an event; number k - 1 here is label k of the hits.

    Attributes:
        ids: (K,) int64, as in the files, unique and not 0.
        pt: (K,) float32, transverse momentum at the vertex in GeV.
        eta: (K,) float32, pseudorapidity at the vertex.
        phi: (K,) float32, azimuth of the momentum at the vertex, -pi..pi.
        vertex: (K, 3) float32, mm.
        charge: (K,) int64, in units of the elementary charge.
        num_hits: (K,) int64, hits of the particle in this event, 1 or more.

    Raises:
        ValueError: where shapes, types or values break the above.
    """

    ids: Tensor
    pt: Tensor
    eta: Tensor
    phi: Tensor
    vertex: Tensor
    charge: Tensor
    num_hits: Tensor

    def __post_init__(self) -> None:
        count = len(self)
        for name, shape, dtype in (
            ("ids", (count,), torch.int64),
            ("pt", (count,), torch.float32),
            ("eta", (count,), torch.float32),
            ("phi", (count,), torch.float32),
            ("vertex", (count, 3), torch.float32),
            ("charge", (count,), torch.int64),
            ("num_hits", (count,), torch.int64),
        ):
            _check("particles", name, getattr(self, name), shape, dtype)
        if len(self.ids.unique()) < count or bool((self.ids == 0).any()):
            raise ValueError("particles: ids must be unique and not 0")
        if bool((self.num_hits < 1).any()):
            raise ValueError("particles: num_hits must be 1 or more: leave out particles without a hit")

    def __len__(self) -> int:
        """K."""
        return self.ids.shape[0]

    @classmethod
    def none(cls) -> Particles:
        """No particles, K = 0."""
        real, whole = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        return cls(whole, real, real, real, torch.zeros(0, 3), whole, whole)


@dataclass(frozen=True)
class Event:
    """The hits of one event with their truth.

    Particles of interest are those that pass the cuts of the reader; the hits of others are background in
    `particle_labels`, but keep their `particle_ids`, by which the metrics tell them from noise.

    Attributes:
        name: of the event, for messages and for output files.
        positions: (N, 3) float32, x, y, z in mm.
        layers: (N,) int64, number of the detector layer, 0..NUM_LAYERS-1; see `detector.LAYERS`.
        cells: (N, 2) float32, number of cells and total charge of each hit, or None.
        particle_labels: (N,) int64: 0 background, k = 1..K hits of `particles.ids[k - 1]`.
        particle_ids: (N,) int64: the particle that made the hit, of interest or not; 0 noise.
        weights: (N,) float32, TrackML's weight of each hit, 0 or more.
        hit_ids: (N,) int64, as in the files, unique.
        particles: the K particles of interest.
        has_truth: whether the truth is known; without it all labels, ids and weights are 0.

    Raises:
        ValueError: where shapes, types or values break the above; the message names the event.
    """

    name: str
    positions: Tensor
    layers: Tensor
    cells: Tensor | None
    particle_labels: Tensor
    particle_ids: Tensor
    weights: Tensor
    hit_ids: Tensor
    particles: Particles = field(default_factory=Particles.none)
    has_truth: bool = True

    def __post_init__(self) -> None:
        count, where = len(self), f"event {self.name!r}"
        _check(where, "positions", self.positions, (count, 3), torch.float32)
        _check(where, "layers", self.layers, (count,), torch.int64)
        if self.cells is not None:
            _check(where, "cells", self.cells, (count, 2), torch.float32)
        _check(where, "particle_labels", self.particle_labels, (count,), torch.int64)
        _check(where, "particle_ids", self.particle_ids, (count,), torch.int64)
        _check(where, "weights", self.weights, (count,), torch.float32)
        _check(where, "hit_ids", self.hit_ids, (count,), torch.int64)
        for name in ("positions", "cells", "weights"):
            value = getattr(self, name)
            if value is not None and not bool(value.isfinite().all()):
                raise ValueError(f"{where}: {name} hold NaN or infinite values")
        if count and not 0 <= int(self.layers.min()) <= int(self.layers.max()) < NUM_LAYERS:
            raise ValueError(f"{where}: layers must lie in 0..{NUM_LAYERS - 1}")
        if bool((self.weights < 0).any()):
            raise ValueError(f"{where}: weights must not be negative")
        if len(self.hit_ids.unique()) < count:
            raise ValueError(f"{where}: hit_ids must be unique")
        self._check_labels(where)

    def _check_labels(self, where: str) -> None:
        labels, known = self.particle_labels, len(self.particles)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= known:
            raise ValueError(
                f"{where}: particle_labels must lie in 0..{known} (one for each particle), got "
                f"{int(labels.min())}..{int(labels.max())}"
            )
        if not torch.equal(torch.bincount(labels, minlength=known + 1)[1:], self.particles.num_hits):
            raise ValueError(f"{where}: particle_labels do not have particles.num_hits hits of each particle")
        wanted = torch.cat([torch.zeros(1, dtype=torch.int64), self.particles.ids])[labels]
        background = self.particle_ids[labels == 0]
        if not torch.equal(wanted[labels > 0], self.particle_ids[labels > 0]) or bool(
            torch.isin(background, self.particles.ids).any()
        ):
            raise ValueError(f"{where}: particle_labels and particle_ids do not name the same particles")
        if not self.has_truth and (known or bool(self.particle_ids.any()) or bool(self.weights.any())):
            raise ValueError(f"{where}: without truth there are no particles, particle_ids or weights")

    def __len__(self) -> int:
        """N."""
        return self.positions.shape[0]

    @property
    def num_particles(self) -> int:
        """K."""
        return len(self.particles)

    @property
    def detector(self) -> Tensor:
        """(N, 2) int64, volume and layer of each hit as in the files."""
        return layer_pairs(self.layers)


def _check(where: str, name: str, value: Tensor, shape: Shape, dtype: torch.dtype) -> None:
    if tuple(value.shape) != shape or value.dtype != dtype:
        kind = str(dtype).removeprefix("torch.")
        got = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        raise ValueError(f"{where}: {name} must be {shape} {kind}, got {got}")


_COLUMNS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "x": lambda x, y, z, r: x / 1000,
    "y": lambda x, y, z, r: y / 1000,
    "z": lambda x, y, z, r: z / 1000,
    "r": lambda x, y, z, r: r / 1000,
    "cos_phi": lambda x, y, z, r: x / r,
    "sin_phi": lambda x, y, z, r: y / r,
    "eta": lambda x, y, z, r: torch.asinh(z / r) / 2,
    # The conformal map: circles through the beam line become straight lines.
    "u": lambda x, y, z, r: 30 * x / r.square(),
    "v": lambda x, y, z, r: 30 * y / r.square(),
}

HIT_FEATURES = (*_COLUMNS, "log_cells", "log_charge")
"""Columns of `features`, about -3..3 each: x, y, z and r in metres; cosine and sine of the azimuth phi; half the
pseudorapidity eta of the straight line from the origin; x / r^2 and y / r^2 times 30 mm (the conformal map); log1p of
the number of cells, and of the charge in units of 0.1. The last two are 0 in an event without cells."""
NUM_HIT_FEATURES = len(HIT_FEATURES)


def features(event: Event) -> Tensor:
    """(N, NUM_HIT_FEATURES) float32: what a network sees of each hit, see `HIT_FEATURES`."""
    x, y, z = event.positions.unbind(1)
    r = torch.hypot(x, y).clamp(min=1e-3)
    cells = event.positions.new_zeros(len(event), 2) if event.cells is None else event.cells
    signals = torch.log1p(cells.clamp(min=0) * cells.new_tensor([1.0, 10.0]))
    return torch.cat([torch.stack([column(x, y, z, r) for column in _COLUMNS.values()], 1), signals], 1)
