"""Views: axes, ceilings that are cut, walls that are opened, spacing of points."""

from __future__ import annotations

import numpy as np
import pytest
from clouds import tile

from influencerformer.data.points.rooms import generate_room
from influencerformer.pictures.cloud_view import View, ceiling_cut, point_spacing


def box(width: float, depth: float, height: float, parts: str) -> np.ndarray:
    """Points on a room's floor (f), ceiling (c) and walls to the south (s), north (n), west (w) and east (e)."""
    generator = np.random.default_rng(0)
    u, v = generator.random((2, 4000))
    flat, zero = np.stack([u * width, v * depth], axis=1), np.zeros(4000)
    faces = {
        "f": np.column_stack([flat, zero]),
        "c": np.column_stack([flat, zero + height]),
        "s": np.column_stack([u * width, zero, v * height]),
        "n": np.column_stack([u * width, zero + depth, v * height]),
        "w": np.column_stack([zero, u * depth, v * height]),
        "e": np.column_stack([zero + width, u * depth, v * height]),
    }
    return np.concatenate([faces[part] for part in parts]).astype(np.float32)


def test_axes_are_right_up_and_towards_the_camera() -> None:
    level = View(azimuth=-90, elevation=0).axes()
    assert np.allclose(level, [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    above = View(azimuth=0, elevation=90).axes()
    assert np.allclose(above, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)
    oblique = View(azimuth=33, elevation=-20).axes()
    assert np.allclose(oblique @ oblique.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(oblique) == pytest.approx(1)


def test_elevation_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"elevation must lie in -90..90 degrees, got 91"):
        View(elevation=91)


def test_ceiling_is_found_and_cut_below() -> None:
    closed = box(5, 4, 2.8, "fcsnwe")
    cut = ceiling_cut(closed)
    assert cut == pytest.approx(0.75 * 2.8, abs=0.05)
    assert ceiling_cut(box(5, 4, 2.8, "fsnwe")) is None
    assert ceiling_cut(tile(0, 0)) is None
    assert ceiling_cut(np.zeros((1, 3), np.float32)) is None


def test_ceiling_is_found_despite_stray_points() -> None:
    stray = np.array([[2, 2, 9], [30, 2, 1]], dtype=np.float32)
    assert ceiling_cut(np.concatenate((box(5, 4, 2.8, "fcsnwe"), stray))) == pytest.approx(2.1, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_generated_rooms_are_opened(seed: int) -> None:
    room = generate_room(seed, density=60, scanners=0)
    view = View.of(room.points)
    height = room.points[:, 2].max()
    assert view.top is not None
    assert 0.6 * height < view.top < 0.85 * height
    shown = view.shown(room.points)
    assert 0.2 < shown.mean() < 0.8
    assert room.points[shown, 2].max() <= view.top


def test_front_walls_are_those_that_face_the_camera() -> None:
    room = box(5, 4, 2.8, "fcsnwe")
    shown = View(azimuth=-60, elevation=45, open_front=True).shown(room)
    walls = np.arange(len(room)) // 4000
    # The camera stands in the south-east; parts of the other faces beside the two walls go with them.
    assert not shown[walls == 2].any()
    assert not shown[walls == 5].any()
    assert shown[walls == 3].mean() > 0.95
    assert shown[walls == 4].mean() > 0.95
    assert shown[walls == 0].mean() > 0.9


def test_all_is_shown_rather_than_nothing() -> None:
    assert View(top=-5).shown(tile(0, 0)).all()


def test_longer_side_lies_across() -> None:
    for points in (box(6, 3, 1, "f"), box(3, 6, 1, "f")):
        right = View.of(points).axes()[0]
        longer = int(np.argmax(np.ptp(points[:, :2], axis=0)))
        assert abs(right[longer]) > 0.8


def test_spacing_is_the_side_of_a_points_area() -> None:
    generator = np.random.default_rng(1)
    for count in (5000, 200_000):
        plane = np.column_stack([generator.random((count, 2)) * 10, np.zeros(count)])
        assert point_spacing(plane) == pytest.approx(10 / np.sqrt(count), rel=0.1)
    for per_side in (10, 60):
        assert point_spacing(tile(0, 0, per_side=per_side)) == pytest.approx(1 / per_side, rel=0.2)
    assert point_spacing(plane[:1]) == 0
    assert point_spacing(np.zeros((50, 3))) == 0
