"""Still pictures of point clouds, fast and without a graphics card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from influencerformer.pictures.cloud_colours import prediction_palette, truth_palette
from influencerformer.pictures.cloud_instances import MATCH_IOU, Cloud, check_points, match_instances
from influencerformer.pictures.cloud_view import View, point_spacing

Colour = tuple[int, int, int]

SUPERSAMPLE = 2
MARGIN = 0.03
DISTANCE = 3.5  # of the camera, in radii of the cloud
POINT_RADIUS = 0.75  # in spacings of the points
HOLE_RADIUS = 0.75  # of holes in a surface that are closed, in spacings of the points
MOST_RADIUS = 16  # pixels before anti-aliasing
EMPTY_DISTANCE = 1e6
EDGE_STRENGTH = 18.0
EDGE_SCALES = ((1, 0.5), (2, 0.3), (5, 0.2))  # pixels, weight
DARKEST = 0.3
SHEET_GAP = 12
SHEET_TITLE = 34
SHEET_CAPTION = 20
SHEET_NOTE = (
    f"A prediction has the colour of the instance of its class that it covers at IoU {MATCH_IOU} or more, each "
    "instance found once; dark grey: it finds none; light grey: nothing is predicted."
)


def render_cloud(
    coordinates: npt.NDArray[np.floating],
    colors: npt.NDArray[np.uint8],
    size: tuple[int, int] = (640, 480),
    view: View | None = None,
    background: Colour = (255, 255, 255),
) -> Image.Image:
    """Draws a cloud in perspective, filling the picture, shaded by depth.

    Args:
        coordinates: (N, 3) floats, z up, any unit.
        colors: (N, 3) uint8, red, green, blue.
        size: width and height in pixels.
        view: `View.of(coordinates)` unless given.
        background: red, green, blue.

    Returns:
        an RGB picture.

    Raises:
        ValueError: arrays of other shapes or types, no point, NaN or infinite coordinates, a size below 1.
    """
    check_points(coordinates, colors)
    return paint(splat(coordinates, size, view), colors, background)


def render_sheet(clouds: Sequence[Cloud], size: tuple[int, int] = (480, 360), view: View | None = None) -> Image.Image:
    """All clouds on one picture, a row each: the cloud, its truth where known, and what each model finds.

    The columns are those of the first cloud; `SHEET_NOTE` says what the colours mean.

    Args:
        clouds: one or more, with predictions of the same models.
        size: width and height in pixels of one panel.
        view: of every cloud; `View.of` each unless given.

    Raises:
        ValueError: no cloud, or clouds that differ in having a truth or in their models.
    """
    if not clouds:
        raise ValueError("render_sheet needs at least one cloud")
    titles = [title for title, _ in panels(clouds[0])]
    width, height = size
    step = SHEET_CAPTION + height
    sheet = Image.new("RGB", (len(titles) * (width + SHEET_GAP) - SHEET_GAP, SHEET_TITLE + len(clouds) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        centre = column * (width + SHEET_GAP) + width // 2
        draw.text((centre, SHEET_TITLE // 2), title, fill="black", font_size=18, anchor="mm")
    for row, cloud in enumerate(clouds):
        pictures = panels(cloud)
        if [title for title, _ in pictures] != titles:
            raise ValueError(f"cloud {cloud.name!r} gives other panels than {clouds[0].name!r}, which gives {titles}")
        top = SHEET_TITLE + row * step
        draw.text((SHEET_GAP, top), caption(cloud), fill=(90, 94, 100), font_size=14)
        seen = splat(cloud.coordinates, size, view)
        for column, (_, colors) in enumerate(pictures):
            sheet.paste(paint(seen, colors), (column * (width + SHEET_GAP), top + SHEET_CAPTION))
    return sheet


def caption(cloud: Cloud) -> str:
    """The name of a cloud, and how many of its instances each model finds, where the truth is known."""
    if cloud.truth is None:
        return cloud.name
    found = [
        f"{title} {np.count_nonzero(match_instances(part, cloud.truth).found)}"
        for title, part in cloud.predictions.items()
    ]
    return f"{cloud.name}, instances: {cloud.truth.count}" + (f", found: {', '.join(found)}" if found else "")


def panels(cloud: Cloud) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Titles and colours (N, 3) uint8 of the pictures of a cloud: the cloud, its truth, and each prediction."""
    result = [("Room", cloud.colors)]
    truth = cloud.truth
    if truth is not None:
        result.append(("Truth", truth_palette(truth)[truth.labels]))
    for title, found in cloud.predictions.items():
        matches = None if truth is None else match_instances(found, truth)
        result.append((title, prediction_palette(found, truth, matches)[found.labels]))
    return result


@dataclass(frozen=True)
class Splats:
    """Which point each pixel shows, and how bright; (H, W) before anti-aliasing.

    Attributes:
        point: int64, the number of the point, -1 where there is none.
        shade: float32, 0 dark to 1.
    """

    point: npt.NDArray[np.int64]
    shade: npt.NDArray[np.float32]


