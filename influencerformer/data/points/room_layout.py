"""Where things stand in a generated room: walls, and furniture that does not overlap but may touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from influencerformer.data.points import room_furniture as furniture
from influencerformer.data.points.room_furniture import Piece


@dataclass(frozen=True)
class Placed:
    """A box in the room.

    Attributes:
        name: class of its instance.
        instance: number of its instance.
        origin: x, y, z in metres of the piece's own origin in the room.
        yaw: the piece's rotation about z, radians.
        center, half, shade: the box in the piece's frame, as in `Part`.
    """

    name: str
    instance: int
    origin: tuple[float, float, float]
    yaw: float
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    shade: float | tuple[float, float, float]

    def to_room(self, local: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points (N, 3) relative to the box's centre, along its sides, as points of the room."""
        return (local + self.center) @ _rotation(self.yaw).T + self.origin

    def to_box(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points (N, 3) of the room relative to the box's centre, along its sides."""
        return (points - self.origin) @ _rotation(self.yaw) - self.center


def _rotation(yaw: float) -> npt.NDArray[np.float64]:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


class Layout:
    """Collects the boxes of a room of `size` (x, y, z) metres and keeps furniture from overlapping."""

    def __init__(self, generator: np.random.Generator, size: tuple[float, float, float]) -> None:
        self.generator = generator
        self.size = size
        self.boxes: list[Placed] = []
        self.count = 0
        self._floor: list[tuple[float, float, float, float]] = []

    def add(self, piece: Piece, x: float, y: float, yaw: float) -> None:
        """Adds a piece as the next instance, without a look at what stands there."""
        for part in piece.parts:
            self.boxes.append(Placed(piece.name, self.count, (x, y, 0.0), yaw, part.center, part.half, part.shade))
        self.count += 1

    def fits(self, piece: Piece, x: float, y: float, yaw: float) -> bool:
        """Whether the piece's floor is inside the room and free, to 1 cm."""
        x0, y0, x1, y1 = self._area(piece, x, y, yaw)
        if min(x0, y0) < -0.01 or x1 > self.size[0] + 0.01 or y1 > self.size[1] + 0.01:
            return False
        return all(x0 > c - 0.01 or x1 < a + 0.01 or y0 > d - 0.01 or y1 < b + 0.01 for a, b, c, d in self._floor)

    def place(self, piece: Piece, x: float, y: float, yaw: float) -> bool:
        """Adds the piece and takes its floor if it fits; says whether it did."""
        if not self.fits(piece, x, y, yaw):
            return False
        self.add(piece, x, y, yaw)
        self.reserve(piece, x, y, yaw)
        return True

    def reserve(self, piece: Piece, x: float, y: float, yaw: float) -> None:
        """Keeps the piece's floor free of what comes later."""
        self._floor.append(self._area(piece, x, y, yaw))

    def _area(self, piece: Piece, x: float, y: float, yaw: float) -> tuple[float, float, float, float]:
        half = np.array(piece.size) / 2
        cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
        dx, dy = float(cos * half[0] + sin * half[1]), float(sin * half[0] + cos * half[1])
        return x - dx, y - dy, x + dx, y + dy

    def at_wall(self, piece: Piece, wall: int, along: float, gap: float = 0.0) -> tuple[float, float, float]:
        """x, y and yaw of a piece with its -y side at a wall (0 to 3) and its centre `along` that wall."""
        off = piece.size[1] / 2 + gap
        width, depth, _ = self.size
        poses = (
            (along, off, 0.0),
            (width - off, along, np.pi / 2),
            (along, depth - off, np.pi),
            (off, along, -np.pi / 2),
        )
        return poses[wall]

    def random_wall(self, length: float) -> tuple[int, float]:
        """A wall and a place along it for something of that length."""
        wall = int(self.generator.integers(4))
        room = self.size[wall % 2]
        half = min(length, room) / 2
        return wall, float(self.generator.uniform(half, room - half))


def furnish(generator: np.random.Generator, size: tuple[float, float, float], crowding: float) -> list[Placed]:
    """All boxes of a room.

    Args:
        generator: source of every choice.
        size: x, y, z of the room in metres.
        crowding: factor on how many pieces are tried.
    """
    layout = Layout(generator, size)
    _shell(layout)
    area = size[0] * size[1]

    def repeat(action: Callable[[Layout], None], per_square_metre: float, least: int) -> None:
        for _ in range(round(crowding * max(least, generator.poisson(per_square_metre * area)))):
            action(layout)

    _wall_panel(layout, "door", (0.8, 1.0), 0.0, 2.05)
    repeat(lambda room: _wall_panel(room, "board", (1.0, 2.2), 0.9, 2.0), 0.08, 1)
    repeat(_table_with_chairs, 0.1, 1)
    repeat(_chair_row, 0.06, 1)
    repeat(_sofa, 0.05, 1)
    repeat(_bookcases, 0.06, 1)
    repeat(_floor_box, 0.15, 1)
    repeat(_lamp, 0.06, 1)
    return layout.boxes


def _shell(layout: Layout) -> None:
    """Floor, ceiling and four walls, an instance each."""
    x, y, z = (length / 2 for length in layout.size)
    for name, center, half in (
        ("floor", (x, y, 0.0), (x, y, 0.0)),
        ("ceiling", (x, y, 2 * z), (x, y, 0.0)),
        ("wall", (x, 0.0, z), (x, 0.0, z)),
        ("wall", (2 * x, y, z), (0.0, y, z)),
        ("wall", (x, 2 * y, z), (x, 0.0, z)),
        ("wall", (0.0, y, z), (0.0, y, z)),
    ):
        layout.add(Piece(name, [furniture.Part(center, half)], (0.0, 0.0)), 0.0, 0.0, 0.0)


def _wall_panel(layout: Layout, name: str, widths: tuple[float, float], bottom: float, top: float) -> None:
    """A door or board on a wall; no furniture comes in front of it, so that it is not all hidden."""
    for _ in range(8):
        piece = furniture.panel(name, float(layout.generator.uniform(*widths)), 0.04, bottom, top)
        front = Piece(name, [], (piece.size[0], 0.3))
        wall, along = layout.random_wall(piece.size[0])
        if layout.fits(front, *layout.at_wall(front, wall, along)):
            layout.add(piece, *layout.at_wall(piece, wall, along))
            layout.reserve(front, *layout.at_wall(front, wall, along))
            return


def _bookcases(layout: Layout) -> None:
    """One to three bookcases along a wall, side by side without a gap."""
    generator = layout.generator
    number = int(generator.integers(1, 4))
    width, depth = float(generator.uniform(0.7, 1.0)), float(generator.uniform(0.28, 0.4))
    height = float(generator.uniform(1.5, 2.1))
    for _ in range(4):
        wall, along = layout.random_wall(number * width)
        pieces = [furniture.bookcase(generator, width, depth, height) for _ in range(number)]
        starts = [along + (index - (number - 1) / 2) * width for index in range(number)]
        # A run that is cut by something else keeps the bookcases that fit.
        if sum([layout.place(p, *layout.at_wall(p, wall, at)) for p, at in zip(pieces, starts, strict=True)]):
            return


def _sofa(layout: Layout) -> None:
    """A sofa along a wall."""
    for _ in range(8):
        piece = furniture.sofa(float(layout.generator.uniform(0.9, 1.9)), float(layout.generator.uniform(0.7, 0.9)))
        if layout.place(piece, *layout.at_wall(piece, *layout.random_wall(piece.size[0]), gap=0.02)):
            return


def _chair_kind(generator: np.random.Generator) -> tuple[float, float, float]:
    """Width, depth and back of the chairs of a group."""
    return float(generator.uniform(0.4, 0.5)), float(generator.uniform(0.4, 0.46)), float(generator.uniform(0.35, 0.5))


def _table_with_chairs(layout: Layout) -> None:
    """A table with chairs, the first pushed in until its back touches the edge; sometimes a second table beside it."""
    generator = layout.generator
    height = float(generator.uniform(0.7, 0.78))
    for _ in range(10):
        width, depth = float(generator.uniform(0.7, 1.6)), float(generator.uniform(0.88, 1.1))
        piece = furniture.table(width, depth, height, bool(generator.random() < 0.4))
        yaw = float(generator.integers(2) * np.pi / 2)
        reach = 0.5 + (depth if yaw == 0 else width) / 2
        x, y = (float(generator.uniform(reach, max(reach, side - reach))) for side in layout.size[:2])
        if layout.place(piece, x, y, yaw):
            break
    else:
        return
    if generator.random() < 0.5:
        beside = _rotation(yaw) @ (float(generator.choice([-1, 1])) * width, 0.0, 0.0)
        layout.place(piece, x + float(beside[0]), y + float(beside[1]), yaw)
    kind = _chair_kind(generator)
    spacing = kind[0] + float(generator.choice([0.02, 0.1, 0.25]))
    number = max(1, int((width - 0.1) // spacing))
    pushed = 0
    for side in (0, 1):
        for index in range(number):
            if generator.random() < 0.25 and pushed:
                continue
            # How far the chair's back stands from the table's edge: none if pushed in, the whole chair at most.
            out = 0.02 if pushed == 0 or generator.random() < 0.5 else float(generator.uniform(0.05, kind[1]))
            local = np.array([(index - (number - 1) / 2) * spacing, -depth / 2 - out + kind[1] / 2 - 0.05, 0.0])
            turn = yaw + side * np.pi
            cx, cy, _ = _rotation(turn) @ local + (x, y, 0.0)
            seat = furniture.chair(*kind)
            # Only what stands outside the table is checked against the rest.
            strip = Piece("chair", [], (kind[0], out + 0.05))
            off = _rotation(turn) @ (local[0], -depth / 2 - (out + 0.05) / 2 - 0.012, 0.0) + (x, y, 0.0)
            if layout.fits(strip, float(off[0]), float(off[1]), turn):
                layout.add(seat, float(cx), float(cy), turn + float(generator.normal(0, 0.03)))
                layout.reserve(strip, float(off[0]), float(off[1]), turn)
                pushed += out == 0.02
    if generator.random() < 0.6:
        box = furniture.clutter_box(0.45, 0.12, float(generator.uniform(0.3, 0.4)), bottom=height)
        layout.add(box, x + float(generator.uniform(-0.1, 0.1)), y, yaw)


def _chair_row(layout: Layout) -> None:
    """Two to four chairs side by side along a wall, touching or nearly so."""
    generator = layout.generator
    number, kind = int(generator.integers(2, 5)), _chair_kind(generator)
    spacing = kind[0] + float(generator.choice([0.01, 0.05]))
    wall, along = layout.random_wall(number * spacing)
    for index in range(number):
        piece = furniture.chair(*kind)
        pose = layout.at_wall(piece, wall, along + (index - (number - 1) / 2) * spacing, gap=0.03)
        layout.place(piece, *pose)


def _floor_box(layout: Layout) -> None:
    """A box somewhere on the floor."""
    generator = layout.generator
    width, depth, height = generator.uniform((0.25, 0.25, 0.2), (0.5, 0.5, 0.6)).tolist()
    x, y = (float(generator.uniform(0.4, side - 0.4)) for side in layout.size[:2])
    layout.place(furniture.clutter_box(width, depth, height), x, y, 0.0)


def _lamp(layout: Layout) -> None:
    """A lamp under the ceiling."""
    width, depth, height = layout.size
    x, y = float(layout.generator.uniform(0.5, width - 0.5)), float(layout.generator.uniform(0.5, depth - 0.5))
    layout.add(furniture.ceiling_lamp(1.0, 0.25, height), x, y, float(layout.generator.integers(2) * np.pi / 2))
