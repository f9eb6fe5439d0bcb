"""Mask AP by the COCO protocol."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from torch import Tensor

from influencerformer.data.coco import encode

_SUMMARY = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
}


class MaskAP:
    """Collects predictions and computes COCO mask AP over the images seen.

    Only images given to `update` count, so a partial validation gives the AP of its part. Values are
    fractions in 0..1; one that is not defined, such as APs where the truth has no small instance, is nan.

    Args:
        ground_truth: COCO ground truth (`influencerformer.data.coco.ground_truth`); class i of the
            predictions is its i-th category by id.
        max_detections: how many predictions of an image and class count, best first. COCO takes 100; images
            with more instances need more.
    """

    def __init__(self, ground_truth: dict[str, Any], max_detections: int = 100) -> None:
        if max_detections < 1:
            raise ValueError(f"max_detections must be 1 or larger, got {max_detections}")
        self.ground_truth = ground_truth
        self.max_detections = max_detections
        self.categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
        self.results: list[dict[str, Any]] = []
        self.image_ids: set[int] = set()
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}

    def reset(self) -> None:
        """Forget all predictions."""
        self.results = []
        self.image_ids = set()

    def update(self, image_id: int, masks: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add the predictions of one image; with n = 0 the image counts as seen and empty.

        Args:
            image_id: id of the image in the ground truth.
            masks: (n, H, W) bool at the ground truth's size.
            scores: (n,).
            labels: (n,) int64 classes 0..C-1.

        Raises:
            ValueError: an image that the truth lacks or that was added before, or masks of another size.
        """
        if image_id not in self._sizes:
            raise ValueError(f"image {image_id} is not in the ground truth")
        if image_id in self.image_ids:
            raise ValueError(f"image {image_id} was added before: call reset() between evaluations")
        if tuple(masks.shape[1:]) != self._sizes[image_id]:
            raise ValueError(
                f"masks of image {image_id} are {tuple(masks.shape[1:])}, its truth {self._sizes[image_id]} "
                "(height, width)"
            )
        self.image_ids.add(image_id)
        for rle, score, label in zip(encode(masks), scores.tolist(), labels.tolist(), strict=True):
            category = self.categories[label]["id"]
            self.results.append({"image_id": image_id, "category_id": category, "segmentation": rle, "score": score})

    def state(self) -> tuple[list[dict[str, Any]], set[int]]:
        """What another process needs for `merge`."""
        return self.results, self.image_ids

    def merge(self, state: tuple[list[dict[str, Any]], set[int]]) -> None:
        """Add what another process collected, its `state`; images count once."""
        results, image_ids = state
        new = image_ids - self.image_ids
        self.results += [result for result in results if result["image_id"] in new]
        self.image_ids |= new

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl over the images seen."""
        evaluation = self._evaluate()
        if evaluation is None:
            return dict.fromkeys(_SUMMARY, math.nan)
        evaluation.summarize()
        stats = evaluation.stats_as_dict
        return {name: _or_nan(stats[key]) for name, key in _SUMMARY.items()}

    def compute_per_class(self) -> dict[str, float]:
        """AP of each class, by name, over the images seen."""
        names = [category["name"] for category in self.categories]
        evaluation = self._evaluate()
        if evaluation is None:
            return dict.fromkeys(names, math.nan)
        # (T thresholds, R recalls, K classes, A areas, M detection limits)
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        means = [values[values > -1] for values in np.moveaxis(precision, 2, 0)]
        return {name: float(v.mean()) if v.size else math.nan for name, v in zip(names, means, strict=True)}

    def _evaluate(self) -> COCOeval_faster | None:
        if not self.image_ids:
            return None
        # The evaluation writes into the annotations it is given.
        truth = COCO(copy.deepcopy(self.ground_truth))
        predictions = truth.loadRes([dict(result) for result in self.results])
        evaluation = COCOeval_faster(truth, predictions, iouType="segm", print_function=_silent)
        evaluation.params.imgIds = sorted(self.image_ids)
        evaluation.params.maxDets = sorted({1, min(10, self.max_detections), self.max_detections})
        evaluation.rle_iou_max_workers = torch.get_num_threads()
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation


def _or_nan(value: float) -> float:
    """COCO marks what is not defined by -1."""
    return math.nan if value < 0 else float(value)


def _silent(*_: object) -> None:
    """The evaluation's progress messages are not wanted."""
