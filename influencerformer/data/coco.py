"""Data sets in COCO form, and COCO ground truth for the metric."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_api
from torch import Tensor

from influencerformer.data.files import examples, read_image, read_split
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.errors import UserError


class CocoDataset(InstanceDataset):
    """Instances from a COCO json: polygons, uncompressed and compressed RLE.

    Category ids are mapped to classes 0..C-1 in sorted order. Crowd annotations become ignored pixels, never
    instances. Masks that overlap are kept as they are (`Sample.instance_masks`); an image whose masks do not
    overlap gives a label map. An image without annotations gives a sample without instances. Annotations
    without a usable mask (none at all, fewer than three points, no pixel) are left out, with one warning.

    Args:
        annotations: the json file.
        images: folder that the json's file names are relative to.
        split_file: text file that chooses images, one a line, by id, file name or file stem; None for all.

    Raises:
        UserError: for anything that does not fit; files, ids, categories and RLE sizes are checked here.
    """

    def __init__(self, annotations: str | Path, images: str | Path, split_file: str | Path | None = None) -> None:
        self.path = Path(annotations)
        self.folder = Path(images)
        content = _read_json(self.path)
        self.categories = _categories(content["categories"], self.path)
        self.class_names = [category["name"] for category in self.categories]
        self._class_of = {category["id"]: i for i, category in enumerate(self.categories)}

        self.images = _images(content["images"], self.path)
        by_image = self._group(content["annotations"])
        if split_file is not None:
            self.images = _choose(self.images, Path(split_file), self.path)
        if not self.folder.is_dir():
            raise UserError(f"image folder {self.folder} does not exist")
        missing = [i["file_name"] for i in self.images if not (self.folder / i["file_name"]).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.images)} images of {self.path} are not in {self.folder}: "
                f"{examples(missing)}"
            )
        self._annotations = [by_image[image["id"]] for image in self.images]
        self._drop_unusable()

    def _group(self, annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
        grouped: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        stray = [a for a in annotations if a.get("image_id") not in grouped]
        if stray:
            raise UserError(
                f"{self.path}: {len(stray)} annotations belong to images that are not listed: image_id "
                f"{examples([a.get('image_id') for a in stray])}"
            )
        unknown = [a for a in annotations if a.get("category_id") not in self._class_of]
        if unknown:
            raise UserError(
                f"{self.path}: {len(unknown)} annotations have a category that is not listed: category_id "
                f"{examples([a.get('category_id') for a in unknown])}"
            )
        for annotation in annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def _drop_unusable(self) -> None:
        """Leave out what has no mask; refuse an RLE that does not fit its image."""
        total = dropped = 0
        wrong = []
        for position, image in enumerate(self.images):
            size = [image["height"], image["width"]]
            kept = []
            for annotation in self._annotations[position]:
                total += 1
                segmentation = annotation.get("segmentation")
                if isinstance(segmentation, dict) and not _fits(segmentation, size):
                    wrong.append(f"annotation {annotation.get('id')} {segmentation.get('size')} in an image {size}")
                elif _usable(segmentation):
                    kept.append(annotation)
            dropped += len(self._annotations[position]) - len(kept)
            self._annotations[position] = kept
        if wrong:
            raise UserError(
                f"{self.path}: {len(wrong)} RLE masks do not have the size [height, width] of their image: "
                f"{examples(wrong)}"
            )
        if total and dropped == total:
            raise UserError(f"{self.path}: none of the {total} annotations has a mask (polygons or RLE)")
        if dropped:
            warnings.warn(f"{self.path}: left out {dropped} of {total} annotations without a usable mask", stacklevel=3)

    def __len__(self) -> int:
        return len(self.images)

    def rles(self, index: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """(annotation, its mask as compressed RLE) of every annotation of one image that covers a pixel."""
        image = self.images[index]
        pairs = []
        for annotation in self._annotations[index]:
            try:
                rle = to_rle(annotation["segmentation"], image["height"], image["width"])
            except (ValueError, TypeError, IndexError) as error:
                raise UserError(
                    f"{self.path}: the mask of annotation {annotation.get('id')} is broken ({error})"
                ) from error
            if rle_api.area(rle) > 0:
                pairs.append((annotation, rle))
        return pairs

    def __getitem__(self, index: int) -> Sample:
        record = self.images[index]
        height, width = record["height"], record["width"]
        image = read_image(self.folder / record["file_name"])
        if tuple(image.shape[1:]) != (height, width):
            raise UserError(
                f"image {self.folder / record['file_name']} is {image.shape[1]} x {image.shape[2]} "
                f"(height x width) but {self.path} says {height} x {width}"
            )
        pairs = self.rles(index)
        instances = [(a, rle) for a, rle in pairs if not a.get("iscrowd")]
        try:
            masks = decode([rle for _, rle in instances], height, width)
            crowd = decode([rle for a, rle in pairs if a.get("iscrowd")], height, width)
        except ValueError as error:
            raise UserError(f"{self.path}: a mask of image {record['id']} is broken ({error})") from error
        cover = masks.sum(0, dtype=torch.int32)
        # A pixel that an instance claims is known, whatever crowd lies over it.
        ignore = crowd.any(0) & (cover == 0)
        labels: Tensor | None = None
        if int(cover.max()) <= 1:
            labels = -ignore.to(torch.int64)
            for number, mask in enumerate(masks, start=1):
                labels[mask] = number
        return Sample(
            name=Path(record["file_name"]).stem,
            image=image,
            class_labels=torch.tensor([self._class_of[a["category_id"]] for a, _ in instances], dtype=torch.int64),
            instance_labels=labels,
            instance_masks=masks if labels is None else None,
            ignore=ignore if labels is None and bool(ignore.any()) else None,
            image_id=record["id"],
        )


def to_rle(segmentation: list[Any] | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as one compressed RLE."""
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
    return [_as_text(rle) for rle in rles]


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
        rles.append(_as_text(rle))
    return rles


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(rle["size"]), "counts": text}


