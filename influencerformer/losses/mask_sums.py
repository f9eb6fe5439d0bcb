"""Sums of mask statistics over the pixels of every instance: the only place the claims touch Q x N numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.membership import Membership, Scratch, Segments, query_blocks, weighted_total
from influencerformer.losses.precision import without_autocast

EXPONENT_LIMIT = 80.0
"""Up to here e^s is finite in float32; from far below on, log(1 + e^s) is s."""


class MaskSums(NamedTuple):
    """Sums over pixels: ``inside`` an instance (B, Q, K), ``total`` over all (B, Q).

    s logits, sigma sigmoid(s), softplus log(1 + e^s). ``inside_softplus`` is empty, (B, Q, 0), where it was not
    asked for.
    """

    inside_logit: Tensor
    inside_sigma: Tensor
    inside_softplus: Tensor
    total_softplus: Tensor
    total_sigma: Tensor


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

    where d. at a pixel is the sum of the gradients of the segments it is in. Half precision is computed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, membership: Membership, weight: Tensor, split_softplus: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits)
        ctx.membership, ctx.weight, ctx.split_softplus = membership, weight, split_softplus
        size, scratch = (*logits.shape[:2], membership.num_segments), Scratch()
        inside_logit, inside_sigma = (weight.new_zeros(size) for _ in range(2))
        inside_softplus = weight.new_zeros(size if split_softplus else (*size[:2], 0))
        total_softplus, total_sigma = (weight.new_zeros(size[:2]) for _ in range(2))
        for queries in query_blocks(logits):
            block = logits[:, queries].to(weight.dtype)
            sigma, softplus = _sigmoid_and_softplus(block, scratch)
            inside_logit[:, queries] = membership.gather(block)[0]
            inside_sigma[:, queries], total_sigma[:, queries] = membership.gather(sigma)
            total_softplus[:, queries] = weighted_total(softplus, weight)
            if split_softplus:
                inside_softplus[:, queries] = membership.gather(softplus)[0]
        return inside_logit, inside_sigma, inside_softplus, total_softplus, total_sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        membership: Membership = ctx.membership
        by_logit, by_sigma, by_softplus, by_total_softplus, by_total_sigma = grads
        result, scratch = torch.empty_like(logits), Scratch()
        # an autocast region around backward() would lower the precision of the products
        with without_autocast(logits):
            for queries in query_blocks(logits):
                block = logits[:, queries].to(ctx.weight.dtype)
                sigma = torch.sigmoid(block, out=scratch.like("sigma", block))
                grad = scratch.like("softplus", block)
                membership.spread(by_sigma[:, queries], by_total_sigma[:, queries], grad)
                grad.addcmul_(grad, sigma, value=-1)
                grad.addcmul_(by_total_softplus[:, queries, None], ctx.weight[:, None])
                if ctx.split_softplus:
                    membership.spread(by_softplus[:, queries], None, grad, add=True)
                grad.mul_(sigma)
                membership.spread(by_logit[:, queries], None, grad, add=True)
                result[:, queries] = grad
        return result, None, None, None


def mask_sums(
    mask_logits: Tensor,
    segments: Segments,
    *,
    rep_weight: float = 1.0,
    bg_weight: float = 1.0,
    split_softplus: bool = True,
    active: Tensor | None = None,
) -> MaskSums:
    """Sums of s, softplus(s) and sigmoid(s) over instances and over the image.

    Args:
        mask_logits: (B, Q, N), or (Q, N) of one image, finite.
        segments: the truth of the same B images.
        rep_weight, bg_weight: of a pixel of an instance, and of the background, in the total of softplus.
        split_softplus: whether softplus is wanted by instance too.
        active: (B, Q) bool, queries whose sums are of interest; those of others may be zero. None takes all.
    """
    logits = mask_logits if mask_logits.ndim == 3 else mask_logits[None]
    if segments.compiled(logits):
        from influencerformer.losses.cpu.sums import CompiledSums

        pixels = segments.sorted_pixels
        *inside, total_softplus, total_sigma = CompiledSums.apply(
            logits, pixels, rep_weight, bg_weight, split_softplus, active
        )
        inside = [pixels.fold(part) if part.numel() else part for part in inside]
        sums = *inside, total_softplus, total_sigma
    else:
        membership = segments.membership
        weight = rep_weight * membership.foreground + bg_weight * membership.background
        sums = _Sums.apply(logits, membership, weight, split_softplus)
    logit, sigma, softplus, total_softplus, total_sigma = sums
    return MaskSums(logit[..., 1:], sigma[..., 1:], softplus[..., 1:], total_softplus, total_sigma)
