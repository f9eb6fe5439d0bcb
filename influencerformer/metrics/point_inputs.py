"""Checks of what the metrics of point clouds are given."""

from __future__ import annotations

import torch
from torch import Tensor


def check_truth(name: str, instance_labels: Tensor, class_labels: Tensor, num_classes: int) -> None:
    """Refuses instance labels (N,) int64 in -1..K, and classes (K,) int64 in 0..C-1, that are not so.

    Raises:
        ValueError: what was expected and what came, naming the scene.
    """
    check_classes(name, "class_labels", class_labels, len(class_labels), num_classes)
    check_numbers(name, "instance_labels", instance_labels, -1, len(class_labels))


def check_masks(name: str, masks: Tensor, num_points: int) -> None:
    """Refuses masks that are not (n, N) bool.

    Raises:
        ValueError: what was expected and what came, naming the scene.
    """
    if masks.ndim != 2 or masks.shape[1] != num_points or masks.dtype != torch.bool:
        raise ValueError(
            f"scene {name!r}: masks must be (n, {num_points}) bool, got {tuple(masks.shape)} "
            f"{str(masks.dtype).removeprefix('torch.')}"
        )


def check_classes(name: str, field: str, labels: Tensor, count: int, num_classes: int) -> None:
    """Refuses classes that are not (count,) int64 in 0..C-1.

    Raises:
        ValueError: what was expected and what came, naming the scene.
    """
    if tuple(labels.shape) != (count,):
        raise ValueError(f"scene {name!r}: {field} must be ({count},), got {tuple(labels.shape)}")
    check_numbers(name, field, labels, 0, num_classes - 1)


def check_numbers(name: str, field: str, values: Tensor, lowest: int, highest: int) -> None:
    """Refuses values that are not (N,) int64 in lowest..highest.

    Raises:
        ValueError: what was expected and what came, naming the scene.
    """
    if values.ndim != 1 or values.dtype != torch.int64:
        kind = str(values.dtype).removeprefix("torch.")
        raise ValueError(f"scene {name!r}: {field} must be one-dimensional int64, got {tuple(values.shape)} {kind}")
    if len(values) and not lowest <= int(values.min()) <= int(values.max()) <= highest:
        raise ValueError(
            f"scene {name!r}: {field} must lie in {lowest}..{highest}, got {int(values.min())}..{int(values.max())}"
        )
