"""Sums over the pixels of every instance, and their transpose, for one batch of targets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses import cpu
from influencerformer.losses.targets import MaskTargets

if TYPE_CHECKING:
    from influencerformer.losses.cpu.sorted_pixels import SortedPixels

DENSE_LIMIT = 48
"""Label maps with more instances than this are summed by scattering, fewer by a matrix product (measured)."""
BLOCK = 2**20
"""Numbers that a CPU works on at a time where rows of queries are enough, beyond, new memory is slow (measured)."""
FEWEST_QUERIES = 32
"""Queries in such a block at least: a product with fewer rows wastes the reading of its other side."""
PIXEL_BLOCK = 2**21
"""Numbers that a CPU works on at a time where all queries of a pixel are needed: larger pieces are slow to allocate."""


def query_blocks(values: Tensor) -> list[slice]:
    """Slices of the queries of (B, Q, N): on a CPU of about BLOCK numbers each, elsewhere one."""
    batch, queries, pixels = values.shape
    step = max(FEWEST_QUERIES, BLOCK // max(1, batch * pixels)) if values.device.type == "cpu" else max(1, queries)
    return _slices(queries, step)


def pixel_blocks(values: Tensor) -> list[slice]:
    """Slices of the pixels of (B, Q, N): on a CPU of at most PIXEL_BLOCK numbers each, elsewhere one."""
    batch, queries, pixels = values.shape
    step = max(1, PIXEL_BLOCK // max(1, batch * queries))
    return _slices(pixels, step if values.device.type == "cpu" else pixels)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, max(1, step))]


def weighted_total(values: Tensor, weight: Tensor) -> Tensor:
    """(B, P, N) values and (B, N) weights to (B, P); image by image, as a batched product with a vector is slow."""
    return torch.stack([torch.mv(image, w) for image, w in zip(values, weight, strict=True)])


class Scratch:
    """Memory for intermediate numbers of the size of a block, used again by every block and layer."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def like(self, name: str, block: Tensor) -> Tensor:
        """Uninitialised memory of the block's shape; what the name held before is lost."""
        held = self._held.get(name)
        if held is None or held.numel() < block.numel():
            held = self._held[name] = torch.empty_like(block, memory_format=torch.contiguous_format)
        return held.view(-1)[: block.numel()].view(block.shape)

    def clear(self) -> None:
        """Gives the memory back."""
        self._held.clear()


class Membership:
    """Which pixel belongs to which instance, as a linear map.

    A label map of many instances is a scatter, O(Q N); one of few instances and masks that overlap are a matrix
    product, O(Q K N). Segment 0 is the background; ignored pixels are in none.
    """

    def __init__(self, targets: MaskTargets) -> None:
        self.num_segments = targets.num_instances + 1
        self.num_instances = targets.num_instances
        self.partition = targets.labels is not None
        self.matrix: Tensor | None = None
        if targets.labels is not None:
            # one more segment takes the ignored pixels and is cut off again
            self.index = torch.where(targets.labels < 0, self.num_segments, targets.labels)
        if targets.labels is not None and self.num_segments > DENSE_LIMIT:
            background = targets.labels == 0
        else:
            self.matrix = targets.membership()
            background = self.matrix[..., 0] > 0
            if not self.partition:
                self.matrix = torch.cat([self.matrix, targets.valid.to(self.matrix.dtype)[..., None]], -1)
        self.foreground = (targets.valid & ~background).to(targets.sizes.dtype)
        """(B, N), 1 where a pixel is of any instance."""
        self.background = background.to(targets.sizes.dtype)
        """(B, N), 1 where a pixel is of none."""

    def gather(self, values: Tensor, pixels: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """(B, Q, P) at the given pixels to (B, Q, K + 1) sums over segments and (B, Q) over all not ignored."""
        if self.matrix is not None:
            sums = values @ self.matrix[:, pixels]
            if not self.partition:
                return sums[..., :-1], sums[..., -1]
        else:
            sums = values.new_zeros(*values.shape[:-1], self.num_segments + 1)
            sums.scatter_add_(-1, self.index[:, None, pixels].expand(values.shape), values)
            sums = sums[..., :-1]
        return sums, sums.sum(-1)

    def spread(
        self, sums: Tensor, total: Tensor | None, out: Tensor, pixels: slice = slice(None), *, add: bool = False
    ) -> Tensor:
        """The transpose of :meth:`gather`: (B, Q, K + 1) and (B, Q) to (B, Q, P), into ``out`` or added to it."""
        if total is not None and (self.partition or self.matrix is None):
            sums = sums + total[..., None]
        if self.partition and (self.matrix is None or out.device.type == "cpu"):
            return _take(F.pad(sums, (0, 1)), self.index[:, pixels], out, add)
        assert self.matrix is not None
        matrix = self.matrix[:, pixels]
        if not self.partition:
            matrix = matrix if total is not None else matrix[..., :-1]
            sums = sums if total is None else torch.cat([sums, total[..., None]], -1)
        return torch.baddbmm(out, sums, matrix.transpose(1, 2), beta=1 if add else 0, out=out)


def _take(values: Tensor, index: Tensor, out: Tensor, add: bool) -> Tensor:
    """(B, Q, S) values at (B, P) segments to (B, Q, P); image by image on a CPU, where whole columns are fast."""
    if out.device.type != "cpu":
        taken = values.gather(-1, index[:, None].expand(out.shape))
        return out.add_(taken) if add else out.copy_(taken)
    places = torch.empty_like(out) if add else out
    for image, row, place in zip(values, index, places, strict=True):
        torch.index_select(image, 1, row, out=place)
    return out.add_(places) if add else out


class Segments:
    """The truth of a group of images as sums over instances need it, each form made when it is asked for."""

    def __init__(self, targets: MaskTargets) -> None:
        self.targets = targets

    def compiled(self, values: Tensor) -> bool:
        """Whether sums of these values are left to the kernels for a CPU."""
        return cpu.applies(values)

    @functools.cached_property
    def membership(self) -> Membership:
        """For PyTorch's own operations."""
        return Membership(self.targets)

    @functools.cached_property
    def sorted_pixels(self) -> SortedPixels:
        """For kernels."""
        from influencerformer.losses.cpu.sorted_pixels import SortedPixels

        return SortedPixels(self.targets)
