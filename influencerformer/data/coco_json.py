"""Reads a COCO json that nobody has looked into: what is amiss is named, image by image, before it is used."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from influencerformer.data.bad_samples import Defect, Take, refuse
from influencerformer.data.files import examples, read_json, read_split, shown
from influencerformer.data.rle import has_size, may_cover
from influencerformer.errors import UserError

MOST_PIXELS = 1 << 28
Record = dict[str, Any]


@dataclass
class CocoContent:
    """What can be used of a COCO json.

    Attributes:
        path: the file.
        categories: {"id", "name"}, by id.
        images: with id, height, width and file_name, in the order of the file.
        annotations: of each image by its id; each has a category that is listed, its mask is not looked at yet.
    """

    path: Path
    categories: list[Record]
    images: list[Record]
    annotations: dict[int, list[Record]]


def read_coco(path: Path, take: Take | None) -> CocoContent:
    """The content of a COCO json.

    Args:
        path: the file.
        take: is handed each defect of images and annotations, in place of an error; those images are left out.

    Raises:
        UserError: the file is not of COCO's form, or lists no category or no image.
    """
    content = _read(path)
    categories = _categories(content["categories"], path)
    images = _images(content["images"], path, take)
    annotations, spoilt = _grouped(content["annotations"], images, {c["id"] for c in categories}, path, take)
    return CocoContent(path, categories, [i for i in images if i["id"] not in spoilt], annotations)


def _read(path: Path) -> Record:
    if not path.is_file():
        raise UserError(f"annotation file {path} does not exist")
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} is not in COCO form: expected an object with a list {key!r}")
    if not content["categories"]:
        raise UserError(f"{path} lists no category")
    if not content["images"]:
        raise UserError(f"{path} lists no image: the data set is empty")
    return content  # type: ignore[no-any-return]


def is_number(value: object, low: int = -(2**63), high: int = 2**63 - 1) -> bool:
    """Whether a value of a json is a whole number in a range, by default that of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _categories(categories: list[Any], path: Path) -> list[Record]:
    for category in categories:
        if not isinstance(category, dict) or not is_number(category.get("id")):
            raise UserError(f"{path}: a category has no whole-number id: {shown(category)}")
    named = [{"id": c["id"], "name": str(c.get("name", c["id"]))} for c in categories]
    ids = [c["id"] for c in named]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path} lists a category id twice: {examples(sorted(ids), 10)}")
    return sorted(named, key=lambda c: c["id"])


def _images(images: list[Any], path: Path, take: Take | None) -> list[Record]:
    usable: list[Record] = []
    seen: set[int] = set()
    for number, image in enumerate(images):
        if not _is_image(image):
            what = f"an image lacks id, height, width (whole numbers) or file_name: {shown(image)}"
        elif min(image["height"], image["width"]) < 1 or image["height"] * image["width"] > MOST_PIXELS:
            what = f"image {image['id']} is {image['height']} x {image['width']}: expected 1 to {MOST_PIXELS} pixels"
        elif not _stays_inside(image["file_name"]):
            what = f"the file name of image {image['id']} leaves its folder: {shown(image['file_name'])}"
        elif image["id"] in seen:
            what = f"image id {image['id']} twice"
        else:
            seen.add(image["id"])
            usable.append(image)
            continue
        name = image.get("file_name") if isinstance(image, dict) else None
        sample = f"{name if isinstance(name, str) and name else 'image'} (entry {number + 1} of images)"
        verb = " lists" if what.startswith("image id") else ":"
        refuse([Defect(str(path), what, sample)], f"{path}{verb} {what}", take)
    return usable


def _is_image(image: object) -> bool:
    return (
        isinstance(image, dict)
        and all(is_number(image.get(key)) for key in ("id", "height", "width"))
        and isinstance(image.get("file_name"), str)
        and image["file_name"] != ""
    )


