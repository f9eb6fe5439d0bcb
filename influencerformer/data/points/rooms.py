"""Generated indoor rooms as coloured point clouds with instances: S3DIS's classes without a download.

Chairs stand pushed under tables and side by side, bookcases in runs: instances that touch and look alike, which
is what makes instance segmentation of rooms hard. Points that no scanner position sees are thinned out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from influencerformer.data.points.room_layout import Placed, furnish
from influencerformer.errors import UserError

# S3DIS's classes in S3DIS's order.
ROOM_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board"),
    "clutter",
)
# Typical colour of each class, around which a room draws its own.
_COLORS = {
    "ceiling": (225, 225, 220),
    "floor": (140, 125, 105),
    "wall": (205, 200, 185),
    "window": (150, 180, 210),
    "door": (150, 105, 70),
    "table": (175, 140, 100),
    "chair": (70, 75, 95),
    "sofa": (125, 55, 55),
    "bookcase": (110, 75, 50),
    "board": (235, 240, 240),
    "clutter": (150, 150, 150),
}
_MAX_POINTS = 20_000_000


@dataclass(frozen=True)
class Room:
    """A room as points.

    Attributes:
        points: (N, 3) float32, metres, z up, the room's corner near the origin.
        colors: (N, 3) uint8, red, green, blue.
        semantic: (N,) int64, indices into `ROOM_CLASSES`.
        instance: (N,) int64, 0..K-1, each with at least one point and of one class; walls are one instance each.
    """

    points: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.int64]
    instance: npt.NDArray[np.int64]


def generate_room(
    seed: int,
    *,
    width: tuple[float, float] = (3.5, 6.0),
    height: tuple[float, float] = (2.5, 3.0),
    density: float = 400.0,
    crowding: float = 1.0,
    noise: float = 0.01,
    scanners: int = 2,
    hidden_keep: float = 0.2,
) -> Room:
    """Generates one room. The same arguments give the same room.

    Args:
        seed: 0 or more; rooms of different seeds are independent.
        width: range in metres that both sides of the floor are drawn from, 2.5 or more.
        height: range in metres of the ceiling's height, 2.3 or more.
        density: points on a square metre of surface before occlusion.
        crowding: factor on the number of pieces of furniture that are tried; 0 leaves the room bare.
        noise: standard deviation in metres of each coordinate.
        scanners: positions a scanner stood at; 0 for no occlusion.
        hidden_keep: probability that a point stays which no scanner sees.

    Raises:
        UserError: arguments out of range, or a room of more than 20 million points.
    """
    for name, (low, high), least in (("width", width, 2.5), ("height", height, 2.3)):
        if not least <= low <= high <= 100:
            raise UserError(f"a room's {name} needs a range from {least} m or more to 100 m, got {(low, high)}")
    if not (seed >= 0 and density > 0 and 0 <= crowding <= 10 and noise >= 0 and scanners >= 0):
        raise UserError(
            "a room needs seed, noise and scanners of 0 or more, density above 0 and crowding of 0 to 10, got "
            f"seed={seed}, density={density}, crowding={crowding}, noise={noise}, scanners={scanners}"
        )
    if not 0 <= hidden_keep <= 1:
        raise UserError(f"hidden_keep is a probability from 0 to 1, got {hidden_keep}")
    generator = np.random.default_rng(seed)
    size = (generator.uniform(*width), generator.uniform(*width), generator.uniform(*height))
    placed = furnish(generator, size, crowding)
    area = sum(4 * (h[0] * h[1] + h[1] * h[2] + h[0] * h[2]) * 2 for p in placed for h in [p.half])
    if area * density > _MAX_POINTS:
        raise UserError(f"a room of about {area * density:.0f} points is too large: lower density or width")
    points, colors, owner = _sample(generator, placed, density)
    if scanners:
        stands = generator.uniform((0.25, 0.25, 0.5), (0.75, 0.75, 0.7), (scanners, 3)) * size
        keep = _visible(points, stands, placed) | (generator.random(len(points)) < hidden_keep)
        points, colors, owner = points[keep], colors[keep], owner[keep]
    points = points + generator.normal(0, noise, points.shape)
    names = np.zeros(max(p.instance for p in placed) + 1, dtype=np.int64)
    for p in placed:
        names[p.instance] = ROOM_CLASSES.index(p.name)
    semantic = names[owner]
    instance = np.unique(owner, return_inverse=True)[1].astype(np.int64)
    return Room(points.astype(np.float32), colors, semantic, instance)


def _sample(
    generator: np.random.Generator, placed: list[Placed], density: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Points (N, 3), colours (N, 3) and instance numbers (N,) spread evenly over the faces of all boxes."""
    class_color = {name: np.array(c) + generator.normal(0, 30, 3) for name, c in _COLORS.items()}
    instance_color: dict[int, npt.NDArray[np.float64]] = {}
    points, colors, owner = [], [], []
    for box in placed:
        if box.instance not in instance_color:
            # Pieces of a class look alike within a room, clutter does not.
            spread = 50 if box.name == "clutter" else 6
            instance_color[box.instance] = class_color[box.name] + generator.normal(0, spread, 3)
        half = np.array(box.half)
        color = np.array(box.shade) if isinstance(box.shade, tuple) else instance_color[box.instance] * box.shade
        for axis in range(3):
            one, two = (axis + 1) % 3, (axis + 2) % 3
            sides = (-1, 1) if half[axis] > 0 else (1,)
            for side in sides:
                count = int(generator.poisson(4 * half[one] * half[two] * density))
                local = generator.uniform(-1, 1, (count, 3)) * half
                local[:, axis] = side * half[axis]
                light = 1.0 + 0.05 * axis * side
                points.append(box.to_room(local))
                colors.append(color * light + generator.normal(0, 9, (count, 3)))
                owner.append(np.full(count, box.instance, dtype=np.int64))
    return (
        np.concatenate(points),
        np.concatenate(colors).round().clip(0, 255).astype(np.uint8),
        np.concatenate(owner),
    )


