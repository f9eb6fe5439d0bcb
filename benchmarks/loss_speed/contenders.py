"""Forward and backward of our losses and of their rivals, on the tensors of one problem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss
from influencerformer.models import InfluencerCriterion
from loss_speed.dense_hungarian import Matcher, dense_hungarian_loss, matchers
from loss_speed.oneformer3d_rival import load_original, original_criterion, predictions, scenes, weights
from loss_speed.shapes import Problem

OURS = "Influencer"
BASELINE = "Hungarian (ours)"
TRANSFORMERS = "transformers"
ORIGINAL = "InstanceCriterion"
DENSE = "dense Hungarian"

Runs = dict[str, Callable[[], None]]


def points(name: str, count: int) -> str:
    """The name of a criterion that samples."""
    return f"{name}, {count} points"


def reference(name: str, known: Runs | dict[str, Any]) -> str:
    """The row that a row's ratio is to: ours on as many sampled pixels, else ours on all pixels."""
    _, comma, sampled = name.partition(", ")
    return f"{OURS}, {sampled}" if comma and f"{OURS}, {sampled}" in known else OURS


def contenders(problem: Problem, names: tuple[str, ...] | None = None) -> tuple[Runs, dict[str, str]]:
    """What there is to run, ours first, and why the others are absent.

    Args:
        problem: the tensors.
        names: the only ones wanted.
    """
    losses, absent = (_of_images if problem.shape.image else _of_points)(problem)
    found, missing = matchers(problem.device)
    truths = [problem.instance_masks(i).flatten(1) for i in range(len(problem.labels))]

    def dense(match: Matcher) -> Tensor:
        # flattened within, as views made before would hold back the gradient of every layer until the last one is there
        masks = [layer.flatten(2) for layer in problem.masks] if problem.shape.image else problem.masks
        return dense_hungarian_loss(masks, problem.classes, truths, problem.class_labels, match)

    losses |= {f"{DENSE}, {name}": partial(dense, match) for name, match in found.items()}
    chosen = {name: loss for name, loss in losses.items() if names is None or name in names}
    return {name: partial(_step, loss) for name, loss in chosen.items()}, {**absent, **missing}


def _step(loss: Callable[[], Tensor]) -> None:
    loss().backward()


def _of_points(problem: Problem) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    losses: dict[str, Callable[[], Tensor]] = {}
    absent: dict[str, str] = {}

    def of_dict(criterion: Any, name: str, *tensors: Any) -> Callable[[], Tensor]:
        return lambda: criterion(*tensors)[name]

    tensors = (problem.masks, problem.labels, problem.classes, problem.class_labels)
    if problem.shape.oneformer3d:
        inputs = predictions(problem), scenes(problem)
        losses[OURS] = of_dict(InfluencerCriterion(**weights(problem.shape)), "inst_loss", *inputs)
        module = load_original()
        if isinstance(module, str):
            absent[ORIGINAL] = module
        else:
            losses[ORIGINAL] = of_dict(original_criterion(problem.shape, module), "inst_loss", *inputs)
    else:
        losses[OURS] = of_dict(MaskInfluencerLoss(), "loss", *tensors)
    losses[BASELINE] = of_dict(HungarianMaskLoss(), "loss", *tensors)
    return losses, absent


def _of_images(problem: Problem) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    from influencerformer.models import use_hungarian_loss, use_influencer_loss

    if find_spec("transformers") is None:
        raise SystemExit("image shapes need transformers: pip install transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    from influencerformer.models.build import mask2former_config

    shape = problem.shape
    maps = problem.image_labels()
    height, width = maps[0].shape
    full = [
        problem.instance_masks(i).float().repeat_interleave(height // len(m), 1).repeat_interleave(width // len(m), 2)
        for i, m in enumerate(problem.labels)
    ]
    auxiliary = [
        {"masks_queries_logits": m, "class_queries_logits": c}
        for m, c in zip(problem.masks[:-1], problem.classes[:-1], strict=True)
    ]

    def loss_of(num_points: int, swap: Callable[[Any], Any], truth: list[Tensor]) -> Callable[[], Tensor]:
        config = mask2former_config("mask2former-tiny", shape.classes, shape.queries[0])
        config.train_num_points = num_points
        model = swap(Mask2FormerForUniversalSegmentation(config).to(problem.device))

        def loss() -> Tensor:
            last = problem.masks[-1], problem.classes[-1]
            return model.get_loss(model.get_loss_dict(*last, truth, problem.class_labels, auxiliary))

        return loss

    n = shape.sampled
    losses = {
        OURS: loss_of(n, use_influencer_loss, maps),
        points(OURS, n): loss_of(n, partial(use_influencer_loss, num_points=n), maps),
        BASELINE: loss_of(n, use_hungarian_loss, maps),
        points(BASELINE, n): loss_of(n, partial(use_hungarian_loss, num_points=n), maps),
        points(TRANSFORMERS, n): loss_of(n, lambda model: model, full),
        points(TRANSFORMERS, shape.pixels): loss_of(shape.pixels, lambda model: model, full),
    }
    return losses, {}
