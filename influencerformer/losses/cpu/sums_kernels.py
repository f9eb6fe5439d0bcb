"""Sums of s, sigmoid(s) and softplus(s) over sorted pixels, and their gradient: one pass over a row, in cache."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from influencerformer.losses.cpu.arithmetic import FACTORS, JIT, exp_of_negative, f32

Array = NDArray[np.float32]
Index = NDArray[np.uint32]
BLOCK = 1024
"""Numbers added up in float32 before they go into a float64."""
TILE = 1024
"""Pixels of a row whose gradient is made at a time, from numbers in the nearest cache."""


@numba.njit(inline="always", **JIT)
def _take(row: Array, order: Index, place: Array, spare: Array) -> None:
    """The row in another order; first brought into cache by a copy, as reading in no order would wait for memory."""
    for n in range(row.shape[0]):
        spare[n] = row[n]
    for n in range(order.shape[0]):
        place[n] = spare[order[n]]


@numba.njit(inline="always", **JIT)
def _take_runs(row: Array, starts: Index, places: Index, place: Array) -> None:
    for r in range(places.shape[0]):
        start, length = starts[r], starts[r + 1] - starts[r]
        run, target = row[start : start + length], place[places[r] : places[r] + length]
        for n in range(run.shape[0]):
            target[n] = run[n]


@numba.njit(**JIT)
def _sigmoid_and_softplus(values: Array, sigma: Array) -> float:
    """Writes sigmoid(s) and returns the sum of softplus(s) = max(s, 0) + log(1 + e^-|s|), by logs of products."""
    total = 0.0
    for start in range(0, values.shape[0], FACTORS):
        some, place = values[start : start + FACTORS], sigma[start : start + FACTORS]
        positive, product = f32(0), f32(1)
        for n in range(some.shape[0]):
            value = some[n]
            small = exp_of_negative(-abs(value))
            inverse = f32(1) / (f32(1) + small)
            place[n] = inverse if value >= f32(0) else small * inverse
            positive += max(value, f32(0))
            product *= f32(1) + small
        total += positive + math.log(product)
    return total


@numba.njit(inline="always", **JIT)
def _sum(values: Array) -> float:
    total = 0.0
    for start in range(0, values.shape[0], BLOCK):
        some = values[start : start + BLOCK]
        part = f32(0)
        for n in range(some.shape[0]):
            part += some[n]
        total += part
    return total


@numba.njit(**JIT)
def forward(
    first: int,
    last: int,
    logits: Array,
    order: Index,
    starts: Index,
    run_starts: Index,
    run_places: Index,
    active: NDArray[np.bool_],
    rep_weight: float,
    bg_weight: float,
    split: bool,
    inside_logit: Array,
    inside_sigma: Array,
    inside_softplus: Array,
    total_softplus: Array,
    total_sigma: Array,
) -> None:
    """Sums of rows first..last of (Q, N) into (Q, S) and (Q,); segment j is order[starts[j]:starts[j+1]]."""
    segments = starts.shape[0] - 1
    values, sigma = np.empty(order.shape[0], np.float32), np.empty(order.shape[0], np.float32)
    for q in range(first, last):
        if not active[q]:
            inside_logit[q], inside_sigma[q], inside_softplus[q] = 0, 0, 0
            total_softplus[q], total_sigma[q] = 0, 0
            continue
        if run_places.shape[0]:
            _take_runs(logits[q], run_starts, run_places, values)
        else:
            _take(logits[q], order, values, sigma)
        part = _sigmoid_and_softplus(values[: starts[1]], sigma[: starts[1]])
        softplus = bg_weight * part
        if split:
            inside_softplus[q, 0] = part
            for j in range(1, segments):
                start, end = starts[j], starts[j + 1]
                part = _sigmoid_and_softplus(values[start:end], sigma[start:end])
                inside_softplus[q, j] = part
                softplus += rep_weight * part
        else:
            start, end = starts[1], starts[segments]
            softplus += rep_weight * _sigmoid_and_softplus(values[start:end], sigma[start:end])
        total_softplus[q] = softplus
        total = 0.0
        for j in range(segments):
            inside_logit[q, j] = _sum(values[starts[j] : starts[j + 1]])
            part = _sum(sigma[starts[j] : starts[j + 1]])
            inside_sigma[q, j] = part
            total += part
        total_sigma[q] = total


@numba.njit(**JIT)
def backward(
    first: int,
    last: int,
    logits: Array,
    labels: Index,
    active: NDArray[np.bool_],
    rep_weight: float,
    bg_weight: float,
    split: bool,
    by_logit: Array,
    by_sigma: Array,
    by_softplus: Array,
    by_total_softplus: Array,
    by_total_sigma: Array,
    result: Array,
) -> None:
    """Of a pixel in segment j: da_j + sigma (dz_j + (1 - sigma) dh_j); zero in no segment or an inactive row."""
    segments = by_logit.shape[1]
    a, h = np.zeros(segments + 1, np.float32), np.zeros(segments + 1, np.float32)
    z = np.zeros(segments + 1, np.float32)
    logit, inner, outer = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for q in range(first, last):
        if not active[q]:
            result[q] = 0
            continue
        for j in range(segments):
            a[j], h[j] = by_logit[q, j], by_sigma[q, j] + by_total_sigma[q]
            z[j] = by_total_softplus[q] * f32(rep_weight if j else bg_weight)
        if split:
            z[:-1] += by_softplus[q]
        member, background = z[min(1, segments - 1)], z[0]
        for start in range(0, logits.shape[1], TILE):
            values, segment = logits[q, start : start + TILE], labels[start : start + TILE]
            place = result[q, start : start + TILE]
            for n in range(segment.shape[0]):
                logit[n] = a[segment[n]]
                inner[n] = h[segment[n]]
            if split:
                for n in range(segment.shape[0]):
                    outer[n] = z[segment[n]]
            else:
                for n in range(segment.shape[0]):
                    outer[n] = background if segment[n] == 0 else member if segment[n] < segments else f32(0)
            for n in range(values.shape[0]):
                value = values[n]
                small = exp_of_negative(-abs(value))
                inverse = f32(1) / (f32(1) + small)
                sigma = inverse if value >= f32(0) else small * inverse
                place[n] = logit[n] + sigma * (outer[n] + (f32(1) - sigma) * inner[n])
