"""Masks as COCO writes them: polygons, uncompressed and compressed run-length encodings (RLE)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_api
from torch import Tensor

_LAST_LETTERS = bytes(range(48, 80))  # letters of a compressed RLE that end a number; the others go on
_ALL_LETTERS = bytes(range(48, 112))
_FARTHEST = 10
"""How many sides of its image a polygon may reach beyond it: drawing costs what it spans."""


def mask_fault(segmentation: object, height: int, width: int) -> str | None:
    """Why a segmentation is no mask of an image of this size, None where it is one.

    The mask libraries are not to be handed anything else: they read and write beyond their memory for some.
    """
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"a {type(segmentation).__name__} in place of polygons or RLE"
    farthest = _FARTHEST * max(height, width)
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(_is_number(value) for value in polygon):
            return "a polygon that is no list of numbers"
        if len(polygon) % 2:
            return f"a polygon of {len(polygon)} numbers, expected pairs of x and y"
        if any(abs(value) > farthest for value in polygon):
            return f"a polygon far outside of its image: {max(polygon, key=abs):g}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rle_fault(rle: dict[str, Any], height: int, width: int) -> str | None:
    if rle.get("size") != [height, width]:
        return f"an RLE of size {str(rle.get('size'))[:50]} in an image {[height, width]}"
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = _decompressed(counts)
        if counts is None:
            return "an RLE whose counts are broken"
    if not isinstance(counts, list) or not all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
        return "an RLE without counts"
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        return f"an RLE whose counts do not add up to the {height * width} pixels of its image"
    return None


def _decompressed(text: str | bytes) -> list[int] | None:
    """The counts of a compressed RLE: numbers of 5 bits a letter, from the fourth on less the last but one."""
    try:
        letters = text if isinstance(text, bytes) else text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if letters.translate(None, _ALL_LETTERS):
        return None
    counts: list[int] = []
    value = shift = 0
    for letter in letters:
        value |= (letter - 48 & 31) << shift
        shift += 5
        if letter - 48 & 32:
            if shift > 60:
                return None
            continue
        if letter - 48 & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts if shift == 0 else None


def has_size(rle: dict[str, Any], height: int, width: int) -> bool:
    """Whether an RLE is of an image of this size, as far as can be told without decompressing it."""
    counts = rle.get("counts")
    if rle.get("size") != [height, width] or not isinstance(counts, (str, bytes, list)):
        return False
    whole = isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    return isinstance(counts, (str, bytes)) or (whole and sum(counts) == height * width)


def may_cover(segmentation: object) -> bool:
    """Whether a segmentation can have a pixel, as far as can be told without drawing it."""
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = counts.encode("ascii", "replace").translate(None, bytes(set(range(256)) - set(_LAST_LETTERS)))
        # The first run is background: one run alone covers nothing.
        return isinstance(counts, (list, bytes)) and len(counts) > 1
    if isinstance(segmentation, list):
        return any(isinstance(polygon, list) and len(polygon) >= 6 for polygon in segmentation)
    return False


def to_rle(segmentation: list[Any] | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as one compressed RLE.

    Raises:
        ValueError: it is no mask of an image of this size.
    """
    fault = mask_fault(segmentation, height, width)
    if fault is not None:
        raise ValueError(fault)
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return rle_api.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [p for p in segmentation if len(p) >= 6]
    return rle_api.merge(rle_api.frPyObjects(polygons, height, width))


def decode(rles: Sequence[dict[str, Any]], height: int, width: int) -> Tensor:
    """RLEs to (K, height, width) bool."""
    if not rles:
        return torch.zeros(0, height, width, dtype=torch.bool)
    masks = rle_api.decode(list(rles))
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1))).to(torch.bool)


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """(K, H, W) bool to K compressed RLEs, counts as str so that they can be written as json."""
    if masks.shape[0] == 0:
        return []
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    rles = rle_api.encode(columns.transpose(2, 1, 0))
    return [as_text(rle) for rle in rles]


def encode_labels(labels: Tensor, num_instances: int) -> list[dict[str, Any]]:
    """(H, W) label map to one compressed RLE for each of its instances 1..K, in one pass over the pixels."""
    values = labels.cpu().numpy().T.ravel()
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    ends = np.append(starts[1:], values.size)
    run_values = values[starts]
    order = np.argsort(run_values, kind="stable")
    bounds = np.searchsorted(run_values[order], np.arange(1, num_instances + 2))
    rles = []
    for low, high in itertools.pairwise(bounds.tolist()):
        runs = order[low:high]
        # Counts are the distances between the borders: background first, then in turn.
        borders = np.stack([starts[runs], ends[runs]], 1).ravel()
        counts = np.diff(borders, prepend=0, append=values.size).tolist()
        if counts[-1] == 0:
            counts.pop()
        rle = rle_api.frPyObjects({"size": list(labels.shape), "counts": counts}, *labels.shape)
        rles.append(as_text(rle))
    return rles


def as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """An RLE with its counts as str, so that it can be written as json."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(rle["size"]), "counts": text}
