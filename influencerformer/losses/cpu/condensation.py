"""Condensation by kernels and matrix products, for partitions on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.condensation import SOFTENING, attraction_and_prototypes, repulsion_of
from influencerformer.losses.cpu import condensation_kernels as kernels
from influencerformer.losses.cpu.arithmetic import over_rows
from influencerformer.losses.cpu.crowd import compiled_crowd_repulsion
from influencerformer.losses.cpu.sorted_pixels import SortedPixels
from influencerformer.losses.crowd import CROWD


class _Image(NamedTuple):
    """What a backward pass needs of one image beside its logits; ``near`` is None for a crowd."""

    real: np.ndarray
    mean: Tensor
    scale: Tensor
    near: Tensor | None


class CompiledCondensation(torch.autograd.Function):
    """As the plain form in :mod:`influencerformer.losses.condensation`: attraction and repulsion (B, K)."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        pixels: SortedPixels,
        sizes: Tensor,
        exists: Tensor,
        query_mask: Tensor | None,
        margin: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits)
        values = logits.detach()
        batch, queries, num_pixels = values.shape
        segments = pixels.num_segments
        real = np.ones((batch, queries), np.bool_) if query_mask is None else query_mask.numpy()
        sums, excess = torch.empty(batch, queries, segments), torch.empty(batch, segments - 1, segments)
        means, scales = torch.empty(2, batch, num_pixels)
        for image, (mean, scale) in enumerate(zip(means, scales, strict=True)):
            block = values[image].float().contiguous().numpy()
            over_rows(
                kernels.mean_and_scale, num_pixels, queries, block, real[image], SOFTENING, mean.numpy(), scale.numpy()
            )
            order = pixels.order[image]
            ordered = mean.numpy()[order], scale.numpy()[order]
            places = order, pixels.starts[image], sums[image].numpy()
            over_rows(kernels.direction_sums, queries, num_pixels, block, real[image], *ordered, *places)
        with torch.enable_grad():
            attraction, prototypes, average = attraction_and_prototypes(sums.requires_grad_(), sizes, exists)
        ctx.images, crowds = [], []
        for image, (mean, scale) in enumerate(zip(means, scales, strict=True)):
            if int(exists[image].sum()) > CROWD:
                with torch.enable_grad():
                    crowds.append(
                        compiled_crowd_repulsion(average[image], prototypes[image], exists[image], margin)
                    )
                excess[image] = 0
                ctx.images.append(_Image(real[image], mean, scale, None))
                continue
            crowds.append(attraction.new_zeros(segments - 1))
            towards = prototypes[image].detach().T.contiguous()
            products = towards @ values[image].float()
            near = torch.empty_like(products, dtype=torch.bool)
            over_rows(
                kernels.excess_sums,
                *products.shape,
                products.numpy(),
                towards.sum(1).numpy(),
                mean.numpy(),
                scale.numpy(),
                margin,
                pixels.order[image],
                pixels.starts[image],
                near.numpy(),
                excess[image].numpy(),
            )
            ctx.images.append(_Image(real[image], mean, scale, near))
        with torch.enable_grad():
            repulsion = repulsion_of(excess.requires_grad_(), sizes, exists)
            crowd = torch.stack(crowds)
        ctx.pixels, ctx.small = pixels, (sums, excess, attraction, prototypes, repulsion, crowd)
        return attraction.detach(), (repulsion + crowd).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        logits = logits.detach()
        sums, excess, attraction, prototypes, repulsion, crowd = ctx.small
        (by_excess,) = torch.autograd.grad(repulsion, excess, grads[1], retain_graph=True)
        by_excess = F.pad(by_excess, (0, 1))
        by_prototypes = torch.zeros_like(prototypes)
        by_cosine: list[Tensor | None] = []
        with torch.autocast("cpu", enabled=False):
            for image, (real, mean, scale, near) in enumerate(ctx.images):
                if near is None:
                    by_cosine.append(None)
                    continue
                grad = torch.empty(near.shape)
                labels = ctx.pixels.labels[image]
                over_rows(
                    kernels.cosine_gradient, *near.shape, by_excess[image].numpy(), near.numpy(), labels, grad.numpy()
                )
                scaled = grad * scale
                torch.mm(logits[image].float(), scaled.T, out=by_prototypes[image])
                by_prototypes[image].sub_(scaled @ mean).mul_(torch.from_numpy(real)[:, None])
                by_cosine.append(grad)
            outputs, by_outputs = [attraction, prototypes], [grads[0], by_prototypes]
            if crowd.requires_grad:
                outputs, by_outputs = [*outputs, crowd], [*by_outputs, grads[1]]
            (by_sums,) = torch.autograd.grad(outputs, sums, by_outputs, retain_graph=True)
            by_sums = F.pad(by_sums, (0, 1))
            result = torch.empty_like(logits, memory_format=torch.contiguous_format)
            for image, (real, mean, scale, _) in enumerate(ctx.images):
                place = result[image]
                grad = place if place.dtype == torch.float32 else torch.empty(place.shape)
                cosine_grad = by_cosine[image]
                if cosine_grad is not None:
                    torch.mm(prototypes[image].detach(), cosine_grad, out=grad)
                over_rows(
                    kernels.logit_gradient,
                    grad.shape[1],
                    len(grad),
                    logits[image].float().contiguous().numpy(),
                    real,
                    mean.numpy(),
                    scale.numpy(),
                    by_sums[image].numpy(),
                    ctx.pixels.labels[image],
                    cosine_grad is None,
                    grad.numpy(),
                )
                if grad is not place:
                    place.copy_(grad)
        return result, None, None, None, None, None
