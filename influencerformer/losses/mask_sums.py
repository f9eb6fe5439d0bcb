"""Sums of mask statistics over the pixels of every instance: the only place the mask loss touches Q x N numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.targets import MaskTargets

DENSE_LIMIT = 48
"""Label maps with more instances than this are summed by scattering, fewer by a matrix product (measured)."""


class MaskSums(NamedTuple):
    """Sums over pixels: ``inside`` over an instance's, ``foreground`` over those of any, ``total`` over all.

    Shapes: inside (..., B, Q, K), foreground and total (..., B, Q); s logits, sigma sigmoid(s), softplus log(1 + e^s).
    """

    inside_logit: Tensor
    inside_softplus: Tensor
    inside_sigma: Tensor
    foreground_softplus: Tensor
    total_softplus: Tensor
    total_sigma: Tensor


class Membership:
    """Sums over instances and their transpose, for one batch of targets: a matrix product or a scatter."""

    def __init__(self, targets: MaskTargets) -> None:
        self.num_segments = targets.num_instances + 1
        labels = targets.labels
        if labels is not None and self.num_segments > DENSE_LIMIT:
            self.matrix = None
            # one more segment takes the ignored pixels and is cut off again
            self.index = torch.where(labels < 0, self.num_segments, labels)
        else:
            self.matrix = targets.membership()
        self.valid = targets.valid.to(targets.sizes.dtype)

    def gather(self, values: Tensor) -> Tensor:
        """(..., B, Q, N) pixels to (..., B, Q, K + 1) segment sums, background first."""
        if self.matrix is not None:
            return values @ self.matrix
        sums = values.new_zeros(*values.shape[:-1], self.num_segments + 1)
        sums.scatter_add_(-1, self.index[:, None].expand(values.shape), values)
        return sums[..., : self.num_segments]

    def spread(self, sums: Tensor) -> Tensor:
        """(..., B, Q, K + 1) to (..., B, Q, N): the transpose of :meth:`gather`."""
        if self.matrix is not None:
            return sums @ self.matrix.transpose(1, 2)
        padded = F.pad(sums, (0, 1))
        index = self.index[:, None].expand(*sums.shape[:-1], self.index.shape[-1])
        return padded.gather(-1, index)

    def total(self, values: Tensor) -> Tensor:
        """(..., B, Q, N) to (..., B, Q): over every pixel that is not ignored."""
        return torch.einsum("...bqn,bn->...bq", values, self.valid)


class _Sums(torch.autograd.Function):
    """Forward reads the logits once and keeps nothing else of their size; backward is in closed form."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, membership: Membership) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits)
        ctx.membership = membership
        softplus, sigma = F.softplus(logits), logits.sigmoid()
        return (
            membership.gather(logits),
            membership.gather(softplus),
            membership.gather(sigma),
            membership.total(softplus),
            membership.total(sigma),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        membership: Membership = ctx.membership
        g_logit, g_softplus, g_sigma, t_softplus, t_sigma = grads
        valid = membership.valid[:, None]
        sigma = logits.sigmoid()
        by_sigma = membership.spread(g_softplus) + t_softplus[..., None] * valid
        by_slope = membership.spread(g_sigma) + t_sigma[..., None] * valid
        return membership.spread(g_logit) + sigma * (by_sigma + (1 - sigma) * by_slope), None


def mask_sums(mask_logits: Tensor, targets: MaskTargets) -> MaskSums:
    """Segment sums of s, softplus(s) and sigmoid(s) over instances, foreground and image.

    Args:
        mask_logits: (..., B, Q, N) finite.
        targets: the truth of the same B images.

    Cost: O(Q N) for a label map of many instances, a matrix product otherwise.
    """
    logit, softplus, sigma, total_softplus, total_sigma = _Sums.apply(mask_logits, Membership(targets))
    return MaskSums(
        inside_logit=logit[..., 1:],
        inside_softplus=softplus[..., 1:],
        inside_sigma=sigma[..., 1:],
        foreground_softplus=total_softplus - softplus[..., 0],
        total_softplus=total_softplus,
        total_sigma=total_sigma,
    )