def ground_truth(dataset: InstanceDataset) -> dict[str, Any]:
    """COCO ground truth of a whole data set, as a dict that COCO evaluation takes.

    A `CocoDataset` gives its own annotations (category ids, areas and crowd regions kept) without reading the
    images. Any other data set of samples is read once: categories are numbered from 1 in the order of
    `class_names`, and pixels its samples ignore become one crowd region of every class, because a prediction
    there is neither right nor wrong.

    Args:
        dataset: any data set of samples.

    Returns:
        dict with `images`, `categories` (class i is entry i) and `annotations` (RLE with str counts).
    """
    if isinstance(dataset, CocoDataset):
        return _coco_ground_truth(dataset)
    names = dataset.class_names
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        height, width = sample.size
        images.append({"id": sample.image_id, "height": height, "width": width, "file_name": sample.name})
        if sample.instance_labels is not None:
            rles = encode_labels(sample.instance_labels, sample.num_instances)
        else:
            rles = encode(sample.masks())
        regions = [(c + 1, 0, m) for c, m in zip(sample.class_labels.tolist(), rles, strict=True)]
        ignored = sample.ignored()
        if bool(ignored.any()):
            rle = encode(ignored[None])[0]
            regions += [(c, 1, rle) for c in range(1, len(names) + 1)]
        for category, crowd, rle in regions:
            annotations.append(_annotation(len(annotations) + 1, sample.image_id, category, crowd, rle))
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _coco_ground_truth(dataset: CocoDataset) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for index, image in enumerate(dataset.images):
        for source, rle in dataset.rles(index):
            entry = _annotation(
                len(annotations) + 1,
                image["id"],
                source["category_id"],
                int(bool(source.get("iscrowd"))),
                _as_text(rle),
            )
            # COCO sorts instances into small, medium and large by the annotation's own area.
            entry["area"] = float(source.get("area", entry["area"]))
            annotations.append(entry)
    keys = ("id", "height", "width", "file_name")
    images = [{key: image[key] for key in keys} for image in dataset.images]
    categories = [{"id": c["id"], "name": c["name"]} for c in dataset.categories]
    return {"images": images, "categories": categories, "annotations": annotations}


def _annotation(number: int, image_id: int, category: int, crowd: int, rle: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "iscrowd": crowd,
        "segmentation": rle,
        "area": float(rle_api.area(rle)),
        "bbox": [float(v) for v in rle_api.toBbox(rle)],
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"annotation file {path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path} is not in COCO form: expected an object with a list {key!r}")
    if not content["categories"]:
        raise UserError(f"{path} lists no category")
    if not content["images"]:
        raise UserError(f"{path} lists no image: the data set is empty")
    return content


def _categories(categories: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    for category in categories:
        if not isinstance(category.get("id"), int):
            raise UserError(f"{path}: a category has no whole-number id: {category}")
    named = [{"id": c["id"], "name": str(c.get("name", c["id"]))} for c in categories]
    ids = [c["id"] for c in named]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path} lists a category id twice: {sorted(ids)}")
    return sorted(named, key=lambda c: c["id"])


def _images(images: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    seen: set[int] = set()
    for image in images:
        if not all(isinstance(image.get(k), int) for k in ("id", "height", "width")) or not image.get("file_name"):
            raise UserError(f"{path}: an image lacks id, height, width (whole numbers) or file_name: {image}")
        if image["id"] in seen:
            raise UserError(f"{path} lists image id {image['id']} twice")
        seen.add(image["id"])
    return images


def _choose(images: list[dict[str, Any]], split_file: Path, path: Path) -> list[dict[str, Any]]:
    """The images a split file names, in its order: by id first, then file name, then file stem."""
    by_name: dict[str, dict[str, Any]] = {Path(image["file_name"]).stem: image for image in images}
    by_name |= {image["file_name"]: image for image in images}
    by_name |= {str(image["id"]): image for image in images}
    entries = read_split(split_file)
    unknown = [entry for entry in entries if entry not in by_name]
    if unknown:
        raise UserError(
            f"{split_file} names {len(unknown)} of {len(entries)} images that {path} does not list "
            f"(by id, file name or stem): {examples(unknown)}"
        )
    return [by_name[entry] for entry in entries]


def _usable(segmentation: object) -> bool:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        # The first run is background: one run alone covers nothing.
        return len(counts) > 1 if isinstance(counts, list) else bool(rle_api.area(segmentation) > 0)
    if isinstance(segmentation, list):
        return any(isinstance(polygon, list) and len(polygon) >= 6 for polygon in segmentation)
    return False


def _fits(rle: dict[str, Any], size: list[int]) -> bool:
    if list(rle.get("size", [])) != size or "counts" not in rle:
        return False
    return not isinstance(rle["counts"], list) or sum(rle["counts"]) == size[0] * size[1]
