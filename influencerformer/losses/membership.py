"""Sums over the pixels of every instance, and their transpose, for one batch of targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.targets import MaskTargets

DENSE_LIMIT = 48
"""Label maps with more instances than this are summed by scattering, fewer by a matrix product (measured)."""
BLOCK = 2**20
"""Numbers that a CPU works on at a time where rows of queries are enough, beyond, new memory is slow (measured)."""
FEWEST_QUERIES = 32
"""Queries in such a block at least: a product with fewer rows wastes the reading of its other side."""
PIXEL_BLOCK = 2**21
"""Numbers that a CPU works on at a time where all queries of a pixel are needed: larger pieces are slow to allocate."""


def query_blocks(values: Tensor, rows: Tensor | None = None) -> Sequence[slice | Tensor]:
    """Slices of the queries of (B, Q, N), or pieces of ``rows``: on a CPU of about BLOCK numbers, elsewhere one."""
    batch, queries, pixels = values.shape
    step = max(FEWEST_QUERIES, BLOCK // max(1, batch * pixels)) if values.device.type == "cpu" else max(1, queries)
    return _slices(queries, step) if rows is None else rows.split(step)


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

    def of(self, queries: slice | Tensor) -> Membership:
        """What these queries see: every segment."""
        return self

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
        self,
        sums: Tensor,
        total: Tensor | None,
        out: Tensor,
        pixels: slice = slice(None),
        *,
        add: bool = False,
        spare: Tensor | None = None,
    ) -> Tensor:
        """The transpose of :meth:`gather`: (B, Q, K + 1) and (B, Q) to (B, Q, P), into ``out`` or added to it.

        ``spare`` is memory of the shape of ``out`` that may be used.
        """
        if total is not None and (self.partition or self.matrix is None):
            sums = sums + total[..., None]
        if self.partition and (self.matrix is None or out.device.type == "cpu"):
            return _take(F.pad(sums, (0, 1)), self.index[:, pixels], out, add, spare)
        assert self.matrix is not None
        matrix = self.matrix[:, pixels]
        if not self.partition:
            matrix = matrix if total is not None else matrix[..., :-1]
            sums = sums if total is None else torch.cat([sums, total[..., None]], -1)
        return torch.baddbmm(out, sums, matrix.transpose(1, 2), beta=1 if add else 0, out=out)


def _take(values: Tensor, index: Tensor, out: Tensor, add: bool, spare: Tensor | None) -> Tensor:
    """(B, Q, S) values at (B, P) segments to (B, Q, P); image by image on a CPU, where whole columns are fast."""
    if out.device.type != "cpu":
        taken = values.gather(-1, index[:, None].expand(out.shape))
        return out.add_(taken) if add else out.copy_(taken)
    places = out if not add else torch.empty_like(out) if spare is None else spare
    for image, row, place in zip(values, index, places, strict=True):
        torch.index_select(image, 1, row, out=place)
    return out.add_(places) if add else out


class CandidateMembership:
    """The same for queries that see one instance each, or none: no Q x K numbers, and passes in place of products.

    Args:
        targets: the truth of B images.
        candidates: (B, Q) int64, the instance of each query, -1 none.
        scratch: memory to share between images.
    """

    num_segments = num_instances = 1

    def __init__(self, targets: MaskTargets, candidates: Tensor, scratch: Scratch) -> None:
        indicators = targets.membership().transpose(1, 2)
        # the first row of an image is that of queries without an instance: no pixel is in it
        self.members = torch.cat([torch.zeros_like(indicators[:, :1]), indicators[:, 1:]], 1).flatten(0, 1)
        first = torch.arange(len(candidates), device=candidates.device) * (targets.num_instances + 1)
        self.index = candidates + 1 + first[:, None]
        self.valid = targets.valid.to(indicators.dtype)
        self.scratch = scratch

    def of(self, queries: slice | Tensor) -> CandidateRows:
        """What these queries see."""
        index = self.index[:, queries]
        like = self.members[:1].expand(index.numel(), -1)
        rows = torch.index_select(self.members, 0, index.flatten(), out=self.scratch.like("indicators", like))
        return CandidateRows(rows.view(*index.shape, like.shape[-1]), self.valid, self.scratch)


class CandidateRows:
    """Sums over the pixels of each query's own instance, and their transpose, as :class:`Membership` has them.

    Args:
        rows: (B, P, N) indicators of the instances of P queries; they hold until others are asked for.
        valid: (B, N), 1 where a pixel is not ignored.
        scratch: memory for products.
    """

    def __init__(self, rows: Tensor, valid: Tensor, scratch: Scratch) -> None:
        self.rows, self.valid, self.scratch = rows, valid, scratch

    def gather(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, N) to (B, P, 1) sums over instances and (B, P) over all pixels not ignored."""
        inside = torch.mul(values, self.rows, out=self.scratch.like("product", values)).sum(-1, keepdim=True)
        return inside, weighted_total(values, self.valid)

    def spread(
        self, sums: Tensor, total: Tensor | None, out: Tensor, *, add: bool = False, spare: Tensor | None = None
    ) -> Tensor:
        """(B, P, 1) and (B, P) to (B, P, N), into ``out`` or added to it."""
        if add:
            out.addcmul_(self.rows, sums)
        else:
            torch.mul(self.rows, sums, out=out)
        return out if total is None else out.addcmul_(self.valid[:, None], total[..., None])
