"""The tables of an event as TrackML's files have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Table = dict[str, npt.NDArray[Any]]
"""Columns of one length by name."""

COLUMNS: dict[str, dict[str, type]] = {
    "hits": {
        "hit_id": np.int64,
        **dict.fromkeys(("x", "y", "z"), np.float64),
        **dict.fromkeys(("volume_id", "layer_id"), np.int64),
    },
    "truth": {"hit_id": np.int64, "particle_id": np.int64, "weight": np.float64},
    "particles": {
        "particle_id": np.int64,
        **dict.fromkeys(("vx", "vy", "vz", "px", "py", "pz"), np.float64),
        "q": np.int64,
    },
    "cells": {"hit_id": np.int64, "value": np.float64},
}
"""The columns of each file that are read, with their types; lengths in mm, momenta in GeV."""


@dataclass(frozen=True)
class EventTables:
    """What the files of one event hold: the columns in `COLUMNS`, and others where the generator wrote them.

    Attributes:
        hits: one row a hit.
        truth: the same rows in the same order; None if unknown.
        particles: one row a particle, also of particles without a hit; None if unknown.
        cells: one or more rows a hit, or None.
    """

    hits: Table
    truth: Table | None = None
    particles: Table | None = None
    cells: Table | None = None
