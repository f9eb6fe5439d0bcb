"""Quality of a partition into instances without classes or scores: purity, efficiency, duplicate rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# An instance is found above this IoU: by one found instance at most, which finds no other.
_FOUND = 0.5


class CondensationQuality:
    r"""Collects partitions of points (pixels, hits) into found instances, and says how good they are.

    With the points of a cloud (image, event) that are not ignored, found instances P and true instances G:

    .. math::
        \text{purity} = \frac{\sum_{p} \max_{g} |p \cap g|}{\sum_p |p|}, \qquad
        \text{efficiency} = \frac{|\{g : \max_p \text{IoU}(p, g) > 0.5\}|}{|G|}, \qquad
        \text{duplicate rate} = \frac{|P'| - |\{m(p) : p \in P'\}|}{|P|},

    where :math:`m(p)` is the true instance with most points in p (the lowest number where two have equally many), and
    P' are the found instances that have one. Background never counts as pure. Purity is 1 for a partition into single
    points; the duplicate rate then is near 1, and the efficiency 0. All clouds count together: points in the purity,
    instances in the others. The terms are those of track finding, with IoU in place of the double majority.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._points = self._pure = 0
        self._found = self._right = self._duplicates = self._instances = 0

    def update(self, found_labels: Tensor, instance_labels: Tensor) -> None:
        """Add one cloud.

        Args:
            found_labels: (N,) integers, 0 no instance, 1.. found instances; as `condense` gives them.
            instance_labels: (N,) integers, 0 background, 1.. instances, -1 ignored: left out on both sides.

        Raises:
            TypeError: labels that are not integers.
            ValueError: shapes that differ, or negative values other than ignored ones.
        """
        _check(found_labels, instance_labels)
        known = instance_labels >= 0
        found, true = found_labels[known].long(), instance_labels[known].long()
        if not len(true):
            return
        # Numbers without gaps: a label may be any number. The zero in front keeps 0 the first of both.
        found, true = (_compact(labels) for labels in (found, true))
        columns = int(true.max()) + 1
        shared = torch.bincount(found * columns + true, minlength=(int(found.max()) + 1) * columns).view(-1, columns)
        sizes, true_sizes = shared.sum(1, keepdim=True)[1:], shared.sum(0)[1:]
        shared = shared[1:, 1:]
        self._instances += shared.shape[1]
        self._found += shared.shape[0]
        self._points += int(sizes.sum())
        if shared.numel():
            most, of = shared.max(1)
            self._pure += int(most.sum())
            self._duplicates += int((most > 0).sum()) - len(of[most > 0].unique())
            iou = shared / (sizes + true_sizes - shared)
            self._right += int((iou.amax(0) > _FOUND).sum())

    def compute(self) -> dict[str, float]:
        """The qualities of all clouds added.

        Returns:
            "purity", "efficiency" and "duplicate_rate", 0..1, nan where not defined (nothing found, no instance), and
            the counts "found" and "instances".
        """
        return {
            "purity": _ratio(self._pure, self._points),
            "efficiency": _ratio(self._right, self._instances),
            "duplicate_rate": _ratio(self._duplicates, self._found),
            "found": self._found,
            "instances": self._instances,
        }


def _compact(labels: Tensor) -> Tensor:
    """Labels of 0 or more as numbers without gaps, 0 staying 0."""
    return torch.cat([labels.new_zeros(1), labels]).unique(return_inverse=True)[1][1:]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _check(found_labels: Tensor, instance_labels: Tensor) -> None:
    for name, labels in (("found_labels", found_labels), ("instance_labels", instance_labels)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, got {labels.dtype}")
    if found_labels.ndim != 1 or found_labels.shape != instance_labels.shape:
        raise ValueError(
            "found_labels and instance_labels must both be (N,), "
            f"got {tuple(found_labels.shape)} and {tuple(instance_labels.shape)}"
        )
    if len(found_labels) and int(found_labels.min()) < 0:
        raise ValueError(f"found_labels must be 0 or more, got {int(found_labels.min())}")
    if len(instance_labels) and int(instance_labels.min()) < -1:
        raise ValueError(f"instance_labels must be -1 or more, got {int(instance_labels.min())}")
