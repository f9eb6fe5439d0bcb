"""The number a loss is divided by: the same on every rank, and over all the batches of an optimiser step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, distributed


class Accumulation(NamedTuple):
    """The other batches that an optimiser step accumulates the gradient of, on this rank.

    Attributes:
        batches: number of batches that the step's gradient is averaged over, this one included.
        instances, images: of the other batches together.
    """

    batches: int
    instances: int
    images: int


_accumulation: ContextVar[Accumulation | None] = ContextVar("accumulation", default=None)


@contextmanager
def accumulated_with(accumulation: Accumulation | None) -> Iterator[None]:
    """Losses computed within are normalised over all batches of an optimiser step; None: over their batch alone.

    The mean of the losses of the step's batches, and of its gradient, then are those of one batch that holds them all.
    """
    token = _accumulation.set(accumulation)
    try:
        yield
    finally:
        _accumulation.reset(token)


def mean_over_ranks(
    total: Tensor, *, per_instance: float = 1.0, per_image: float | Tensor = 0.0, least: float = 1.0
) -> Tensor:
    """What to divide a sum over this rank's batch by, so that the mean of the quotients over ranks is the mean of all.

    That is the mean of ``total`` over all ranks of the default process group and, within :func:`accumulated_with`, over
    the batches of the step; ``total`` itself without these. Where no gradient is computed it is this batch's own
    ``total``: a validation has no other ranks to agree with, and these may be elsewhere.

    Args:
        total: what the batch adds up to, the number of its instances or the sum of its weights; any shape.
        per_instance, per_image: what an instance and an image add to ``total``, for the batches not seen yet.
        least: a smaller result becomes this.
    """
    if not torch.is_grad_enabled():
        return torch.clamp(total, min=least)
    step = _accumulation.get()
    if step is not None:
        total = (total + per_instance * step.instances + per_image * step.images) / step.batches
    if distributed.is_available() and distributed.is_initialized():
        total = total.clone()
        distributed.all_reduce(total)
        total = total / distributed.get_world_size()
    return torch.clamp(total, min=least)