def _stays_inside(name: str) -> bool:
    windows = PureWindowsPath(name)
    outside = windows.drive or windows.root or ".." in windows.parts or ".." in PurePosixPath(name).parts
    return not outside and "\0" not in name


def _grouped(
    annotations: list[Any], images: Sequence[Record], categories: set[int], path: Path, take: Take | None
) -> tuple[dict[int, list[Record]], set[int]]:
    """The annotations of each image, and the ids of images that a broken one spoils."""
    grouped: dict[int, list[Record]] = {image["id"]: [] for image in images}
    names = {image["id"]: image["file_name"] for image in images}
    usable = [a for a in annotations if isinstance(a, dict)]
    no_object = [a for a in annotations if not isinstance(a, dict)]
    refuse(
        [Defect(str(path), f"an annotation is no object: {shown(a)}") for a in no_object],
        f"{path}: {len(no_object)} annotations are no objects: {examples([shown(a) for a in no_object])}",
        take,
    )
    stray = [a for a in usable if not is_number(a.get("image_id")) or a["image_id"] not in grouped]
    refuse(
        [
            Defect(str(path), f"annotation {shown(a.get('id'))} is of image {shown(a.get('image_id'))}, not listed")
            for a in stray
        ],
        f"{path}: {len(stray)} annotations belong to images that are not listed: image_id "
        f"{examples([shown(a.get('image_id')) for a in stray])}",
        take,
    )
    lost = set(map(id, stray))
    usable = [a for a in usable if id(a) not in lost]
    unknown = [a for a in usable if not is_number(a.get("category_id")) or a["category_id"] not in categories]
    refuse(
        [
            Defect(
                str(path),
                f"annotation {shown(a.get('id'))} is of category {shown(a.get('category_id'))}, not listed",
                names[a["image_id"]],
            )
            for a in unknown
        ],
        f"{path}: {len(unknown)} annotations have a category that is not listed: category_id "
        f"{examples([shown(a.get('category_id')) for a in unknown])}",
        take,
    )
    for annotation in usable:
        grouped[annotation["image_id"]].append(annotation)
    if take is not None:
        for defect in _harmless(usable, {i["id"]: i for i in images}, path):
            take(defect)
    return grouped, {a["image_id"] for a in unknown}


def _harmless(annotations: Sequence[Record], images: dict[int, Record], path: Path) -> Iterable[Defect]:
    """What is amiss in fields that training does not look at."""
    counts = Counter(shown(a.get("id")) for a in annotations)
    for number, count in counts.items():
        if count > 1:
            yield Defect(str(path), f"annotation id {number} {count} times", None, stops=False)
    for annotation in annotations:
        image = images[annotation["image_id"]]
        what = _box_fault(annotation.get("bbox"), image["height"], image["width"])
        if what is None and not finite(annotation.get("area", 0)):
            what = f"area is {shown(annotation['area'])}, no number: the mask's own is taken"
        if what is not None:
            what = f"annotation {shown(annotation.get('id'))}: {what}"
            yield Defect(str(path), what, image["file_name"], stops=False)


