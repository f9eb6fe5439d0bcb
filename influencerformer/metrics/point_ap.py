"""Instance segmentation AP of point clouds by the ScanNet protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from influencerformer.metrics.point_inputs import check_classes, check_masks, check_truth

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# As the benchmark's script writes them: nine steps that end at 0.9, rounded as arange rounds, and 0.25.
_THRESHOLDS = np.append(np.arange(0.5, 0.95, 0.05), 0.25)
_STRICT, _HALF, _QUARTER = slice(0, -1), 0, -1
_VALUES = ("AP", "AP50", "AP25", "Prec50", "Rec50")


@dataclass(frozen=True)
class SceneMatches:
    """What is kept of one scene: n predictions, K instances, P pairs of one class with an IoU above 0.25.

    Attributes:
        labels: (n,) class of each prediction.
        scores: (n,).
        ignored: (n,) the part of each prediction's points that lies on no instance or on one of its class that is too
            small to count.
        truth_labels: (K,) class of each instance.
        counted: (K,) whether the instance is large enough to count.
        predictions: (P,) index of each pair's prediction.
        truths: (P,) index of each pair's instance; the pairs are in the order of (instance, prediction).
        ious: (P,).
    """

    labels: Integers
    scores: Floats
    ignored: Floats
    truth_labels: Integers
    counted: Bools
    predictions: Integers
    truths: Integers
    ious: Floats


class PointAP:
    """Collects predictions scene by scene and computes AP, AP50 and AP25 as ScanNet's benchmark does.

    The rules, per class and IoU threshold t (a match needs an IoU above t, not equal to it):

    - Predictions and instances with fewer than `min_points` points do not count. A prediction that matches such a small
      instance is neither right nor wrong.
    - A prediction that matches no instance is wrong, unless more than the fraction t of its points is void or belongs
      to small instances of its class. Void is what is in no instance: background (0) and ignored (-1) alike.
    - Of several predictions that match one instance the best score is right, the others are wrong. At t = 0.25 a
      prediction can match up to three instances; it is right for one only. Which, depends on the order of instances
      and predictions given, as in the original: instances in their order take the first prediction that is still free.
    - Precision and recall are taken at every distinct score, so that the order of equal scores does not matter, and
      one point is added at recall 0 and precision 1. AP is the area under the straight lines between those points;
      precision is not made monotonic.
    - AP averages over t = 0.5, 0.55, ..., 0.9: what is commonly written 0.5:0.95:0.05 ends there in the original.

    Prec50 and Rec50 are precision and recall at t = 0.5 and the score with the highest F1 of the class,
    2PR / (P + R + 0.0001): OneFormer3D's definition, for comparison with its tables. Those of
    :class:`influencerformer.metrics.point_coverage.PointCoverage` do without scores.

    Source: evaluate_semantic_instance.py of ScanNet's benchmark scripts as it is now (its first versions counted no
    point as void). Where no prediction of a class is right or wrong, the script stops with an IndexError; here, as in
    mmdetection3d's port of it, AP is 0. S3DIS's classes numbered from 0, as mmdetection3d has them, lose their first
    one (ceiling) there, since ids below 1000 (1000 x class + instance) are taken for groups; here every class counts.

    Args:
        class_names: of the classes 0..C-1.
        min_points: size from which predictions and instances count.
    """

    def __init__(self, class_names: Sequence[str], min_points: int = 100) -> None:
        if min_points < 1:
            raise ValueError(f"min_points must be 1 or larger, got {min_points}")
        self.class_names = list(class_names)
        self.min_points = min_points
        self._scenes: dict[str, SceneMatches] = {}

    def reset(self) -> None:
        """Forget all scenes."""
        self._scenes = {}

    def update(
        self, name: str, masks: Tensor, scores: Tensor, labels: Tensor, instance_labels: Tensor, class_labels: Tensor
    ) -> None:
        """Add the predictions of one scene; with n = 0 the scene counts as seen and empty.

        Args:
            name: of the scene, unique.
            masks: (n, N) bool, on any device.
            scores: (n,).
            labels: (n,) int64 classes 0..C-1.
            instance_labels: (N,) int64, 0 background, 1..K instances, -1 ignored.
            class_labels: (K,) int64 classes 0..C-1.

        Raises:
            ValueError: a scene that was added before, or tensors that do not fit together.
        """
        if name in self._scenes:
            raise ValueError(f"scene {name!r} was added before: call reset() between evaluations")
        check_truth(name, instance_labels, class_labels, len(self.class_names))
        check_masks(name, masks, len(instance_labels))
        check_classes(name, "labels", labels, len(masks), len(self.class_names))
        if tuple(scores.shape) != (len(masks),):
            raise ValueError(f"scene {name!r}: scores must be ({len(masks)},), got {tuple(scores.shape)}")
        if not bool(scores.isfinite().all()):
            raise ValueError(f"scene {name!r}: scores hold NaN or infinite values")
        sizes, overlaps = _overlaps(masks, instance_labels.to(masks.device).clamp(min=0), len(class_labels))
        self._scenes[name] = self._matches(
            overlaps, sizes, _array(scores.double()), _array(labels), _array(class_labels)
        )

    def _matches(
        self, overlaps: Integers, truth_sizes: Integers, scores: Floats, labels: Integers, truth_labels: Integers
    ) -> SceneMatches:
        """From (n, K + 1) points shared with the background and the K instances, and (K,) points of the instances."""
        large = overlaps.sum(1) >= self.min_points
        overlaps, scores, labels = overlaps[large], scores[large], labels[large]
        sizes = overlaps.sum(1, keepdims=True)
        shared = np.where(labels[:, None] == truth_labels, overlaps[:, 1:], 0)
        counted = truth_sizes >= self.min_points
        ious = shared / (sizes + truth_sizes - shared)
        truths, predictions = np.nonzero(_THRESHOLDS.min() < ious.T)
        return SceneMatches(
            labels=labels,
            scores=scores,
            ignored=(overlaps[:, 0] + shared[:, ~counted].sum(1)) / sizes[:, 0],
            truth_labels=truth_labels,
            counted=counted,
            predictions=predictions,
            truths=truths,
            ious=ious[predictions, truths],
        )

    def state(self) -> dict[str, SceneMatches]:
        """What another process merges: small tables by scene."""
        return dict(self._scenes)

    def merge(self, state: Mapping[str, SceneMatches]) -> None:
        """Add what another process collected (its `state()`); scenes count once."""
        self._scenes = {**state, **self._scenes}

    def compute(self) -> dict[str, Any]:
        """AP, AP50, AP25, Prec50 and Rec50 over the scenes seen.

        Returns:
            Each value's mean over the classes that the truth has, 0..1, and "per_class", the values by the name of the
            class. What is not defined, because the truth has no instance of the class (or of any), is nan.
        """
        num_classes = len(self.class_names)
        scenes = list(self._scenes.values())
        instances, predictions = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
        for scene in scenes:
            instances += np.bincount(scene.truth_labels[scene.counted], minlength=num_classes)
            predictions += np.bincount(scene.labels, minlength=num_classes)
        # (T thresholds, C classes, 3): AP, precision and recall
        found = np.full((len(_THRESHOLDS), num_classes, 3), np.nan)
        for t, threshold in enumerate(_THRESHOLDS if scenes else ()):
            outcomes = [_judge(scene, threshold) for scene in scenes]
            labels, scores, right = (np.concatenate(parts) for parts in zip(*outcomes, strict=True))
            for c in np.flatnonzero(instances):
                of_class = labels == c
                found[t, c] = _summary(scores[of_class], right[of_class], instances[c]) if predictions[c] else 0.0
        ap = found[..., 0]
        columns = np.stack([ap[_STRICT].mean(0), ap[_HALF], ap[_QUARTER], found[_HALF, :, 1], found[_HALF, :, 2]], 1)
        overall = columns[instances > 0].mean(0) if instances.any() else np.full(len(_VALUES), np.nan)
        rows = [dict(zip(_VALUES, row.tolist(), strict=True)) for row in (overall, *columns)]
        return {**rows[0], "per_class": dict(zip(self.class_names, rows[1:], strict=True))}


def _overlaps(masks: Tensor, truth: Tensor, num_instances: int) -> tuple[Integers, Integers]:
    """Points of each instance (K,), and points shared by each mask with background and instances (n, K + 1)."""
    # Mask by mask: linear in the points, and never more than one mask's labels in memory.
    counts = [torch.bincount(truth[mask], minlength=num_instances + 1) for mask in masks]
    sizes = torch.bincount(truth, minlength=num_instances + 1)[1:]
    return _array(sizes), _array(torch.stack(counts)) if counts else np.zeros((0, num_instances + 1), np.int64)


def _array(values: Tensor) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy()


def _judge(scene: SceneMatches, threshold: float) -> tuple[Integers, Floats, Bools]:
    """Class, score and whether it is right, of every prediction of a scene that counts at this threshold.

    At 0.25 a prediction that matches several instances can be counted several times.
    """
    close = scene.ious > threshold
    stray = scene.ignored <= threshold
    stray[scene.predictions[close]] = False

    close &= scene.counted[scene.truths]
    scores = scene.scores.tolist()
    best: dict[int, float] = {}
    taken: set[int] = set()
    doubles: list[tuple[int, float]] = []
    for prediction, truth in zip(scene.predictions[close].tolist(), scene.truths[close].tolist(), strict=True):
        if prediction in taken:
            continue
        score = scores[prediction]
        if truth in best:
            doubles.append((truth, min(score, best[truth])))
            best[truth] = max(score, best[truth])
        else:
            taken.add(prediction)
            best[truth] = score

    truths = np.array([*best, *(truth for truth, _ in doubles)], dtype=np.int64)
    values = np.array([*best.values(), *(score for _, score in doubles)], dtype=np.float64)
    labels = np.concatenate([scene.truth_labels[truths], scene.labels[stray]])
    return labels, np.concatenate([values, scene.scores[stray]]), np.arange(len(labels)) < len(best)


def _summary(scores: Floats, right: Bools, num_instances: int) -> tuple[float, float, float]:
    """AP, and precision and recall where F1 is highest, from the outcomes of one class."""
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    # Of the predictions from each distinct score upwards, and last of none.
    right_from = right.sum() - np.append(0, np.cumsum(right[order]))[first]
    precision = np.append(right_from / (len(scores) - first), 1.0)
    recall = np.append(right_from / num_instances, 0.0)
    area = ((recall[:-1] - recall[1:]) * (precision[:-1] + precision[1:]) / 2).sum()
    best = np.argmax(2 * precision * recall / (precision + recall + 1e-4))
    return float(area), float(precision[best]), float(recall[best])
