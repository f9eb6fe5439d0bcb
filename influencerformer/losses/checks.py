"""Checks of what a loss is given that need no look at shapes: kinds of arguments, weights, overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_weights(**weights: float) -> None:
    """ValueError naming the first weight that is no finite number of at least 0."""
    for name, weight in weights.items():
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, got {weight!r}")


def check_options(num_points: int | None, nonfinite: str | None) -> None:
    """ValueError for a number of points or a treatment of NaN that there is none of."""
    whole = isinstance(num_points, int) and not isinstance(num_points, bool)
    if num_points is not None and not (whole and num_points >= 1):
        raise ValueError(f"num_points must be an integer of at least 1, or None for all pixels, got {num_points!r}")
    if nonfinite not in (None, "raise", "skip"):
        raise ValueError(f"nonfinite must be 'raise', 'skip' or None, got {nonfinite!r}")


def check_kinds(**values: Any) -> None:
    """TypeError naming the first value that is neither a tensor nor (nested) lists of tensors, nor None."""
    for name, value in values.items():
        _check_kind(name, value, depth=2)


def _check_kind(name: str, value: Any, depth: int) -> None:
    if value is None or isinstance(value, Tensor):
        return
    if not isinstance(value, Sequence) or isinstance(value, str) or depth == 0:
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__} in its place")
    for one in value:
        if one is None:
            raise TypeError(f"{name} must be a tensor or a sequence of tensors, got None in the sequence")
        _check_kind(name, one, depth - 1)


def check_integers(name: str, values: Tensor, meaning: str) -> None:
    """TypeError unless the tensor holds integers."""
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name} must be integers ({meaning}), got {values.dtype}")


def check_overflow(loss: Tensor, name: str, values: Tensor | Sequence[Tensor], nonfinite: str | None) -> None:
    """ValueError if the loss of finite values is not finite; looks on a CPU only, and where NaN is to be named."""
    if loss.device.type != "cpu" or nonfinite == "skip" or torch.compiler.is_compiling() or bool(loss.isfinite()):
        return
    tensors = [values] if isinstance(values, Tensor) else list(values)
    largest = max((float(t.detach().abs().max()) for t in tensors if t.numel()), default=0.0)
    raise ValueError(
        f"the loss is {float(loss)} although all values are finite: {name} are as large as {largest:.3g}, whose sums "
        "overflow; the model has diverged: lower the learning rate or clip gradients"
    )
