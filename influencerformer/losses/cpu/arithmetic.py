"""Arithmetic that a compiler can turn into vector instructions, and threads for rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

JIT: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}
"""Sums may be reordered; NaN and infinity keep their meaning."""
FACTORS = 96
"""Numbers in [1, 2] whose product is finite in float32 with room to spare."""
ROWS_OF_A_THREAD = 2**15
"""Numbers that are worth a thread."""

f32 = np.float32


@intrinsic
def _floor(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.floor", [ir.FloatType()])
        return builder.call(function, arguments)

    return types.float32(types.float32), generate


@intrinsic
def _power_of_two(typing_context: Any, value: Any) -> Any:
    """2^n of an integral float32 in [-126, 127], by its bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        biased = builder.add(builder.fptosi(arguments[0], integer), ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(integer, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@numba.njit(inline="always", **JIT)
def exp_of_negative(x: float) -> float:
    """e^x of x <= 0 to float32's rounding; below -87 that of -87, about 1e-38.

    The nearest multiple of log 2 is split off in two steps (Cody and Waite); the rest, within log(2)/2 of 0, goes
    through the polynomial of the Cephes library.
    """
    x = max(x, f32(-87.0))
    n: float = _floor(x * f32(1.44269504) + f32(0.5))  # type: ignore[call-arg]
    r = x - n * f32(0.693359375)
    r = r + n * f32(2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1.0)
    return p * _power_of_two(n)


def over_rows(kernel: Callable[..., None], num_rows: int, row_size: int, *arguments: Any) -> None:
    """Calls kernel(first, last, *arguments) for all rows, split over as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), num_rows, num_rows * row_size // ROWS_OF_A_THREAD)
    if threads <= 1:
        kernel(0, num_rows, *arguments)
        return
    bounds = [num_rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: kernel(bounds[i], bounds[i + 1], *arguments), range(threads)))
