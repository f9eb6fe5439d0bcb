"""Backbones for point clouds: the package's sparse-convolution U-Net, window attention along a curve, and spconv.

    python benchmarks/point_backbones.py [--threads 1] [--repeats 3] [--voxels 10000 30000 100000]

Forward and backward of one generated room, cut to the wanted number of voxels. All three are U-Nets of the same
channels; building their neighbour tables, orders or index pairs is part of the forward pass. Each figure comes from
a process of its own: CPU seconds of the process (the median of the repeats; other load on the machine counts little),
and how far its memory rose. spconv is left out where it cannot be imported.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influencerformer.data.points.rooms import generate_room
from influencerformer.models.points.sparse_conv import VoxelLevel, build_levels
from influencerformer.models.points.unet import SparseUNet
from influencerformer.models.points.voxels import voxelize

CHANNELS = (16, 32, 48, 64)
IN_CHANNELS = 6
WINDOW = 128
HEADS = 4
Run = Callable[[Tensor, Tensor], Tensor]


class CurveAttention(nn.Module):
    """Self-attention in windows along a z-order curve, then feed-forward: a block of a serialised point transformer."""

    def __init__(self, in_channels: int, out_channels: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.inputs = nn.Linear(in_channels, out_channels)
        self.positions = nn.Linear(3, out_channels)
        self.norm = nn.LayerNorm(out_channels)
        self.qkv = nn.Linear(out_channels, 3 * out_channels)
        self.out = nn.Linear(out_channels, out_channels)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(out_channels),
            nn.Linear(out_channels, 4 * out_channels),
            nn.GELU(),
            nn.Linear(4 * out_channels, out_channels),
        )

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:
        hidden = self.inputs(features)
        cells = level.coordinates[:, 1:].to(hidden.dtype)
        order = z_order(level.coordinates + self.shift).argsort()
        pad = -len(order) % WINDOW
        order = torch.cat([order, order[-1:].expand(pad)])
        windows = (self.norm(hidden) + self.positions(cells / 32))[order].view(-1, WINDOW, hidden.shape[1])
        query, key, value = self.qkv(windows).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1).flatten(1)
        inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))[: len(hidden)]
        hidden = hidden + self.out(mixed[inverse])
        return hidden + self.feedforward(hidden)


def z_order(coordinates: Tensor) -> Tensor:
    """(V, 4) scene, x, y, z to (V,) numbers whose order is that of a z-order curve, scene after scene."""
    key = coordinates[:, 0] << 45
    for bit in range(15):
        for axis in range(3):
            key = key | ((coordinates[:, 1 + axis] >> bit) & 1) << (3 * bit + axis)
    return key


class LinearStem(nn.Linear):
    """In place of the first convolution."""

    def forward(self, features: Tensor, level: VoxelLevel) -> Tensor:  # type: ignore[override]
        return super().forward(features)


class AttentionUNet(SparseUNet):
    """The package's U-Net with window attention for convolution blocks; down and up convolutions stay."""

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__(in_channels, channels)
        self.stem = LinearStem(in_channels, channels[0])  # type: ignore[assignment]
        self.encoder = nn.ModuleList(
            nn.ModuleList([CurveAttention(width, width, 0), CurveAttention(width, width, 5)]) for width in channels
        )
        self.decoder = nn.ModuleList(CurveAttention(2 * width, width, 2) for width in channels[:-1])


def on_levels(model: SparseUNet) -> Run:
    return lambda coordinates, features: model(features, build_levels(coordinates, 1, len(CHANNELS)))[0]