def _visible(
    points: npt.NDArray[np.float64], stands: npt.NDArray[np.float64], placed: list[Placed]
) -> npt.NDArray[np.bool_]:
    """(N,) which points at least one stand (S, 3) sees past all boxes that have a volume."""
    seen = np.zeros(len(points), dtype=np.bool_)
    boxes = [(box, box.to_room(np.zeros((1, 3)))[0], float(np.linalg.norm(box.half))) for box in placed]
    for stand in stands:
        free = np.ones(len(points), dtype=np.bool_)
        rays = points - stand
        lengths = np.linalg.norm(rays, axis=1)
        directions = rays / lengths.clip(1e-9)[:, None]
        # A box hides what lies behind its near side, with 2 cm to spare: its own near faces stay visible.
        reach = 1 - 0.02 / lengths.clip(0.05)
        for box, middle, radius in boxes:
            if min(box.half) <= 0:
                continue
            # Most rays miss the sphere about the box: only the others are tested against its sides.
            offset = middle - stand
            along = directions @ offset
            near = free & (offset @ offset - along**2 <= (radius + 1e-3) ** 2) & (along > -radius - 1e-3)
            rays_near = np.flatnonzero(near)
            if not len(rays_near):
                continue
            start, ends = box.to_box(stand[None])[0], box.to_box(points[rays_near])
            step = ends - start
            step[np.abs(step) < 1e-9] = 1e-9
            one, two = (-np.array(box.half) - start) / step, (np.array(box.half) - start) / step
            enter, leave = np.minimum(one, two).max(1), np.maximum(one, two).min(1)
            free[rays_near] &= ~((enter < leave) & (enter < reach[rays_near]) & (leave > 0))
        seen |= free
    return seen
