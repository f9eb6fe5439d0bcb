"""Stills: what is near hides what is far, depth is shaded, and nothing is out of place."""

from __future__ import annotations

import numpy as np
import pytest
from clouds import planted_cloud, tile
from scipy import ndimage

from influencerformer.pictures.cloud_colours import NO_INSTANCE_COLOUR, UNMATCHED_COLOUR, instance_colours
from influencerformer.pictures.cloud_instances import Cloud
from influencerformer.pictures.cloud_render import (
    DARKEST,
    SHEET_CAPTION,
    SHEET_GAP,
    SHEET_TITLE,
    SUPERSAMPLE,
    _eye_dome_lighting,
    _smallest_around,
    caption,
    panels,
    render_cloud,
    render_sheet,
    splat,
)
from influencerformer.pictures.cloud_view import View

RED, BLUE = (255, 0, 0), (0, 0, 255)
ABOVE = View(azimuth=-90, elevation=90)


def coloured(parts: list[tuple[np.ndarray, tuple[int, int, int]]]) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([part for part, _ in parts])
    colors = np.concatenate([np.tile(np.array(colour, np.uint8), (len(part), 1)) for part, colour in parts])
    return points, colors


def pixels(picture: object) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_place_and_colour_seen_from_above() -> None:
    points, colors = coloured([(tile(0, 0), RED), (tile(1, 0), BLUE)])
    picture = render_cloud(points, colors, (100, 60), ABOVE)
    assert picture.mode == "RGB"
    assert picture.size == (100, 60)
    seen = pixels(picture)
    assert (seen[30, 25] == RED).all()
    assert (seen[30, 75] == BLUE).all()
    assert (seen[0] == 255).all()
    assert (seen[:, 0] == 255).all()
    coverage = (seen != 255).any(axis=2).mean()
    assert coverage == pytest.approx(0.94 * 0.94 * 50 / 60, abs=0.05)


def test_near_points_hide_far_ones_whatever_their_order() -> None:
    parts = [(tile(0, 0, 1.0), RED), (tile(0, 0, 0.0), BLUE)]
    for order in (parts, parts[::-1]):
        from_above = pixels(render_cloud(*coloured(order), (80, 80), ABOVE))[40, 40]
        from_below = pixels(render_cloud(*coloured(order), (80, 80), View(azimuth=-90, elevation=-90)))[40, 40]
        assert from_above[0] > 200 > 50 > from_above[2]
        assert from_below[2] > 200 > 50 > from_below[0]


def test_height_goes_up_in_the_picture_and_background_is_chosen() -> None:
    points, colors = coloured([(tile(0, 0, 0.0), BLUE), (tile(0, 0, 3.0), RED)])
    seen = pixels(render_cloud(points, colors, (60, 90), View(azimuth=-90, elevation=20), background=(1, 2, 3)))
    reds, blues = np.argwhere(seen[..., 0] > 150)[:, 0], np.argwhere(seen[..., 2] > 150)[:, 0]
    assert reds.max() < blues.min()
    assert (seen[0, 0] == (1, 2, 3)).all()


def test_surface_has_no_holes() -> None:
    generator = np.random.default_rng(0)
    points = np.column_stack([generator.random((3000, 2)), np.zeros(3000)])
    seen = pixels(render_cloud(points, np.zeros((3000, 3), np.uint8), (200, 200), ABOVE))
    inside = seen[15:-15, 15:-15]
    assert (inside.max(axis=2) < 128).mean() > 0.98


def test_what_the_view_hides_is_not_drawn() -> None:
    points, colors = coloured([(tile(0, 0, 0.0), BLUE), (tile(0, 0, 2.0), RED)])
    seen = pixels(render_cloud(points, colors, (50, 50), View(elevation=90, top=1.0)))
    assert (seen[25, 25] == BLUE).all()
    assert not ((seen[..., 0] > 200) & (seen[..., 2] < 50)).any()


def test_splats_name_the_points_of_the_whole_cloud() -> None:
    points, _ = coloured([(tile(0, 0, 2.0), RED), (tile(0, 0, 0.0), BLUE)])
    splats = splat(points, (40, 30), View(elevation=90, top=1.0))
    assert splats.point.shape == splats.shade.shape == (30 * SUPERSAMPLE, 40 * SUPERSAMPLE)
    shown = np.unique(splats.point)
    assert shown[0] == -1
    assert shown[1:].min() >= 625
    assert shown.max() < 1250


