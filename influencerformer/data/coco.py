"""Data sets in COCO form, and COCO ground truth for the metric."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as rle_api
from torch import Tensor

from influencerformer.data.bad_samples import Defect, Take, defect_of
from influencerformer.data.coco_json import area_of, choose, find_images, read_coco, with_masks
from influencerformer.data.files import read_image, shown
from influencerformer.data.rle import as_text, decode, encode, encode_labels, mask_fault, to_rle
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

        take: is handed each defect that is found here, in place of an error; the images they spoil are left out.

    Raises:
        UserError: for anything that does not fit; files, ids, categories and RLE sizes are checked here.
    """

    per_sample = ("images", "_annotations")

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        split_file: str | Path | None = None,
        take: Take | None = None,
    ) -> None:
        self.path = Path(annotations)
        self.folder = Path(images)
        content = read_coco(self.path, take)
        self.categories = content.categories
        self.class_names = [category["name"] for category in self.categories]
        self._class_of = {category["id"]: i for i, category in enumerate(self.categories)}
        if split_file is not None:
            choose(content, Path(split_file), take)
        find_images(content, self.folder, take)
        total, dropped = with_masks(content, take)
        if dropped:
            warnings.warn(f"{self.path}: left out {dropped} of {total} annotations without a usable mask", stacklevel=2)
        self.images = content.images
        self._annotations = [content.annotations[image["id"]] for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        return str(self.images[index]["file_name"])

    def files_of(self, index: int) -> list[Path]:
        return [self.folder / self.name_of(index), self.path]

    def examine(self, index: int) -> tuple[Sample | None, list[Defect]]:
        """Where there is no sample, every annotation is looked at: several of an image may be broken."""
        sample, first = super().examine(index)
        if sample is not None:
            return sample, []
        image, name = self.images[index], self.name_of(index)
        defects: list[Defect] = []
        for annotation in self._annotations[index]:
            fault = mask_fault(annotation["segmentation"], image["height"], image["width"])
            if fault is not None:
                defects.append(Defect(str(self.path), f"annotation {shown(annotation.get('id'))}: {fault}", name))
        try:
            read_image(self.folder / name)
        except UserError as error:
            defects.append(defect_of(error, [self.folder / name], name))
        return None, defects or first

    def rles(self, index: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """(annotation, its mask as compressed RLE) of every annotation of one image that covers a pixel."""
        image = self.images[index]
        pairs = []
        for annotation in self._annotations[index]:
            try:
                rle = to_rle(annotation["segmentation"], image["height"], image["width"])
            except ValueError as error:
                raise UserError(
                    f"{self.path}: the mask of annotation {shown(annotation.get('id'))} is broken ({error})"
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
                as_text(rle),
            )
            # COCO sorts instances into small, medium and large by the annotation's own area.
            entry["area"] = area_of(source, entry["area"])
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
