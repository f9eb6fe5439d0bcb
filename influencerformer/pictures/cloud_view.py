"""Where a cloud is looked at from, and what is taken away so that one can look in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Points = npt.NDArray[np.floating]

_SUBSET = 20_000
_CEILING_CELLS = 24
_CEILING_BAND = 0.85
_CEILING_SHARE = 0.6
_CEILING_CUT = 0.75
_SLAB = 0.03
_SLAB_MOST = 0.15


@dataclass(frozen=True)
class View:
    """A view of a cloud from outside.

    Attributes:
        azimuth: degrees around z of the side the camera stands on; 0 is +x, 90 is +y.
        elevation: degrees above the horizon, -90 to 90.
        top: height above which points are hidden, None for no cut.
        open_front: whether what stands at the sides of the cloud facing the camera (a room's front walls) is hidden.

    Raises:
        ValueError: an elevation out of range.
    """

    azimuth: float = -60.0
    elevation: float = 45.0
    top: float | None = None
    open_front: bool = False

    def __post_init__(self) -> None:
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"elevation must lie in -90..90 degrees, got {self.elevation}")

    @classmethod
    def of(cls, coordinates: Points) -> View:
        """Obliquely from above, the longer side across; a cloud with a ceiling is opened at the top and the front."""
        width, depth = np.ptp(coordinates[:, :2], axis=0)
        top = ceiling_cut(coordinates)
        return cls(azimuth=-62.0 if width >= depth else -28.0, top=top, open_front=top is not None)

    def axes(self) -> npt.NDArray[np.float64]:
        """Unit vectors to the right, up, and towards the camera, (3, 3), a row each."""
        azimuth, elevation = np.deg2rad([self.azimuth, self.elevation])
        out = np.array([np.cos(azimuth), np.sin(azimuth)])
        right = np.array([-out[1], out[0], 0.0])
        towards = np.array([*(np.cos(elevation) * out), np.sin(elevation)])
        return np.stack([right, np.cross(towards, right), towards])

    def shown(self, coordinates: Points) -> npt.NDArray[np.bool_]:
        """(N,) which points are not hidden by `top` and `open_front`; all where that would leave none."""
        keep = np.ones(len(coordinates), dtype=np.bool_)
        if self.top is not None:
            keep &= coordinates[:, 2] <= self.top
        if self.open_front:
            low, high, slab = sides(coordinates)
            towards = self.axes()[2]
            for axis in range(2):
                if towards[axis] > 0.1:
                    keep &= coordinates[:, axis] < high[axis] - slab
                elif towards[axis] < -0.1:
                    keep &= coordinates[:, axis] > low[axis] + slab
        return keep if keep.any() else np.ones_like(keep)


def sides(coordinates: Points) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Lowest and highest x and y without stray points, (2,) each, and how thick a wall there may be."""
    low, high = np.percentile(_subset(coordinates)[:, :2].astype(np.float64), (0.5, 99.5), axis=0)
    return low, high, float(min(_SLAB * (high - low).max(), _SLAB_MOST))


def ceiling_cut(coordinates: Points) -> float | None:
    """A height to cut a room at so that one can look in from above, None for a cloud without a ceiling.

    There is a ceiling where most of the ground plan's occupied cells hold points near the top of the cloud.
    """
    points = _subset(coordinates).astype(np.float64)
    low, high = np.percentile(points, (0.5, 99.5), axis=0)
    side = (high - low)[:2].max() / _CEILING_CELLS
    if side <= 0 or high[2] <= low[2]:
        return None
    cells = np.floor((points[:, :2] - low[:2]) / side).astype(np.int64)
    occupied = np.unique(cells, axis=0)
    covered = np.unique(cells[points[:, 2] > low[2] + _CEILING_BAND * (high[2] - low[2])], axis=0)
    if len(covered) < _CEILING_SHARE * len(occupied):
        return None
    return float(low[2] + _CEILING_CUT * (high[2] - low[2]))


def point_spacing(coordinates: Points) -> float:
    """Typical distance between neighbours on a surface: the square root of the area that a point stands for.

    From the median distance d to the nearest neighbour among a few of the points, drawn at random so that they lie
    strewn even where the points are a grid: in a plane with density r, d = sqrt(ln 2 / (pi r)). 0 where most points
    coincide.
    """
    points = _subset(coordinates, len(coordinates) // 4)
    if len(points) < 2:
        return 0.0
    nearest = cKDTree(points).query(points[:2000], k=2)[0][:, 1]
    return float(np.median(nearest) * np.sqrt(np.pi / np.log(2) * len(points) / len(coordinates)))


def _subset(coordinates: Points, most: int = _SUBSET) -> Points:
    """Up to `most` points, drawn at random, the same ones at every call."""
    most = min(most, _SUBSET)
    if len(coordinates) <= most:
        return coordinates
    return coordinates[np.random.default_rng(0).choice(len(coordinates), most, replace=False)]
