"""The same validation images as every loss sees them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from influencerformer.data.collate import collate
from influencerformer.data.sample import Sample
from influencerformer.metrics.predictions import instance_predictions, to_label_map
from influencerformer.pictures.cloud_colours import instance_colours
from influencerformer.training.compare_stats import loss_title
from influencerformer.training.overlays import draw_instances

PANEL_PIXELS = 320
OUTLINE_PIXELS = 2
SHEET_GAP = 8
SHEET_TITLE = 36
CANDIDATES = 100
MATCH_IOU = 0.5
UNMATCHED_COLOUR = (255, 255, 255)


@dataclass(frozen=True)
class ImageRow:
    """One validation image: titled PNG panels (image, truth, one a loss) and what to say of them."""

    name: str
    panels: tuple[tuple[str, bytes], ...]


def image_row(sample: Sample, models: dict[str, nn.Module], size_divisor: int) -> ImageRow:
    """The panels of one image: as it is, its truth, and each loss's predictions."""
    truth = sample.masks().numpy()
    image = sample.image.permute(1, 2, 0).numpy()
    colours = instance_colours(len(truth))
    panels = [
        ("Image", panel(image, truth[:0], colours[:0])),
        ("Truth", panel(image, truth, colours)),
    ]
    counts = []
    for loss, model in models.items():
        masks, labels = best_predictions(model, sample, size_divisor)
        matches = match(masks, labels, truth, sample.class_labels.numpy())
        shades = [colours[k] if k >= 0 else UNMATCHED_COLOUR for k in matches]
        panels.append((loss_title(loss), panel(image, masks, np.array(shades, np.uint8).reshape(-1, 3))))
        counts.append(f"{loss_title(loss)} {int((matches >= 0).sum())}")
    return ImageRow(f"{sample.name}, instances: {len(truth)}, found: {', '.join(counts)}", tuple(panels))


@torch.no_grad()
def best_predictions(
    model: nn.Module, sample: Sample, size_divisor: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The K predictions with the highest scores for an image of K instances.

    Returns:
        masks (n, H, W) and classes (n,), n <= K, best first, without overlaps.
    """
    batch = collate([sample], size_divisor)
    inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask")}
    outputs = model(inputs)
    height, width = batch["pixel_values"].shape[-2:]
    found = instance_predictions(
        outputs.class_queries_logits[0],
        outputs.masks_queries_logits[0],
        sample.size,
        padded_size=(height, width),
        top_k=max(CANDIDATES, 2 * sample.num_instances),
    )
    labels, kept = to_label_map(found["masks"], found["scores"], threshold=0.0)
    kept = kept[: sample.num_instances]
    masks = labels[None] == np.arange(1, len(kept) + 1)[:, None, None]
    return masks, found["labels"][torch.tensor(kept, dtype=torch.int64)].numpy()


def match(
    masks: NDArray[np.bool_],
    labels: NDArray[np.int64],
    truth: NDArray[np.bool_],
    truth_labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each prediction, best first, the free instance of its class it covers best; -1 below MATCH_IOU."""
    if not len(masks) or not len(truth):
        return np.full(len(masks), -1, dtype=np.int64)
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    goal = truth.reshape(len(truth), -1).astype(np.float32)
    shared = flat @ goal.T
    union = flat.sum(1)[:, None] + goal.sum(1)[None] - shared
    iou = np.where(labels[:, None] == truth_labels[None], shared / np.maximum(union, 1), 0.0)
    result = np.full(len(masks), -1, dtype=np.int64)
    for index in range(len(masks)):
        best = int(iou[index].argmax())
        if iou[index, best] >= MATCH_IOU:
            result[index] = best
            iou[:, best] = 0.0
    return result


def panel(image: NDArray[np.uint8], masks: NDArray[np.bool_], colours: NDArray[np.uint8]) -> bytes:
    """A PNG of the image with the masks on it, about PANEL_PIXELS at its longer side."""
    factor = max(1, PANEL_PIXELS // max(image.shape[:2]))
    drawn = draw_instances(
        _enlarge(image, factor),
        (_enlarge(mask, factor) for mask in masks),
        colours=colours,
        outline_width=OUTLINE_PIXELS,
    )
    if max(drawn.size) > PANEL_PIXELS:
        drawn.thumbnail((PANEL_PIXELS, PANEL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    drawn.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sheet(rows: Sequence[ImageRow]) -> bytes:
    """All panels on one PNG, a row an image, with the panels' titles above: for a document that cannot hold HTML."""
    pictures = [[Image.open(io.BytesIO(png)).convert("RGB") for _, png in row.panels] for row in rows]
    width = max(picture.width for line in pictures for picture in line) + SHEET_GAP
    heights = [max(picture.height for picture in line) + SHEET_GAP for line in pictures]
    page = Image.new("RGB", (width * len(pictures[0]) + SHEET_GAP, sum(heights) + SHEET_TITLE), "white")
    draw = ImageDraw.Draw(page)
    for column, (title, _) in enumerate(rows[0].panels):
        draw.text((SHEET_GAP + column * width, SHEET_GAP), title, fill="black", font_size=18)
    top = SHEET_TITLE
    for line, height in zip(pictures, heights, strict=True):
        for column, picture in enumerate(line):
            page.paste(picture, (SHEET_GAP + column * width, top))
        top += height
    buffer = io.BytesIO()
    page.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _enlarge(array: NDArray, factor: int) -> NDArray:
    """Repeat every pixel, so that outlines stay thin beside the pixels of a small image."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)
