"""Sums of mask statistics over the pixels of every instance: the only place the claims touch Q x N numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.membership import CandidateMembership, Membership, Scratch, query_blocks, weighted_total
from influencerformer.losses.segments import EXPONENT_LIMIT, SortedSegments

Sees = Membership | CandidateMembership | SortedSegments


class MaskSums(NamedTuple):
    """Sums over pixels: ``inside`` an instance (B, Q, K), ``total`` over all (B, Q).

    s logits, sigma sigmoid(s), softplus log(1 + e^s). ``inside_softplus`` is zero where it was not asked for.
    """

    inside_logit: Tensor
    inside_sigma: Tensor
    inside_softplus: Tensor
    total_softplus: Tensor
    total_sigma: Tensor


def _rows(logits: Tensor, queries: slice | Tensor, scratch: Scratch) -> Tensor:
    """(B, P, N): a view for a slice, a copy for an index."""
    if isinstance(queries, slice):
        return logits[:, queries]
    copy = scratch.like("rows", logits[:, : len(queries)])
    return torch.index_select(logits, 1, queries, out=copy)


def _sigmoid_and_softplus(logits: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """sigma(s) and log(1 + e^s), the latter on a CPU to an absolute rounding error, at half the time."""
    sigma, softplus = scratch.like("sigma", logits), scratch.like("softplus", logits)
    if logits.device.type != "cpu":
        return torch.sigmoid(logits, out=sigma), softplus.copy_(F.softplus(logits))
    if logits.numel() and float(logits.amax()) > EXPONENT_LIMIT:
        torch.clamp(logits, max=EXPONENT_LIMIT, out=softplus).exp_().add_(1).log_()
        return torch.sigmoid(logits, out=sigma), torch.maximum(softplus, logits, out=softplus)
    torch.exp(logits, out=sigma)
    torch.add(sigma, 1, out=softplus)
    return sigma.div_(softplus), softplus.log_()


class _Sums(torch.autograd.Function):
    """Reads the logits once forward and once backward, and keeps nothing else of their size.

    With outputs a = sum of s, h = sum of sigma and z = sum of softplus over the pixels of segments, the gradient is

        da + sigma (dz + (1 - sigma) dh)

    where d. at a pixel is the sum of the gradients of the segments it is in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        membership: Sees,
        weight: Tensor,
        split_softplus: bool,
        rows: Tensor | None,
        scratch: Scratch,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits)
        ctx.membership, ctx.weight, ctx.split_softplus = membership, weight, split_softplus
        ctx.rows, ctx.scratch = rows, scratch
        size = (*logits.shape[:2], membership.num_segments)
        inside_logit, inside_sigma, inside_softplus = (logits.new_zeros(size) for _ in range(3))
        total_softplus, total_sigma = (logits.new_zeros(size[:2]) for _ in range(2))
        for queries in query_blocks(logits, rows):
            block = _rows(logits, queries, scratch)
            seen = membership.of(queries)
            if isinstance(seen, SortedSegments):
                logit, inside, total_softplus[:, queries], total_sigma[:, queries] = seen.block_sums(block, scratch)
                inside_logit[:, queries], inside_sigma[:, queries] = logit, inside
                continue
            sigma, softplus = _sigmoid_and_softplus(block, scratch)
            inside_logit[:, queries] = seen.gather(block)[0]
            inside_sigma[:, queries], total_sigma[:, queries] = seen.gather(sigma)
            total_softplus[:, queries] = weighted_total(softplus, weight)
            if split_softplus:
                inside_softplus[:, queries] = seen.gather(softplus)[0]
        return inside_logit, inside_sigma, inside_softplus, total_softplus, total_sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        membership: Sees = ctx.membership
        by_logit, by_sigma, by_softplus, by_total_softplus, by_total_sigma = grads
        result = torch.empty_like(logits) if ctx.rows is None else torch.zeros_like(logits)
        # an autocast region around backward() would lower the precision of the products
        with torch.autocast(logits.device.type, enabled=False):
            for queries in query_blocks(logits, ctx.rows):
                block = _rows(logits, queries, ctx.scratch)
                sigma = torch.sigmoid(block, out=ctx.scratch.like("sigma", block))
                grad = result[:, queries] if ctx.rows is None else ctx.scratch.like("softplus", block)
                seen = membership.of(queries)
                seen.spread(by_sigma[:, queries], by_total_sigma[:, queries], grad)
                grad.addcmul_(grad, sigma, value=-1)
                grad.addcmul_(by_total_softplus[:, queries, None], ctx.weight[:, None])
                if ctx.split_softplus:
                    seen.spread(by_softplus[:, queries], None, grad, add=True)
                grad.mul_(sigma)
                seen.spread(by_logit[:, queries], None, grad, add=True, spare=sigma)
                if isinstance(queries, Tensor):
                    result.index_copy_(1, queries, grad)
        return result, None, None, None, None, None


def mask_sums(
    mask_logits: Tensor,
    membership: Sees,
    weight: Tensor,
    *,
    split_softplus: bool = True,
    rows: Tensor | None = None,
    scratch: Scratch | None = None,
) -> MaskSums:
    """Sums of s, softplus(s) and sigmoid(s) over instances and over the image.

    Args:
        mask_logits: (B, Q, N), or (Q, N) of one image, finite.
        membership: the truth of the same B images: of all instances, of the queries' candidates, or of a partition in
            sorted order, which takes no ``split_softplus``.
        weight: (B, N) of a pixel in the total of softplus, 0 where ignored; constant.
        split_softplus: whether softplus is wanted by instance too, which costs one more product each way.
        rows: int64 queries to sum for; those of others are zero. None takes all.
        scratch: memory to share between calls; the backward pass holds on to it.
    """
    logits = mask_logits if mask_logits.ndim == 3 else mask_logits[None]
    logit, sigma, softplus, total_softplus, total_sigma = _Sums.apply(
        logits, membership, weight, split_softplus, rows, scratch or Scratch()
    )
    instances = slice(membership.num_segments - membership.num_instances, None)
    return MaskSums(logit[..., instances], sigma[..., instances], softplus[..., instances], total_softplus, total_sigma)
