"""The number a loss is divided by, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_ranks(count: Tensor) -> Tensor:
    """The mean of a count over all ranks of the default process group, at least 1; the count itself without one."""
    if distributed.is_available() and distributed.is_initialized():
        count = count.clone()
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return torch.clamp(count, min=1)
