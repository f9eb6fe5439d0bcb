"""The baseline: Hungarian matching, then cross-entropy and dice on the matched pairs, as Mask2Former trains."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from influencerformer.losses.checks import check_overflow, check_weights
from influencerformer.losses.existence import existence
from influencerformer.losses.inputs import Logits, NonFinite, Truth, make_inputs
from influencerformer.losses.membership import Segments
from influencerformer.losses.normalizer import mean_over_ranks
from influencerformer.losses.pair_potential import of_batch, pair_potential
from influencerformer.losses.precision import without_autocast


@torch.no_grad()
def hungarian_assignment(
    cost: Tensor, instance_mask: Tensor, query_mask: Tensor | None = None, claim_mask: Tensor | None = None
) -> Tensor:
    """One-to-one assignment of least cost, as a matrix of 0 and 1.

    Costs that are not finite never crash it: they count as worse than every finite cost. With more instances than
    queries, min(Q, K) pairs are matched. One transfer to the host serves all leading indices.

    Args:
        cost: (..., B, Q, K).
        instance_mask: (B, K) bool, False for padding.
        query_mask: (B, Q) bool, False for padding.
        claim_mask: (B, Q, K) bool, False for pairs that are not matched; as many of the others as can be are.

    Returns:
        (..., B, Q, K) assignment in the dtype of ``cost``.
    """
    if cost.numel() == 0:
        return torch.zeros_like(cost)
    costs = cost.double().cpu().numpy().reshape(-1, *cost.shape[-3:])
    finite = np.isfinite(costs)
    worst = np.abs(costs[finite]).max(initial=1.0)
    costs = np.where(finite, costs, 2 * worst + 1)
    if claim_mask is not None:
        # dearer than all other pairs together, so that none is taken in the place of one that is allowed
        costs = np.where(claim_mask.cpu().numpy(), costs, (4 * worst + 2) * (min(cost.shape[-2:]) + 1))
    instances = instance_mask.cpu().numpy()
    queries = np.ones(cost.shape[-3:-1], bool) if query_mask is None else query_mask.cpu().numpy()
    assignment = np.zeros_like(costs, dtype=np.float32)
    for image in range(costs.shape[1]):
        columns, rows = instances[image].nonzero()[0], queries[image].nonzero()[0]
        for layer in range(costs.shape[0]):
            matched_rows, matched_columns = linear_sum_assignment(costs[layer, image][np.ix_(rows, columns)])
            assignment[layer, image, rows[matched_rows], columns[matched_columns]] = 1
    matches = torch.from_numpy(assignment).to(cost).reshape(cost.shape)
    return matches if claim_mask is None else matches * claim_mask


def hungarian_mask_loss(
    mask_logits: Logits,
    instance_labels: Truth | None = None,
    class_logits: Logits | None = None,
    class_labels: Truth | None = None,
    *,
    instance_masks: Truth | None = None,
    query_mask: Tensor | None = None,
    claim_mask: Truth | None = None,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
    num_points: int | None = None,
    nonfinite: NonFinite | None = None,
) -> dict[str, Tensor]:
    r"""Mask2Former's loss: every layer is matched on its own, matched pairs are trained, other queries are no-object.

    .. math::
        \hat\pi = \arg\min_\pi \sum_k w_m \text{bce}_{\pi(k) k} + w_d \text{dice}_{\pi(k) k}
                  - w_c\, p_{\pi(k)}(\text{class}_k), \qquad
        L = \tfrac1K \sum_k (w_m \text{bce}_{\hat\pi(k) k} + w_d \text{dice}_{\hat\pi(k) k}) + w_c \text{CE}

    (Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022.) The matching and the
    loss see the same pixels; the emphasis on uncertain points of the original belongs to whoever samples the pixels.

    Args, result and errors are those of :func:`influencerformer.losses.mask_influencer_loss`; the parts are
    "claim_mask", "claim_dice" and "existence".
    """
    check_weights(
        class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight, no_object_weight=no_object_weight
    )
    with without_autocast(mask_logits):
        inputs = make_inputs(
            mask_logits,
            instance_labels,
            class_logits,
            class_labels,
            instance_masks=instance_masks,
            query_mask=query_mask,
            claim_mask=claim_mask,
            num_points=num_points,
            nonfinite=nonfinite,
        )
        exists, classes = inputs.instance_mask, inputs.classes[:, None]
        potential = of_batch([pair_potential(group.mask_logits, Segments(group.targets)) for group in inputs.groups])
        with torch.no_grad():
            cost = mask_weight * potential.pixel() + dice_weight * potential.overlap()
        if inputs.class_logits is not None:
            probability = inputs.class_logits.detach().softmax(-1)
            cost = cost - class_weight * probability.gather(-1, classes.expand(cost.shape))
        matches = hungarian_assignment(cost, exists, inputs.query_mask, inputs.claim_mask)
        pixel, overlap = potential.claimed(matches)
        count = mean_over_ranks(exists.sum().to(cost.dtype))
        parts = {
            "claim_mask": mask_weight * pixel / count,
            "claim_dice": dice_weight * overlap / count,
            "existence": cost.new_zeros(()),
        }
        if inputs.class_logits is not None:
            parts["existence"] = (
                class_weight
                * existence(
                    inputs.class_logits,
                    matches,
                    classes,
                    no_object_weight=no_object_weight,
                    query_mask=inputs.query_mask,
                ).sum()
            )
        loss = torch.stack(list(parts.values())).sum()
        check_overflow(
            loss, "mask_logits", [layer for group in inputs.groups for layer in group.mask_logits], nonfinite
        )
    return {"loss": loss, **{k: v.detach() for k, v in parts.items()}, "nonfinite": inputs.nonfinite}


class HungarianMaskLoss(nn.Module):
    """Module of :func:`hungarian_mask_loss`; the keywords are its keywords."""

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int | None = None,
        nonfinite: NonFinite | None = None,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.nonfinite: NonFinite | None = nonfinite

    def forward(
        self,
        mask_logits: Logits,
        instance_labels: Truth | None = None,
        class_logits: Logits | None = None,
        class_labels: Truth | None = None,
        *,
        instance_masks: Truth | None = None,
        query_mask: Tensor | None = None,
        claim_mask: Truth | None = None,
    ) -> dict[str, Tensor]:
        return hungarian_mask_loss(
            mask_logits,
            instance_labels,
            class_logits,
            class_labels,
            instance_masks=instance_masks,
            query_mask=query_mask,
            claim_mask=claim_mask,
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            no_object_weight=self.no_object_weight,
            num_points=self.num_points,
            nonfinite=self.nonfinite,
        )
