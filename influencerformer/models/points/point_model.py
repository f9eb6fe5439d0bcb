"""A mask transformer for point clouds: voxels, sparse-convolution U-Net, query decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influencerformer.errors import UserError
from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.models.points.criterion import PointCriterion, PointOutputs
from influencerformer.models.points.scenes import Scenes, make_scenes
from influencerformer.models.points.sparse_conv import VoxelLevel, build_levels
from influencerformer.models.points.unet import SparseUNet
from influencerformer.models.query_decoder import Memory, QueryDecoder, TokenSet, segment_mean

SIZES: dict[str, dict[str, Any]] = {
    "point-tiny": {"channels": (16, 32, 48, 64), "num_blocks": 1, "dim": 64, "num_layers": 3, "num_heads": 4},
    "point-base": {"channels": (32, 64, 96, 128, 160), "num_blocks": 2, "dim": 256, "num_layers": 6, "num_heads": 8},
}
MOST_MEMORIES = 3


class PointMaskFormer(nn.Module):
    """Instance segmentation of point clouds by queries, with the loss as ``criterion``.

    Args:
        in_channels: F, features of a point; for rooms red, green, blue / 255 - 0.5, and x and y from the room's
            middle and height above its floor in metres.
        num_classes: C, without no-object.
        num_queries: Q, the most instances a scene can have predicted.
        voxel_size: edge of the finest voxels in metres.
        channels: of the U-Net's levels from fine to coarse; each halves the resolution. At least 2.
        num_blocks: residual blocks of each level of its encoder.
        dim, num_layers, num_heads, objectness: see :class:`influencerformer.models.query_decoder.QueryDecoder`. Its
            layers look at the three coarsest levels (the finest is left out) in turn, from coarse to fine.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_queries: int = 100,
        voxel_size: float = 0.05,
        *,
        channels: Sequence[int] = (16, 32, 48, 64),
        num_blocks: int = 1,
        dim: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        objectness: bool = False,
    ) -> None:
        super().__init__()
        if not voxel_size > 0:
            raise UserError(f"voxel_size must be positive, in metres, got {voxel_size}")
        if len(channels) < 2:
            raise ValueError(f"channels must be those of 2 levels or more, got {tuple(channels)}")
        self.in_channels = in_channels
        self.voxel_size = voxel_size
        self.num_levels = len(channels)
        self.memory_levels = list(range(len(channels) - 1, 0, -1))[:MOST_MEMORIES]
        self.backbone = SparseUNet(in_channels, channels, num_blocks)
        self.decoder = QueryDecoder(
            dim,
            num_layers,
            num_heads,
            num_queries,
            num_classes,
            token_dim=channels[0],
            memory_dims=[channels[level] for level in self.memory_levels],
            objectness=objectness,
        )
        self.criterion = PointCriterion(MaskInfluencerLoss())

    def forward(self, batch: Mapping[str, Any]) -> PointOutputs:
        """Predictions, and the loss where the batch holds the truth.

        Args:
            batch: sequences of B scenes: "coordinates" (N_i, 3) floating point, metres, z up; "features" (N_i, F);
                optionally "superpoints" (N_i,) int64 or None, over which masks are predicted in place of voxels; and
                "instance_labels" (N_i,) int64 with "class_labels" (K_i,) int64 as in
                :class:`influencerformer.data.points.sample.PointSample`. Other keys are ignored.

        Raises:
            UserError: features of another width, values that are not finite, more voxels than can be numbered.
            ValueError: shapes, types or labels that do not fit. Both name the scene.
        """
        scenes = make_scenes(batch, self.in_channels, self.voxel_size)
        levels = build_levels(scenes.voxels, len(scenes.token_sizes), self.num_levels)
        features = self.backbone(scenes.features, levels)
        tokens = TokenSet(scenes.to_tokens(features[0]), scenes.to_tokens(scenes.positions), scenes.token_sizes)
        predicted = self.decoder(tokens, self._memories(scenes, levels, features))
        outputs = PointOutputs(
            predicted.mask_logits, predicted.class_logits, predicted.objectness, scenes.token_of_point
        )
        if batch.get("instance_labels") is None:
            return outputs
        return outputs._replace(loss=self.criterion(outputs, batch["instance_labels"], batch["class_labels"]))

    def _memories(self, scenes: Scenes, levels: Sequence[VoxelLevel], features: Sequence[Tensor]) -> list[Memory]:
        """The levels that queries look at, from coarse to fine."""
        holder = torch.arange(len(scenes.voxels), device=scenes.voxels.device)
        voxel, token = (holder, holder) if scenes.parts is None else scenes.parts[:2]
        memories = {}
        for index, level in enumerate(levels):
            positions = segment_mean(scenes.positions, holder, level.num_voxels)
            coarse = TokenSet(features[index], positions, level.sizes)
            memories[index] = Memory(coarse, (token, holder[voxel]))
            if level.parent is not None:
                holder = level.parent[holder]
        return [memories[index] for index in self.memory_levels]


def build_point_model(
    name: str, num_classes: int, num_queries: int = 100, in_channels: int = 6, voxel_size: float = 0.05
) -> PointMaskFormer:
    """A fresh :class:`PointMaskFormer` by the name of its size.

    Args:
        name: ``point-tiny``, which learns on one CPU core in minutes, or ``point-base``.
        num_classes, num_queries, in_channels, voxel_size: see :class:`PointMaskFormer`.

    Raises:
        UserError: an unknown name.
    """
    if name not in SIZES:
        raise UserError(f"unknown point model '{name}': expected {' or '.join(SIZES)}")
    return PointMaskFormer(in_channels, num_classes, num_queries, voxel_size, **SIZES[name])