def finite(value: object) -> bool:
    """Whether a value of a json is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _box_fault(box: object, height: int, width: int) -> str | None:
    """What is wrong with a box [left, top, width, height]; half a pixel beyond the image is rounding."""
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(finite(value) for value in box):
        return f"the box {shown(box)} is no left, top, width, height"
    left, top, wide, high = box
    if min(wide, high) < 0 or min(left, top) < -0.5 or left + wide > width + 0.5 or top + high > height + 0.5:
        return f"the box {shown(box)} lies outside of its image, {width} wide and {height} high"
    return None


def with_masks(content: CocoContent, take: Take | None) -> tuple[int, int]:
    """Leaves out annotations without a mask; refuses an RLE that is not of its image's size.

    Returns:
        numbers of annotations and of those left out.

    Raises:
        UserError: no annotation has a mask.
    """
    total = dropped = 0
    wrong: list[tuple[str, Record]] = []
    for image in content.images:
        kept = []
        for annotation in content.annotations[image["id"]]:
            total += 1
            mask = annotation.get("segmentation")
            if isinstance(mask, dict) and not has_size(mask, image["height"], image["width"]):
                size = f"{shown(mask.get('size'))} in an image {[image['height'], image['width']]}"
                wrong.append((f"annotation {shown(annotation.get('id'))} {size}", image))
            elif may_cover(mask):
                kept.append(annotation)
            elif take is not None:
                what = f"annotation {shown(annotation.get('id'))} has no mask and is left out"
                take(Defect(str(content.path), what, image["file_name"], stops=False))
        dropped += len(content.annotations[image["id"]]) - len(kept)
        content.annotations[image["id"]] = kept
    refuse(
        [Defect(str(content.path), f"{what}: an RLE of another size", image["file_name"]) for what, image in wrong],
        f"{content.path}: {len(wrong)} RLE masks do not have the size [height, width] of their image: "
        f"{examples([what for what, _ in wrong])}",
        take,
    )
    spoilt = {image["id"] for _, image in wrong}
    content.images = [image for image in content.images if image["id"] not in spoilt]
    if total and dropped == total and not spoilt:
        raise UserError(f"{content.path}: none of the {total} annotations has a mask (polygons or RLE)")
    return total, dropped - len(wrong)


def choose(content: CocoContent, split_file: Path, take: Take | None) -> None:
    """Keeps the images that a split file names, in its order: by id first, then file name, then file stem."""
    by_name: dict[str, Record] = {Path(image["file_name"]).stem: image for image in content.images}
    by_name |= {image["file_name"]: image for image in content.images}
    by_name |= {str(image["id"]): image for image in content.images}
    entries = read_split(split_file)
    unknown = [entry for entry in entries if entry not in by_name]
    refuse(
        [Defect(str(split_file), f"{entry} is no image of {content.path.name}", entry) for entry in unknown],
        f"{split_file} names {len(unknown)} of {len(entries)} images that {content.path} does not list "
        f"(by id, file name or stem): {examples(unknown)}",
        take,
    )
    content.images = [by_name[entry] for entry in entries if entry in by_name]


def find_images(content: CocoContent, folder: Path, take: Take | None) -> None:
    """Leaves out, or refuses, images that are not in the folder or are links out of it."""
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist")
    top = os.path.realpath(folder)
    parents: dict[str, bool] = {}

    def leaves(name: str) -> bool:
        parent, file = os.path.split(folder / name)
        if parent not in parents:
            parents[parent] = _within(os.path.realpath(parent), top)
        path = os.path.join(parent, file)
        return not parents[parent] or (os.path.islink(path) and not _within(os.path.realpath(path), top))

    outside = {image["id"] for image in content.images if leaves(image["file_name"])}
    linked = [image["file_name"] for image in content.images if image["id"] in outside]
    refuse(
        [Defect(str(folder / name), "is a link out of the image folder: it is not followed", name) for name in linked],
        f"{len(linked)} of {len(content.images)} images of {content.path} are links out of {folder}, which are not "
        f"followed: {examples(linked)}; name the folder where the images are",
        take,
    )
    missing = [i for i in content.images if i["id"] not in outside and not (folder / i["file_name"]).is_file()]
    names = [image["file_name"] for image in missing]
    refuse(
        [Defect(str(folder / name), "does not exist", name) for name in names],
        f"{len(missing)} of {len(content.images)} images of {content.path} are not in {folder}: {examples(names)}",
        take,
    )
    gone = outside | {image["id"] for image in missing}
    content.images = [image for image in content.images if image["id"] not in gone]


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def area_of(annotation: Record, mask_area: float) -> float:
    """The area of an annotation: what it says itself, where that is a number, by which COCO sorts small and large."""
    area = annotation.get("area", mask_area)
    return float(area) if finite(area) and not math.isnan(area) else mask_area
