"""Sums over the instances of a partition on a CPU: pixels in the order of their instances, each read once."""

from __future__ import annotations

import torch
from torch import Tensor

from influencerformer.losses.membership import Membership, Scratch, weighted_total

SORTED_FROM = 32
"""Segments from which sums over sorted pixels are faster than a matrix product (measured)."""
EXPONENT_LIMIT = 80.0
"""Up to here e^s is finite in float32; from far below on, log(1 + e^s) is s."""
FACTORS = (8, 4, 2)
"""How many 1 + e^s may be multiplied before their logarithm is taken, if that cannot overflow."""


class SortedSegments:
    """A :class:`Membership` of a partition whose sums are taken over pixels sorted by segment.

    Args:
        membership: of label maps.
        weight: (B, N) of a pixel in the total of softplus, one value for the background and one for the foreground of
            an image, 0 where ignored.
    """

    def __init__(self, membership: Membership, weight: Tensor) -> None:
        self.membership = membership
        self.num_segments, self.num_instances = membership.num_segments, membership.num_instances
        self.order = membership.index.argsort(dim=-1, stable=True)
        counts = torch.zeros(len(weight), self.num_segments + 1, dtype=torch.int64)
        self.lengths = counts.scatter_add_(1, membership.index, torch.ones_like(membership.index))
        self.weight = weight.gather(1, self.order)
        ends = self.lengths.cumsum(1)[:, [0, self.num_segments - 1]].tolist()
        self.ranges = [((0, background), (background, end)) for background, end in ends]
        """Of each image the sorted pixels of the background and of all instances."""

    def of(self, queries: slice | Tensor) -> SortedSegments:
        """What these queries see: every segment."""
        return self

    def spread(
        self, sums: Tensor, total: Tensor | None, out: Tensor, *, add: bool = False, spare: Tensor | None = None
    ) -> Tensor:
        """As :meth:`Membership.spread`, to pixels in their own order."""
        return self.membership.spread(sums, total, out, add=add, spare=spare)

    def block_sums(self, logits: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums of s and sigmoid(s) (B, P, K + 1) over segments, of softplus(s) and sigmoid(s) (B, P) over all pixels.

        Args:
            logits: (B, P, N), pixels in their own order.
            scratch: memory to share between calls.
        """
        values, plus_one = scratch.like("sigma", logits), scratch.like("softplus", logits)
        for image, order, place in zip(logits, self.order, values, strict=True):
            torch.index_select(image, 1, order, out=place)
        inside_logit = self._segment_sums(values)
        largest = float(values.amax()) if values.numel() else 0.0
        if largest > EXPONENT_LIMIT:
            softplus = torch.clamp(values, max=EXPONENT_LIMIT, out=plus_one).exp_().add_(1).log_()
            total_softplus = weighted_total(torch.maximum(softplus, values, out=softplus), self.weight)
            sigma = values.sigmoid_()
        else:
            torch.add(values.exp_(), 1, out=plus_one)
            sigma = values.div_(plus_one)
            total_softplus = self._log_total(plus_one, max(0.0, largest) + 1.0)
        inside_sigma = self._segment_sums(sigma)
        return inside_logit, inside_sigma, total_softplus, inside_sigma.sum(-1)

    def _segment_sums(self, values: Tensor) -> Tensor:
        """(B, P, N) sorted to (B, P, K + 1); the last segment, of ignored pixels, is cut off."""
        lengths = self.lengths[:, None].expand(-1, values.shape[1], -1).contiguous()
        return torch.segment_reduce(values, "sum", lengths=lengths, axis=2, unsafe=True, initial=0)[..., :-1]

    def _log_total(self, values: Tensor, bound: float) -> Tensor:
        """(B, P) weighted sums of log(values) at sorted pixels; overwrites values, whose logarithms are below bound."""
        totals = values.new_zeros(values.shape[:2])
        for image, weight, ranges, total in zip(values, self.weight, self.ranges, totals, strict=True):
            for start, end in ranges:
                if end > start:
                    total += weight[start] * _sum_of_logs(image[:, start:end], bound)
        return totals


def _sum_of_logs(values: Tensor, bound: float) -> Tensor:
    """(P, n) to (P,): log of products in place of logs, as long as no product can overflow; overwrites values."""
    factors = next((f for f in FACTORS if f * bound < EXPONENT_LIMIT), 1)
    total = values.new_zeros(len(values))
    while factors > 1:
        half = values.shape[1] // 2
        if values.shape[1] % 2:
            total += values[:, -1].log()
        values, factors = values[:, :half].mul_(values[:, half : 2 * half]), factors // 2
    return total + values.log_().sum(1)
