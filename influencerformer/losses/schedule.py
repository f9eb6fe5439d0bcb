"""The temperature's schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Annealing(nn.Module):
    """A temperature that falls geometrically over the first part of a run and then stays.

    Args:
        temperature: a constant, or (start, end), both positive.
        fraction: of the run, in (0, 1], after which the temperature stays at its end.
        total_steps: length of the run in calls of :meth:`advance`.

    The number of calls is kept as the buffer ``calls``; only loading a state reads it, so no step waits for a device.
    """

    calls: Tensor

    def __init__(self, temperature: float | tuple[float, float], fraction: float, total_steps: int) -> None:
        super().__init__()
        start, end = temperature if isinstance(temperature, (tuple, list)) else (temperature, temperature)
        if not (start > 0 and end > 0):
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 < fraction <= 1:
            raise ValueError(f"anneal must be in (0, 1], got {fraction}")
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.start, self.end = float(start), float(end)
        self.fraction = fraction
        self.total_steps = total_steps
        self.progress: float | None = None
        self._counted = 0
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    @property
    def temperature(self) -> float:
        progress = self._counted / self.total_steps if self.progress is None else self.progress
        return self.start * (self.end / self.start) ** min(1.0, progress / self.fraction)

    def set_progress(self, fraction: float) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress must be in [0, 1], got {fraction}")
        self.progress = fraction

    def advance(self) -> None:
        self._counted += 1
        self.calls.fill_(self._counted)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._counted = int(self.calls)
