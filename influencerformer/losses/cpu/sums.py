"""The sums of :mod:`influencerformer.losses.mask_sums` by kernels, for partitions on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.cpu import sums_kernels
from influencerformer.losses.cpu.arithmetic import over_rows
from influencerformer.losses.cpu.sorted_pixels import SortedPixels

HALF_ROWS = 2**18
"""Numbers of half precision that are brought to float32 at a time."""


def _blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    """(image, queries) pieces of (B, Q, N): whole images of float32, some rows of half precision."""
    batch, queries, pixels = logits.shape
    step = max(1, HALF_ROWS // max(1, pixels)) if logits.dtype != torch.float32 else max(1, queries)
    for image in range(batch):
        for start in range(0, queries, step):
            yield image, slice(start, min(start + step, queries))


class CompiledSums(torch.autograd.Function):
    """Of (B, Q, N) logits the sums of s, sigma and softplus over segments (B, Q, S), of the latter two over all (B, Q).

    Gradients are those of ``mask_sums``; only the logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        pixels: SortedPixels,
        rep_weight: float,
        bg_weight: float,
        split: bool,
        active: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits)
        logits = logits.detach()
        batch, queries, num_pixels = logits.shape
        busy = np.ones((batch, queries), np.bool_) if active is None else active.numpy()
        ctx.pixels, ctx.weights, ctx.split, ctx.busy = pixels, (rep_weight, bg_weight), split, busy
        segments = pixels.num_segments
        inside = [torch.empty(batch, queries, s) for s in (segments, segments, segments if split else 0)]
        total = [torch.empty(batch, queries) for _ in range(2)]
        for image, rows in _blocks(logits):
            block = logits[image, rows].float().contiguous()
            over_rows(
                sums_kernels.forward,
                len(block),
                num_pixels,
                block.numpy(),
                pixels.order[image],
                pixels.starts[image],
                pixels.runs[image].starts,
                pixels.runs[image].places,
                busy[image, rows],
                rep_weight,
                bg_weight,
                split,
                *(sums[image, rows].numpy() for sums in (*inside, *total)),
            )
        return *inside, *total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        logits = logits.detach()
        pixels: SortedPixels = ctx.pixels
        by_logit, by_sigma, by_softplus, *by_totals = (grad.contiguous() for grad in grads)
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for image, rows in _blocks(logits):
            block = logits[image, rows].float().contiguous()
            place = result[image, rows]
            grad = place if place.dtype == torch.float32 else torch.empty_like(block)
            over_rows(
                sums_kernels.backward,
                len(block),
                block.shape[1],
                block.numpy(),
                pixels.labels[image],
                ctx.busy[image, rows],
                *ctx.weights,
                ctx.split,
                *(g[image, rows].numpy() for g in (by_logit, by_sigma, by_softplus, *by_totals)),
                grad.numpy(),
            )
            if grad is not place:
                place.copy_(grad)
        return result, None, None, None, None, None
