"""Generated events written as TrackML's files, so that they walk the same road as real data."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from influencerformer.data.generated_folder import make_once
from influencerformer.data.progress import progress
from influencerformer.data.tracks.generate import OPTIONS, generate_event
from influencerformer.data.tracks.tables import EventTables, Table
from influencerformer.errors import UserError

VERSION = 2
"""Raised when what is generated changes: folders of another version are then not taken for this one's."""
_MARKER = "generated_events.json"


def write_events(
    folder: str | Path,
    events: int,
    particles: int | tuple[int, int] = 50,
    *,
    seed: int = 0,
    compress: bool = False,
    **options: Any,
) -> Path:
    """Writes generated events, unless the same ones are there already.

    The same arguments give the same files (see `generate_event`). The folder appears complete or not at all, also
    when several processes ask at once.

    Args:
        folder: the events' own; absent, empty, or made by an earlier call.
        events: how many; they are numbered from 1.
        particles: in each event, or the fewest and the most, between which each event draws.
        seed: of all events; no two events share one.
        compress: write .csv.gz.
        options: handed to :func:`influencerformer.data.tracks.generate.generate_event`.

    Returns:
        `folder`: event000000001-hits.csv, -truth.csv, -particles.csv, -cells.csv and so on, and
        generated_events.json.

    Raises:
        UserError: arguments out of range or unknown, or a folder that holds something else.
    """
    low, high = (particles, particles) if isinstance(particles, int) else particles
    if events < 1 or seed < 0 or not 1 <= low <= high:
        raise UserError(
            "generated events need events of 1 or more, seed of 0 or more and particles of 1 or more (or a pair, the "
            f"smaller first), got events={events}, seed={seed}, particles={particles}"
        )
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise UserError(f"generated events have no option {min(unknown)}")
    folder = Path(folder)
    wanted = {"version": VERSION, "events": events, "particles": [low, high], "seed": seed, "compress": compress}
    wanted["options"] = options

    def write(place: Path) -> None:
        for number in progress(range(1, events + 1), "Generating events"):
            first, second = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
            count = low + int(second) % (high - low + 1)
            write_event(place, number, generate_event(int(first), count, **options), compress=compress)

    make_once(folder, "generated events", _MARKER, wanted, write)
    return folder


def write_event(folder: Path, number: int, tables: EventTables, *, compress: bool = False) -> None:
    """Writes one event's four files; `number` gives their name, event000000001-hits.csv and so on."""
    for kind in ("hits", "truth", "particles", "cells"):
        table: Table | None = getattr(tables, kind)
        if table is None:
            continue
        data = csv_text(table).encode()
        path = folder / f"event{number:09d}-{kind}.csv{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(data, 6, mtime=0) if compress else data)


def csv_text(table: Table) -> str:
    """A table as CSV with a header and up to ten significant digits."""
    # One format string for all rows is several times as fast as np.savetxt.
    line = ",".join("%d" if np.issubdtype(values.dtype, np.integer) else "%.10g" for values in table.values()) + "\n"
    rows = zip(*(values.tolist() for values in table.values()), strict=True)
    return ",".join(table) + "\n" + "".join([line % row for row in rows])
