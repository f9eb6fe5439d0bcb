"""Transverse momentum and direction of predicted tracks, from their hits alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_GEV_PER_METRE_AND_TESLA = 0.299792458
_LARGEST_PT = 1000.0


def fit_tracks(positions: Floats, track: Integers, num_tracks: int, field: float = 2.0) -> tuple[Floats, Floats]:
    """Fits a circle in the transverse plane and a straight line in z against the radius to each track.

    The circle is the algebraic least-squares one (Kasa 1976), pT = 0.3 B R; the pseudorapidity is asinh of the
    line's slope. Good for binning, not for physics: below three hits, or with all hits at one radius, pT is
    1000 GeV (a straight line) and the pseudorapidity that of the mean hit seen from the origin.

    Args:
        positions: (N, 3) mm.
        track: (N,) number of each hit's track, 0..num_tracks-1.
        num_tracks: T.
        field: tesla, along z.

    Returns:
        (T,) transverse momenta in GeV, at most 1000, and (T,) pseudorapidities.
    """
    x, y, z = (positions / 1000).T
    count = np.maximum(np.bincount(track, minlength=num_tracks), 1)

    def mean(values: Floats) -> Floats:
        return np.bincount(track, values, minlength=num_tracks) / count

    mean_x, mean_y = mean(x), mean(y)
    dx, dy = x - mean_x[track], y - mean_y[track]
    squares = dx**2 + dy**2
    xx, xy, yy = mean(dx * dx), mean(dx * dy), mean(dy * dy)
    px, py = mean(dx * squares) / 2, mean(dy * squares) / 2
    determinant = xx * yy - xy**2
    # Hits on a straight line have no circle.
    curved = (determinant > 1e-10 * (xx + yy) ** 2) & (count > 2)
    safe = np.where(curved, determinant, 1.0)
    centre_x, centre_y = (px * yy - py * xy) / safe, (py * xx - px * xy) / safe
    radius = np.where(curved, np.sqrt(centre_x**2 + centre_y**2 + xx + yy), np.inf)
    pt = np.minimum(_GEV_PER_METRE_AND_TESLA * field * radius, _LARGEST_PT)

    r = np.hypot(x, y)
    mean_r, mean_z = mean(r), mean(z)
    dr = r - mean_r[track]
    spread = mean(dr * dr)
    steady = spread > 1e-6
    slope = np.where(steady, mean(dr * z) / np.where(steady, spread, 1.0), mean_z / np.maximum(mean_r, 1e-3))
    return pt, np.arcsinh(slope)
