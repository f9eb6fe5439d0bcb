"""The pair potential of a query and an instance: weighted pixel attraction and repulsion, and overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.inputs import MaskInputs, pad_to
from influencerformer.losses.mask_sums import MaskSums, Sees, mask_sums
from influencerformer.losses.membership import CandidateMembership, Membership, Scratch
from influencerformer.losses.segments import SORTED_FROM, SortedSegments
from influencerformer.losses.targets import MaskTargets

WORTH_SKIPPING = 0.75
"""Queries without a candidate are passed over where fewer than this part have one; picking rows has its price."""


class PairPotential(NamedTuple):
    """Potentials of every query and instance, each (L, B, Q, K), not weighted against each other.

    Where queries have one candidate each, (L, B, Q, 1): that of a query and its candidate.
    """

    pixel: Tensor
    overlap: Tensor
    iou: Tensor


def pair_potential(
    mask_logits: Sequence[Tensor],
    targets: MaskTargets,
    membership: Membership,
    *,
    attr_weight: float = 1.0,
    rep_weight: float = 1.0,
    bg_weight: float = 1.0,
    candidates: Tensor | None = None,
    scratch: Scratch | None = None,
) -> PairPotential:
    r"""Pixel and overlap potentials between every query q and instance k.

    With :math:`\zeta(s) = \log(1 + e^s)`, :math:`\sigma` the sigmoid, :math:`M_k` the members of k, F the
    pixels of any instance, G the background and n all pixels that are not ignored:

    .. math::
        \text{pixel}_{qk} &= \tfrac1n \Big( w_a \sum_{M_k} \zeta(-s_q) + w_r \sum_{F \setminus M_k} \zeta(s_q)
                             + w_b \sum_{G} \zeta(s_q) \Big) \\
        \text{overlap}_{qk} &= 1 - \frac{2 \sum_{M_k} \sigma(s_q) + 1}{\sum \sigma(s_q) + |M_k| + 1}

    With all weights 1 the pixel term is binary cross-entropy; the overlap term is Mask2Former's dice loss.
    ``iou`` is the soft intersection over union, detached.

    Args:
        mask_logits: L decoder layers (B, Q, N), or (Q, N) of one image. They are read one after the other, so that
            nothing larger than a layer is made.
        targets: the truth of the same B images.
        membership: of the same targets.
        candidates: (B, Q) int64, the one instance of interest to a query, or -1; None for all pairs.
        scratch: memory to share between calls.
    """
    # the total counts a member's softplus by rep_weight, which is right where attr_weight is the same
    split = attr_weight != rep_weight
    weight = rep_weight * membership.foreground + bg_weight * membership.background
    rows, sizes = None, targets.sizes[:, None]
    seen: Sees = membership
    if _worth_sorting(membership) and candidates is None and not split:
        seen = SortedSegments(membership, weight)
    if candidates is not None:
        seen, sizes = (
            CandidateMembership(targets, candidates, scratch or Scratch()),
            _sizes_of_candidates(targets.sizes, candidates),
        )
        if len(candidates) == 1:
            busy = (candidates[0] >= 0).nonzero()[:, 0]
            rows = busy if len(busy) < WORTH_SKIPPING * candidates.shape[1] else None
    layers = [mask_sums(layer, seen, weight, split_softplus=split, rows=rows, scratch=scratch) for layer in mask_logits]
    sums = MaskSums(*(torch.stack(statistic) for statistic in zip(*layers, strict=True)))
    pixel = sums.total_softplus[..., None] - attr_weight * sums.inside_logit
    if split:
        pixel = pixel + (attr_weight - rep_weight) * sums.inside_softplus
    pixel = pixel / targets.num_valid[:, None, None]
    predicted = sums.total_sigma[..., None]
    overlap = 1 - (2 * sums.inside_sigma + 1) / (predicted + sizes + 1)
    hit = sums.inside_sigma.detach()
    iou = hit / (predicted.detach() + sizes - hit).clamp(min=1e-6)
    return PairPotential(pixel, overlap, iou.clamp(0, 1))


def _worth_sorting(membership: Membership) -> bool:
    """On a CPU, many instances that do not overlap."""
    labels = membership.partition and membership.foreground.device.type == "cpu"
    return labels and membership.num_segments >= SORTED_FROM


def _sizes_of_candidates(sizes: Tensor, candidates: Tensor) -> Tensor:
    """(B, K) sizes to (B, Q, 1), 0 where a query has no candidate."""
    return F.pad(sizes, (1, 0)).gather(1, candidates + 1)[..., None]


def pair_potentials(inputs: MaskInputs, memberships: Sequence[Membership], **weights: float) -> Iterator[PairPotential]:
    """:func:`pair_potential` of every group of images."""
    scratch = Scratch()
    start = 0
    for group, membership in zip(inputs.groups, memberships, strict=True):
        batch, queries, _ = (1, *group.mask_logits[0].shape)[-3:]
        candidates = None if inputs.candidates is None else inputs.candidates[start : start + batch, :queries]
        start += batch
        yield pair_potential(
            group.mask_logits, group.targets, membership, candidates=candidates, scratch=scratch, **weights
        )
    scratch.clear()


def of_batch(potentials: Sequence[PairPotential]) -> PairPotential:
    """Those of all groups, padded to (L, B, Q, K or 1) of the batch."""
    if len(potentials) == 1:
        return potentials[0]
    shape = tuple(max(p.pixel.shape[axis] for p in potentials) for axis in (2, 3))
    return PairPotential(*(torch.cat([pad_to(p, *shape) for p in part], 1) for part in zip(*potentials, strict=True)))
