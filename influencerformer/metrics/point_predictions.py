"""From the outputs of a mask transformer over points to scored masks and to point labels."""

from __future__ import annotations

import torch
from torch import Tensor

# Sums over masks are made in chunks of at most this many values, to bound memory.
_CHUNK_VALUES = 1 << 22


@torch.no_grad()
def point_predictions(
    class_logits: Tensor,
    mask_logits: Tensor,
    token_of_point: Tensor,
    *,
    objectness: Tensor | None = None,
    top_k: int = 100,
    min_points: int = 100,
) -> dict[str, Tensor]:
    """Scored instance masks of one scene, by OneFormer3D's rule without its suppression of overlapping masks.

    The `top_k` highest class probabilities (times objectness) over all queries and classes are the candidates
    (no-object left out of the choice, not of the softmax), so one query can appear with several classes. A mask is
    where the logit is positive. The score is the class probability times objectness times the mean sigmoid inside the
    mask, where a token counts as often as it has points. Candidates with fewer than `min_points` points, or with a
    score that is not positive, are dropped. All sums are taken over tokens; points come in at the end.

    Args:
        class_logits: (Q, C + 1), no-object last.
        mask_logits: (Q, T), over tokens: voxels, superpoints, or the points themselves.
        token_of_point: (N,) int64, 0..T-1, the token each point belongs to.
        objectness: (Q,) predicted IoU of each query's mask, as the head gives it; None without such a head.
        top_k: number of candidates.
        min_points: smallest mask kept, in points, 1 or larger; :class:`influencerformer.metrics.point_ap.PointAP`
            leaves masks below 100 out in any case.

    Returns:
        masks (n, N) bool, scores (n,) float32, labels (n,) int64, sorted by falling score, on the device of the
        logits. n is 0 where there is nothing to report.

    Raises:
        ValueError: shapes that do not fit together, tokens outside 0..T-1, or `min_points` below 1.
    """
    num_queries, num_tokens = mask_logits.shape
    num_classes = class_logits.shape[-1] - 1
    if class_logits.ndim != 2 or len(class_logits) != num_queries:
        raise ValueError(f"class_logits must be ({num_queries}, C + 1), got {tuple(class_logits.shape)}")
    if objectness is not None and tuple(objectness.shape) != (num_queries,):
        raise ValueError(f"objectness must be ({num_queries},), got {tuple(objectness.shape)}")
    if min_points < 1:
        raise ValueError(f"min_points must be 1 or larger, got {min_points}")
    token_of_point = token_of_point.to(mask_logits.device)
    _check_tokens(token_of_point, num_tokens)

    probabilities = class_logits.float().softmax(-1)[:, :-1]
    if objectness is not None:
        probabilities = probabilities * objectness.float()[:, None]
    scores, order = probabilities.flatten().topk(min(top_k, probabilities.numel()))
    labels = order % num_classes
    # The same query is often chosen for several classes: sum each once.
    queries, position = (order // num_classes).unique(return_inverse=True)

    sizes = torch.bincount(token_of_point, minlength=num_tokens)
    masks = torch.empty(len(queries), num_tokens, dtype=torch.bool, device=mask_logits.device)
    points = torch.empty(len(queries), dtype=torch.int64, device=mask_logits.device)
    quality = torch.empty(len(queries), device=mask_logits.device)
    step = max(1, _CHUNK_VALUES // max(1, num_tokens))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        logits = mask_logits[queries[part]].float()
        masks[part] = logits > 0
        weight = masks[part] * sizes
        points[part] = weight.sum(1)
        quality[part] = (logits.sigmoid() * weight).sum(1) / points[part].clamp(min=1)

    scores = scores * quality[position]
    # Not kept either: a score that is not a number.
    keep = (scores > 0) & (points[position] >= min_points)
    scores, labels, position = scores[keep], labels[keep], position[keep]
    scores, falling = scores.sort(descending=True, stable=True)
    return {
        "masks": masks[position[falling]].index_select(1, token_of_point),
        "scores": scores,
        "labels": labels[falling],
    }


def tokens_to_points(values: Tensor, token_of_point: Tensor) -> Tensor:
    """Gives every point the value of its token.

    Args:
        values: (..., T), such as masks (n, T) or labels (T,).
        token_of_point: (N,) int64, 0..T-1.

    Returns:
        (..., N) of the same dtype.

    Raises:
        ValueError: `token_of_point` is not int64 or goes beyond the tokens.
    """
    token_of_point = token_of_point.to(values.device)
    _check_tokens(token_of_point, values.shape[-1])
    return values.index_select(-1, token_of_point)


def _check_tokens(token_of_point: Tensor, num_tokens: int) -> None:
    if token_of_point.ndim != 1 or token_of_point.dtype != torch.int64:
        kind = str(token_of_point.dtype).removeprefix("torch.")
        raise ValueError(f"token_of_point must be (N,) int64, got {tuple(token_of_point.shape)} {kind}")
    if len(token_of_point) and not 0 <= int(token_of_point.min()) <= int(token_of_point.max()) < num_tokens:
        raise ValueError(
            f"token_of_point must lie in 0..{num_tokens - 1}, got {int(token_of_point.min())}.."
            f"{int(token_of_point.max())}"
        )


def to_point_labels(
    masks: Tensor, scores: Tensor, threshold: float = 0.5, min_visible: float = 0.5
) -> tuple[Tensor, list[int]]:
    """Turn scored masks, which may overlap, into one label a point.

    Masks are laid down by falling score and never over an earlier one. A mask of which too little is left is
    a repetition of what is there already and is dropped.

    Args:
        masks: (n, N) bool.
        scores: (n,), any order.
        threshold: masks with a lower score are left out.
        min_visible: smallest fraction of a mask's points that must still be free.

    Returns:
        The labels, (N,) int64 with 0 background and 1..m instances, on the device of the masks, and for each of the m
        instances its index in `masks`.
    """
    labels = torch.zeros(masks.shape[1], dtype=torch.int64, device=masks.device)
    kept: list[int] = []
    values, order = scores.sort(descending=True, stable=True)
    for score, index in zip(values.tolist(), order.tolist(), strict=True):
        if score < threshold:
            break
        mask = masks[index]
        free = mask & (labels == 0)
        visible = int(free.sum())
        if visible == 0 or visible < min_visible * int(mask.sum()):
            continue
        kept.append(index)
        labels[free] = len(kept)
    return labels, kept
