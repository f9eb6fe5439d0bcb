"""Repulsion in a crowd by a kernel: only the nearest pairs are gone through, forward and backward."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.cpu.arithmetic import JIT, f32
from influencerformer.losses.crowd import CROWD_POWER, NEAREST

Array = NDArray[np.float32]
BLOCK = 256
"""Prototypes whose products with those after them are made at a time: half of all, as they are symmetric."""


@numba.njit(**JIT)
def _products(rows: Array, others: Array, near: NDArray[np.int64], result: Array) -> None:
    for k in range(near.shape[0]):
        for j in range(near.shape[1]):
            row, other = rows[k], others[near[k, j]]
            total = f32(0)
            for q in range(row.shape[0]):
                total += row[q] * other[q]
            result[k, j] = total


@numba.njit(**JIT)
def _gradients(
    rows: Array, others: Array, near: NDArray[np.int64], by_products: Array, by_rows: Array, by_others: Array
) -> None:
    for k in range(near.shape[0]):
        row, by_row = rows[k], by_rows[k]
        for j in range(near.shape[1]):
            weight = by_products[k, j]
            if weight != f32(0):
                other, by_other = others[near[k, j]], by_others[near[k, j]]
                for q in range(row.shape[0]):
                    by_row[q] += weight * other[q]
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


class _NearProducts(torch.autograd.Function):
    """(K, NEAREST) products of mean directions (K, Q) with the nearest prototypes (K, Q)."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, prototypes: Tensor) -> Tensor:
        near = _nearest(prototypes.detach())
        ctx.save_for_backward(mean, prototypes, near)
        result = torch.empty(near.shape)
        _products(mean.detach().numpy(), prototypes.detach().numpy(), near.numpy(), result.numpy())
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        mean, prototypes, near = (saved.detach() for saved in ctx.saved_tensors)
        results = torch.zeros_like(mean), torch.zeros_like(prototypes)
        arrays = (mean, prototypes, near, grad.contiguous(), *results)
        _gradients(*(array.numpy() for array in arrays))
        return results


def compiled_crowd_repulsion(mean: Tensor, prototypes: Tensor, exists: Tensor, margin: float) -> Tensor:
    """Of one image, mean directions and prototypes (Q, K): as :func:`influencerformer.losses.crowd.crowd_repulsion`."""
    there = exists.nonzero()[:, 0]
    rows = [values.index_select(1, there).T.contiguous() for values in (mean, prototypes)]
    above = (_NearProducts.apply(*rows) - margin).clamp(min=0)
    return above.new_zeros(exists.shape).index_copy(0, there, torch.linalg.vector_norm(above, CROWD_POWER, dim=-1))
