"""How long the loss takes within a training step."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Mark = float | torch.cuda.Event


class CriterionClock:
    """Times a criterion's forward and backward pass by hooks; it does not change what it computes.

    The backward pass is the time from `start_backward` to the moment the gradients of everything the
    criterion was given are there: autograd runs the criterion's part first, before the network's. On a GPU
    CUDA events are used, which cost next to nothing until a time is read.

    Attributes:
        forward_seconds: sum over the criterion's calls since `reset`, seconds.
        backward_seconds: the same for the backward passes, seconds.
    """

    def __init__(self, criterion: nn.Module) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._forward: list[tuple[Mark, Mark]] = []
        self._backward: list[tuple[Mark, Mark | None]] = []
        self._called: Mark | None = None
        self._handles = [
            criterion.register_forward_pre_hook(self._before, with_kwargs=True),
            criterion.register_forward_hook(self._after),
        ]

    def remove(self) -> None:
        """Takes the hooks off the criterion."""
        for handle in self._handles:
            handle.remove()

    def reset(self) -> None:
        """Starts a new step."""
        self._forward, self._backward = [], []

    def start_backward(self) -> None:
        """To be called right before the backward pass."""
        self._backward.append((self._mark(), None))

    @property
    def forward_seconds(self) -> float:
        return sum(_seconds(start, end) for start, end in self._forward)

    @property
    def backward_seconds(self) -> float:
        return sum(_seconds(start, end) for start, end in self._backward if end is not None)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = next((x.device for x in inputs if x.is_cuda), None)
        self._stream = torch.cuda.current_stream(on_gpu) if on_gpu is not None else None
        to_train = [x for x in inputs if x.requires_grad]
        if torch.is_grad_enabled():
            # register_multi_grad_hook would do, but leaves cyclic garbage, kilobytes a step
            for x in to_train:
                x.register_hook(self._gradient_ready)
        self._called = self._mark()

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._called is not None:
            self._forward.append((self._called, self._mark()))
            self._called = None

    def _gradient_ready(self, gradient: Tensor) -> None:
        if self._backward:
            self._backward[-1] = self._backward[-1][0], self._mark()

    def _mark(self) -> Mark:
        if self._stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000.0
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start
