"""Helices: exact where they must be, and equal to small steps along the field's force."""

from __future__ import annotations

import numpy as np
import pytest

from influencerformer.data.tracks.helix import Helices


def helices(pt: float, charge: float = 1.0, slope: float = 0.5, phi: float = 0.3, at: tuple[float, ...] = (0, 0, 0)):
    one = np.ones(1)
    return Helices(np.array([at], float), phi * one, slope * one, pt * np.hypot(1, slope) * one, charge * one, 2.0)


def test_one_gev_in_two_tesla_has_a_radius_of_1668_mm() -> None:
    assert 1 / helices(1.0).curvature[0] == pytest.approx(1667.82, abs=0.01)
    assert helices(2.0, charge=-1).curvature[0] == pytest.approx(-helices(1.0).curvature[0] / 2)


def test_a_positive_particle_turns_clockwise_seen_from_plus_z() -> None:
    start = helices(1.0, phi=0.0)
    quarter = start.moved(np.array([np.pi / 2 * 1667.82]))
    assert quarter.position[0, :2] == pytest.approx([1667.82, -1667.82], rel=1e-5)
    assert quarter.phi[0] == pytest.approx(-np.pi / 2, rel=1e-5)
    assert quarter.position[0, 2] == pytest.approx(np.pi / 2 * 1667.82 * 0.5, rel=1e-5)


@pytest.mark.parametrize("charge", [1.0, -1.0])
def test_small_steps_along_the_force_end_in_the_same_place(charge: float) -> None:
    start = helices(0.7, charge, at=(1.0, -2.0, 3.0))
    position, phi = start.position[0].copy(), 0.3
    step = 800 / 4000
    for _ in range(4000):
        middle = phi - start.curvature[0] * step / 2
        position += step * np.array([np.cos(middle), np.sin(middle), 0.5])
        phi -= start.curvature[0] * step
    assert start.moved(np.array([800.0])).position[0] == pytest.approx(position, abs=1e-3)


@pytest.mark.parametrize("pt", [0.3, 1.0, 100.0])
@pytest.mark.parametrize("at", [(0.0, 0.0, 0.0), (0.01, -0.02, 1.0), (-0.02, -0.01, 0.0), (5.0, 3.0, 0.0)])
def test_the_way_to_a_cylinder_ends_on_it(pt: float, at: tuple[float, ...]) -> None:
    start = helices(pt, at=at)
    for radius in (32.0, 500.0, 900.0):
        moved = start.moved(start.length_to_cylinder(np.array([radius])))
        assert np.hypot(*moved.position[0, :2]) == pytest.approx(radius, abs=1e-6)
        assert moved.outward[0]


def test_a_cylinder_out_of_reach_or_inside_is_at_no_distance() -> None:
    start = helices(0.2, at=(50.0, 0.0, 0.0), phi=0.0)
    assert np.isinf(start.length_to_cylinder(np.array([1000.0]))[0])
    assert np.isinf(start.length_to_cylinder(np.array([40.0]))[0])


def test_the_way_to_a_plane() -> None:
    start = helices(1.0, slope=-2.0, at=(0.0, 0.0, 10.0))
    length = start.length_to_plane(np.array([-600.0]))
    assert length[0] == pytest.approx(305.0)
    assert start.moved(length).position[0, 2] == pytest.approx(-600.0)
    assert np.isinf(start.length_to_plane(np.array([600.0]))[0])
