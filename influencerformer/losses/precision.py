"""Losses are computed in float32 at least, whatever the region around them says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """float16 and bfloat16 to float32; other dtypes as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def without_autocast(values: Tensor | Sequence[object]) -> AbstractContextManager[object]:
    """A region without autocast on the device of a tensor, or of the first one in nested sequences."""
    first: object = values
    while isinstance(first, Sequence):
        first = first[0] if first else None
    device = first.device.type if isinstance(first, Tensor) else "cpu"
    available = torch.amp.autocast_mode.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()
