"""TrackML's weights of hits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MIN_HITS = 4
"""Particles with fewer hits have no weight."""


def hit_weights(particle: Integers, step: Floats, pt: Floats) -> Floats:
    """(M,) weights that sum to 1, for hits of particles that must be found.

    As in the challenge (arXiv:1904.06778, and its events): a particle with fewer than `MIN_HITS` hits has no weight;
    others have 0.2 up to a transverse momentum of 0.5 GeV, 1 from 3 GeV on, linear between. Their hits share it in
    the proportion 3.3 for the first and 2 for the last to 1 in the middle, linear between.

    Args:
        particle: (M,) number of each hit's particle, 0..P-1; -1 for noise, of weight 0.
        step: (M,) order of the hits along their particle.
        pt: (P,) GeV, of one particle or more.
    """
    order = np.lexsort((step, particle))
    numbers, counts = particle[order], np.bincount(particle[particle >= 0], minlength=len(pt))
    starts = np.searchsorted(numbers, np.arange(len(pt)))
    count = counts[numbers]
    t = (np.arange(len(order)) - starts[numbers]) / np.maximum(count - 1, 1)
    shape = 1 + 2.3 * np.maximum(1 - 2 * t, 0) + np.maximum(2 * t - 1, 0)
    shape[(numbers < 0) | (count < MIN_HITS)] = 0.0
    totals = np.bincount(numbers[numbers >= 0], shape[numbers >= 0], minlength=len(pt))
    importance = np.clip(0.2 + 0.8 * (pt - 0.5) / 2.5, 0.2, 1.0)
    weight = shape / np.where(totals > 0, totals, 1.0)[numbers] * importance[numbers]
    result = np.empty(len(order))
    result[order] = weight / max(weight.sum(), np.finfo(np.float64).tiny)
    return result
