"""What is different in a crowd: repulsion independent of the number of pixels, and claims that must be told apart."""

from __future__ import annotations

import torch
from torch import Tensor

CROWD = 64
"""Instances of an image up to which all repel, pixel by pixel; beyond, that would be most of a step's cost."""
NEAREST = 16
"""Other instances that repel one in a crowd."""
CROWD_POWER = 4
"""Power mean over the instances that overlap one: even in K, unlike a sum, and never vanishing, unlike a mean."""

STAGES = 6
"""Temperatures that the claims of a crowd go through."""
SHARE = 0.3
"""The last of them, of the gap between an instance's two best queries."""
COLDEST = 1e-5
"""Gaps of potentials below are rounding."""


def nearest(prototypes: Tensor, exists: Tensor) -> Tensor:
    """(B, K, NEAREST) indices of the other instances whose prototypes (B, Q, K) have the largest cosines with each."""
    products = prototypes.transpose(1, 2) @ prototypes
    itself = torch.eye(exists.shape[1], dtype=torch.bool, device=exists.device)
    products.masked_fill_(itself | ~exists[:, None], -torch.inf)
    return products.topk(min(NEAREST, exists.shape[1]), dim=-1).indices


def crowd_repulsion(mean: Tensor, prototypes: Tensor, exists: Tensor, margin: float) -> Tensor:
    r"""(B, K) from mean directions and prototypes (B, Q, K) and (B, K) which exist.

    .. math::
        \text{repulsion}_k = \Big( \sum_{l \in \text{nearest}(k)} \max(0, \bar e_k \cdot m_l - \text{margin})^4
            \Big)^{1/4},

    at most what the pixels' repulsion from the same prototypes would be, by convexity, and zero where that is.
    """
    with torch.no_grad():
        near = torch.zeros(*exists.shape, exists.shape[1], dtype=torch.bool, device=exists.device)
        near.scatter_(-1, nearest(prototypes, exists), True)
        near &= exists[:, None] & exists[..., None]
        near &= ~torch.eye(exists.shape[1], dtype=torch.bool, device=exists.device)
    above = (mean.transpose(1, 2) @ prototypes - margin).clamp(min=0)
    return torch.linalg.vector_norm(above * near, CROWD_POWER, dim=-1)


def crowd_temperatures(potential: Tensor, exists: Tensor, temperature: float) -> Tensor:
    r"""(..., B, STAGES) temperatures of the claims, from hot to cold.

    In a crowd of small instances the masks of a young network give all queries nearly the same potentials: next to a
    fixed temperature they are the same, all queries get the same claims, and so the same gradient, for good. The
    temperature therefore falls, in equal ratios, to

    .. math::
        \min\Big(\tau, \operatorname*{mean}_k \min\big(\tau, \texttt{SHARE} \cdot (D_{(2)k} - D_{(1)k})\big)\Big),

    where :math:`D_{(1)k} \le D_{(2)k}` are the two lowest potentials of instance k. It is the given one all along in
    images of CROWD instances or fewer.

    Args:
        potential: (..., B, Q, K), infinite where a query may not claim.
        exists: (B, K) bool.
        temperature: of the schedule.
    """
    target = torch.full_like(potential[..., 0, 0], temperature)
    if potential.shape[-2] > 1:
        best, second = potential.topk(2, dim=-2, largest=False).values.unbind(-2)
        gap = (SHARE * (second - best)).nan_to_num(nan=temperature).clamp(max=temperature)
        mean = (gap * exists).sum(-1) / exists.sum(-1).clamp(min=1)
        target = torch.where(exists.sum(-1) > CROWD, mean.clamp(min=min(COLDEST, temperature)), target)
    steps = torch.linspace(0, 1, STAGES, dtype=target.dtype, device=target.device)
    return temperature * (target[..., None] / temperature) ** steps