def splat(coordinates: npt.NDArray[np.floating], size: tuple[int, int], view: View | None = None) -> Splats:
    """Projects the shown points onto pixels: the nearest point wins, each point is a disc of the points' spacing."""
    if min(size) < 1:
        raise ValueError(f"a picture needs a width and height of 1 pixel or more, got {size}")
    view = View.of(coordinates) if view is None else view
    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    shown = np.flatnonzero(view.shown(coordinates))
    points = coordinates[shown].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    right, up, towards = ((points - (low + high) / 2) / reach @ view.axes().T).T
    depth = DISTANCE - towards
    across, along = right / depth, -up / depth
    spacing = point_spacing(coordinates) / reach / DISTANCE
    spans = np.array([np.ptp(across), np.ptp(along)]) + 2 * POINT_RADIUS * spacing
    room = np.array([width, height]) * (1 - 2 * MARGIN)
    scale = float((room / np.maximum(spans, 1e-9)).min())
    columns = _pixels(across, scale, width)
    rows = _pixels(along, scale, height)

    # Points numbered from the nearest to the farthest: the smallest number at a pixel is the one it shows.
    order = np.argsort(depth)
    nearest = np.full(height * width, len(shown), dtype=np.int32)
    np.minimum.at(nearest, (rows * width + columns)[order], np.arange(len(shown), dtype=np.int32))
    nearest = _fill(nearest.reshape(height, width), spacing * scale, len(shown))

    distances = np.append(depth[order], EMPTY_DISTANCE).astype(np.float32)
    return Splats(np.append(shown[order], -1)[nearest], _eye_dome_lighting(distances[nearest]))


def paint(splats: Splats, colors: npt.NDArray[np.uint8], background: Colour = (255, 255, 255)) -> Image.Image:
    """The picture of splats with the colours (N, 3) uint8 of the points, anti-aliased."""
    pixels = colors[splats.point] * splats.shade[..., None]
    pixels[splats.point < 0] = background
    return Image.fromarray(pixels.astype(np.uint8)).reduce(SUPERSAMPLE)


def _pixels(positions: npt.NDArray[np.float64], scale: float, length: int) -> npt.NDArray[np.int64]:
    """Pixels of positions along one side of the picture, their middle in its middle."""
    middle = (positions.min() + positions.max()) / 2
    return np.clip(((positions - middle) * scale + length / 2).astype(np.int64), 0, length - 1)


def _fill(nearest: npt.NDArray[np.int32], spacing: float, empty: int) -> npt.NDArray[np.int32]:
    """Draws each point as an octagon, and closes holes in surfaces that are narrower than HOLE_RADIUS allows.

    Args:
        nearest: (H, W), for each pixel the number of its nearest point, `empty` where it has none.
        spacing: of the points, in pixels.
        empty: larger than any number of a point.
    """
    radius = min(max(round(POINT_RADIUS * spacing), 1), MOST_RADIUS)
    more = min(round(HOLE_RADIUS * spacing), 2 * MOST_RADIUS)
    grown = _smallest_around(nearest, radius, empty)
    wide = _smallest_around(grown, more, empty)
    outside = _smallest_around((wide != empty).astype(np.int32), more, 0) == 0
    return np.where((grown == empty) & ~outside, wide, grown)


def _smallest_around(values: npt.NDArray[np.int32], radius: int, beyond: int) -> npt.NDArray[np.int32]:
    """Every pixel's smallest value within an octagon: crosses and squares of 3 pixels in turn, `radius` times.

    Outside the picture every value is `beyond`.
    """
    padded = np.pad(values, 1, constant_values=beyond)
    inner = padded[1:-1, 1:-1]
    for step in range(radius):
        beside = np.minimum(padded[:, :-2], padded[:, 2:])
        np.minimum(beside, padded[:, 1:-1], out=beside)
        column = beside if step % 2 else padded[:, 1:-1]
        result = np.minimum(column[:-2], column[2:])
        np.minimum(result, beside[1:-1], out=result)
        inner[:] = result
    return inner.copy()


def _eye_dome_lighting(distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Brightness (H, W) by how far a pixel lies behind its neighbours, at a fine and coarser scales.

    After C. Boucheny, Visualisation scientifique interactive de grands volumes de données (thesis, Grenoble 2009):
    exp(-s * mean over neighbours of max(0, log2 d - log2 d_neighbour)), here kept above DARKEST.
    """
    depth = np.log2(distance)
    height, width = depth.shape
    response = np.zeros_like(depth)
    for reach, weight in EDGE_SCALES:
        reach *= SUPERSAMPLE
        padded = np.pad(depth, reach, mode="edge")
        for down, side in ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)):
            down, side = reach + down * reach, reach + side * reach
            behind = depth - padded[down : down + height, side : side + width]
            np.maximum(behind, 0, out=behind)
            behind *= weight / 8
            response += behind
    return (DARKEST + (1 - DARKEST) * np.exp(-EDGE_STRENGTH * response)).astype(np.float32)
