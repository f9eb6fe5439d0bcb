"""The rival as the field writes it: K x N masks, matrix products for the costs, a matching a layer and image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Matcher = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(Q, K) costs to the queries and instances of the pairs."""
WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}
NO_OBJECT_WEIGHT = 0.1


def scipy_matcher(cost: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)


def lapx_matcher(cost: Tensor) -> tuple[Tensor, Tensor]:
    import lap

    column_of: npt.NDArray[np.int32] = lap.lapjv(cost.double().cpu().numpy(), extend_cost=True)[1]
    columns = torch.from_numpy(column_of).long().to(cost.device)
    rows = (columns >= 0).nonzero()[:, 0]
    return rows, columns[rows]


def batch_matcher(cost: Tensor) -> tuple[Tensor, Tensor]:
    from torch_linear_assignment import batch_linear_assignment

    columns = batch_linear_assignment(cost[None])[0]
    rows = (columns >= 0).nonzero()[:, 0]
    return rows, columns[rows]


def matchers(device: str) -> tuple[dict[str, Matcher], dict[str, str]]:
    """Those that are installed, and why the others are absent."""
    found: dict[str, Matcher] = {"scipy": scipy_matcher}
    absent = {}
    if find_spec("lap") is not None:
        found["lapx"] = lapx_matcher
    else:
        absent["dense Hungarian, lapx"] = "not installed: pip install lapx"
    if device == "cpu":
        absent["dense Hungarian, torch-linear-assignment"] = "on a CPU it hands on to scipy"
    elif find_spec("torch_linear_assignment") is not None:
        found["torch-linear-assignment"] = batch_matcher
    else:
        absent["dense Hungarian, torch-linear-assignment"] = "not installed: pip install torch-linear-assignment"
    return found, absent


@torch.no_grad()
def costs(masks: Tensor, classes: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
    """(Q, K): three matrix products of (Q, N) with (N, K)."""
    probability = masks.sigmoid()
    members = truth.T
    bce = F.softplus(-masks) @ members + F.softplus(masks) @ (1 - members)
    dice = 1 - (2 * probability @ members + 1) / (probability.sum(1)[:, None] + truth.sum(1) + 1)
    return (
        WEIGHTS["mask"] * bce / masks.shape[1]
        + WEIGHTS["dice"] * dice
        - WEIGHTS["class"] * classes.softmax(-1)[:, labels]
    )


def dense_hungarian_loss(
    masks: Sequence[Any], classes: Sequence[Any], truths: Sequence[Tensor], labels: Sequence[Tensor], match: Matcher
) -> Tensor:
    """Mask2Former's loss on all pixels: BCE and dice of the matched pairs, cross-entropy of all queries.

    Args:
        masks: L tensors (B, Q, N), or L lists of B tensors (Q_i, N).
        classes: L tensors (B, Q, C + 1), or L lists of B tensors (Q_i, C + 1).
        truths: B tensors (K, N) bool.
        labels: B tensors (K,).
        match: the matcher.
    """
    members = [truth.float() for truth in truths]
    count = sum(len(truth) for truth in truths)
    loss = torch.zeros((), device=members[0].device)
    for layer, class_layer in zip(masks, classes, strict=True):
        pairs = [match(costs(*image)) for image in zip(layer, class_layer, members, labels, strict=True)]
        logits = torch.cat(_chosen(layer, [queries for queries, _ in pairs]))
        truth = torch.cat([member[instances] for member, (_, instances) in zip(members, pairs, strict=True)])
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        probability = logits.sigmoid()
        overlap = 2 * (probability * truth).sum(1) + 1
        dice = (1 - overlap / (probability.sum(1) + truth.sum(1) + 1)).sum()
        loss = loss + (WEIGHTS["mask"] * bce + WEIGHTS["dice"] * dice) / count
        loss = loss + WEIGHTS["class"] * _classification(class_layer, pairs, labels)
    return loss


def _chosen(layer: Any, queries: Sequence[Tensor]) -> list[Tensor]:
    """Rows of the logits, from a tensor (B, Q, N) by one index."""
    if isinstance(layer, Tensor):
        images = torch.cat([torch.full_like(q, image) for image, q in enumerate(queries)])
        return [layer[images, torch.cat(list(queries))]]
    return [scene[q] for scene, q in zip(layer, queries, strict=True)]


def _classification(layer: Any, pairs: Sequence[tuple[Tensor, Tensor]], labels: Sequence[Tensor]) -> Tensor:
    logits = torch.cat(list(layer))
    no_object = logits.shape[1] - 1
    targets = []
    for scene, (queries, instances), classes in zip(layer, pairs, labels, strict=True):
        target = torch.full((len(scene),), no_object, device=logits.device)
        target[queries] = classes[instances]
        targets.append(target)
    weight = torch.ones(no_object + 1, device=logits.device)
    weight[no_object] = NO_OBJECT_WEIGHT
    return F.cross_entropy(logits, torch.cat(targets), weight)
