"""Points to voxels and tokens: numbering and majority labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from influencerformer.errors import UserError

MOST_CELLS = 2**62
"""Cells of a bounding box beyond which a cell's number would not fit into int64."""


def pack(coordinates: Tensor, extents: list[int]) -> Tensor:
    """One int64 number a row, in the rows' lexicographic order.

    Args:
        coordinates: (N, D) int64; column d lies in 0..extents[d]-1.
        extents: D numbers.

    Raises:
        UserError: the extents span more cells than int64 can number.
    """
    if math.prod(extents) > MOST_CELLS:
        raise UserError(
            f"the points span {' x '.join(map(str, extents))} voxels, more than can be numbered: "
            "expected coordinates in metres and a voxel size that fits; remove outliers or raise the voxel size"
        )
    keys = coordinates[:, 0].clone()
    for column, extent in zip(coordinates.T[1:], extents[1:], strict=True):
        keys = keys.mul_(extent).add_(column)
    return keys


def unique_rows(coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of (N, D) int64, 0 or more, in lexicographic order, and (N,) the row of each.

    Packs a row into one number, which sorts many times faster than rows do.
    """
    extents = [int(e) + 1 for e in coordinates.amax(0).tolist()]
    keys, inverse = torch.unique(pack(coordinates, extents), return_inverse=True)
    rows = torch.empty(len(keys), coordinates.shape[1], dtype=torch.int64, device=coordinates.device)
    rows[inverse] = coordinates
    return rows, inverse


def voxelize(coordinates: Tensor, voxel_size: float) -> tuple[Tensor, Tensor]:
    """The occupied voxels of one cloud. The grid starts at the cloud's lowest corner, so a shift does not matter.

    Args:
        coordinates: (N, 3) floating point, N >= 1, in the unit of ``voxel_size``.
        voxel_size: edge of a voxel.

    Returns:
        (V, 3) int64 voxel coordinates, 0 or more, distinct and in lexicographic order; (N,) int64 voxel of each point.

    Raises:
        UserError: NaN or infinite coordinates, or more voxels than can be numbered.
        ValueError: not (N, 3), no point, or a voxel size that is not positive.
    """
    if not voxel_size > 0:
        raise ValueError(f"voxel_size must be positive, got {voxel_size}")
    if coordinates.ndim != 2 or coordinates.shape[1] != 3 or len(coordinates) == 0:
        raise ValueError(f"coordinates must be (N, 3) with N of 1 or more, got {tuple(coordinates.shape)}")
    exact = coordinates.double()
    low = exact.amin(0)
    extent = (exact.amax(0) - low) / voxel_size
    if not bool(extent.isfinite().all()):
        raise UserError("coordinates hold NaN or infinite values: remove these points")
    if float(extent.max()) > MOST_CELLS:
        raise UserError(f"the points span {float(extent.max()):.1e} voxels: remove outliers or raise the voxel size")
    return unique_rows(((exact - low) / voxel_size).floor().long())


def token_labels(instance_labels: Tensor, token_of_point: Tensor, num_tokens: int, num_instances: int) -> Tensor:
    """The instance that most points of each token have; ignored points do not vote, ties go to the lower label.

    Args:
        instance_labels: (N,) int64: 0 background, 1..K instances, -1 ignored.
        token_of_point: (N,) int64, 0..T-1.
        num_tokens: T.
        num_instances: K.

    Returns:
        (T,) int64: 0..K, -1 where no point votes.

    Raises:
        ValueError: lengths that differ, or labels outside -1..K.
    """
    if instance_labels.shape != token_of_point.shape:
        raise ValueError(f"{len(instance_labels)} instance_labels came with {len(token_of_point)} points")
    low, high = (int(value) for value in instance_labels.aminmax())
    if low < -1 or high > num_instances:
        raise ValueError(
            f"instance_labels must lie in -1..{num_instances} (one class label for each instance), got {low}..{high}"
        )
    votes = instance_labels >= 0
    keys = token_of_point[votes] * (num_instances + 1) + instance_labels[votes]
    keys, counts = torch.unique(keys, return_counts=True)
    token, label = keys // (num_instances + 1), keys % (num_instances + 1)
    most = counts.new_zeros(num_tokens).scatter_reduce_(0, token, counts, "amax")
    won = counts == most[token]
    none = num_instances + 1
    labels = label.new_full((num_tokens,), none).scatter_reduce_(0, token[won], label[won], "amin")
    return labels.masked_fill_(labels == none, -1)
