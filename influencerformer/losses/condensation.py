"""Condensation: attraction and repulsion between pixels, where the assignment is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.membership import Membership
from influencerformer.losses.targets import MaskTargets

SOFTENING = 0.1
"""Length, in logits, below which a dense class vector has no direction: it bounds the gradient at equal logits."""
CROWD_POWER = 4
"""Power mean over the instances that overlap one: even in K, unlike a sum, and never vanishing, unlike a mean."""


class _Directions(torch.autograd.Function):
    """The dense class vectors' directions; keeps the logits alone and has a closed-form backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, query_mask: Tensor) -> Tensor:
        ctx.save_for_backward(logits, query_mask)
        return _directions(logits, query_mask)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, query_mask = ctx.saved_tensors
        direction, length = _directions(logits, query_mask)
        grad = (grads[0] - direction * (direction * grads[0]).sum(-2, keepdim=True)) / length
        return _centred(grad, query_mask), None


def _centred(values: Tensor, query_mask: Tensor) -> Tensor:
    """Minus the mean over queries; padded queries become zero. values (B, Q, N), query_mask (B, Q, 1) of 0 and 1."""
    count = query_mask.sum(-2, keepdim=True).clamp(min=1)
    mean = (values * query_mask).sum(-2, keepdim=True) / count
    return (values - mean) * query_mask


def _directions(logits: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor]:
    centred = _centred(logits, query_mask)
    length = (centred.square().sum(-2, keepdim=True) + SOFTENING**2).sqrt()
    return centred / length, length


def condensation(
    mask_logits: Tensor,
    targets: MaskTargets,
    membership: Membership,
    *,
    rep_margin: float = 0.0,
    query_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Pixels of one instance think alike, pixels of different instances do not.

    Column n of the mask matrix is the dense class vector of pixel n. With its direction
    :math:`e_n = c_n / \sqrt{|c_n|^2 + \epsilon^2}`, :math:`c_n = s_{\cdot n} - \tfrac1Q \sum_q s_{qn}`, and
    the instances' means :math:`\bar e_k` over their members and prototypes
    :math:`m_k = \bar e_k / \max(|\bar e_k|, \epsilon^2)`,

    .. math::
        \text{attraction}_k = 1 - |\bar e_k| = \operatorname*{mean}_{n \in k} (1 - e_n \cdot m_k), \qquad
        \text{repulsion}_k = \Big( \sum_{l \ne k} r_{kl}^4 \Big)^{1/4}, \quad
        r_{kl} = \operatorname*{mean}_{n \in k} \max(0, e_n \cdot m_l - \text{margin}).

    Both need no assignment, so they separate instances from the first step. A perfect one-to-one configuration
    has none of either: there :math:`e_n \cdot m_l = -1/(Q-1) < 0`. A single query has nothing to tell apart: both are
    zero.

    Args:
        mask_logits: (B, Q, N) finite.
        targets: the truth of the same images.
        membership: of the same targets.
        rep_margin: cosine above which a pixel and the prototype of another instance repel, at least 0.
        query_mask: (B, Q) bool, False for padding.

    Returns:
        attraction (B, K) and repulsion (B, K), zero where there is no instance.
    """
    if query_mask is None:
        mask = mask_logits.new_ones(*mask_logits.shape[:2], 1)
    else:
        mask = query_mask.to(mask_logits.dtype)[..., None]
    direction = _Directions.apply(mask_logits, mask)
    size = targets.sizes.clamp(min=1)[:, None]
    mean = membership.gather(direction)[0][..., 1:] / size
    length = (mean.square().sum(1) + torch.finfo(mean.dtype).tiny).sqrt()
    exists = targets.instance_mask & (mask.sum((1, 2)) > 1)[:, None]
    attraction = (1 - length).clamp(min=0) * exists
    prototype = mean / length.clamp(min=SOFTENING**2)[:, None]
    excess = (prototype.transpose(1, 2) @ direction - rep_margin).clamp(min=0)
    overlap = membership.gather(excess)[0][..., 1:] / size
    pairs = exists[:, :, None] & exists[:, None]
    pairs = pairs & ~torch.eye(exists.shape[1], dtype=torch.bool, device=exists.device)
    return attraction, torch.linalg.vector_norm(overlap * pairs, CROWD_POWER, dim=1)
