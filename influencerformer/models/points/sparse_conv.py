"""Submanifold and strided convolutions on occupied voxels, in plain PyTorch.

A submanifold convolution (Graham, Engelcke and van der Maaten, 3D Semantic Segmentation with Submanifold Sparse
Convolutional Networks, CVPR 2018) has outputs at the occupied voxels alone. For each of its 27 offsets the pairs of
neighbouring voxels are gathered, multiplied and added. Offset -d pairs the same voxels as d the other way round, so
13 lists hold all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from influencerformer.models.points.voxels import pack, unique_rows

OFFSETS = tuple(product((-1, 0, 1), repeat=3))
"""Offsets of the kernel in the order of its weights; number 13 is the centre, number 26 - k the opposite of k."""
CENTRE = len(OFFSETS) // 2

Pairs = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class VoxelLevel:
    """The occupied voxels of a batch at one resolution.

    Attributes:
        coordinates: (V, 4) int64 in lexicographic order: scene, x, y, z, all 0 or more.
        pairs: for offset k of the first 13, two (P_k,) int64: voxels u and v with v at u + OFFSETS[k].
        parent: (V,) int64, the voxel of the next coarser level that holds each; None at the coarsest.
        cell: (V,) int64, 0..7, which eighth of its parent each is; None at the coarsest.
        sizes: voxels of each scene.
    """

    coordinates: Tensor
    pairs: Pairs
    parent: Tensor | None
    cell: Tensor | None
    sizes: list[int]

    @property
    def num_voxels(self) -> int:
        """V."""
        return len(self.coordinates)


def neighbour_pairs(coordinates: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The ``pairs`` of :class:`VoxelLevel` for its ``coordinates``."""
    # a margin of one voxel on either side: a neighbour beyond an edge is no voxel of the next row
    shifted = coordinates + coordinates.new_tensor([0, 1, 1, 1])
    extents = [int(e) + 2 for e in shifted.amax(0).tolist()]
    keys = pack(shifted, extents)
    pairs = []
    for x, y, z in OFFSETS[:CENTRE]:
        wanted = keys + ((x * extents[2] + y) * extents[3] + z)
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        found = (keys[place] == wanted).nonzero()[:, 0]
        pairs.append((found, place[found]))
    return pairs


@torch.no_grad()
def build_levels(coordinates: Tensor, num_scenes: int, num_levels: int) -> list[VoxelLevel]:
    """The levels of a U-Net from fine to coarse; each halves the resolution.

    Args:
        coordinates: (V, 4) int64 in lexicographic order, distinct: scene, x, y, z, all 0 or more.
        num_scenes: B.
        num_levels: 1 or more.
    """
    levels = []
    for index in range(num_levels):
        parent = cell = coarse = None
        if index < num_levels - 1:
            low = coordinates[:, 1:] & 1
            cell = (low[:, 0] * 2 + low[:, 1]) * 2 + low[:, 2]
            coarse, parent = unique_rows(torch.cat([coordinates[:, :1], coordinates[:, 1:] >> 1], 1))
        sizes = torch.bincount(coordinates[:, 0], minlength=num_scenes).tolist()
        levels.append(VoxelLevel(coordinates, neighbour_pairs(coordinates), parent, cell, sizes))
        coordinates = coarse if coarse is not None else coordinates
    return levels


class _SubmanifoldConv(torch.autograd.Function):
    """Keeps its input alone for the backward pass: gathered neighbours would be 27 times as much."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        out = features @ weight[CENTRE]
        for k, (one, other) in enumerate(pairs):
            out.index_add_(0, one, features.index_select(0, other) @ weight[k])
            out.index_add_(0, other, features.index_select(0, one) @ weight[-1 - k])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        features, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_features = grad @ weight[CENTRE].T if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight)
        grad_weight[CENTRE] = features.T @ grad
        for k, (one, other) in enumerate(ctx.pairs):
            grad_one, grad_other = grad.index_select(0, one), grad.index_select(0, other)
            grad_weight[k] = features.index_select(0, other).T @ grad_one
            grad_weight[-1 - k] = features.index_select(0, one).T @ grad_other
            if grad_features is not None:
                grad_features.index_add_(0, other, grad_one @ weight[k].T)
                grad_features.index_add_(0, one, grad_other @ weight[-1 - k].T)
        return grad_features, grad_weight, None


def autocast_dtype(features: Tensor) -> torch.dtype:
    """What a convolution computes in: autocast's dtype where autocast is on."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


class SubmanifoldConv(nn.Module):
    """3 x 3 x 3 convolution at the occupied voxels, without bias: a norm follows.

    Attributes:
        weight: (27, in_channels, out_channels), in the order of ``OFFSETS``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # a surface passes through about 9 of the 27 cells around a voxel
        scale = (1.0 / (9 * in_channels)) ** 0.5
        self.weight = nn.Parameter(torch.randn(len(OFFSETS), in_channels, out_channels) * scale)

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """(V, in_channels) to (V, out_channels)."""
        dtype = autocast_dtype(features)
        return _SubmanifoldConv.apply(features.to(dtype), self.weight.to(dtype), level.pairs)


class DownConv(nn.Module):
    """2 x 2 x 2 convolution of stride 2: each coarse voxel sees its eight cells, empty ones as 0."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * in_channels, out_channels)

    def forward(self, features: Tensor, level: VoxelLevel, num_coarse: int) -> Tensor:
        """(V, in_channels) of the fine ``level`` to (num_coarse, out_channels)."""
        assert level.parent is not None
        assert level.cell is not None
        channels = features.shape[1]
        cells = features.new_zeros(num_coarse * 8, channels).index_copy(0, level.parent * 8 + level.cell, features)
        return self.linear(cells.view(num_coarse, 8 * channels))


class UpConv(nn.Module):
    """The transpose of :class:`DownConv`: each occupied cell takes its part of its coarse voxel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, 8 * out_channels)

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        """(V_coarse, in_channels) to (V, out_channels) of the fine ``level``."""
        assert level.parent is not None
        assert level.cell is not None
        cells = self.linear(features).view(8 * len(features), -1)
        return cells.index_select(0, level.parent * 8 + level.cell)
