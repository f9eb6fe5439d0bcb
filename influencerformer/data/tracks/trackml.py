"""Events in the layout of the TrackML challenge: eventNNNNNNNNN-hits.csv, -truth, -particles and -cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.csv_table import FIRST_LINE, read_table, require
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.detector import layer_ids
from influencerformer.data.tracks.sample import Event
from influencerformer.data.tracks.tables import COLUMNS, EventTables, Table
from influencerformer.errors import UserError

Integers = npt.NDArray[np.int64]
_ENDINGS = (".csv", ".csv.gz")


def find_events(root: str | Path) -> list[str]:
    """Names of the events in a folder, such as event000000001, sorted: one for each file of hits.

    Raises:
        UserError: the folder is missing or has no file of hits.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is no folder: expected one with TrackML's files, such as event000000001-hits.csv")
    names = {path.name.rpartition("-hits.csv")[0] for end in _ENDINGS for path in root.glob(f"event*-hits{end}")}
    if not names:
        raise UserError(f"{root} holds no events: expected files such as event000000001-hits.csv or .csv.gz")
    return sorted(names)


def read_event(root: str | Path, name: str, cuts: Cuts | None = None, *, need_truth: bool = True) -> Event:
    """Reads and checks one event; an event of 100,000 hits takes about a second.

    Noise hits (particle id 0) and hits of particles that fail the cuts are background, see
    :class:`influencerformer.data.tracks.cuts.Cuts`.

    Args:
        root: folder of the files, each plain or gzip.
        name: of the event, as from `find_events`.
        cuts: which particles are of interest; those of `Cuts()` unless given.
        need_truth: whether -truth and -particles must be there; otherwise an event that lacks either has no truth.

    Raises:
        UserError: files that are missing, damaged or do not fit together; names the file, and the line if one is wrong.
    """
    return assemble_event(name, read_tables(root, name, need_truth=need_truth), cuts)


def read_tables(root: str | Path, name: str, *, need_truth: bool = True) -> EventTables:
    """The files of one event as they are, checked; arguments and errors are those of `read_event`."""
    root = Path(root)
    path = _find(root, name, "hits")
    if path is None:
        raise UserError(f"{root / f'{name}-hits.csv'} is missing, also as .csv.gz")
    hits = read_table(path, COLUMNS["hits"])
    if not len(hits["hit_id"]):
        raise UserError(f"{path} holds no hits: it ends after the line with the names of its columns")
    _check_unique(path, "hit_id", hits["hit_id"])
    detector = np.stack([hits["volume_id"], hits["layer_id"]], 1)
    require(path, layer_ids(detector) >= 0, "volume_id and layer_id must be a layer of TrackML's detector", detector)
    truth, particles = _read_truth(root, name, path, hits["hit_id"], need_truth)
    return EventTables(hits, truth, particles, _read_cells(root, name, path, hits["hit_id"]))


def _find(root: Path, name: str, kind: str) -> Path | None:
    found = [path for end in _ENDINGS if (path := root / f"{name}-{kind}{end}").exists()]
    if len(found) > 1:
        raise UserError(f"{found[0]} is there twice, plain and as .gz: delete one of them")
    return found[0] if found else None


def _read_truth(
    root: Path, name: str, hits_path: Path, hit_ids: Integers, needed: bool
) -> tuple[Table | None, Table | None]:
    paths = {kind: _find(root, name, kind) for kind in ("truth", "particles")}
    truth_path, particles_path = paths["truth"], paths["particles"]
    if truth_path is None or particles_path is None:
        if needed:
            missing = "truth" if truth_path is None else "particles"
            raise UserError(
                f"{root / f'{name}-{missing}.csv'} is missing, also as .csv.gz: training and validation need it"
            )
        return None, None
    truth = _in_order(truth_path, read_table(truth_path, COLUMNS["truth"]), hits_path, hit_ids)
    particles = read_table(particles_path, COLUMNS["particles"])
    ids = particles["particle_id"]
    _check_unique(particles_path, "particle_id", ids)
    require(particles_path, ids != 0, "particle_id must not be 0, which stands for noise", ids)
    known = (truth["particle_id"] == 0) | np.isin(truth["particle_id"], ids)
    rule = f"particle_id must be 0 or one of {particles_path.name}"
    require(truth_path, known, rule, truth["particle_id"])
    require(truth_path, truth["weight"] >= 0, "weight must not be negative", truth["weight"])
    return truth, particles


def _in_order(path: Path, truth: Table, hits_path: Path, hit_ids: Integers) -> Table:
    """The truth in the order of the hits."""
    ids = truth["hit_id"]
    if len(ids) != len(hit_ids):
        raise UserError(
            f"{path} has {len(ids)} rows, but {hits_path.name} has {len(hit_ids)}: they must be of one event"
        )
    if np.array_equal(ids, hit_ids):
        return truth
    _check_unique(path, "hit_id", ids)
    _check_known(path, ids, hits_path, hit_ids)
    order = np.argsort(ids)[np.argsort(np.argsort(hit_ids))]
    return {name: values[order] for name, values in truth.items()}


def _read_cells(root: Path, name: str, hits_path: Path, hit_ids: Integers) -> Table | None:
    path = _find(root, name, "cells")
    if path is None:
        return None
    cells = read_table(path, COLUMNS["cells"])
    _check_known(path, cells["hit_id"], hits_path, hit_ids)
    return cells


def _check_known(path: Path, ids: Integers, hits_path: Path, hit_ids: Integers) -> None:
    require(path, np.isin(ids, hit_ids), f"hit_id must be one of {hits_path.name}", ids)


def _check_unique(path: Path, column: str, ids: Integers) -> None:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    earlier = first[inverse]
    again = earlier < np.arange(len(ids))
    if again.any():
        row = int(np.argmax(again))
        raise UserError(
            f"{path}, line {row + FIRST_LINE}: {column} {ids[row]} is there twice, first in line "
            f"{earlier[row] + FIRST_LINE}"
        )
