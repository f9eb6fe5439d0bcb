"""From the outputs of a mask transformer to scored masks and to label maps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

# Masks at image size are made in chunks of at most this many pixels, to bound memory.
_CHUNK_PIXELS = 1 << 25


@torch.no_grad()
def instance_predictions(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    *,
    padded_size: tuple[int, int] | None = None,
    output_size: tuple[int, int] | None = None,
    top_k: int = 100,
) -> dict[str, Tensor]:
    """Scored instance masks of one image, by Mask2Former's rule for instance segmentation.

    The `top_k` highest class probabilities over all queries and classes (no-object left out of the choice,
    not of the softmax) are the candidates, so one query can appear with several classes. A mask is where the
    logit, enlarged bilinearly, is positive; the score is the class probability times the mean sigmoid inside
    the mask. Candidates with an empty mask are dropped.

    Args:
        class_logits: (Q, C + 1), no-object last.
        mask_logits: (Q, h, w), any resolution.
        size: (H, W) of the image in pixels before padding (`sizes` of the batch).
        padded_size: (H, W) of the network's input, which the mask logits cover; None if nothing was padded.
        output_size: (H, W) of the masks wanted, for results at another size than the network's input; None
            for `size`.
        top_k: number of candidates.

    Returns:
        masks (n, H, W) bool, scores (n,) float32, labels (n,) int64, sorted by falling score, on the
        device of the logits. n is 0 where there is nothing to report.
    """
    num_classes = class_logits.shape[-1] - 1
    probabilities = class_logits.float().softmax(-1)[:, :-1].flatten()
    scores, order = probabilities.topk(min(top_k, probabilities.numel()))
    labels = order % num_classes
    # The same query is often chosen for several classes: enlarge each once.
    queries, position = (order // num_classes).unique(return_inverse=True)

    padded_size = size if padded_size is None else padded_size
    output_size = size if output_size is None else output_size
    masks = torch.empty(len(queries), *output_size, dtype=torch.bool, device=mask_logits.device)
    quality = torch.empty(len(queries), device=mask_logits.device)
    step = max(1, _CHUNK_PIXELS // max(1, math.prod(padded_size)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        logits = _enlarge(mask_logits[queries[part]].float(), size, padded_size)
        if output_size != size:
            logits = F.interpolate(logits[None], size=output_size, mode="bilinear", align_corners=False)[0]
        masks[part] = logits > 0
        inside = (logits.sigmoid() * masks[part]).sum((1, 2))
        quality[part] = inside / masks[part].sum((1, 2)).clamp(min=1)

    scores = scores * quality[position]
    # A mask that is empty or not finite has quality 0 or nan.
    keep = scores > 0
    scores, labels, position = scores[keep], labels[keep], position[keep]
    scores, falling = scores.sort(descending=True, stable=True)
    return {"masks": masks[position[falling]], "scores": scores, "labels": labels[falling]}


def _enlarge(logits: Tensor, size: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
    """(n, h, w) logits over the padded input to (n, *size) over the image alone."""
    if padded_size != size:
        # Leave out the padded part before enlarging, but for the cells that bilinear weights reach.
        h, w = logits.shape[1:]
        stride = padded_size[0] / h, padded_size[1] / w
        if stride[0].is_integer() and stride[1].is_integer():
            h = min(h, math.ceil(size[0] / stride[0]) + 1)
            w = min(w, math.ceil(size[1] / stride[1]) + 1)
            logits = logits[:, :h, :w]
            padded_size = int(h * stride[0]), int(w * stride[1])
    logits = F.interpolate(logits[None], size=padded_size, mode="bilinear", align_corners=False)[0]
    return logits[:, : size[0], : size[1]]


def to_label_map(
    masks: Tensor, scores: Tensor, threshold: float = 0.5, min_visible: float = 0.5
) -> tuple[npt.NDArray[np.uint16], list[int]]:
    """Turn scored masks, which may overlap, into one label map.

    Masks are laid down by falling score and never over an earlier one. A mask of which too little is left is
    a repetition of what is there already and is dropped.

    Args:
        masks: (n, H, W) bool.
        scores: (n,), any order.
        threshold: masks with a lower score are left out.
        min_visible: smallest fraction of a mask's pixels that must still be free.

    Returns:
        The label map, (H, W) uint16 with 0 background and 1..m instances, and for each of the m instances its
        index in `masks`.

    Raises:
        ValueError: more than 65535 instances.
    """
    labels = np.zeros(tuple(masks.shape[1:]), dtype=np.uint16)
    kept: list[int] = []
    values, order = scores.sort(descending=True, stable=True)
    for score, index in zip(values.tolist(), order.tolist(), strict=True):
        if score < threshold:
            break
        mask = masks[index].cpu().numpy()
        free = mask & (labels == 0)
        if not free.any() or free.sum() < min_visible * mask.sum():
            continue
        if len(kept) == np.iinfo(np.uint16).max:
            raise ValueError("a 16-bit label map holds at most 65535 instances: raise the threshold")
        kept.append(index)
        labels[free] = len(kept)
    return labels, kept
