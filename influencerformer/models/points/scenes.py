"""A batch of point clouds as one set of voxels and tokens, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influencerformer.errors import UserError
from influencerformer.models.points.voxels import unique_rows, voxelize
from influencerformer.models.query_decoder import segment_mean


@dataclass(frozen=True)
class Scenes:
    """B clouds as voxels and tokens, scene after scene. Tokens are superpoints where a scene has them, else voxels.

    Attributes:
        voxels: (V, 4) int64 in lexicographic order: scene, x, y, z.
        features: (V, F) means over the points of each voxel.
        positions: (V, 3) mean coordinates, relative to the middle of the scene's floor.
        token_of_point: B tensors (N_i,) int64, 0..T_i-1.
        token_sizes: tokens of each scene.
        parts: (E,) int64 voxel, (E,) int64 token and (E,) number of points of every voxel and token that share
            points; None where all tokens are voxels.
    """

    voxels: Tensor
    features: Tensor
    positions: Tensor
    token_of_point: list[Tensor]
    token_sizes: list[int]
    parts: tuple[Tensor, Tensor, Tensor] | None

    def to_tokens(self, values: Tensor) -> Tensor:
        """(V, D) of voxels to (T, D) of tokens: means over the points of each token."""
        if self.parts is None:
            return values
        voxel, token, count = self.parts
        return segment_mean(values[voxel], token, sum(self.token_sizes), count)


def make_scenes(batch: Mapping[str, Any], in_channels: int, voxel_size: float) -> Scenes:
    """See :class:`PointMaskFormer` for the batch.

    Raises:
        UserError: features of another width, values that are not finite, too many voxels.
        ValueError: shapes or types that do not fit. Both name the scene.
    """
    clouds, features = list(batch["coordinates"]), list(batch["features"])
    superpoints = list(batch.get("superpoints") or [None] * len(clouds))
    if not clouds or not len(clouds) == len(features) == len(superpoints):
        raise ValueError(
            f"a batch needs 1 or more scenes, got {len(clouds)} coordinates, {len(features)} features and "
            f"{len(superpoints)} superpoints"
        )
    voxels, positions, of_point = [], [], []
    start = 0
    for i, cloud in enumerate(clouds):
        _check_scene(i, cloud, features[i], superpoints[i], in_channels)
        try:
            cells, inverse = voxelize(cloud, voxel_size)
        except ValueError as error:
            raise type(error)(f"scene {i}: {error}") from None
        voxels.append(torch.nn.functional.pad(cells, (1, 0), value=i))
        positions.append(cloud - _floor(cloud))
        of_point.append(inverse + start)
        start += len(cells)
    voxel_of_point = torch.cat(of_point)
    pooled = segment_mean(torch.cat(features), voxel_of_point, start)
    if not bool(pooled.isfinite().all()):
        bad = [i for i, values in enumerate(features) if not bool(values.isfinite().all())]
        raise UserError(f"features of scene {bad[0] if bad else 0} hold NaN or infinite values: check the point files")
    token_of_point, sizes = _tokens(of_point, [len(cells) for cells in voxels], superpoints)
    parts = None
    if any(given is not None for given in superpoints):
        starts = torch.tensor(sizes).cumsum(0).roll(1)
        starts[0] = 0
        tokens = torch.cat([token + first for token, first in zip(token_of_point, starts.tolist(), strict=True)])
        pairs, pair_of_point = unique_rows(torch.stack([tokens, voxel_of_point], 1))
        parts = (pairs[:, 1], pairs[:, 0], torch.bincount(pair_of_point).to(pooled.dtype))
    return Scenes(
        voxels=torch.cat(voxels),
        features=pooled,
        positions=segment_mean(torch.cat(positions), voxel_of_point, start),
        token_of_point=token_of_point,
        token_sizes=sizes,
        parts=parts,
    )


def _floor(cloud: Tensor) -> Tensor:
    """(3,) the middle of the cloud's bounding box, on its floor."""
    low, high = cloud.amin(0), cloud.amax(0)
    return torch.cat([(low[:2] + high[:2]) / 2, low[2:]])


def _tokens(
    voxel_of_point: Sequence[Tensor], num_voxels: Sequence[int], superpoints: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[int]]:
    """Each point's token within its scene, and tokens of each scene."""
    tokens, sizes, start = [], [], 0
    for voxel, count, given in zip(voxel_of_point, num_voxels, superpoints, strict=True):
        if given is None:
            tokens.append(voxel - start)
            sizes.append(count)
        else:
            numbers, token = given.unique(return_inverse=True)
            tokens.append(token)
            sizes.append(len(numbers))
        start += count
    return tokens, sizes


def _check_scene(i: int, cloud: Tensor, features: Tensor, superpoints: Tensor | None, in_channels: int) -> None:
    if cloud.ndim != 2 or cloud.shape[1] != 3 or not cloud.is_floating_point() or not len(cloud):
        raise ValueError(
            f"coordinates of scene {i} must be (N, 3) floating point with N of 1 or more, "
            f"got {tuple(cloud.shape)} {str(cloud.dtype).removeprefix('torch.')}"
        )
    if features.ndim != 2 or len(features) != len(cloud):
        raise ValueError(
            f"scene {i} has {len(cloud)} points, but its features are {tuple(features.shape)}: one row a point"
        )
    if features.shape[1] != in_channels:
        raise UserError(
            f"the model was built for {in_channels} features a point, scene {i} has {features.shape[1]}: "
            "set in_channels to what the data gives"
        )
    if superpoints is not None and (superpoints.shape != cloud.shape[:1] or superpoints.is_floating_point()):
        raise ValueError(
            f"superpoints of scene {i} must be ({len(cloud)},) integers, "
            f"got {tuple(superpoints.shape)} {str(superpoints.dtype).removeprefix('torch.')}"
        )
