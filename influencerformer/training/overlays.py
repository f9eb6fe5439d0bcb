"""Instances drawn on an image: a coloured fill and an outline each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from influencerformer.pictures.cloud_colours import instance_colour


def outline(mask: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """Members of a mask within `width` pixels of a non-member (4 neighbours), (H, W) bool.

    The border of the image is no outline: an instance cut off by it stays open there.
    """
    inner = mask.copy()
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def draw_instances(
    image: Tensor | NDArray[np.uint8],
    masks: Iterable[Tensor | NDArray[np.bool_]],
    *,
    captions: Sequence[str] | None = None,
    colours: NDArray[np.uint8] | None = None,
    opacity: float = 0.45,
    outline_width: int | None = None,
) -> Image.Image:
    """Draws instances on a copy of an image.

    Args:
        image: (3, H, W) uint8 RGB tensor, or (H, W, 3) uint8 array.
        masks: one (H, W) bool mask an instance, drawn in this order (later ones on top). May be a
            generator: only one mask is held at a time. `label_masks` makes them from a label map.
        captions: one text an instance, written at the top left of its mask.
        colours: (K, 3) uint8; `instance_colours` unless given.
        opacity: of the fill, 0 to 1; outlines are opaque.
        outline_width: in pixels; by the image's size unless given.

    Raises:
        ValueError: where a mask has not the size of the image.
    """
    canvas = np.array(image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image)
    height, width = canvas.shape[:2]
    if outline_width is None:
        outline_width = max(1, round(max(height, width) / 500))
    texts: list[tuple[tuple[int, int], str]] = []
    for index, mask in enumerate(masks):
        members = (mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)).astype(bool)
        if members.shape != (height, width):
            raise ValueError(
                f"mask {index} is {members.shape} (height, width), the image {height, width}: resize the mask"
            )
        rows, columns = np.flatnonzero(members.any(axis=1)), np.flatnonzero(members.any(axis=0))
        if not len(rows):
            continue
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        around = (
            slice(max(0, rows[0] - 1), min(height, rows[-1] + 2)),
            slice(max(0, columns[0] - 1), min(width, columns[-1] + 2)),
        )
        colour = np.array(instance_colour(index) if colours is None else colours[index])
        inside, part = members[box], canvas[box]
        part[inside] = ((1 - opacity) * part[inside] + opacity * colour).astype(np.uint8)
        canvas[around][outline(members[around], outline_width)] = colour
        if captions is not None:
            texts.append(((int(columns[0]) + 2, int(rows[0]) + 1), captions[index]))
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    for position, text in texts:
        pen.text(position, text, fill="white", stroke_width=1, stroke_fill="black")
    return drawn


def label_masks(labels: Tensor | NDArray[np.integer]) -> Iterable[NDArray[np.bool_]]:
    """The masks of a label map, one at a time: (H, W) integers, 1..K instances, 0 and -1 none."""
    numbers = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    for number in range(1, int(numbers.max(initial=0)) + 1):
        yield numbers == number
