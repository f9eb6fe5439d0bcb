"""Furniture of generated rooms as boxes: what each piece is made of, in its own frame.

A piece stands on z = 0 with its centre at x = y = 0 and its front towards +y. Lengths are metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """A box with sides along the axes of its piece.

    Attributes:
        center: x, y, z of its centre.
        half: half its lengths along x, y, z; one of 0 is a plane.
        shade: factor on the piece's colour, or a colour of its own (red, green, blue from 0 to 255).
    """

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    shade: float | tuple[float, float, float] = 1.0


class Piece(NamedTuple):
    """One instance to be: its class, its parts and the size (x, y) of the floor it covers."""

    name: str
    parts: list[Part]
    size: tuple[float, float]


def _legs(width: float, depth: float, height: float, half: float, shade: float) -> list[Part]:
    x, y = width / 2 - 2 * half, depth / 2 - 2 * half
    corners = [(-x, -y), (-x, y), (x, -y), (x, y)]
    return [Part((cx, cy, height / 2), (half, half, height / 2), shade) for cx, cy in corners]


def chair(width: float, depth: float, back: float) -> Piece:
    """A chair with four legs, a seat 0.46 m high and a back of height `back` above it, at -y."""
    seat = Part((0.0, 0.0, 0.46), (width / 2, depth / 2, 0.025))
    rest = Part((0.0, -depth / 2 + 0.025, 0.46 + back / 2), (width / 2, 0.025, back / 2))
    return Piece("chair", [seat, rest, *_legs(width, depth, 0.44, 0.02, 0.5)], (width, depth))


def table(width: float, depth: float, height: float, panels: bool) -> Piece:
    """A table on four legs, or on two side panels."""
    top = Part((0.0, 0.0, height - 0.02), (width / 2, depth / 2, 0.02))
    if panels:
        x, half = width / 2 - 0.05, (height - 0.04) / 2
        feet = [Part((side * x, 0.0, half), (0.02, depth / 2 - 0.05, half), 0.8) for side in (-1, 1)]
    else:
        feet = _legs(width, depth, height - 0.04, 0.03, 0.7)
    return Piece("table", [top, *feet], (width, depth))


def sofa(width: float, depth: float) -> Piece:
    """A sofa with a back at -y and two arms."""
    base = Part((0.0, 0.0, 0.21), (width / 2, depth / 2, 0.21))
    back = Part((0.0, -depth / 2 + 0.1, 0.4), (width / 2, 0.1, 0.4), 0.9)
    arms = [Part((side * (width / 2 - 0.08), 0.0, 0.3), (0.08, depth / 2, 0.3), 0.9) for side in (-1, 1)]
    return Piece("sofa", [base, back, *arms], (width, depth))


def bookcase(generator: np.random.Generator, width: float, depth: float, height: float) -> Piece:
    """A bookcase that is open towards +y, with a row of books on most shelves."""
    shelves = max(2, round(height / 0.4))
    parts = [Part((0.0, -depth / 2 + 0.01, height / 2), (width / 2, 0.01, height / 2), 0.8)]
    parts += [Part((side * (width / 2 - 0.01), 0.0, height / 2), (0.01, depth / 2, height / 2)) for side in (-1, 1)]
    for level in range(shelves + 1):
        z = 0.01 + level * (height - 0.02) / shelves
        parts.append(Part((0.0, 0.0, z), (width / 2, depth / 2, 0.01)))
        if level < shelves and generator.random() < 0.7:
            length = width * generator.uniform(0.3, 0.9)
            x = generator.uniform(-1, 1) * (width - 0.04 - length) / 2
            tall = 0.6 * height / shelves
            red, green, blue = generator.uniform(40, 220, 3).tolist()
            half = (length / 2, depth * 0.35, tall / 2)
            parts.append(Part((float(x), -depth * 0.1, z + 0.01 + tall / 2), half, (red, green, blue)))
    return Piece("bookcase", parts, (width, depth))


def panel(name: str, width: float, thickness: float, bottom: float, top: float) -> Piece:
    """A board, door or window: a thin box that hangs on a wall at its -y side."""
    half = (width / 2, thickness / 2, (top - bottom) / 2)
    return Piece(name, [Part((0.0, 0.0, (bottom + top) / 2), half)], (width, thickness))


def clutter_box(width: float, depth: float, height: float, bottom: float = 0.0) -> Piece:
    """A box, as clutter on the floor or on a table of height `bottom`."""
    return Piece("clutter", [Part((0.0, 0.0, bottom + height / 2), (width / 2, depth / 2, height / 2))], (width, depth))


def ceiling_lamp(width: float, depth: float, ceiling: float) -> Piece:
    """A flat lamp that hangs 0.2 m under the ceiling, as clutter."""
    lamp = Part((0.0, 0.0, ceiling - 0.23), (width / 2, depth / 2, 0.03))
    return Piece("clutter", [lamp, Part((0.0, 0.0, ceiling - 0.1), (0.02, 0.02, 0.1), 0.5)], (width, depth))
