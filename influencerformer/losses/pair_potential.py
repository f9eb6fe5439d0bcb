"""The pair potential of a query and an instance: weighted pixel attraction and repulsion, and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from influencerformer.losses.inputs import pad_to
from influencerformer.losses.mask_sums import MaskSums, mask_sums
from influencerformer.losses.membership import Segments


@dataclass(frozen=True)
class PairPotential:
    r"""Potentials of every query and instance, as the sums over pixels that they are made of.

    Attributes:
        sums: those of L decoder layers, (L, B, Q, K) inside instances and (L, B, Q) in total. Where queries have one
            candidate each, K is 1: that of a query and its candidate.
        sizes: (B, 1, K), or (B, Q, 1) with candidates, pixels of the instance.
        num_valid: (B,) pixels that are not ignored.
        attr_weight, rep_weight: of members of the instance and of other instances; in the sums the background is
            weighed already.
    """

    sums: MaskSums
    sizes: Tensor
    num_valid: Tensor
    attr_weight: float
    rep_weight: float

    def pixel(self) -> Tensor:
        """(L, B, Q, K) weighted cross-entropy of pixels, their mean."""
        sums = self.sums
        pixel = sums.total_softplus[..., None] - self.attr_weight * sums.inside_logit
        if self.attr_weight != self.rep_weight:
            pixel = pixel + (self.attr_weight - self.rep_weight) * sums.inside_softplus
        return pixel / self.num_valid[:, None, None]

    def overlap(self) -> Tensor:
        """(L, B, Q, K) dice loss of soft masks."""
        return 1 - (2 * self.sums.inside_sigma + 1) / (self.sums.total_sigma[..., None] + self.sizes + 1)

    def iou(self) -> Tensor:
        """(L, B, Q, K) intersection over union of soft masks, detached."""
        hit = self.sums.inside_sigma.detach()
        return (hit / (self.sums.total_sigma.detach()[..., None] + self.sizes - hit).clamp(min=1e-6)).clamp(0, 1)

    def claimed(self, claims: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars, sums of constant claims (L, B, Q, K) times pixel and overlap; gradients are in closed form."""
        options = claims, self.sizes, self.num_valid, self.attr_weight, self.rep_weight
        return _Claimed.apply(*self.sums, *options)


