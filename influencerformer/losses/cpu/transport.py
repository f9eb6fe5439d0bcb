"""Partial entropic transport by a kernel: as the plain form, in the log domain, on the instances that exist."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influencerformer.losses.cpu.arithmetic import JIT, exp_of_negative, f32, over_rows

Array = NDArray[np.float32]
Flags = NDArray[np.bool_]
SMALLEST = f32(1e-30)
"""Sums of claims below this are computed anew, relative to their largest term."""


@numba.njit(**JIT)
def _project(kernel: Array, log_none: Array, pull: Array, push: Array, top: Array, total: Array) -> None:
    """One projection on either side: push of queries, then pull of instances.

    The claims after the first half are at most one, so that their sums over queries give the second half without
    another exponential, unless an instance's are too small for float32.
    """
    queries, instances = kernel.shape
    share = np.empty(instances, np.float32)
    total[:] = 0
    for q in range(queries):
        row = kernel[q]
        highest = log_none[q]
        for k in range(instances):
            highest = max(highest, row[k] + pull[k])
        norm = exp_of_negative(log_none[q] - highest)
        for k in range(instances):
            share[k] = exp_of_negative(row[k] + pull[k] - highest)
            norm += share[k]
        push[q] = -highest - f32(math.log(norm))
        for k in range(instances):
            total[k] += share[k] / norm
    if instances and total.min() > SMALLEST:
        for k in range(instances):
            pull[k] -= f32(math.log(total[k]))
        return
    top[:] = -np.inf
    for q in range(queries):
        row = kernel[q]
        for k in range(instances):
            top[k] = max(top[k], row[k] + push[q])
    total[:] = 0
    for q in range(queries):
        row = kernel[q]
        for k in range(instances):
            total[k] += exp_of_negative(row[k] + push[q] - top[k])
    for k in range(instances):
        pull[k] = -top[k] - f32(math.log(total[k]))


@numba.njit(**JIT)
def _claims(
    first: int,
    last: int,
    potential: Array,
    none: Array,
    exists: Flags,
    allowed: Flags,
    temperatures: Array,
    iterations: int,
    claims: Array,
) -> None:
    """Of matrices first..last of (M, Q, K); where no query of an instance is allowed, all are."""
    for m in range(first, last):
        tau = temperatures[m, 0]
        columns = np.flatnonzero(exists[m])
        queries, instances = potential.shape[1], columns.shape[0]
        kernel = np.empty((queries, instances), np.float32)
        lowest, pull = np.full(instances, np.inf, np.float32), np.empty(instances, np.float32)
        top, total = np.empty(instances, np.float32), np.empty(instances, np.float32)
        for q in range(queries):
            row = kernel[q]
            for k in range(instances):
                row[k] = potential[m, q, columns[k]] if allowed[m, q, columns[k]] else np.inf
                lowest[k] = min(lowest[k], row[k])
        for k in range(instances):
            pull[k] = -lowest[k] / tau
        for q in range(queries):
            row = kernel[q]
            for k in range(instances):
                row[k] = (lowest[k] - row[k]) / tau
        push = np.empty(queries, np.float32)
        for s in range(temperatures.shape[1]):
            colder = temperatures[m, s]
            if s > 0 and colder >= tau:
                continue
            if colder < tau:
                kernel *= tau / colder
                pull *= tau / colder
                tau = colder
            for _ in range(iterations):
                _project(kernel, -none[m] / tau, pull, push, top, total)
        claims[m] = 0
        total[:] = 0
        for q in range(queries):
            row = kernel[q]
            for k in range(instances):
                exponent = min(row[k] + push[q] + pull[k], f32(0))
                row[k] = exp_of_negative(exponent) if exponent > f32(-87) else f32(0)
                total[k] += row[k]
        for q in range(queries):
            for k in range(instances):
                claims[m, q, columns[k]] = kernel[q, k] / total[k]


def compiled_transport(
    potential: Tensor,
    no_object_potential: Tensor,
    instance_mask: Tensor,
    allowed: Tensor | None,
    temperatures: Tensor,
    iterations: int,
) -> Tensor:
    """As :func:`influencerformer.losses.transport.partial_transport`: (..., Q, K) potentials, (..., S) temperatures."""
    shape = potential.shape
    if not potential.numel():
        return torch.zeros_like(potential)
    flat = potential.reshape(-1, *shape[-2:]).contiguous()
    none = no_object_potential.expand(shape[:-1]).reshape(flat.shape[:2]).contiguous()
    exists = instance_mask.expand(*shape[:-2], shape[-1]).reshape(len(flat), -1).contiguous()
    if allowed is None:
        free = np.broadcast_to(np.ones((), np.bool_), tuple(flat.shape))
    else:
        free = allowed.expand(shape).reshape(flat.shape).numpy()
    stages = temperatures.expand(*shape[:-2], -1).reshape(len(flat), -1).contiguous()
    claims = torch.empty_like(flat)
    over_rows(
        _claims,
        len(flat),
        flat[0].numel() * iterations * stages.shape[-1],
        flat.numpy(),
        none.numpy(),
        exists.numpy(),
        free,
        stages.numpy(),
        iterations,
        claims.numpy(),
    )
    return claims.view(shape)
