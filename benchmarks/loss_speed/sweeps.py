"""Times against K, Q and N, one at a time, with the exponent that a straight line in logarithms has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from loss_speed.shapes import SHAPES, Shape

SWEEPS: dict[str, tuple[int, ...]] = {
    "K": (100, 200, 400, 800, 1500),
    "Q": (250, 500, 1000, 2000),
    "N": (2500, 5000, 10000, 20000),
}
"""At the shape of tracking; Q and N with FEW instances."""
FEW = 200


def swept(variable: str, value: int) -> Shape:
    """The shape of tracking with one number changed."""
    base = SHAPES["tracking"]
    if variable == "K":
        return replace(base, instances=value)
    base = replace(base, instances=FEW)
    return replace(base, queries=(value,)) if variable == "Q" else replace(base, pixels=value)


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of seconds ~ value ** p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def exponents(sweep: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of each contender, from {contender: {value: median seconds}}."""
    return {
        name: exponent([float(v) for v in medians], list(medians.values()))
        for name, medians in sweep.items()
        if len(medians) > 1
    }
