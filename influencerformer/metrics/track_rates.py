"""Rates in bins, with the errors of counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BinnedRate:
    """How many of the things in each of B bins have a property.

    Attributes:
        edges: (B + 1,) ascending; a bin holds its lower edge, the last one also its upper edge.
        passed, total: (B,) counts; what lies outside of all bins is in none.
    """

    edges: Floats
    passed: Integers
    total: Integers

    @classmethod
    def of(cls, values: Floats, passed: npt.NDArray[np.bool_], edges: Floats) -> BinnedRate:
        """Counts (M,) things by their values, and those that passed.

        Raises:
            ValueError: fewer than two edges, or edges that do not ascend.
        """
        edges = np.asarray(edges, dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not bool((np.diff(edges) > 0).all()):
            raise ValueError(f"edges must be two or more ascending numbers, got {edges.tolist()}")
        counts = (np.histogram(chosen, edges)[0].astype(np.int64) for chosen in (values[passed], values))
        return cls(edges, *counts)

    @property
    def rate(self) -> Floats:
        """(B,) passed / total, nan in empty bins."""
        return np.divide(self.passed, self.total, out=np.full(len(self.total), np.nan), where=self.total > 0)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """(B,) lower and (B,) upper ends of the 68 % interval, see `wilson`."""
        return wilson(self.passed, self.total)


def wilson(passed: Integers, total: Integers, z: float = 1.0) -> tuple[Floats, Floats]:
    """Wilson's interval of a binomial proportion (Wilson 1927): never empty, never outside of 0..1.

    Args:
        passed, total: (B,) counts.
        z: half the width in standard deviations: 1 covers 68 %, 1.96 95 %.

    Returns:
        (B,) lower and (B,) upper ends; 0 and 1 where the total is 0.
    """
    trials = np.maximum(total, 1).astype(np.float64)
    rate = passed / trials
    scale = 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / scale
    half = z / scale * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    # At 0 and at all of them one end is exact; rounding must not put it inside.
    low, high = np.where(passed == 0, 0.0, centre - half), np.where(passed == total, 1.0, centre + half)
    return np.where(total > 0, low, 0.0), np.where(total > 0, high, 1.0)
