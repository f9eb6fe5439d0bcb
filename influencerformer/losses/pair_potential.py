"""The pair potential of a query and an instance: weighted pixel attraction and repulsion, and overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from influencerformer.losses.inputs import MaskInputs, pad_to
from influencerformer.losses.mask_sums import MaskSums, mask_sums
from influencerformer.losses.membership import Membership, Scratch
from influencerformer.losses.targets import MaskTargets


class PairPotential(NamedTuple):
    """Potentials of every query and instance, each (L, B, Q, K), not weighted against each other."""

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
        mask_logits: L decoder layers (B, Q, N). They are read one after the other: nothing larger than a layer is made.
        targets: the truth of the same B images.
        membership: of the same targets.
        scratch: memory to share between calls.
    """
    # the total counts a member's softplus by rep_weight, which is right where attr_weight is the same
    split = attr_weight != rep_weight
    weight = rep_weight * membership.foreground + bg_weight * membership.background
    scratch = scratch or Scratch()
    layers = [mask_sums(layer, membership, weight, split_softplus=split, scratch=scratch) for layer in mask_logits]
    sums = MaskSums(*(torch.stack(statistic) for statistic in zip(*layers, strict=True)))
    pixel = sums.total_softplus[..., None] - attr_weight * sums.inside_logit
    if split:
        pixel = pixel + (attr_weight - rep_weight) * sums.inside_softplus
    pixel = pixel / targets.num_valid[:, None, None]
    predicted, size = sums.total_sigma[..., None], targets.sizes[:, None]
    overlap = 1 - (2 * sums.inside_sigma + 1) / (predicted + size + 1)
    hit = sums.inside_sigma.detach()
    iou = hit / (predicted.detach() + size - hit).clamp(min=1e-6)
    return PairPotential(pixel, overlap, iou.clamp(0, 1))


def pair_potential_of_groups(inputs: MaskInputs, memberships: Sequence[Membership], **weights: float) -> PairPotential:
    """:func:`pair_potential` of every group of images, padded to (L, B, Q, K) of the batch."""
    scratch = Scratch()
    potentials = [
        pair_potential(group.mask_logits, group.targets, membership, scratch=scratch, **weights)
        for group, membership in zip(inputs.groups, memberships, strict=True)
    ]
    scratch.clear()
    if len(potentials) == 1:
        return potentials[0]
    shape = (max(p.pixel.shape[2] for p in potentials), inputs.classes.shape[1])
    return PairPotential(*(torch.cat([pad_to(p, *shape) for p in part], 1) for part in zip(*potentials, strict=True)))
