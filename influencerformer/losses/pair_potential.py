"""The pair potential of a query and an instance: weighted pixel attraction and repulsion, and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.inputs import pad_to
from influencerformer.losses.mask_sums import MaskSums, mask_sums
from influencerformer.losses.membership import Segments


class PairPotential(NamedTuple):
    """Potentials of every query and instance, each (L, B, Q, K), not weighted against each other.

    ``hit`` (L, B, Q, K) and ``predicted`` (L, B, Q, 1) are sums of sigma over the instance and over all pixels,
    detached; ``sizes`` (1, B, 1 or Q, K) the pixels of instances.

    Where queries have one candidate each, (L, B, Q, 1): that of a query and its candidate.
    """

    pixel: Tensor
    overlap: Tensor
    hit: Tensor
    predicted: Tensor
    sizes: Tensor

    def iou(self) -> Tensor:
        """Soft intersection over union of query and instance, detached."""
        return (self.hit / (self.predicted + self.sizes - self.hit).clamp(min=1e-6)).clamp(0, 1)


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
        layers = [_of_candidates(sums, candidates) for sums in layers]
        sizes = _columns(sizes, candidates)
    sums = MaskSums(*(torch.stack(statistic) for statistic in zip(*layers, strict=True)))
    pixel = sums.total_softplus[..., None] - attr_weight * sums.inside_logit
    if split:
        pixel = pixel + (attr_weight - rep_weight) * sums.inside_softplus
    pixel = pixel / targets.num_valid[:, None, None]
    predicted = sums.total_sigma[..., None]
    overlap = 1 - (2 * sums.inside_sigma + 1) / (predicted + sizes + 1)
    return PairPotential(pixel, overlap, sums.inside_sigma.detach(), predicted.detach(), sizes[None])


def _columns(values: Tensor, candidates: Tensor) -> Tensor:
    """(B, Q or 1, K) to (B, Q, 1), those of candidates (B, Q); 0 where a query has none."""
    padded = F.pad(values, (1, 0)).expand(*candidates.shape, -1)
    return padded.gather(-1, candidates[..., None] + 1)


def _of_candidates(sums: MaskSums, candidates: Tensor) -> MaskSums:
    logit, sigma, softplus = (_columns(part, candidates) for part in sums[:3])
    return MaskSums(logit, sigma, softplus, sums.total_softplus, sums.total_sigma)


def of_batch(potentials: Sequence[PairPotential]) -> PairPotential:
    """Those of all groups, padded to (L, B, Q, K or 1) of the batch."""
    if len(potentials) == 1:
        return potentials[0]
    queries, instances = (max(p.pixel.shape[axis] for p in potentials) for axis in (2, 3))
    merged = []
    for part in zip(*potentials, strict=True):
        # sizes of instances that all queries see have one row, sums over all pixels one column
        rows = queries if max(p.shape[2] for p in part) > 1 else 1
        columns = instances if max(p.shape[3] for p in part) != 1 else 1
        merged.append(torch.cat([pad_to(p, rows, columns) for p in part], 1))
    return PairPotential(*merged)
