"""A cheap over-segmentation of a point cloud, from positions, surface normals and colours; never from labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree


def normals(points: npt.NDArray[np.floating], neighbours: int = 16) -> npt.NDArray[np.float64]:
    """(N, 3) unit normals of unknown sign: the direction in which the nearest points of each vary least."""
    near = cKDTree(points).query(points, k=min(neighbours, len(points)))[1]
    patch = points[near].astype(np.float64)
    patch -= patch.mean(1, keepdims=True)
    return np.linalg.eigh(np.einsum("nki,nkj->nij", patch, patch))[1][:, :, 0]


def superpoints(
    points: npt.NDArray[np.floating], colors: npt.NDArray[np.uint8], size: float = 0.4, rounds: int = 4
) -> npt.NDArray[np.int64]:
    """Groups points that are close, on the same plane and of like colour.

    Starts from the cells of a grid, one group for each direction of surface in a cell, and moves the groups as
    k-means does, in metres, normals and colours at once.

    Args:
        points: (N, 3) metres, N of 1 or more.
        colors: (N, 3) uint8.
        size: side of a cell in metres; groups are about that long on a plane.
        rounds: steps of k-means.

    Returns:
        (N,) numbers from 0 without a gap. Depends on nothing but the arguments.
    """
    normal = normals(points)
    # The sign of a normal is arbitrary: outer products have none.
    plane = np.einsum("ni,nj->nij", normal, normal).reshape(-1, 9)[:, [0, 4, 8, 1, 2, 5]]
    feature = np.concatenate([points / size, 0.8 * plane, colors / 255.0 * 3.0], axis=1)
    cell = np.floor(points / size).astype(np.int64)
    group = np.unique(np.column_stack([cell, np.abs(normal).argmax(1)]), axis=0, return_inverse=True)[1].ravel()
    for _ in range(rounds):
        count = np.bincount(group)
        total = np.stack([np.bincount(group, weights=column) for column in feature.T], axis=1)
        centers = total[count >= 10] / count[count >= 10, None] if (count >= 10).any() else feature[:1]
        group = cKDTree(centers).query(feature)[1]
    return np.unique(group, return_inverse=True)[1].astype(np.int64)
