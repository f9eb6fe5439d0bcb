"""Condensation by kernels and matrix products, for partitions on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

PIECE = 4096
"""Pixels whose gradient is made at a time."""


@dataclass
class _Image:
    """One image of (Q, N) logits with what both passes need of its pixels and queries."""

    real: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    near: Tensor | None = None
    excess: Tensor | None = None

    def direction_sums(self, logits: np.ndarray, sums: np.ndarray) -> None:
        """Finds mean and scale of all pixels, and the sums of directions over segments (Q, S)."""
        queries, pixels = logits.shape
        over_rows(kernels.mean_and_scale, pixels, queries, logits, self.real, SOFTENING, self.mean, self.scale)
        ordered = self.mean[self.order], self.scale[self.order], self.order, self.starts
        over_rows(kernels.direction_sums, queries, pixels, logits, self.real, *ordered, sums)

    def excess_sums(self, logits: Tensor, prototypes: Tensor, margin: float) -> Tensor:
        """Of prototypes (Q, K) the sums of cosines above the margin over segments (K, S); keeps which are above."""
        towards = prototypes.T.contiguous()
        products = towards @ logits
        self.near = torch.empty_like(products, dtype=torch.bool)
        self.excess = torch.empty(len(products), len(self.starts) - 1)
        over_rows(
            kernels.excess_sums,
            *products.shape,
            products.numpy(),
            towards.sum(1).numpy(),
            self.mean,
            self.scale,
            margin,
            self.order,
            self.starts,
            self.near.numpy(),
            self.excess.numpy(),
        )
        return self.excess

    def cosine_gradient(self, repulsion: Tensor, grad: Tensor) -> Tensor | None:
        """(K, N) by the cosines of pixels and prototypes; None in a crowd, whose repulsion is of the sums."""
        if self.excess is None or self.near is None:
            return None
        (by_excess,) = torch.autograd.grad(repulsion, self.excess, grad, retain_graph=True)
        result = torch.empty(self.near.shape)
        places = F.pad(by_excess, (0, 1)).numpy(), self.near.numpy(), self.labels, result.numpy()
        over_rows(kernels.cosine_gradient, *self.near.shape, *places)
        return result

    def prototype_gradient(self, logits: Tensor, by_cosine: Tensor) -> Tensor:
        """(Q, K) by prototypes."""
        scaled = by_cosine * torch.from_numpy(self.scale)
        result = logits @ scaled.T
        return result.sub_(scaled @ torch.from_numpy(self.mean)).mul_(torch.from_numpy(self.real)[:, None])

    def add_logit_gradient(
        self, logits: Tensor, by_sums: Tensor, prototypes: Tensor, by_cosine: Tensor | None, result: Tensor
    ) -> None:
        """Adds to (Q, N) the gradient by logits, some pixels at a time."""
        values, nothing = logits.contiguous().numpy(), np.empty((0, 0), np.float32)
        for offset in range(0, logits.shape[1], PIECE):
            share = nothing if by_cosine is None else (prototypes @ by_cosine[:, offset : offset + PIECE]).numpy()
            over_rows(
                kernels.add_logit_gradient,
                min(PIECE, logits.shape[1] - offset),
                len(logits),
                offset,
                values,
                self.real,
                self.mean,
                self.scale,
                by_sums.numpy(),
                self.labels,
                share,
                result.numpy(),
            )


class CompiledCondensation(torch.autograd.Function):
    """As the plain form in :mod:`influencerformer.losses.condensation`: attraction, repulsion (B, K) and the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        pixels: SortedPixels,
        sizes: Tensor,
        exists: Tensor,
        query_mask: Tensor | None,
        margin: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits)
        values = logits.detach()
        batch, queries, num_pixels = values.shape
        real = np.ones((batch, queries), np.bool_) if query_mask is None else query_mask.numpy()
        sums = torch.empty(batch, queries, pixels.num_segments)
        statistics = np.empty((batch, 2, num_pixels), np.float32)
        images = [
            _Image(real[i], pixels.labels[i], pixels.order[i], pixels.starts[i], *statistics[i]) for i in range(batch)
        ]
        for i, image in enumerate(images):
            image.direction_sums(values[i].float().contiguous().numpy(), sums[i].numpy())
        with torch.enable_grad():
            folded = pixels.fold(sums.requires_grad_())
            attraction, prototypes, mean = attraction_and_prototypes(folded, sizes, exists)
        repulsion = []
        for i, image in enumerate(images):
            if int(exists[i].sum()) > CROWD:
                with torch.enable_grad():
                    repulsion.append(compiled_crowd_repulsion(mean[i], prototypes[i], exists[i], margin))
                continue
            excess = image.excess_sums(values[i].float(), prototypes[i].detach(), margin)
            with torch.enable_grad():
                one = slice(i, i + 1)
                folded = excess.requires_grad_()[None]
                if pixels.incidence is not None:
                    folded = folded @ pixels.incidence[one]
                repulsion.append(repulsion_of(folded, sizes[one], exists[one])[0])
        ctx.images, ctx.small = images, (sums, attraction, prototypes, repulsion)
        return attraction.detach(), torch.stack([part.detach() for part in repulsion]), logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        logits = logits.detach()
        sums, attraction, prototypes, repulsion = ctx.small
        by_prototypes, by_cosine = torch.zeros_like(prototypes), []
        outputs, by_outputs = [attraction, prototypes], [grads[0], by_prototypes]
        with torch.autocast("cpu", enabled=False):
            for i, image in enumerate(ctx.images):
                by_cosine.append(image.cosine_gradient(repulsion[i], grads[1][i]))
                if by_cosine[i] is None:
                    outputs.append(repulsion[i])
                    by_outputs.append(grads[1][i])
                else:
                    by_prototypes[i] = image.prototype_gradient(logits[i].float(), by_cosine[i])
            (by_sums,) = torch.autograd.grad(outputs, sums, by_outputs, retain_graph=True)
            by_sums = F.pad(by_sums, (0, 1))
            # the gradient by the logits that were handed on is nobody else's
            result = grads[2].contiguous()
            for i, image in enumerate(ctx.images):
                grad = result[i] if result.dtype == torch.float32 else torch.zeros(result[i].shape)
                image.add_logit_gradient(logits[i].float(), by_sums[i], prototypes[i].detach(), by_cosine[i], grad)
                if result.dtype != torch.float32:
                    result[i] += grad
        return result, None, None, None, None, None
