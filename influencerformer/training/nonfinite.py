"""Batches whose loss is not finite: left out, named and counted, and the end of the run where they are too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from influencerformer.errors import UserError

DEFAULT_SHARE = 0.05
WINDOW = 100
"""Latest training batches of which a share may be left out."""
NAMED = 20
"""Most samples that a message names."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; training cannot go on."""


class SkippedBatches:
    """Which batches of a run were left out.

    Attributes:
        total: number of batches left out since the run began.

    Args:
        max_share: the share of the last WINDOW batches, 0 to 1, that may be left out; 0 allows none.

    Raises:
        UserError: a share outside of 0 to 1.
    """

    def __init__(self, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise UserError(f"max_nonfinite_share must lie in 0 to 1, got {max_share}")
        self.max_share = max_share
        self.total = 0
        self._recent: list[tuple[int, list[str]]] = []

    def add(self, batch: int, names: Sequence[str]) -> None:
        """Notes that a batch was left out.

        Args:
            batch: its number in the run.
            names: of its samples.
        """
        self.total += 1
        self._recent = [(at, seen) for at, seen in self._recent if at > batch - WINDOW]
        self._recent.append((batch, list(names)))

    @property
    def too_many(self) -> bool:
        """Whether more than the allowed share of the WINDOW batches up to the last one added was left out."""
        return len(self._recent) > self.max_share * WINDOW

    def summary(self) -> str:
        """How many of the last batches were left out, and their samples."""
        number = self._recent[-1][0] + 1 if self._recent else 0
        names = list(dict.fromkeys(name for _, seen in self._recent for name in seen))
        return f"{len(self._recent)} of the last {min(WINDOW, number)} batches, with the samples {listed(names)}"

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"total": self.total, "recent": [[at, list(names)] for at, names in self._recent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = int(state["total"])
        self._recent = [(int(at), list(names)) for at, names in state["recent"]]


class RunningStatistics:
    """The running means of a network's normalisation layers, to be put back after a batch that spoilt them.

    `keep` copies them on their device, in a few kernels and without a wait for it.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, _NormBase)]
        tensors = [value for layer in layers for value in layer.buffers(recurse=False)]
        self._by_dtype: list[tuple[list[Tensor], list[Tensor]]] = []
        for dtype in {value.dtype for value in tensors}:
            alike = [value for value in tensors if value.dtype == dtype]
            self._by_dtype.append((alike, [value.clone() for value in alike]))

    @torch.no_grad()
    def keep(self) -> None:
        for values, copies in self._by_dtype:
            torch._foreach_copy_(copies, values)

    @torch.no_grad()
    def put_back(self) -> None:
        for values, copies in self._by_dtype:
            torch._foreach_copy_(values, copies)


def weights_are_finite(module: nn.Module) -> bool:
    """Whether every parameter is free of NaN and infinity; waits for the device."""
    found = [parameter.detach().isfinite().all() for parameter in module.parameters()]
    return all(bool(one) for one in found)


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first NAMED of them."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
