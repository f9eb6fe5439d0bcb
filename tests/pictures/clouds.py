"""Clouds with planted instances for the tests of pictures."""

from __future__ import annotations

import numpy as np

from influencerformer.pictures import Cloud, Instances

CLASSES = ("floor", "chair", "table")


def tile(x: float, y: float, z: float = 0.0, side: float = 1.0, per_side: int = 25) -> np.ndarray:
    """Points evenly over a level square with its corner at (x, y, z)."""
    steps = (np.arange(per_side) + 0.5) * (side / per_side)
    grid = np.stack(np.meshgrid(steps + x, steps + y), axis=-1).reshape(-1, 2)
    return np.concatenate((grid, np.full((len(grid), 1), z)), axis=1).astype(np.float32)


def planted_cloud(name: str = "planted") -> Cloud:
    """Five level tiles in a row: chair 1, table 2, background, an ignored one, chair 3.

    "First" finds chair 1, splits table 2 into a larger and a smaller part below IoU 0.5 each (the rest is left out),
    predicts the background; "Second" finds all three, but gives table 2 the class of chairs.
    """
    tiles = [tile(x, 0) for x in range(5)]
    size = len(tiles[0])
    tile_number = np.repeat(np.arange(5), size)
    labels = np.array([1, 2, 0, -1, 3])[tile_number]
    within = np.tile(np.arange(size), 5)
    first = np.array([1, 0, 4, 0, 0])[tile_number]
    first[(tile_number == 1) & (within < 0.45 * size)] = 2
    first[(tile_number == 1) & (within >= 0.6 * size)] = 3
    second = np.array([3, 2, 0, 0, 1])[tile_number]
    return Cloud(
        name,
        np.concatenate(tiles),
        np.repeat(np.array([[200, 90, 40]], dtype=np.uint8), 5 * size, axis=0),
        Instances(labels, np.array([1, 2, 1])),
        {
            "First": Instances(first, np.array([1, 2, 2, 0]), np.array([0.9, 0.8, 0.7, 0.6])),
            "Second": Instances(second, np.array([1, 1, 1]), np.array([0.5, 0.95, 0.25])),
        },
    )