class _Claimed(torch.autograd.Function):
    """Claims times potentials; of Q x K numbers only the sums and the claims are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        inside_logit: Tensor,
        inside_sigma: Tensor,
        inside_softplus: Tensor,
        total_softplus: Tensor,
        total_sigma: Tensor,
        claims: Tensor,
        sizes: Tensor,
        num_valid: Tensor,
        attr_weight: float,
        rep_weight: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(inside_sigma, total_sigma, claims, sizes, num_valid)
        ctx.weights = attr_weight, rep_weight
        shares = claims.sum(-1)
        pixel = (shares * total_softplus).sum(-1) - attr_weight * _dot(claims, inside_logit)
        if attr_weight != rep_weight:
            pixel = pixel + (attr_weight - rep_weight) * _dot(claims, inside_softplus)
        dice = (2 * inside_sigma).add_(1).div_(total_sigma[..., None] + sizes + 1)
        return (pixel / num_valid).sum(), shares.sum() - _dot(claims, dice).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_pixel: Tensor, by_overlap: Tensor) -> tuple[Tensor | None, ...]:
        inside_sigma, total_sigma, claims, sizes, num_valid = ctx.saved_tensors
        attr_weight, rep_weight = ctx.weights
        scale = (by_pixel / num_valid)[:, None]
        by_logit = claims * (-attr_weight * scale[..., None])
        by_softplus = claims * ((attr_weight - rep_weight) * scale[..., None]) if attr_weight != rep_weight else None
        # with r = (2 h + 1) / d and d = t + |M| + 1: dr/dh = 2 / d, dr/dt = -r / d
        weight = (total_sigma[..., None] + sizes).add_(1).reciprocal_()
        dice = (2 * inside_sigma).add_(1).mul_(weight)
        weight.mul_(claims).mul_(by_overlap)
        return (
            by_logit,
            -2 * weight,
            by_softplus,
            claims.sum(-1) * scale,
            (weight * dice).sum(-1),
            *(None,) * 5,
        )


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """(L, B) sums of products of (L, B, Q, K), without a matrix of products."""
    rows, columns = one.flatten(2)[..., None, :], other.flatten(2)[..., None]
    return (rows @ columns)[..., 0, 0]


def pair_potential(
    mask_logits: Sequence[Tensor],
    segments: Segments,
    *,
    attr_weight: float = 1.0,
    rep_weight: float = 1.0,
    bg_weight: float = 1.0,
    candidates: Tensor | None = None,
) -> PairPotential:
    r"""Pixel and overlap potentials between every query q and instance k.

    With :math:`\zeta(s) = \log(1 + e^s)`, :math:`\sigma` the sigmoid, :math:`M_k` the members of k, F the
    pixels of any instance, G the background and n all pixels that are not ignored:

    .. math::
        \text{pixel}_{qk} &= \tfrac1n \Big( w_a \sum_{M_k} \zeta(-s_q) + w_r \sum_{F \setminus M_k} \zeta(s_q)
                             + w_b \sum_{G} \zeta(s_q) \Big) \\
        \text{overlap}_{qk} &= 1 - \frac{2 \sum_{M_k} \sigma(s_q) + 1}{\sum \sigma(s_q) + |M_k| + 1}

    With all weights 1 the pixel term is binary cross-entropy; the overlap term is Mask2Former's dice loss.

    Args:
        mask_logits: L decoder layers (B, Q, N), or (Q, N) of one image. They are read one after the other, so that
            nothing larger than a layer is made.
        segments: the truth of the same B images.
        candidates: (B, Q) int64, the one instance of interest to a query, or -1; None for all pairs.
    """
    targets, sizes = segments.targets, segments.targets.sizes[:, None]
    # the total counts a member's softplus by rep_weight, which is right where attr_weight is the same
    split = attr_weight != rep_weight
    active = None if candidates is None else candidates >= 0
    weights = {"rep_weight": rep_weight, "bg_weight": bg_weight}
    layers = [mask_sums(one, segments, **weights, split_softplus=split, active=active) for one in mask_logits]
    if candidates is not None:
        layers = [_of_candidates(sums, candidates, split) for sums in layers]
        sizes = _columns(sizes, candidates)
    sums = MaskSums(*(_stacked(statistic) for statistic in zip(*layers, strict=True)))
    return PairPotential(sums, sizes, targets.num_valid, attr_weight, rep_weight)


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """(L, ...); a view of one layer, which a stack would copy."""
    return layers[0][None] if len(layers) == 1 else torch.stack(list(layers))


def _columns(values: Tensor, candidates: Tensor) -> Tensor:
    """(B, Q or 1, K) to (B, Q, 1), those of candidates (B, Q); 0 where a query has none."""
    padded = F.pad(values, (1, 0)).expand(*candidates.shape, -1)
    return padded.gather(-1, candidates[..., None] + 1)


def _of_candidates(sums: MaskSums, candidates: Tensor, split: bool) -> MaskSums:
    logit, sigma = (_columns(part, candidates) for part in (sums.inside_logit, sums.inside_sigma))
    softplus = _columns(sums.inside_softplus, candidates) if split else sums.inside_softplus
    return MaskSums(logit, sigma, softplus, sums.total_softplus, sums.total_sigma)


def of_batch(potentials: Sequence[PairPotential]) -> PairPotential:
    """Those of all groups, their images' queries and instances padded to those of the batch."""
    if len(potentials) == 1:
        return potentials[0]
    queries = max(p.sums.total_sigma.shape[2] for p in potentials)
    instances = max(p.sums.inside_logit.shape[3] for p in potentials)
    split = potentials[0].attr_weight != potentials[0].rep_weight
    columns = (instances, instances, instances if split else 0)
    sums = MaskSums(
        *(torch.cat([pad_to(p.sums[i], queries, columns[i]) for p in potentials], 1) for i in range(3)),
        *(torch.cat([pad_to(p.sums[i], queries) for p in potentials], 1) for i in (3, 4)),
    )
    rows = queries if max(p.sizes.shape[1] for p in potentials) > 1 else 1
    return PairPotential(
        sums,
        torch.cat([pad_to(p.sizes, rows, instances) for p in potentials]),
        torch.cat([p.num_valid for p in potentials]),
        potentials[0].attr_weight,
        potentials[0].rep_weight,
    )
