"""Sums over the pixels of every instance, and their transpose, for one batch of targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.targets import MaskTargets

DENSE_LIMIT = 48
"""Label maps with more instances than this are summed by scattering, fewer by a matrix product (measured)."""


class Membership:
    """Which pixel belongs to which instance, as a linear map.

    A label map of many instances is a scatter, O(Q N); one of few instances and masks that overlap are a matrix
    product, O(Q K N). Segment 0 is the background; ignored pixels are in none.
    """

    def __init__(self, targets: MaskTargets) -> None:
        self.num_segments = targets.num_instances + 1
        self.partition = targets.labels is not None
        self.matrix: Tensor | None = None
        if targets.labels is not None and self.num_segments > DENSE_LIMIT:
            # one more segment takes the ignored pixels and is cut off again
            self.index = torch.where(targets.labels < 0, self.num_segments, targets.labels)
        else:
            self.matrix = targets.membership()
            if not self.partition:
                self.matrix = torch.cat([self.matrix, targets.valid.to(self.matrix.dtype)[..., None]], -1)

    def gather(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, N) pixels to (B, Q, K + 1) sums over segments and (B, Q) over all that is not ignored."""
        if self.matrix is not None:
            sums = values @ self.matrix
            if not self.partition:
                return sums[..., :-1], sums[..., -1]
        else:
            sums = values.new_zeros(*values.shape[:-1], self.num_segments + 1)
            sums.scatter_add_(-1, self.index[:, None].expand(values.shape), values)
            sums = sums[..., :-1]
        return sums, sums.sum(-1)

    def spread(self, sums: Tensor, total: Tensor | None = None) -> Tensor:
        """The transpose of :meth:`gather`: (B, Q, K + 1) and (B, Q) to (B, Q, N)."""
        if self.matrix is not None and not self.partition:
            column = sums.new_zeros(sums.shape[:-1]) if total is None else total
            return torch.cat([sums, column[..., None]], -1) @ self.matrix.transpose(1, 2)
        if total is not None:
            sums = sums + total[..., None]
        if self.matrix is not None:
            return sums @ self.matrix.transpose(1, 2)
        index = self.index[:, None].expand(*sums.shape[:-1], self.index.shape[-1])
        return F.pad(sums, (0, 1)).gather(-1, index)
