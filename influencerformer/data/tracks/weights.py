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

    As in the challenge (arXiv:1904.06778, section 4) a weight is a product: the first and the last hits of a track
    weigh more than those in the middle (here 1 + (2t - 1)^2 with t from 0 at the first hit to 1 at the last), and
    so do tracks of high transverse momentum (0.2 up to 0.5 GeV, 1 from 3 GeV, linear between). Particles with
    fewer than `MIN_HITS` hits have weight 0.

    Args:
        particle: (M,) number of each hit's particle, 0..P-1; -1 for noise, of weight 0.
        step: (M,) order of the hits along their particle.
        pt: (P,) GeV.
    """
    order = np.lexsort((step, particle))
    numbers, counts = particle[order], np.bincount(particle[particle >= 0], minlength=len(pt))
    starts = np.searchsorted(numbers, np.arange(len(pt)))
    count = counts[numbers]
    t = (np.arange(len(order)) - starts[numbers]) / np.maximum(count - 1, 1)
    weight = (1 + (2 * t - 1) ** 2) * np.clip(0.2 + 0.8 * (pt[numbers] - 0.5) / 2.5, 0.2, 1.0)
    weight[(numbers < 0) | (count < MIN_HITS)] = 0.0
    result = np.empty(len(order))
    result[order] = weight / max(weight.sum(), np.finfo(np.float64).tiny)
    return result
