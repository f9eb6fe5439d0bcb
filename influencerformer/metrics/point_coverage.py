"""Coverage, precision and recall of instances in point clouds, as S3DIS is measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from influencerformer.metrics.point_inputs import check_classes, check_numbers, check_truth

Floats = npt.NDArray[np.float64]
_VALUES = ("Cov", "WCov", "Prec", "Rec")


@dataclass(frozen=True)
class SceneCoverage:
    """What is kept of one scene, each by class (C,).

    Attributes:
        instances: number of instances.
        found: of these, those that a prediction overlaps with an IoU of 0.5 or more.
        predictions: number of predictions.
        right: of these, those that overlap an instance with an IoU of 0.5 or more.
        coverage: mean over the instances of the best IoU; nan without instances.
        weighted: the same mean weighted by points.
    """

    instances: Floats
    found: Floats
    predictions: Floats
    right: Floats
    coverage: Floats
    weighted: Floats


class PointCoverage:
    r"""Collects label maps scene by scene and computes mCov, mWCov, mPrec and mRec.

    With the instances G of a class in a scene and the predictions P of that class there:

    .. math::
        \text{Cov} = \frac{1}{|G|} \sum_{g \in G} \max_{p \in P} \text{IoU}(g, p), \qquad
        \text{WCov} = \sum_{g \in G} \frac{|g|}{\sum_{g'} |g'|} \max_{p \in P} \text{IoU}(g, p),

    averaged over the scenes that have the class and then over the classes. Precision of a class is the fraction of all
    its predictions, over all scenes, with an IoU of 0.5 or more with an instance of the class; recall the fraction of
    all its instances with such a prediction. mPrec and mRec are means over the classes.

    Source: ASIS (Wang et al., CVPR 2019, eval_iou_accuracy.py), whose script JSNet and others use. Where they leave a
    value undefined: a class without an instance is left out of all means, and one without a prediction has precision
    0. Two halves of an instance with an IoU of exactly 0.5 each are two hits there; here the instance is found once.
    Points labelled -1 are left out on both sides; background counts against a prediction as any other point does.
    There is no smallest size. OneFormer3D's mPrec50 and mRec50 are others: see
    :class:`influencerformer.metrics.point_ap.PointAP`.

    Args:
        class_names: of the classes 0..C-1.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        self._scenes: dict[str, SceneCoverage] = {}

    def reset(self) -> None:
        """Forget all scenes."""
        self._scenes = {}

    def update(
        self, name: str, point_labels: Tensor, labels: Tensor, instance_labels: Tensor, class_labels: Tensor
    ) -> None:
        """Add the predictions of one scene, a partition as from `to_point_labels`.

        Args:
            name: of the scene, unique.
            point_labels: (N,) int64, 0 no instance, 1..m predicted instances; those without a point do not count.
            labels: (m,) int64 classes 0..C-1 of the predicted instances.
            instance_labels: (N,) int64, 0 background, 1..K instances, -1 ignored.
            class_labels: (K,) int64 classes 0..C-1.

        Raises:
            ValueError: a scene that was added before, or tensors that do not fit together.
        """
        if name in self._scenes:
            raise ValueError(f"scene {name!r} was added before: call reset() between evaluations")
        check_truth(name, instance_labels, class_labels, len(self.class_names))
        check_classes(name, "labels", labels, len(labels), len(self.class_names))
        check_numbers(name, "point_labels", point_labels, 0, len(labels))
        if len(point_labels) != len(instance_labels):
            raise ValueError(
                f"scene {name!r}: point_labels must be ({len(instance_labels)},), got {tuple(point_labels.shape)}"
            )
        instance_labels = instance_labels.to(point_labels.device)
        valid = instance_labels >= 0
        columns = len(class_labels) + 1
        joint = point_labels[valid] * columns + instance_labels[valid]
        overlaps = torch.bincount(joint, minlength=(len(labels) + 1) * columns).view(-1, columns)
        self._scenes[name] = _coverage(
            overlaps.cpu().numpy(), labels.cpu().numpy(), class_labels.cpu().numpy(), len(self.class_names)
        )

    def state(self) -> dict[str, SceneCoverage]:
        """What another process merges: six numbers a class and scene."""
        return dict(self._scenes)

    def merge(self, state: Mapping[str, SceneCoverage]) -> None:
        """Add what another process collected (its `state()`); scenes count once."""
        self._scenes = {**state, **self._scenes}

    def compute(self) -> dict[str, Any]:
        """mCov, mWCov, mPrec and mRec over the scenes seen.

        Returns:
            Each a mean over the classes that the truth has, 0..1, and "per_class", {"Cov", "WCov", "Prec", "Rec"} by
            the name of the class. What is not defined, because the truth has no such instance, is nan.
        """
        scenes = list(self._scenes.values())
        rows = np.full((len(self.class_names), len(_VALUES)), np.nan)
        instances = sum((scene.instances for scene in scenes), np.zeros(len(rows)))
        for c in np.flatnonzero(instances):
            there = [scene for scene in scenes if scene.instances[c]]
            predictions = sum(scene.predictions[c] for scene in scenes)
            rows[c] = (
                np.mean([scene.coverage[c] for scene in there]),
                np.mean([scene.weighted[c] for scene in there]),
                sum(scene.right[c] for scene in scenes) / max(1, predictions),
                sum(scene.found[c] for scene in scenes) / instances[c],
            )
        overall = rows[instances > 0].mean(0) if instances.any() else np.full(len(_VALUES), np.nan)
        named = [dict(zip(_VALUES, row.tolist(), strict=True)) for row in rows]
        means = {f"m{value}": mean for value, mean in zip(_VALUES, overall.tolist(), strict=True)}
        return {**means, "per_class": dict(zip(self.class_names, named, strict=True))}


def _coverage(
    overlaps: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    class_labels: npt.NDArray[np.int64],
    num_classes: int,
) -> SceneCoverage:
    """From (m + 1, K + 1) points shared by predictions and instances, number 0 being none."""
    shared = np.where(labels[:, None] == class_labels, overlaps[1:, 1:], 0)
    predicted, true = overlaps.sum(1)[1:], overlaps.sum(0)[1:]
    ious = shared / np.maximum(1, predicted[:, None] + true - shared)
    best = ious.max(0, initial=0)

    def by_class(classes: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> Floats:
        return np.bincount(classes, values, num_classes).astype(np.float64)

    instances = by_class(class_labels, true > 0)
    points = by_class(class_labels, true)
    with np.errstate(invalid="ignore"):
        return SceneCoverage(
            instances=instances,
            found=by_class(class_labels, best >= 0.5),
            predictions=by_class(labels, predicted > 0),
            right=by_class(labels, ious.max(1, initial=0) >= 0.5),
            coverage=by_class(class_labels, best) / instances,
            weighted=by_class(class_labels, best * true) / points,
        )
