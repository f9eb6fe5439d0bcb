"""Compiled kernels of the mask losses for a CPU, in float32; PyTorch's own operations are their reference."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

AVAILABLE = importlib.util.find_spec("numba") is not None
"""Without numba the plain path computes the same, more slowly."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def applies(values: Tensor) -> bool:
    """Whether kernels are there for these values: up to float32, on a CPU, outside of torch.compile and functorch."""
    return (
        AVAILABLE
        and values.dtype in DTYPES
        and values.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(values)
    )
