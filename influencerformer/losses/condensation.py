"""Condensation: attraction and repulsion between pixels, where the assignment is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.crowd import CROWD, CROWD_POWER, crowd_repulsion
from influencerformer.losses.membership import Membership, Scratch, Segments, pixel_blocks
from influencerformer.losses.precision import full_precision, without_autocast

SOFTENING = 0.1
"""Length, in logits, below which a dense class vector has no direction: it bounds the gradient at equal logits."""


class Condensed(NamedTuple):
    """Attraction and repulsion (B, K), zero where there is no instance, and the logits (B, Q, N) as they came.

    What else is made of ``logits`` has its gradient added to in place, in place of a sum of two as large ones.
    """

    attraction: Tensor
    repulsion: Tensor
    logits: Tensor


class _Directions:
    """The dense class vectors' directions, block by block: of all that is Q x N only the logits are kept."""

    def __init__(self, logits: Tensor, query_mask: Tensor | None) -> None:
        self.logits, self.query_mask, self.scratch = logits, query_mask, Scratch()
        if query_mask is None:
            self.mean = logits.mean(-2, keepdim=True)
        else:
            count = query_mask.sum(-2, keepdim=True).clamp(min=1)
            self.mean = (logits * query_mask).sum(-2, keepdim=True) / count
        self._latest: slice | None = None
        self.scale = torch.empty_like(self.mean)
        for pixels in pixel_blocks(logits):
            squares = self._centred(pixels).square_().sum(-2, keepdim=True)
            self.scale[..., pixels] = squares.add_(SOFTENING**2).rsqrt_()

    def _centred(self, pixels: slice) -> Tensor:
        block = self.logits[..., pixels]
        centred = torch.sub(block, self.mean[..., pixels], out=self.scratch.like("centred", block))
        return centred if self.query_mask is None else centred.mul_(self.query_mask)

    def at(self, pixels: slice) -> Tensor:
        """e (B, Q, P), zero for padded queries, until the next block is asked for."""
        if self._latest != pixels:
            self._centred(pixels).mul_(self.scale[..., pixels])
            self._latest = pixels
        return self.scratch.like("centred", self.logits[..., pixels])

    def forget(self) -> None:
        """Gives the latest block's memory back."""
        self._latest = None
        self.scratch.clear()

    def backward(self, grad: Tensor, pixels: slice) -> Tensor:
        """In place, the gradient with respect to logits from that with respect to directions, centred over queries."""
        direction = self.at(pixels)
        product = torch.mul(direction, grad, out=self.scratch.like("product", grad))
        return grad.addcmul_(direction, product.sum(-2, keepdim=True), value=-1).mul_(self.scale[..., pixels])


