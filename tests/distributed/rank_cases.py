"""Every criterion on some of four images, whose predictions and truth depend on the image alone; what ranks found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influencerformer import InfluencerCriterion, InfluencerSetCriterion
from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss
from influencerformer.models.points.criterion import PointCriterion, PointOutputs

KINDS = ("influencer", "hungarian", "set_criterion", "oneformer3d", "points")
COUNTS = {"all": (3, 1, 2, 4), "rank 1 without instances": (3, 2, 0, 0)}
IMAGES = 4
QUERIES, CLASSES, LAYERS = 7, 3, 2
TERMS = {"masks": 0.0, "all": 2.0}
"""Weight of the class and objectness terms: without them only what is divided by the number of instances is left."""


class Ranks(NamedTuple):
    """What two processes found.

    Attributes:
        config: of their runs.
        folder: of their runs.
        found: by rank.
        output: what they wrote to the terminal.
    """

    config: Path
    folder: Path
    found: list[dict[str, Any]]
    output: str


class Image:
    """One image: LAYERS predictions that take a gradient, and its instances."""

    def __init__(self, number: int, count: int, points: int) -> None:
        generator = torch.Generator().manual_seed(number)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

        self.masks = [normal(QUERIES, points) for _ in range(LAYERS)]
        self.classes = [normal(QUERIES, CLASSES + 1) for _ in range(LAYERS)]
        self.scores = [normal(QUERIES, 1) for _ in range(LAYERS)]
        self.labels = torch.randint(0, count + 1, (points,), generator=generator)
        self.labels[:count] = torch.arange(1, count + 1)
        self.class_labels = torch.randint(0, CLASSES, (count,), generator=generator)
        self.instance_masks = self.labels == torch.arange(1, count + 1)[:, None]


def gradients(kind: str, terms: str, counts: Sequence[int], numbers: Sequence[int]) -> dict[str, Tensor]:
    """The loss of some images, and its gradient for each of their predictions."""
    ragged = kind in ("oneformer3d", "points")
    images = [Image(number, counts[number], 30 + 4 * number if ragged else 30) for number in numbers]
    loss = _loss(kind, TERMS[terms], images)
    loss.backward()
    found = {"loss": loss.detach()}
    for number, image in zip(numbers, images, strict=True):
        for name in ("masks", "classes", "scores"):
            for layer, prediction in enumerate(getattr(image, name)):
                if prediction.grad is not None:
                    found[f"{name} of image {number}, layer {layer}"] = prediction.grad
    return found


def _loss(kind: str, weight: float, images: list[Image]) -> Tensor:
    layers = range(LAYERS)
    masks = [[image.masks[layer] for image in images] for layer in layers]
    classes = [[image.classes[layer] for image in images] for layer in layers]
    labels, class_labels = [image.labels for image in images], [image.class_labels for image in images]
    if kind == "oneformer3d":
        scores = [[image.scores[layer] for image in images] for layer in layers]
        heads = [{"masks": masks[i], "cls_preds": classes[i], "scores": scores[i]} for i in layers]
        scenes = [SimpleNamespace(sp_masks=image.instance_masks, labels_3d=image.class_labels) for image in images]
        criterion = InfluencerCriterion(num_classes=CLASSES, loss_weight=(weight / 4, 1.0, 1.0, weight / 4))
        return criterion({**heads[-1], "aux_outputs": heads[:-1]}, scenes)["inst_loss"]
    if kind == "points":
        objectness = [[image.scores[layer].flatten() for image in images] for layer in layers]
        outputs = PointOutputs(masks, classes, objectness, [torch.arange(len(one)) for one in labels])
        loss = MaskInfluencerLoss(class_weight=weight, objectness_weight=weight)
        return PointCriterion(loss)(outputs, labels, class_labels)
    stacked_masks, stacked_classes = [torch.stack(m) for m in masks], [torch.stack(c) for c in classes]
    if kind == "set_criterion":
        heads = [{"pred_masks": m, "pred_logits": c} for m, c in zip(stacked_masks, stacked_classes, strict=True)]
        targets = [{"masks": image.labels, "labels": image.class_labels} for image in images]
        criterion = InfluencerSetCriterion(class_weight=weight)
        return criterion({**heads[-1], "aux_outputs": heads[:-1]}, targets)["loss_influencer"]
    loss = (MaskInfluencerLoss if kind == "influencer" else HungarianMaskLoss)(class_weight=weight)
    most = max(1, *(len(one) for one in class_labels))
    padded = torch.stack([torch.nn.functional.pad(one, (0, most - len(one)), value=-1) for one in class_labels])
    return loss(stacked_masks, torch.stack(labels), stacked_classes, padded)["loss"]
