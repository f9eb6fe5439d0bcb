"""From the tables of an event to the event that models and metrics take."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.detector import layer_ids
from influencerformer.data.tracks.sample import Event, Particles
from influencerformer.data.tracks.tables import EventTables, Table

Integers = npt.NDArray[np.int64]


def assemble_event(name: str, tables: EventTables, cuts: Cuts | None = None) -> Event:
    """The event of tables that are known to fit together, as those of the generator or the reader are.

    Args:
        name: of the event.
        tables: hit ids unique, truth in the order of the hits, layers of TrackML's detector.
        cuts: which particles are of interest; those of `Cuts()` unless given.
    """
    hits, cuts = tables.hits, cuts or Cuts()
    count = len(hits["hit_id"])
    positions = np.stack([hits["x"], hits["y"], hits["z"]], 1)
    layers = layer_ids(np.stack([hits["volume_id"], hits["layer_id"]], 1))
    ids, weights = np.zeros(count, dtype=np.int64), np.zeros(count)
    labels, particles = ids, Particles.none()
    if tables.truth is not None and tables.particles is not None:
        ids, weights = tables.truth["particle_id"], tables.truth["weight"]
        labels, particles = _of_interest(ids, tables.particles, cuts)
    return Event(
        name=name,
        positions=_real(positions),
        layers=torch.from_numpy(layers),
        cells=None if tables.cells is None else _real(_signals(hits["hit_id"], tables.cells)),
        particle_labels=torch.from_numpy(labels.copy()),
        particle_ids=torch.from_numpy(ids.copy()),
        weights=_real(weights),
        hit_ids=torch.from_numpy(hits["hit_id"].copy()),
        particles=particles,
        has_truth=tables.truth is not None,
    )


def _of_interest(ids: Integers, table: Table, cuts: Cuts) -> tuple[Integers, Particles]:
    """(N,) labels of the hits and the particles they number, in the order of the table."""
    px, py, pz = (table[name] for name in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    # Along the beam line the pseudorapidity is infinite; 1e-9 GeV stands in for no transverse momentum.
    eta = np.arcsinh(pz / np.maximum(pt, 1e-9))
    order = np.argsort(table["particle_id"], kind="stable")
    place = np.searchsorted(table["particle_id"], ids, sorter=order).clip(max=max(len(order) - 1, 0))
    row = order[place] if len(order) else np.full(len(ids), -1)
    row = np.where(ids != 0, row, -1)
    num_hits = np.bincount(row[row >= 0], minlength=len(order))
    kept = cuts.passed(pt, eta, num_hits) & (num_hits > 0)
    numbers = np.append(np.where(kept, np.cumsum(kept), 0), 0)
    vertex = np.stack([table["vx"], table["vy"], table["vz"]], 1)
    return numbers[row], Particles(
        ids=torch.from_numpy(table["particle_id"][kept]),
        pt=_real(pt[kept]),
        eta=_real(eta[kept]),
        phi=_real(np.arctan2(py, px)[kept]),
        vertex=_real(vertex[kept]),
        charge=torch.from_numpy(table["q"][kept]),
        num_hits=torch.from_numpy(num_hits[kept]),
    )


def _signals(hit_ids: Integers, cells: Table) -> npt.NDArray[np.float64]:
    """(N, 2) number of cells and total charge of each hit; 0 for hits without cells."""
    order = np.argsort(hit_ids, kind="stable")
    hit = order[np.searchsorted(hit_ids, cells["hit_id"], sorter=order)]
    counts = np.bincount(hit, minlength=len(hit_ids))
    return np.stack([counts, np.bincount(hit, cells["value"], minlength=len(hit_ids))], 1)


def _real(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
