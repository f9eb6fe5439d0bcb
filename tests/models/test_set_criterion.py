"""The criterion of the DETR family: its convention of outputs and targets, for images and for points."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import label_maps, masks_of
from torch import Tensor

from influencerformer.losses import MaskInfluencerLoss, mask_influencer_loss
from influencerformer.models import InfluencerSetCriterion, set_progress
from influencerformer.models.image_criterion import ImageCriterion

NUM_CLASSES = 3
SIZES = (20, 13)
"""Points of the two clouds."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_outputs(layers: int = 3) -> dict[str, Any]:
    g = generator()
    made = [
        {
            "pred_logits": torch.randn(2, 5, NUM_CLASSES + 1, generator=g),
            "pred_masks": torch.randn(2, 5, 16, 16, generator=g),
        }
        for _ in range(layers)
    ]
    return {**made[-1], "aux_outputs": made[:-1]}


def clouds() -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Labels (N_i,), classes (K_i,), mask logits (Q, N_i) and class logits (B, Q, C + 1)."""
    g = generator(1)
    labels = [torch.randint(0, 4, (SIZES[0],), generator=g), torch.randint(0, 3, (SIZES[1],), generator=g)]
    labels[0][-3:] = -1
    classes = [torch.tensor([2, 0, 1]), torch.tensor([1, 1])]
    masks = [torch.randn(5, size, generator=g) for size in SIZES]
    return labels, classes, masks, torch.randn(2, 5, NUM_CLASSES + 1, generator=g)


def expected_on_clouds() -> Tensor:
    """By the function itself, on what is padded by hand."""
    labels, _, masks, class_logits = clouds()
    padded = torch.nn.functional.pad(masks[1], (0, SIZES[0] - SIZES[1]))
    truth = torch.nn.functional.pad(labels[1], (0, SIZES[0] - SIZES[1]), value=-1)
    classes = torch.tensor([[2, 0, 1], [1, 1, -1]])
    return mask_influencer_loss(
        torch.stack([masks[0], padded]), torch.stack([labels[0], truth]), class_logits, classes, temperature=0.5
    )["loss"]


def criterion(**options: Any) -> InfluencerSetCriterion:
    return InfluencerSetCriterion(**{"temperature": 0.5, **options}).eval()


@pytest.mark.parametrize("form", ["maps", "masks"])
def test_images(form: str) -> None:
    maps, classes = label_maps()
    truths = maps if form == "maps" else masks_of(maps, classes)
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, truths, strict=True)]
    outputs = image_outputs()
    found = criterion()(outputs, targets)
    layers = [*outputs["aux_outputs"], outputs]
    expected = ImageCriterion(MaskInfluencerLoss(0.5)).eval()(
        [layer["pred_masks"] for layer in layers], [layer["pred_logits"] for layer in layers], maps, classes
    )
    assert set(found) == {"loss_influencer"}
    torch.testing.assert_close(found["loss_influencer"], expected)


def test_auxiliary_layers_count() -> None:
    maps, classes = label_maps()
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, maps, strict=True)]
    outputs = image_outputs()
    deep = criterion()(outputs, targets)["loss_influencer"]
    del outputs["aux_outputs"]
    assert deep > 1.5 * criterion()(outputs, targets)["loss_influencer"]


def test_weight_dict_names_what_is_returned() -> None:
    """As the training loops of the family use it."""
    maps, classes = label_maps()
    made = criterion()
    outputs = image_outputs()
    outputs["pred_masks"].requires_grad_()
    losses = made(outputs, [{"labels": c, "masks": t} for c, t in zip(classes, maps, strict=True)])
    total = sum(losses[k] * made.weight_dict[k] for k in losses if k in made.weight_dict)
    assert isinstance(total, Tensor)
    torch.testing.assert_close(total, losses["loss_influencer"])
    total.backward()
    assert outputs["pred_masks"].grad.abs().sum() > 0
    assert {"claim_mask", "existence", "attraction"} <= set(made.parts)
    assert not any(value.requires_grad for value in made.parts.values())


def truths_on_clouds(form: str) -> list[Tensor]:
    labels, classes, _, _ = clouds()
    if form == "maps":
        return labels
    return [
        (t == torch.arange(1, len(c) + 1)[:, None]).to(torch.int8).masked_fill(t < 0, -1)
        for t, c in zip(labels, classes, strict=True)
    ]


@pytest.mark.parametrize("form", ["maps", "masks"])
@pytest.mark.parametrize("queries_last", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_lists_of_clouds(form: str, queries_last: bool, stacked: bool) -> None:
    _, classes, masks, class_logits = clouds()
    outputs: dict[str, Any] = {
        "pred_logits": class_logits if stacked else list(class_logits),
        "pred_masks": [m.T for m in masks] if queries_last else masks,
    }
    targets = [{"labels": c, "segment_mask": t} for c, t in zip(classes, truths_on_clouds(form), strict=True)]
    made = criterion(queries_last=queries_last, masks_key="segment_mask")
    torch.testing.assert_close(made(outputs, targets)["loss_influencer"], expected_on_clouds())


@pytest.mark.parametrize("form", ["maps", "masks"])
@pytest.mark.parametrize("queries_last", [False, True])
def test_padded_clouds(form: str, queries_last: bool) -> None:
    """(B, Q, N) with targets that are as long as their cloud."""
    _, classes, masks, class_logits = clouds()
    padded = torch.stack([masks[0], torch.nn.functional.pad(masks[1], (0, SIZES[0] - SIZES[1]), value=7.0)])
    outputs = {"pred_logits": class_logits, "pred_masks": padded.transpose(1, 2) if queries_last else padded}
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, truths_on_clouds(form), strict=True)]
    found = criterion(queries_last=queries_last)(outputs, targets)["loss_influencer"]
    torch.testing.assert_close(found, expected_on_clouds())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_dtypes_of_point_masks(dtype: torch.dtype) -> None:
    _, classes, masks, class_logits = clouds()
    outputs = {"pred_logits": class_logits, "pred_masks": masks}
    truths = [t.clamp(min=0) for t in truths_on_clouds("masks")]
    expected, found = (
        criterion()(outputs, [{"labels": c, "masks": t} for c, t in zip(classes, given, strict=True)])
        for given in (truths, [t.to(dtype) for t in truths])
    )
    torch.testing.assert_close(found, expected)


def test_layers_of_clouds() -> None:
    labels, classes, masks, class_logits = clouds()
    layer = {"pred_logits": class_logits, "pred_masks": masks}
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, labels, strict=True)]
    made = criterion(condensation_weight=0.0)
    once = made(layer, targets)["loss_influencer"]
    thrice = made({**layer, "aux_outputs": [layer, layer]}, targets)["loss_influencer"]
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("form", ["maps", "masks"])
@pytest.mark.parametrize("empty", [[1], [0, 1]])
def test_clouds_without_instances(form: str, empty: list[int]) -> None:
    labels, classes, masks, class_logits = clouds()
    masks = [m.requires_grad_() for m in masks]
    for i in empty:
        labels[i], classes[i] = torch.zeros_like(labels[i]), classes[i][:0]
    truths = labels
    if form == "masks":
        truths = [t == torch.arange(1, len(c) + 1)[:, None] for t, c in zip(labels, classes, strict=True)]
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, truths, strict=True)]
    criterion()({"pred_logits": class_logits, "pred_masks": masks}, targets)["loss_influencer"].backward()
    for i, mask in enumerate(masks):
        assert mask.grad is not None
        assert bool((mask.grad == 0).all()) == (i in empty)


def test_schedule() -> None:
    made = InfluencerSetCriterion(total_steps=4, temperature=(0.4, 0.1))
    maps, classes = label_maps()
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, maps, strict=True)]
    for _ in range(3):
        made(image_outputs(), targets)
    assert made.loss.temperature == pytest.approx(0.1)
    twin = copy.deepcopy(InfluencerSetCriterion(total_steps=4, temperature=(0.4, 0.1)))
    twin.load_state_dict(made.state_dict())
    assert twin.loss.temperature == made.loss.temperature
    set_progress(made, 0.0)
    assert made.loss.temperature == 0.4


def changed(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Clouds with the masks of the first target and other things replaced."""
    _, classes, masks, class_logits = clouds()
    truths = truths_on_clouds(changes.pop("form", "masks"))
    targets = [{"labels": c, "masks": t} for c, t in zip(classes, truths, strict=True)]
    targets[0].update(changes.pop("first", {}))
    return {"pred_logits": class_logits, "pred_masks": masks, **changes}, targets


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "more masks than labels": (
        {"first": {"labels": torch.tensor([0, 1])}},
        ValueError,
        "target 0 holds 3 masks and 2 labels",
    ),
    "more labels than masks": (
        {"first": {"labels": torch.zeros(4).long()}},
        ValueError,
        "target 0 holds 3 masks and 4 labels",
    ),
    "too many points": (
        {"first": {"masks": torch.zeros(3, 21)}},
        ValueError,
        "target 0 covers 21 points, its pred_masks 20",
    ),
    "too few points": (
        {"first": {"masks": torch.zeros(19).long()}, "form": "maps"},
        ValueError,
        "target 0 covers 19 points, its pred_masks 20",
    ),
    "a map beside masks": (
        {"first": {"masks": torch.zeros(20).long()}},
        ValueError,
        "target 0 came as .20,., target 1",
    ),
    "masks of an image": (
        {"first": {"masks": torch.zeros(3, 5, 4)}},
        ValueError,
        r"all hold masks \(K, N\).*target 0 came as \(3, 5, 4\)",
    ),
    "float map": ({"first": {"masks": torch.zeros(20)}, "form": "maps"}, TypeError, "must be integers"),
    "instance without a class": (
        {"first": {"masks": torch.full((20,), 4)}, "form": "maps"},
        ValueError,
        "instance_labels go up to 4",
    ),
    "one cloud more": ({"pred_masks": [torch.zeros(5, 20)] * 3}, ValueError, "2 targets came with 3 pred_masks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_targets(case: str) -> None:
    changes, error, message = WRONG[case]
    outputs, targets = changed(**changes)
    with pytest.raises(error, match=message):
        criterion()(outputs, targets)


@pytest.mark.parametrize("missing", ["labels", "masks"])
def test_missing_entry(missing: str) -> None:
    outputs, targets = changed()
    del targets[1][missing]
    with pytest.raises(KeyError, match=missing):
        criterion()(outputs, targets)
