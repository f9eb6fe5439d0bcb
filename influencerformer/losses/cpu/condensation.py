"""Condensation by kernels and matrix products, on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.condensation import SOFTENING, attraction_and_prototypes, repulsion_of
from influencerformer.losses.cpu import condensation_kernels as kernels
from influencerformer.losses.cpu.arithmetic import over_rows
from influencerformer.losses.cpu.crowd import CrowdTerms
from influencerformer.losses.cpu.sorted_pixels import SortedPixels
from influencerformer.losses.crowd import CROWD

PIECE = 1024
"""Pixels a thread whose gradient is made at a time, which a cache holds for a few hundred queries."""


class _Image:
    """One image of (Q, N) float32 logits: sums of directions over its segments, and the gradient by them.

    Attributes:
        sums: (Q, S) sums of directions over segments.
    """

    def __init__(self, logits: Tensor, pixels: SortedPixels, index: int, real: np.ndarray) -> None:
        self.real, self.labels = real, pixels.labels[index]
        self.order, self.starts = pixels.order[index], pixels.starts[index]
        queries, count = logits.shape
        values = logits.numpy()
        self.mean, self.scale = np.empty(count, np.float32), np.empty(count, np.float32)
        over_rows(kernels.mean_and_scale, count, queries, values, real, SOFTENING, self.mean, self.scale)
        self.sums = torch.empty(queries, pixels.num_segments)
        ordered = self.mean[self.order], self.scale[self.order], self.order, self.starts
        over_rows(kernels.direction_sums, queries, count, values, real, *ordered, self.sums.numpy())

    def add_gradient(
        self, logits: Tensor, by_sums: Tensor, share: tuple[Tensor, Tensor] | None, result: Tensor
    ) -> None:
        """Adds to (Q, N) the gradient by logits, some pixels at a time.

        Args:
            logits: (Q, N), as before.
            by_sums: (Q, S).
            share: (Q, K) and (K, N) whose product is what else there is by directions.
            result: (Q, N) to add to.
        """
        (queries, count), padded = logits.shape, F.pad(by_sums, (0, 1)).numpy()
        step = max(1, min(count, PIECE * torch.get_num_threads()))
        scratch = torch.empty(queries * step)
        for offset in range(0, count, step):
            width = min(step, count - offset)
            by_direction = scratch[: queries * width].view(queries, width)
            if share is None:
                by_direction.zero_()
            else:
                torch.mm(share[0], share[1][:, offset : offset + width], out=by_direction)
            over_rows(
                kernels.add_logit_gradient,
                width,
                queries,
                offset,
                logits.numpy(),
                self.real,
                self.mean,
                self.scale,
                padded,
                self.labels,
                by_direction.numpy(),
                result.numpy(),
            )


class _PixelTerms:
    """Attraction and repulsion (K,) of one image where all instances repel, pixel by pixel."""

    def __init__(
        self, image: _Image, logits: Tensor, incidence: Tensor | None, sizes: Tensor, exists: Tensor, margin: float
    ) -> None:
        self.image = image
        self.sums = image.sums.requires_grad_()
        with torch.enable_grad():
            folded = self.sums if incidence is None else self.sums @ incidence
            attraction, prototypes, _ = attraction_and_prototypes(folded[None], sizes[None, None], exists[None])
            self.attraction_of, self.prototypes_of = attraction[0], prototypes[0]
        self.prototypes = self.prototypes_of.detach()
        towards = self.prototypes.T.contiguous()
        products = towards @ logits
        self.near = torch.empty_like(products, dtype=torch.bool)
        self.excess = torch.empty(len(products), len(image.starts) - 1)
        over_rows(
            kernels.excess_sums,
            *products.shape,
            products.numpy(),
            towards.sum(1).numpy(),
            image.mean,
            image.scale,
            margin,
            image.order,
            image.starts,
            self.near.numpy(),
            self.excess.numpy(),
        )
        self.excess.requires_grad_()
        with torch.enable_grad():
            folded = self.excess if incidence is None else self.excess @ incidence
            self.repulsion_of = repulsion_of(folded[None], sizes[None, None], exists[None])[0]
        self.attraction, self.repulsion = self.attraction_of.detach(), self.repulsion_of.detach()

    def gradient(self, logits: Tensor, by_attraction: Tensor, by_repulsion: Tensor) -> tuple[Tensor, Tensor]:
        """By sums (Q, S), and by the cosines of pixels and prototypes (K, N)."""
        (by_excess,) = torch.autograd.grad(self.repulsion_of, self.excess, by_repulsion, retain_graph=True)
        by_cosine = torch.empty(self.near.shape)
        places = F.pad(by_excess, (0, 1)).numpy(), self.near.numpy(), self.image.labels, by_cosine.numpy()
        over_rows(kernels.cosine_gradient, *self.near.shape, *places)
        scaled = by_cosine * torch.from_numpy(self.image.scale)
        by_prototypes = (logits @ scaled.T).sub_(scaled @ torch.from_numpy(self.image.mean))
        by_prototypes *= torch.from_numpy(self.image.real)[:, None]
        (by_sums,) = torch.autograd.grad(
            (self.attraction_of, self.prototypes_of), self.sums, (by_attraction, by_prototypes), retain_graph=True
        )
        return by_sums, by_cosine


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
        real = np.ones(logits.shape[:2], np.bool_) if query_mask is None else query_mask.numpy()
        ctx.images, ctx.terms, ctx.pixels = [], [], pixels
        for i, one in enumerate(logits.detach()):
            values = one.float().contiguous()
            image = _Image(values, pixels, i, real[i])
            incidence = None if pixels.incidence is None else pixels.incidence[i]
            if int(exists[i].sum()) > CROWD:
                folded = image.sums if incidence is None else image.sums @ incidence
                ctx.terms.append(CrowdTerms(folded[:, 1:], sizes[i, 0], exists[i], margin))
            else:
                ctx.terms.append(_PixelTerms(image, values, incidence, sizes[i, 0], exists[i], margin))
            del image.sums
            ctx.images.append(image)
        attraction, repulsion = (torch.stack([getattr(t, n) for t in ctx.terms]) for n in ("attraction", "repulsion"))
        return attraction, repulsion, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_attraction: Tensor, by_repulsion: Tensor, result: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        # the gradient by the logits that were handed on is nobody else's
        result = result.contiguous()
        with torch.autocast("cpu", enabled=False):
            for i, (image, terms) in enumerate(zip(ctx.images, ctx.terms, strict=True)):
                values = logits[i].detach().float().contiguous()
                share = None
                if isinstance(terms, CrowdTerms):
                    by_sums = F.pad(terms.gradient(by_attraction[i], by_repulsion[i]), (1, 0))
                    if ctx.pixels.incidence is not None:
                        by_sums = by_sums @ ctx.pixels.incidence[i].T
                else:
                    by_sums, by_cosine = terms.gradient(values, by_attraction[i], by_repulsion[i])
                    share = terms.prototypes, by_cosine
                half = result.dtype != torch.float32
                grad = torch.zeros(values.shape) if half else result[i]
                image.add_gradient(values, by_sums, share, grad)
                if half:
                    result[i] += grad
        return result, None, None, None, None, None
