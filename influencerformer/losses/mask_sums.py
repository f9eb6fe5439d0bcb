"""Sums of mask statistics over the pixels of every instance: the only place the claims touch Q x N numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.membership import Membership


class MaskSums(NamedTuple):
    """Sums over pixels: ``inside`` over an instance's, ``foreground`` over those of any, ``total`` over all.

    Shapes: inside (B, Q, K), foreground and total (B, Q); s logits, sigma sigmoid(s), softplus log(1 + e^s).
    """

    inside_logit: Tensor
    inside_softplus: Tensor
    inside_sigma: Tensor
    foreground_softplus: Tensor
    total_softplus: Tensor
    total_sigma: Tensor


class _Sums(torch.autograd.Function):
    """Forward reads the logits once and keeps nothing else of their size; backward is in closed form."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, membership: Membership) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits)
        ctx.membership = membership
        logit, _ = membership.gather(logits)
        softplus, total_softplus = membership.gather(F.softplus(logits))
        sigma, total_sigma = membership.gather(logits.sigmoid())
        return logit, softplus, sigma, total_softplus, total_sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        membership: Membership = ctx.membership
        by_logit, by_softplus, by_sigma, by_total_softplus, by_total_sigma = grads
        # an autocast region around backward() would lower the precision of the products
        with torch.autocast(logits.device.type, enabled=False):
            sigma = logits.sigmoid()
            # sigma (d softplus + (1 - sigma) d sigma) + d logit, in place: these are the largest tensors of the step
            grad = membership.spread(by_sigma, by_total_sigma)
            grad.addcmul_(grad, sigma, value=-1)
            grad.add_(membership.spread(by_softplus, by_total_softplus))
            grad.mul_(sigma)
            grad.add_(membership.spread(by_logit))
        return grad, None


def mask_sums(mask_logits: Tensor, membership: Membership) -> MaskSums:
    """Segment sums of s, softplus(s) and sigmoid(s) over instances, foreground and image.

    Args:
        mask_logits: (B, Q, N) finite.
        membership: the truth of the same B images.
    """
    logit, softplus, sigma, total_softplus, total_sigma = _Sums.apply(mask_logits, membership)
    return MaskSums(
        inside_logit=logit[..., 1:],
        inside_softplus=softplus[..., 1:],
        inside_sigma=sigma[..., 1:],
        foreground_softplus=total_softplus - softplus[..., 0],
        total_softplus=total_softplus,
        total_sigma=total_sigma,
    )
