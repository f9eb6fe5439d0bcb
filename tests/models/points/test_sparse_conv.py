"""Sparse convolutions against dense ones, their gradients, and the U-Net's levels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.models.points.sparse_conv import (
    OFFSETS,
    DownConv,
    SubmanifoldConv,
    UpConv,
    VoxelLevel,
    build_levels,
    neighbour_pairs,
)
from influencerformer.models.points.voxels import unique_rows


def random_voxels(seed: int, count: int = 60, extent: int = 6, scenes: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, extent, (count, 3), generator=g)
    return unique_rows(torch.cat([torch.randint(0, scenes, (count, 1), generator=g), cells], 1))[0]


def full_grid(*extents: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(1), *(torch.arange(e) for e in extents))


def dense(features: Tensor, coordinates: Tensor) -> Tensor:
    """(V, C) to (B, C, X, Y, Z), 0 where there is no voxel."""
    shape = [int(e) + 1 for e in coordinates.amax(0)]
    grid = features.new_zeros(*shape, features.shape[1])
    grid[tuple(coordinates.T)] = features
    return grid.permute(0, 4, 1, 2, 3)


def sparse(grid: Tensor, coordinates: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(coordinates.T)]


def level(coordinates: Tensor) -> VoxelLevel:
    return build_levels(coordinates, int(coordinates[:, 0].max()) + 1, 1)[0]


def kernel(weight: Tensor) -> Tensor:
    """(27, C, C') as conv3d's (C', C, 3, 3, 3)."""
    return weight.view(3, 3, 3, *weight.shape[1:]).permute(4, 3, 0, 1, 2)


@pytest.mark.parametrize("coordinates", [full_grid(3, 4, 5), random_voxels(0), random_voxels(1, count=200)])
def test_submanifold_convolution_equals_a_dense_convolution_at_the_voxels(coordinates: Tensor) -> None:
    torch.manual_seed(0)
    conv = SubmanifoldConv(3, 4).double()
    features = torch.randn(len(coordinates), 3, dtype=torch.float64)
    expected = sparse(F.conv3d(dense(features, coordinates), kernel(conv.weight), padding=1), coordinates)
    torch.testing.assert_close(conv(features, level(coordinates)), expected, rtol=1e-12, atol=1e-12)


def test_gradients_equal_those_of_the_dense_convolution() -> None:
    torch.manual_seed(0)
    coordinates = random_voxels(2)
    conv = SubmanifoldConv(3, 4).double()
    features = torch.randn(len(coordinates), 3, dtype=torch.float64, requires_grad=True)
    signal = torch.randn(len(coordinates), 4, dtype=torch.float64)
    found = torch.autograd.grad((conv(features, level(coordinates)) * signal).sum(), [features, conv.weight])
    out = sparse(F.conv3d(dense(features, coordinates), kernel(conv.weight), padding=1), coordinates)
    expected = torch.autograd.grad((out * signal).sum(), [features, conv.weight])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_the_convolution() -> None:
    torch.manual_seed(0)
    coordinates = random_voxels(3, count=8, extent=3)
    conv = SubmanifoldConv(2, 2).double()
    features = torch.randn(len(coordinates), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: conv(x, level(coordinates)), (features, conv.weight))


def test_pairs_are_those_of_a_naive_search_within_each_scene() -> None:
    coordinates = random_voxels(4, count=100)
    place = {tuple(v): i for i, v in enumerate(coordinates.tolist())}
    for offset, (one, other) in zip(OFFSETS, neighbour_pairs(coordinates), strict=False):
        expected = []
        for (scene, *cell), i in place.items():
            wanted = (scene, *(c + o for c, o in zip(cell, offset, strict=True)))
            if wanted in place:
                expected.append((i, place[wanted]))
        assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == sorted(expected)


def test_down_convolution_equals_a_dense_one_of_stride_two() -> None:
    torch.manual_seed(0)
    coordinates = random_voxels(5, extent=6)
    fine, coarse = build_levels(coordinates, 2, 2)
    conv = DownConv(3, 4).double()
    features = torch.randn(len(coordinates), 3, dtype=torch.float64)
    weight = conv.linear.weight.view(4, 2, 2, 2, 3).permute(0, 4, 1, 2, 3)
    padded = F.pad(dense(features, coordinates), (0, 1) * 3)
    expected = sparse(F.conv3d(padded, weight, conv.linear.bias, stride=2), coarse.coordinates)
    torch.testing.assert_close(conv(features, fine, coarse.num_voxels), expected, rtol=1e-12, atol=1e-12)


def test_up_convolution_equals_a_dense_transposed_one() -> None:
    torch.manual_seed(0)
    coordinates = random_voxels(6, extent=6)
    fine, coarse = build_levels(coordinates, 2, 2)
    conv = UpConv(3, 4).double()
    features = torch.randn(coarse.num_voxels, 3, dtype=torch.float64)
    weight = conv.linear.weight.view(2, 2, 2, 4, 3).permute(4, 3, 0, 1, 2)
    grid = F.conv_transpose3d(dense(features, coarse.coordinates), weight, stride=2)
    expected = sparse(grid, fine.coordinates) + conv.linear.bias.view(8, 4)[fine.cell]
    torch.testing.assert_close(conv(features, fine), expected, rtol=1e-12, atol=1e-12)


def test_levels_halve_the_resolution_and_keep_scenes_apart() -> None:
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 2, 0, 0], [1, 0, 0, 0], [1, 5, 5, 4]])
    fine, coarse = build_levels(coordinates, 2, 2)
    assert coarse.coordinates.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 2, 2, 2]]
    assert fine.parent is not None
    assert fine.cell is not None
    assert fine.parent.tolist() == [0, 0, 1, 2, 3]
    assert fine.cell.tolist() == [0, 7, 0, 0, 6]
    assert (fine.sizes, coarse.sizes) == ([3, 2], [2, 2])
    assert coarse.parent is None
