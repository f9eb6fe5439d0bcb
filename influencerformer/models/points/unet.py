"""A residual U-Net of sparse convolutions; every norm is over the channels of one voxel, so scenes do not mix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influencerformer.models.points.sparse_conv import DownConv, SubmanifoldConv, UpConv, VoxelLevel


class ResidualBlock(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_channels)
        self.conv1 = SubmanifoldConv(in_channels, out_channels)
        self.norm2 = nn.LayerNorm(out_channels)
        self.conv2 = SubmanifoldConv(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Linear(in_channels, out_channels)

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        hidden = self.conv1(F.relu(self.norm1(features)), level)
        return self.shortcut(features) + self.conv2(F.relu(self.norm2(hidden)), level)


class SparseUNet(nn.Module):
    """Features of occupied voxels at every level.

    Args:
        in_channels: F.
        channels: of each level from fine to coarse.
        num_blocks: residual blocks of each level of the encoder; the decoder has one a level.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], num_blocks: int = 1) -> None:
        super().__init__()
        self.stem = SubmanifoldConv(in_channels, channels[0])
        self.encoder = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, width) for _ in range(num_blocks)) for width in channels
        )
        steps = list(pairwise(channels))
        self.down = nn.ModuleList(DownConv(fine, coarse) for fine, coarse in steps)
        self.down_norm = nn.ModuleList(nn.LayerNorm(fine) for fine, _ in steps)
        self.up = nn.ModuleList(UpConv(coarse, fine) for fine, coarse in steps)
        self.up_norm = nn.ModuleList(nn.LayerNorm(coarse) for _, coarse in steps)
        self.decoder = nn.ModuleList(ResidualBlock(2 * fine, fine) for fine, _ in steps)
        self.out_norm = nn.ModuleList(nn.LayerNorm(width) for width in channels)

    def forward(self, features: Tensor, levels: Sequence[VoxelLevel]) -> list[Tensor]:
        """(V, F) at the finest level to (V_l, channels[l]) at each level, from fine to coarse."""
        hidden = self.stem(features, levels[0])
        skips = []
        for index, (level, blocks) in enumerate(zip(levels, self.encoder, strict=True)):
            if index:
                rows = F.relu(self.down_norm[index - 1](hidden))
                hidden = self.down[index - 1](rows, levels[index - 1], level.num_voxels)
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, level)
            skips.append(hidden)
        outputs = [hidden]
        for index in reversed(range(len(levels) - 1)):
            rows = self.up[index](F.relu(self.up_norm[index](hidden)), levels[index])
            hidden = self.decoder[index](torch.cat([rows.to(skips[index].dtype), skips[index]], 1), levels[index])
            outputs.append(hidden)
        return [norm(output) for norm, output in zip(self.out_norm, reversed(outputs), strict=True)]
