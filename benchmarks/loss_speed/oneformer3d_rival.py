"""OneFormer3D's own InstanceCriterion with its matchers, where its code is on this machine."""

from __future__ import annotations

import importlib
import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from loss_speed.shapes import Problem, Shape

COSTS = [
    {"type": "QueryClassificationCost", "weight": 0.5},
    {"type": "MaskBCECost", "weight": 1.0},
    {"type": "MaskDiceCost", "weight": 1.0},
]


class Scene:
    """The truth of a scene, as OneFormer3D's wrappers hand it on."""

    def __init__(self, **fields: Tensor) -> None:
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.labels_3d)

    def get(self, name: str) -> Tensor | None:
        return getattr(self, name, None)


def load_original() -> Any:
    """OneFormer3D's module of criteria, without the rest of its package; a sentence where it cannot be had."""
    root = Path(os.environ.get("ONEFORMER3D_ROOT", "../oneformer3d"))
    if not (root / "oneformer3d" / "instance_criterion.py").is_file():
        return f"no OneFormer3D at {root}: clone filaPro/oneformer3d and set ONEFORMER3D_ROOT to its folder"
    if find_spec("mmdet3d") is None:
        return "needs mmdet3d: see docs/integration_guide.md for its installation"
    if "oneformer3d" not in sys.modules:
        package = types.ModuleType("oneformer3d")
        package.__path__ = [str(root / "oneformer3d")]
        sys.modules["oneformer3d"] = package
        # the registry would import all models of mmdet3d, and with them mmcv's compiled parts
        importlib.import_module("mmdet3d.registry").TASK_UTILS._imported = True
    return importlib.import_module("oneformer3d.instance_criterion")


def weights(shape: Shape) -> dict[str, Any]:
    """Keywords of either criterion, with the weights of OneFormer3D's configurations."""
    return {
        "loss_weight": [0.5, 1.0, 1.0, 0.5],
        "num_classes": shape.classes,
        "non_object_weight": 0.05 if shape.oneformer3d == "objectness" else 0.1,
        "iter_matcher": True,
    }


def original_criterion(shape: Shape, module: Any) -> Any:
    restricted = shape.oneformer3d == "restricted"
    matcher: dict[str, Any] = {"type": "SparseMatcher" if restricted else "HungarianMatcher", "costs": COSTS}
    if restricted:
        matcher["topk"] = 1
    return module.InstanceCriterion(matcher=matcher, fix_dice_loss_weight=True, fix_mean_loss=True, **weights(shape))


def predictions(problem: Problem) -> dict[str, Any]:
    """As the decoder gives them."""
    heads = [
        {
            "cls_preds": problem.classes[i],
            "masks": problem.masks[i],
            "scores": [None] * len(problem.shape.queries) if problem.scores is None else problem.scores[i],
        }
        for i in range(problem.shape.heads)
    ]
    return {**heads[-1], "aux_outputs": heads[:-1]}


def scenes(problem: Problem) -> list[Scene]:
    truth = []
    for i, labels in enumerate(problem.class_labels):
        fields = {"sp_masks": problem.instance_masks(i), "labels_3d": labels}
        if problem.query_masks is not None:
            fields["query_masks"] = problem.query_masks[i]
        truth.append(Scene(**fields))
    return truth
