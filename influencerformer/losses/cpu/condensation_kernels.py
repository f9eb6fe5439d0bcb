"""Condensation's passes over the mask matrix of one image: directions are made in cache and never kept."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from influencerformer.losses.cpu.arithmetic import JIT, f32

Array = NDArray[np.float32]
Index = NDArray[np.uint32]
Flags = NDArray[np.bool_]
TILE = 2048
"""Pixels that are gone through at a time, row by row: what is kept of each fits the nearest cache."""


@numba.njit(**JIT)
def mean_and_scale(
    first: int, last: int, logits: Array, real: Flags, softening: float, mean: Array, scale: Array
) -> None:
    """Of pixels first..last: the mean over real queries, and 1 / sqrt(|s - mean|^2 + softening^2)."""
    count = f32(max(1, real.sum()))
    for start in range(first, last, TILE):
        end = min(last, start + TILE)
        middle, square = mean[start:end], scale[start:end]
        middle[:] = 0
        square[:] = f32(softening * softening)
        for q in range(logits.shape[0]):
            if real[q]:
                row = logits[q, start:end]
                for n in range(row.shape[0]):
                    middle[n] += row[n]
        for n in range(middle.shape[0]):
            middle[n] /= count
        for q in range(logits.shape[0]):
            if real[q]:
                row = logits[q, start:end]
                for n in range(row.shape[0]):
                    centred = row[n] - middle[n]
                    square[n] += centred * centred
        for n in range(square.shape[0]):
            square[n] = f32(1) / np.sqrt(square[n])


@numba.njit(inline="always", **JIT)
def _segment_sums(values: Array, starts: Index, sums: Array) -> None:
    """Of sorted values (N,) the sum over each segment, (S,)."""
    for j in range(starts.shape[0] - 1):
        some = values[starts[j] : starts[j + 1]]
        total = f32(0)
        for n in range(some.shape[0]):
            total += some[n]
        sums[j] = total


@numba.njit(**JIT)
def direction_sums(
    first: int,
    last: int,
    logits: Array,
    real: Flags,
    mean: Array,
    scale: Array,
    order: Index,
    starts: Index,
    sums: Array,
) -> None:
    """Of queries first..last the sums of directions over segments, (Q, S); pixels of mean and scale are sorted."""
    taken = np.empty(order.shape[0], np.float32)
    for q in range(first, last):
        if not real[q]:
            sums[q] = 0
            continue
        row = logits[q]
        for n in range(order.shape[0]):
            taken[n] = (row[order[n]] - mean[n]) * scale[n]
        _segment_sums(taken, starts, sums[q])


@numba.njit(**JIT)
def excess_sums(
    first: int,
    last: int,
    products: Array,
    lengths: Array,
    mean: Array,
    scale: Array,
    margin: float,
    order: Index,
    starts: Index,
    near: Flags,
    excess: Array,
) -> None:
    """Of prototypes first..last: where their cosine is above the margin, and the sums of what is above, (K, S).

    ``products`` (K, N) are those of prototypes with logits; ``lengths`` (K,) the sums of prototypes over queries.
    """
    taken, limit = np.empty(order.shape[0], np.float32), f32(margin)
    for k in range(first, last):
        row, flags = products[k], near[k]
        for n in range(row.shape[0]):
            above = (row[n] - lengths[k] * mean[n]) * scale[n] - limit
            flags[n] = above > f32(0)
            row[n] = max(above, f32(0))
        for n in range(order.shape[0]):
            taken[n] = row[order[n]]
        _segment_sums(taken, starts, excess[k])


@numba.njit(**JIT)
def cosine_gradient(first: int, last: int, by_excess: Array, near: Flags, labels: Index, result: Array) -> None:
    """Of prototypes first..last the gradient by cosines, (K, N); ``by_excess`` (K, S + 1) ends in zeros."""
    for k in range(first, last):
        values, flags, row = by_excess[k], near[k], result[k]
        for n in range(row.shape[0]):
            row[n] = values[labels[n]] if flags[n] else f32(0)


@numba.njit(**JIT)
def add_logit_gradient(
    first: int,
    last: int,
    offset: int,
    logits: Array,
    real: Flags,
    mean: Array,
    scale: Array,
    by_sums: Array,
    labels: Index,
    by_direction: Array,
    result: Array,
) -> None:
    """Adds to ``result`` (Q, N), at pixels offset + first..last, the gradient by logits.

    The gradient of v / sqrt(|v|^2 + eps^2) is scale (g - e (e . g)). That by directions, g, is ``by_sums`` (Q, S + 1),
    which ends in zeros, at a pixel's segment, and ``by_direction`` (Q, P) of pixels from the offset on, to which the
    former is added.
    """
    for start in range(first, last, TILE):
        end = min(last, start + TILE)
        here = slice(offset + start, offset + end)
        segment, middle, length = labels[here], mean[here], scale[here]
        along = np.zeros(end - start, np.float32)
        for q in range(logits.shape[0]):
            if real[q]:
                row, values, grad = logits[q, here], by_sums[q], by_direction[q, start:end]
                for n in range(row.shape[0]):
                    grad[n] += values[segment[n]]
                for n in range(row.shape[0]):
                    along[n] += (row[n] - middle[n]) * grad[n]
        for n in range(along.shape[0]):
            along[n] *= length[n] * length[n]
        for q in range(logits.shape[0]):
            if real[q]:
                row, grad, place = logits[q, here], by_direction[q, start:end], result[q, here]
                for n in range(row.shape[0]):
                    place[n] += length[n] * (grad[n] - (row[n] - middle[n]) * along[n])
