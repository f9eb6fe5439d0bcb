"""Attraction and repulsion in a crowd, with their gradient by hand: instances by queries are kept once."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influencerformer.losses.condensation import SOFTENING
from influencerformer.losses.cpu.arithmetic import JIT, f32
from influencerformer.losses.crowd import CROWD_POWER, NEAREST

Array = NDArray[np.float32]
Index = NDArray[np.int64]
BLOCK = 256
"""Prototypes whose products with those after them are made at a time: half of all, as they are symmetric."""


@numba.njit(**JIT)
def _products(mean: Array, inverse: Array, near: Index, result: Array) -> None:
    """Of mean directions (K, Q) with the nearest prototypes, mean times inverse: (K, NEAREST)."""
    for k in range(near.shape[0]):
        for j in range(near.shape[1]):
            row, other = mean[k], mean[near[k, j]]
            total = f32(0)
            for q in range(row.shape[0]):
                total += row[q] * other[q]
            result[k, j] = total * inverse[near[k, j]]


@numba.njit(**JIT)
def _gradients(mean: Array, inverse: Array, near: Index, weights: Array, by_mean: Array, by_prototype: Array) -> None:
    """Adds what weights (K, NEAREST) on the products give by mean directions and by prototypes."""
    for k in range(near.shape[0]):
        row, by_row = mean[k], by_mean[k]
        for j in range(near.shape[1]):
            weight = weights[k, j]
            if weight != f32(0):
                other, by_other, scaled = mean[near[k, j]], by_prototype[near[k, j]], weight * inverse[near[k, j]]
                for q in range(row.shape[0]):
                    by_row[q] += scaled * other[q]
                    by_other[q] += weight * row[q]


def _nearest(prototypes: Tensor) -> Tensor:
    """(K, NEAREST) from (K, Q), as :func:`influencerformer.losses.crowd.nearest` where all exist."""
    count = len(prototypes)
    products = torch.empty(count, count)
    for start in range(0, count, BLOCK):
        block = products[start : start + BLOCK, start:]
        torch.mm(prototypes[start : start + BLOCK], prototypes[start:].T, out=block)
        products[start + BLOCK :, start : start + BLOCK] = block[:, BLOCK:].T
    return products.fill_diagonal_(-torch.inf).topk(min(NEAREST, count - 1), dim=-1).indices


class CrowdTerms:
    """Attraction and :func:`influencerformer.losses.crowd.crowd_repulsion` (K,) of one image.

    Args:
        sums: (Q, K) of directions over instances; held.
        sizes: (K,) pixels of instances.
        exists: (K,) bool.
        margin: of the repulsion.
    """

    def __init__(self, sums: Tensor, sizes: Tensor, exists: Tensor, margin: float) -> None:
        self.sums, self.sizes, self.there = sums, sizes, exists.nonzero()[:, 0]
        mean = self._mean()
        self.length = (mean.square().sum(1) + torch.finfo(mean.dtype).tiny).sqrt()
        self.near = _nearest(mean * self._inverse()[:, None])
        self.above = torch.empty(self.near.shape)
        _products(mean.numpy(), self._inverse().numpy(), self.near.numpy(), self.above.numpy())
        self.above.sub_(margin).clamp_(min=0)
        self.crowding = torch.linalg.vector_norm(self.above, CROWD_POWER, dim=-1)
        self.attraction, self.repulsion = torch.zeros(2, len(exists))
        self.attraction[self.there] = (1 - self.length).clamp(min=0)
        self.repulsion[self.there] = self.crowding

    def _mean(self) -> Tensor:
        """(K, Q) mean directions of the instances that exist."""
        return (self.sums.index_select(1, self.there) / self.sizes[self.there]).T.contiguous()

    def _inverse(self) -> Tensor:
        return 1 / self.length.clamp(min=SOFTENING**2)

    def gradient(self, by_attraction: Tensor, by_repulsion: Tensor) -> Tensor:
        """(Q, K) by sums, from (K,) by the two terms."""
        mean, inverse = self._mean(), self._inverse()
        power = (self.above / self.crowding.clamp(min=torch.finfo(mean.dtype).tiny)[:, None]) ** (CROWD_POWER - 1)
        weights = power * by_repulsion[self.there][:, None]
        by_mean, by_prototype = torch.zeros_like(mean), torch.zeros_like(mean)
        arrays = (mean, inverse, self.near, weights, by_mean, by_prototype)
        _gradients(*(array.numpy() for array in arrays))
        by_length = -by_attraction[self.there] * (self.length <= 1)
        # a prototype is the mean direction over its length, unless that is too short
        long = self.length >= SOFTENING**2
        by_length -= (by_prototype * mean).sum(1) * inverse.square() * long
        by_mean.addcmul_(by_prototype, inverse[:, None]).addcmul_(mean, (by_length / self.length)[:, None])
        by_mean /= self.sizes[self.there][:, None]
        return torch.zeros_like(self.sums).index_copy_(1, self.there, by_mean.T)
