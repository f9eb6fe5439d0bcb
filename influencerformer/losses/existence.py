"""Existence: class and mask quality of the instance a query has claimed, no-object for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from influencerformer.losses.normalizer import mean_over_ranks

NOTHING = 1e-12
"""Weights below this are none: the sum above the line is then 0, and its gradient with it."""


def existence(
    class_logits: Tensor,
    claims: Tensor,
    classes: Tensor,
    *,
    no_object_weight: float = 0.1,
    query_mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy to the soft target that the claims make.

    .. math::
        t_q = \Big(\sum_k P_{qk}\, \text{onehot}(\text{class}_k),\; 1 - \sum_k P_{qk}\Big), \qquad
        \frac{-\sum_q \sum_c w_c\, t_{qc} \log \text{softmax}(c_q)_c}{\sum_q \sum_c w_c\, t_{qc}},

    with :math:`w` = ``no_object_weight`` for no-object and 1 otherwise, summed over the images of a batch above and
    below the line (as ``torch.nn.functional.cross_entropy`` with weights); below it also over ranks and accumulated
    batches, by :func:`mean_over_ranks`. A query that answers more than one unit
    (more instances than queries) has its claims scaled to one.

    Args:
        class_logits: (..., B, Q, C + 1), no-object last.
        claims: (..., B, Q, K), constant.
        classes: (B, Q or 1, K) int64 in 0..C-1.
        query_mask: (B, Q) bool, False for padding.

    Returns:
        (...) a loss for each leading index.
    """
    claims = claims / claims.sum(-1, keepdim=True).clamp(min=1)
    if classes.shape[-2] == 1:
        indicators = torch.nn.functional.one_hot(classes.squeeze(-2), class_logits.shape[-1])
        target = claims @ indicators.to(claims.dtype)
    else:
        target = torch.zeros_like(class_logits).scatter_add_(-1, classes.expand(claims.shape), claims)
    target[..., -1] = no_object_weight * (1 - claims.sum(-1)).clamp(min=0)
    if query_mask is not None:
        target = target * query_mask[..., None]
    nll = -(target * class_logits.log_softmax(-1)).sum((-3, -2, -1))
    return nll / _total(target.sum((-3, -2, -1)), claims, query_mask, no_object_weight)


def objectness_error(
    objectness: Tensor,
    claims: Tensor,
    iou: Tensor,
    *,
    no_object_weight: float = 0.1,
    query_mask: Tensor | None = None,
) -> Tensor:
    r"""Squared error of a predicted mask quality to the IoU of the claimed mask, 0 for no-object.

    .. math::
        \frac{\sum_q w_q \big(o_q - \sum_k P_{qk}\, \text{IoU}_{qk}\big)^2}{\sum_q w_q}, \qquad
        w_q = \sum_k P_{qk} + w_\varnothing \big(1 - \sum_k P_{qk}\big),

    summed over the images of a batch above and below the line, as :func:`existence`.

    Args:
        objectness: (..., B, Q) predicted IoU, as the head gives it.
        claims: (..., B, Q, K), constant.
        iou: (..., B, Q, K) in [0, 1], constant.
        query_mask: (B, Q) bool, False for padding.

    Returns:
        (...) a loss for each leading index.
    """
    claims = claims / claims.sum(-1, keepdim=True).clamp(min=1)
    share = claims.sum(-1)
    weight = share + no_object_weight * (1 - share).clamp(min=0)
    if query_mask is not None:
        weight = weight * query_mask
    error = (weight * (objectness - (claims * iou).sum(-1)).square()).sum((-2, -1))
    return error / _total(weight.sum((-2, -1)), claims, query_mask, no_object_weight)


def _total(weights: Tensor, claims: Tensor, query_mask: Tensor | None, no_object_weight: float) -> Tensor:
    """What to divide by for sums of weights (...): of another batch, each instance's claims add to one."""
    batch, queries = claims.shape[-3:-1]
    real = queries if query_mask is None else query_mask.sum() / batch
    per_image = no_object_weight * real
    return mean_over_ranks(weights, per_instance=1 - no_object_weight, per_image=per_image, least=NOTHING)