def spconv_unet() -> tuple[nn.Module, Run]:
    """The same U-Net of spconv's layers."""
    import spconv.pytorch as spconv
    from spconv.pytorch import ops

    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0  # its backward asks for a CUDA stream even on a CPU

    class Norm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)

        def forward(self, x: Any) -> Any:
            return x.replace_feature(F.relu(self.norm(x.features)))

    class Block(nn.Module):
        def __init__(self, one: int, other: int, key: str) -> None:
            super().__init__()
            conv = [spconv.SubMConv3d(width, other, 3, bias=False, indice_key=key) for width in (one, other)]
            self.norm1, self.conv1, self.norm2, self.conv2 = Norm(one), conv[0], Norm(other), conv[1]
            self.shortcut = nn.Identity() if one == other else nn.Linear(one, other)

        def forward(self, x: Any) -> Any:
            hidden = self.conv2(self.norm2(self.conv1(self.norm1(x))))
            return hidden.replace_feature(self.shortcut(x.features) + hidden.features)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            steps = list(enumerate(pairwise(CHANNELS)))
            self.stem = spconv.SubMConv3d(IN_CHANNELS, CHANNELS[0], 3, bias=False, indice_key="same0")
            self.encoder = nn.ModuleList(Block(width, width, f"same{i}") for i, width in enumerate(CHANNELS))
            self.down_norm = nn.ModuleList(Norm(fine) for _, (fine, _) in steps)
            self.down = nn.ModuleList(spconv.SparseConv3d(a, b, 2, 2, indice_key=f"down{i}") for i, (a, b) in steps)
            self.up_norm = nn.ModuleList(Norm(coarse) for _, (_, coarse) in steps)
            self.up = nn.ModuleList(spconv.SparseInverseConv3d(b, a, 2, indice_key=f"down{i}") for i, (a, b) in steps)
            self.decoder = nn.ModuleList(Block(2 * fine, fine, f"same{i}") for i, (fine, _) in steps)

        def forward(self, x: Any) -> Tensor:
            x, skips = self.stem(x), []
            for i, block in enumerate(self.encoder):
                x = block(x if i == 0 else self.down[i - 1](self.down_norm[i - 1](x)))
                skips.append(x)
            for i in reversed(range(len(self.up))):
                x = self.up[i](self.up_norm[i](x))
                x = self.decoder[i](x.replace_feature(torch.cat([x.features, skips[i].features], 1)))
            return x.features

    model = UNet()

    def run(coordinates: Tensor, features: Tensor) -> Tensor:
        shape = [-(-(int(e) + 1) // 8) * 8 for e in coordinates[:, 1:].amax(0)]
        return model(spconv.SparseConvTensor(features, coordinates.int(), shape, 1))

    return model, run


def build(name: str) -> tuple[nn.Module, Run]:
    torch.manual_seed(0)
    if name == "spconv":
        return spconv_unet()
    model = (AttentionUNet if name == "window attention" else SparseUNet)(IN_CHANNELS, CHANNELS)
    return model, on_levels(model)


def measure(name: str, coordinates: Tensor, threads: int, repeats: int, results: Any) -> None:
    """Puts parameters, CPU seconds and MiB into ``results``; None where the rival is not installed."""
    torch.set_num_threads(threads)
    try:
        model, run = build(name)
    except ImportError:
        results.put(None)
        return
    features = torch.randn(len(coordinates), IN_CHANNELS, generator=torch.Generator().manual_seed(0))
    small = coordinates[:500]
    run(small, features[:500]).square().mean().backward()  # what libraries allocate once is not the model's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run(coordinates, features).square().mean().backward()
        taken.append(time.process_time() - start)
        model.zero_grad()
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((sum(p.numel() for p in model.parameters()), statistics.median(taken), rise))


def room(num_voxels: int) -> Tensor:
    """(V, 4) voxels of 5 cm of a densely scanned room, cut at a plane to V of them."""
    side = max(3.0, (num_voxels / 1500) ** 0.5)
    made = generate_room(0, width=(side, side + 0.5), density=1500)
    voxels = voxelize(torch.from_numpy(made.points), 0.05)[0][:num_voxels]
    if len(voxels) < num_voxels:
        raise RuntimeError(f"the room has {len(voxels)} voxels only")
    return F.pad(voxels, (1, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--voxels", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| backbone | parameters | voxels | forward + backward, CPU s | memory, MiB |")
    print("|---|---|---|---|---|")
    for num_voxels in arguments.voxels:
        coordinates = room(num_voxels)
        for name in ("sparse convolution", "window attention", "spconv"):
            results = context.Queue()
            child = context.Process(
                target=measure, args=(name, coordinates, arguments.threads, arguments.repeats, results)
            )
            child.start()
            result = results.get()
            child.join()
            if result is not None:
                parameters, seconds, memory = result
                print(f"| {name} | {parameters} | {num_voxels} | {seconds:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
