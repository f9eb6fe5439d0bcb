"""Drawn scenes of coloured discs, squares and triangles: a data set that needs no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from influencerformer.data.coco import encode
from influencerformer.data.generated_folder import make_once
from influencerformer.errors import UserError

SCENE_CLASSES = ("disc", "square", "triangle")
# Raise when the drawing changes: folders written by another version are then not taken for this one's.
_VERSION = 1
# A shape of which less than this fraction would stay visible is not kept.
_MIN_VISIBLE = 0.25


def generate_scenes(
    root: str | Path, train: int = 2000, val: int = 200, size: int = 64, seed: int = 0, max_instances: int = 7
) -> Path:
    """Write scenes as a COCO data set, unless the same ones are there already.

    A scene holds 1 to `max_instances` shapes of random class, colour, size and angle on a noisy background
    with a colour gradient. Later shapes cover earlier ones; masks are the visible parts. The same arguments
    give the same files. The folder appears complete or not at all, also when several processes ask at once.

    Args:
        root: folder under which the data set's own folder is made, named after the arguments.
        train, val: numbers of scenes.
        size: height and width in pixels.
        seed: of all scenes; train and val never share one.
        max_instances: largest number of shapes in a scene.

    Returns:
        The data set's folder: images/*.png, instances_train.json, instances_val.json and scenes.json.

    Raises:
        UserError: arguments out of range, or a folder of that name that holds something else.
    """
    if train < 1 or val < 1 or size < 16 or not 1 <= max_instances <= 50:
        raise UserError(
            "scenes need train and val of 1 or more, size of 16 or more and max_instances of 1 to 50, got "
            f"train={train}, val={val}, size={size}, max_instances={max_instances}"
        )
    parameters = {
        "version": _VERSION,
        "train": train,
        "val": val,
        "size": size,
        "seed": seed,
        "max_instances": max_instances,
    }
    root = Path(root)
    folder = root / f"scenes_{size}px_{max_instances}max_{train}train_{val}val_seed{seed}"

    def write(place: Path) -> None:
        (place / "images").mkdir()
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(place, split, count, size, max_instances, (seed, number))

    make_once(folder, "scenes", "scenes.json", parameters, write)
    return folder


def _write_split(folder: Path, split: str, count: int, size: int, max_instances: int, seed: tuple[int, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        generator = np.random.default_rng((*seed, index))
        image, labels, classes = draw_scene(generator, size, max_instances)
        name = f"{split}_{index:06d}.png"
        Image.fromarray(image).save(folder / "images" / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        masks = labels[None] == np.arange(1, len(classes) + 1)[:, None, None]
        for category, mask, rle in zip(classes, masks, encode(torch.from_numpy(masks)), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            top, left = int(rows[0]), int(columns[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category + 1,
                    "iscrowd": 0,
                    "segmentation": rle,
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(SCENE_CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def draw_scene(
    generator: np.random.Generator, size: int, max_instances: int = 7
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], list[int]]:
    """Draw one scene.

    Returns:
        image (size, size, 3) uint8, labels (size, size) int32 (0 background, 1..K instances by depth, nearest
        last), and the K class indices into `SCENE_CLASSES`.
    """
    image = _background(generator, size)
    labels = np.zeros((size, size), dtype=np.int32)
    classes: list[int] = []
    full_areas: list[int] = []
    wanted = int(generator.integers(1, max_instances + 1))
    # A crowded scene may refuse shapes that would hide others: a few more tries, then it is full.
    for _ in range(4 * wanted):
        if len(classes) == wanted:
            break
        category = int(generator.integers(len(SCENE_CLASSES)))
        mask = _shape(generator, category, size)
        colour = generator.uniform(30, 255, 3)
        covered = np.where(mask, len(classes) + 1, labels)
        areas = np.bincount(covered.ravel(), minlength=len(classes) + 2)[1:]
        full = [*full_areas, int(mask.sum())]
        if any(area < max(4, _MIN_VISIBLE * whole) for area, whole in zip(areas, full, strict=True)):
            continue
        labels, full_areas = covered, full
        classes.append(category)
        image[mask] = colour
    image += generator.normal(0, generator.uniform(4, 16), image.shape)
    return image.round().clip(0, 255).astype(np.uint8), labels, classes


def _background(generator: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """A colour gradient between four random corner colours, (size, size, 3)."""
    corners = generator.uniform(0, 150, (2, 2, 3))
    t = np.linspace(0, 1, size)
    left = (1 - t)[:, None] * corners[0, 0] + t[:, None] * corners[1, 0]
    right = (1 - t)[:, None] * corners[0, 1] + t[:, None] * corners[1, 1]
    return (1 - t)[None, :, None] * left[:, None] + t[None, :, None] * right[:, None]


def _shape(generator: np.random.Generator, category: int, size: int) -> npt.NDArray[np.bool_]:
    """The mask of one shape, (size, size), its centre inside the scene."""
    radius = size * generator.uniform(0.09, 0.22)
    x, y = generator.uniform(0.08 * size, 0.92 * size, 2)
    angle = generator.uniform(0, 2 * np.pi)
    canvas = Image.new("1", (size, size))
    draw = ImageDraw.Draw(canvas)
    if SCENE_CLASSES[category] == "disc":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    else:
        corners = 4 if SCENE_CLASSES[category] == "square" else 3
        angles = angle + 2 * np.pi * np.arange(corners) / corners
        # Polygons inscribed in a larger circle: all classes cover about the same area.
        reach = radius * (1.25 if corners == 4 else 1.45)
        draw.polygon([(x + reach * np.cos(a), y + reach * np.sin(a)) for a in angles], fill=1)
    return np.array(canvas, dtype=np.bool_)
