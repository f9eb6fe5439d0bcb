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
        **dict.fromkeys(("volume_id", "layer_id", "module_id"), np.int64),
    },
    "truth": {
        "hit_id": np.int64,
        "particle_id": np.int64,
        **dict.fromkeys(("tx", "ty", "tz", "tpx", "tpy", "tpz", "weight"), np.float64),
    },
    "particles": {
        "particle_id": np.int64,
        **dict.fromkeys(("vx", "vy", "vz", "px", "py", "pz"), np.float64),
        "q": np.int64,
        "nhits": np.int64,
    },
    "cells": {"hit_id": np.int64, "ch0": np.int64, "ch1": np.int64, "value": np.float64},
}
"""Columns and types of each file; lengths in mm, momenta in GeV."""


@dataclass(frozen=True)
class EventTables:
    """What the files of one event hold.

    Attributes:
        hits: hit_id, x, y, z, volume_id, layer_id, module_id.
        truth: hit_id, particle_id, tx, ty, tz, tpx, tpy, tpz, weight, in the order of the hits; None if unknown.
        particles: particle_id, vx, vy, vz, px, py, pz, q, nhits; None if unknown.
        cells: hit_id, ch0, ch1, value, or None.
    """

    hits: Table
    truth: Table | None = None
    particles: Table | None = None
    cells: Table | None = None
