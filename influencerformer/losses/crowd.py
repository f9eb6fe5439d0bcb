"""Repulsion in a crowd: mean directions against the nearest prototypes, independent of the number of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

CROWD = 64
"""Instances of an image up to which all repel, pixel by pixel; beyond, that would be most of a step's cost."""
NEAREST = 16
"""Other instances that repel one in a crowd."""
CROWD_POWER = 4
"""Power mean over the instances that overlap one: even in K, unlike a sum, and never vanishing, unlike a mean."""


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