def attraction_and_prototypes(sums: Tensor, sizes: Tensor, exists: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attraction (B, K), prototypes and mean directions (B, Q, K) from sums of directions over segments."""
    mean = sums[..., 1:] / sizes
    length = (mean.square().sum(1) + torch.finfo(mean.dtype).tiny).sqrt()
    return (1 - length).clamp(min=0) * exists, mean / length.clamp(min=SOFTENING**2)[:, None], mean


def repulsion_of(excess: Tensor, sizes: Tensor, exists: Tensor) -> Tensor:
    """(B, K) from sums of the excess over segments, (B, K, K + 1)."""
    pairs = exists[:, :, None] & exists[:, None]
    pairs = pairs & ~torch.eye(exists.shape[1], dtype=torch.bool, device=exists.device)
    return torch.linalg.vector_norm(excess[..., 1:] / sizes * pairs, CROWD_POWER, dim=1)


class _Condensation(torch.autograd.Function):
    """What is Q x N has its gradient in closed form, in two passes; Q x K and K x K numbers keep a small graph.

    Kept besides is one bit a pixel and instance: whether they are near enough to repel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        membership: Membership,
        sizes: Tensor,
        exists: Tensor,
        query_mask: Tensor | None,
        margin: float,
    ) -> tuple[Tensor, Tensor]:
        directions = _Directions(full_precision(logits), query_mask)
        ctx.dtype = logits.dtype
        sums = sizes.new_zeros(*logits.shape[:2], membership.num_segments)
        for pixels in pixel_blocks(logits):
            sums += membership.gather(directions.at(pixels), pixels)[0]
        with torch.enable_grad():
            attraction, prototypes, mean = attraction_and_prototypes(sums.requires_grad_(), sizes, exists)
            crowded = exists.sum(1) > CROWD
            crowd = torch.zeros_like(attraction)
            if exists.shape[1] > CROWD:
                crowd = crowd_repulsion(mean, prototypes, exists, margin) * crowded[:, None]
        towards = prototypes.detach().transpose(1, 2)
        excess = sizes.new_zeros(logits.shape[0], towards.shape[1], membership.num_segments)
        near = []
        for pixels in pixel_blocks(logits):
            cosine = towards @ directions.at(pixels)
            near.append((cosine > margin) & ~crowded[:, None, None])
            excess += membership.gather(cosine.sub_(margin).mul_(near[-1]), pixels)[0]
        with torch.enable_grad():
            repulsion = repulsion_of(excess.requires_grad_(), sizes, exists)
        directions.forget()
        ctx.directions, ctx.membership, ctx.near = directions, membership, near
        ctx.small = sums, excess, attraction, prototypes, repulsion, crowd
        return attraction.detach(), (repulsion + crowd).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        directions: _Directions = ctx.directions
        membership: Membership = ctx.membership
        sums, excess, attraction, prototypes, repulsion, crowd = ctx.small
        towards = prototypes.detach().transpose(1, 2)
        with without_autocast(sums):
            (by_excess,) = torch.autograd.grad(repulsion, excess, grads[1], retain_graph=True)
            by_prototypes = torch.zeros_like(prototypes)
            by_cosine = []
            for pixels, near in zip(pixel_blocks(directions.logits), ctx.near, strict=True):
                by_cosine.append(membership.spread(by_excess, None, sums.new_empty(near.shape), pixels))
                by_cosine[-1] *= near
                by_prototypes += directions.at(pixels) @ by_cosine[-1].transpose(1, 2)
            outputs, by_outputs = [attraction, prototypes], [grads[0], by_prototypes]
            if crowd.requires_grad:
                outputs, by_outputs = [*outputs, crowd], [*by_outputs, grads[1]]
            (by_sums,) = torch.autograd.grad(outputs, sums, by_outputs, retain_graph=True)
            result = torch.empty_like(directions.logits)
            for pixels, cosines in zip(pixel_blocks(directions.logits), by_cosine, strict=True):
                grad = membership.spread(by_sums, None, directions.scratch.like("grad", result[..., pixels]), pixels)
                grad.baddbmm_(towards.transpose(1, 2), cosines)
                result[..., pixels] = directions.backward(grad, pixels)
            directions.forget()
        return result.to(ctx.dtype), None, None, None, None, None


def condensation(
    mask_logits: Tensor,
    segments: Segments,
    *,
    rep_margin: float = 0.0,
    query_mask: Tensor | None = None,
) -> Condensed:
    r"""Pixels of one instance think alike, pixels of different instances do not.

    Column n of the mask matrix is the dense class vector of pixel n. With its direction
    :math:`e_n = c_n / \sqrt{|c_n|^2 + \epsilon^2}`, :math:`c_n = s_{\cdot n} - \tfrac1Q \sum_q s_{qn}`, and
    the instances' means :math:`\bar e_k` over their members and prototypes
    :math:`m_k = \bar e_k / \max(|\bar e_k|, \epsilon^2)`,

    .. math::
        \text{attraction}_k = 1 - |\bar e_k| = \operatorname*{mean}_{n \in k} (1 - e_n \cdot m_k), \qquad
        \text{repulsion}_k = \Big( \sum_{l \ne k} r_{kl}^4 \Big)^{1/4}, \quad
        r_{kl} = \operatorname*{mean}_{n \in k} \max(0, e_n \cdot m_l - \text{margin}).

    An image of more than CROWD instances has :func:`crowd_repulsion` in place of this one, whose cost is that of K Q N
    products. Neither needs an assignment, so they separate instances from the first step. A perfect one-to-one
    configuration has none of either: there :math:`e_n \cdot m_l = -1/(Q-1) < 0`. A single query has nothing to tell
    apart: both are zero.

    Args:
        mask_logits: (B, Q, N), or (Q, N) of one image, finite.
        segments: the truth of the same images.
        rep_margin: cosine above which a pixel and the prototype of another instance repel, at least 0.
        query_mask: (B, Q) bool, False for padding.

    """
    if mask_logits.ndim == 2:
        mask_logits = mask_logits[None]
    targets = segments.targets
    exists = targets.instance_mask
    if mask_logits.shape[1] < 2:
        exists = torch.zeros_like(exists)
    if query_mask is not None:
        exists = exists & (query_mask.sum(1) > 1)[:, None]
    sizes = targets.sizes.clamp(min=1)[:, None]
    if segments.compiled(mask_logits):
        from influencerformer.losses.cpu.condensation import CompiledCondensation

        pixels = segments.sorted_pixels
        return Condensed(*CompiledCondensation.apply(mask_logits, pixels, sizes, exists, query_mask, rep_margin))
    mask = None if query_mask is None else query_mask.to(sizes.dtype)[..., None]
    attraction, repulsion = _Condensation.apply(mask_logits, segments.membership, sizes, exists, mask, rep_margin)
    return Condensed(attraction, repulsion, mask_logits)