def test_depth_is_shaded_behind_an_edge_only() -> None:
    distance = np.full((40, 60), 10.0, dtype=np.float32)
    distance[:, 30:] = 20.0
    shade = _eye_dome_lighting(distance)
    assert (shade[:, :30] == 1).all()
    assert shade[20, 30] < 0.5
    assert shade.min() >= DARKEST
    assert (shade[:, 45:] == 1).all()
    assert (np.diff(shade[20, 30:45]) >= 0).all()


def test_growing_takes_the_smallest_of_an_octagon() -> None:
    values = np.random.default_rng(0).integers(0, 1000, (23, 31)).astype(np.int32)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    expected = values
    for radius in range(5):
        assert np.array_equal(_smallest_around(values, radius, 1000), expected)
        footprint = np.ones((3, 3), dtype=bool) if radius % 2 else cross
        expected = ndimage.minimum_filter(expected, footprint=footprint, mode="constant", cval=1000)


def test_one_point_and_coinciding_points_are_drawn() -> None:
    for points in (np.zeros((1, 3), np.float32), np.zeros((9, 3))):
        seen = pixels(render_cloud(points, np.zeros((len(points), 3), np.uint8), (20, 20)))
        assert seen.min() < 128
        assert (seen[0] == 255).all()


def test_large_coordinates_keep_their_detail() -> None:
    points, colors = coloured([(tile(0, 0), RED), (tile(1, 0), BLUE)])
    near = render_cloud(points, colors, (60, 40), ABOVE)
    far = render_cloud(points.astype(np.float64) + np.array([4.5e6, 5.3e6, 300.0]), colors, (60, 40), ABOVE)
    assert np.abs(pixels(near) - pixels(far)).mean() < 3


def test_panels_and_sheet() -> None:
    cloud = planted_cloud()
    titles = [title for title, _ in panels(cloud)]
    assert titles == ["Room", "Truth", "First", "Second"]
    colours = dict(panels(cloud))
    assert (colours["Room"] == cloud.colors).all()
    assert (colours["First"][:625] == instance_colours(1)[0]).all()
    assert (colours["First"][625] == UNMATCHED_COLOUR).all()
    assert (colours["First"][-1] == NO_INSTANCE_COLOUR).all()
    sheet = render_sheet([cloud, cloud], (80, 50))
    assert sheet.size == (4 * 80 + 3 * SHEET_GAP, SHEET_TITLE + 2 * (SHEET_CAPTION + 50))
    seen = pixels(sheet)
    assert (seen[:SHEET_TITLE] < 100).any()
    rows = seen[SHEET_TITLE:].reshape(2, SHEET_CAPTION + 50, -1, 3)
    assert np.array_equal(rows[0], rows[1])
    first = rows[0, SHEET_CAPTION:]
    assert (rows[0, :SHEET_CAPTION] < 150).any()
    assert not np.array_equal(first[:, :80], first[:, 80 + SHEET_GAP : 160 + SHEET_GAP])


def test_caption_counts_what_is_found() -> None:
    cloud = planted_cloud("hall")
    assert caption(cloud) == "hall, instances: 3, found: First 1, Second 2"
    assert caption(Cloud("hall", cloud.coordinates, cloud.colors, cloud.truth)) == "hall, instances: 3"
    assert caption(Cloud("hall", cloud.coordinates, cloud.colors)) == "hall"


def test_cloud_without_truth_has_no_truth_panel() -> None:
    cloud = planted_cloud()
    bare = Cloud(cloud.name, cloud.coordinates, cloud.colors, None, {"First": cloud.predictions["First"]})
    pictures = panels(bare)
    assert [title for title, _ in pictures] == ["Room", "First"]
    assert (pictures[1][1][625] == instance_colours(2)[1]).all()


def test_bad_input_is_refused() -> None:
    cloud = planted_cloud()
    bare = Cloud("bare", cloud.coordinates, cloud.colors)
    with pytest.raises(ValueError, match="at least one cloud"):
        render_sheet([])
    with pytest.raises(ValueError, match=r"cloud 'bare' gives other panels than 'planted', which gives \['Room'"):
        render_sheet([cloud, bare], (8, 8))
    with pytest.raises(ValueError, match=r"width and height of 1 pixel or more, got \(0, 5\)"):
        render_cloud(cloud.coordinates, cloud.colors, (0, 5))
    with pytest.raises(ValueError, match=r"colors must be \(3125, 3\) uint8"):
        render_cloud(cloud.coordinates, cloud.colors / 255, (5, 5))
