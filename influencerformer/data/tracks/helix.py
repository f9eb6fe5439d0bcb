"""Helices of charged particles in a magnetic field along z, from surface to surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MM_PER_GEV_AND_TESLA = 1000 / 0.299792458
"""Radius in mm of a singly charged particle with a transverse momentum of 1 GeV in 1 T (PDG, section 35.12)."""


@dataclass
class Helices:
    """P particles at points of their helices; lengths in mm.

    Attributes:
        position: (P, 3) x, y, z.
        phi: (P,) azimuth of the momentum.
        slope: (P,) pz / pT.
        momentum: (P,) GeV.
        charge: (P,) +1 or -1.
        field: in tesla, along +z: positive particles turn clockwise seen from +z.
    """

    position: Floats
    phi: Floats
    slope: Floats
    momentum: Floats
    charge: Floats
    field: float

    @property
    def curvature(self) -> Floats:
        """(P,) one over the radius of the circle, positive where the particle turns clockwise."""
        return self.charge * self.field * np.hypot(1.0, self.slope) / (self.momentum * MM_PER_GEV_AND_TESLA)

    def moved(self, length: Floats) -> Helices:
        """The same particles after (P,) mm of path in the transverse plane."""
        turn = self.curvature * length
        chord, direction = length * np.sinc(turn / (2 * np.pi)), self.phi - turn / 2
        step = np.stack([chord * np.cos(direction), chord * np.sin(direction), length * self.slope], 1)
        return Helices(self.position + step, self.phi - turn, self.slope, self.momentum, self.charge, self.field)

    @property
    def outward(self) -> npt.NDArray[np.bool_]:
        """(P,) whether the distance from the beam line grows."""
        return self.position[:, 0] * np.cos(self.phi) + self.position[:, 1] * np.sin(self.phi) > 0

    def length_to_cylinder(self, radius: Floats) -> Floats:
        """(P,) transverse path to cylinders of (P,) radius around the beam line, inf where they are not reached.

        Only cylinders farther out than the particle count, and only the way to the point farthest from the beam line.
        """
        circle = 1 / np.abs(self.curvature)
        signed = 1 / self.curvature
        centre_x = self.position[:, 0] + signed * np.sin(self.phi)
        centre_y = self.position[:, 1] - signed * np.cos(self.phi)
        centre = np.hypot(centre_x, centre_y)
        here = np.hypot(self.position[:, 0], self.position[:, 1])
        start = np.where(self.outward, 1.0, -1.0) * _angle(here, centre, circle)
        length = circle * (_angle(radius, centre, circle) - start)
        return np.where((radius > here) & (radius <= centre + circle), length, np.inf)

    def length_to_plane(self, z: Floats) -> Floats:
        """(P,) transverse path to planes at (P,) z, inf where they lie behind."""
        with np.errstate(divide="ignore", invalid="ignore"):
            length = (z - self.position[:, 2]) / self.slope
        return np.where(length > 0, length, np.inf)


def _angle(radius: Floats, centre: Floats, circle: Floats) -> Floats:
    """Angle at the circle's centre between the points nearest to the beam line and at `radius` from it."""
    half = (radius**2 - (centre - circle) ** 2) / (4 * centre * circle)
    return 2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
