"""What a criterion on images accepts as truth: maps, masks, sizes, empty images; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import SIZE, images, label_maps, masks_of, tiny_model
from torch import Tensor

from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss
from influencerformer.models import use_influencer_loss
from influencerformer.models.image_criterion import ImageCriterion

NUM_CLASSES = 3


@pytest.fixture(params=[MaskInfluencerLoss, HungarianMaskLoss])
def criterion(request: pytest.FixtureRequest) -> ImageCriterion:
    return ImageCriterion(request.param()).eval()


def predictions(batch: int = 2, queries: int = 5, size: int = 16) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    masks = [torch.randn(batch, queries, size, size, generator=g) for _ in range(2)]
    return masks, [torch.randn(batch, queries, NUM_CLASSES + 1, generator=g) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32])
def test_masks_equal_the_map(criterion: ImageCriterion, dtype: torch.dtype) -> None:
    maps, classes = label_maps()
    expected = criterion(*predictions(), maps, classes)
    torch.testing.assert_close(criterion(*predictions(), masks_of(maps, classes, dtype), classes), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_masks_without_ignored_pixels(criterion: ImageCriterion, dtype: torch.dtype) -> None:
    maps, classes = label_maps()
    maps = [m.clamp(min=0) for m in maps]
    expected = criterion(*predictions(), maps, classes)
    torch.testing.assert_close(criterion(*predictions(), masks_of(maps, classes, dtype), classes), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_integer_maps(criterion: ImageCriterion, dtype: torch.dtype) -> None:
    maps, classes = label_maps()
    maps = [m.clamp(min=0) for m in maps]
    expected = criterion(*predictions(), maps, classes)
    torch.testing.assert_close(criterion(*predictions(), [m.to(dtype) for m in maps], classes), expected)


@pytest.mark.parametrize("forms", [("map", "masks"), ("masks", "map")])
def test_one_image_as_a_map_another_as_masks(criterion: ImageCriterion, forms: tuple[str, str]) -> None:
    maps, classes = label_maps()
    expected = criterion(*predictions(), maps, classes)
    masks = masks_of(maps, classes)
    mixed = [maps[i] if form == "map" else masks[i] for i, form in enumerate(forms)]
    torch.testing.assert_close(criterion(*predictions(), mixed, classes), expected)


@pytest.mark.parametrize("form", ["maps", "masks"])
@pytest.mark.parametrize("num_points", [None, 64])
@pytest.mark.parametrize("empty", [[0], [1], [0, 1]])
def test_images_without_instances(
    criterion: ImageCriterion, form: str, num_points: int | None, empty: list[int]
) -> None:
    maps, classes = label_maps()
    for i in empty:
        maps[i], classes[i] = torch.zeros_like(maps[i]), classes[i][:0]
    truths = maps if form == "maps" else masks_of(maps, classes)
    masks, class_logits = predictions()
    masks = [m.requires_grad_() for m in masks]
    criterion.num_points = num_points
    criterion(masks, class_logits, truths, classes).backward()
    for layer in masks:
        assert layer.grad is not None
        for i in range(2):
            assert bool((layer.grad[i] == 0).all()) == (i in empty)


@pytest.mark.parametrize("form", ["maps", "masks"])
def test_images_of_different_sizes_are_padded_with_ignored(criterion: ImageCriterion, form: str) -> None:
    maps, classes = label_maps()
    maps[1] = maps[1][:48, :40]
    whole = torch.full((SIZE, SIZE), -1)
    whole[:48, :40] = maps[1]
    expected = criterion(*predictions(), [maps[0], whole], classes)
    truths = maps if form == "maps" else masks_of(maps, classes)
    torch.testing.assert_close(criterion(*predictions(), truths, classes), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16])
def test_padding_a_map_of_many_instances(dtype: torch.dtype) -> None:
    """More instances than int8 can count, in an image that must be padded to its neighbour's size."""
    criterion = ImageCriterion(MaskInfluencerLoss()).eval()
    many = (torch.arange(225) + 1).view(15, 15)
    other = torch.ones(16, 16, dtype=torch.long)
    classes = [torch.zeros(225, dtype=torch.long), torch.zeros(1, dtype=torch.long)]
    expected = criterion(*predictions(), [many, other], classes)
    torch.testing.assert_close(criterion(*predictions(), [many.to(dtype), other.to(dtype)], classes), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_padding_masks(criterion: ImageCriterion, dtype: torch.dtype) -> None:
    """Masks of 0 and 255, as image files have them."""
    maps, classes = label_maps()
    maps = [m.clamp(min=0) for m in maps]
    maps[1] = maps[1][:48]
    expected = criterion(*predictions(), maps, classes)
    masks = masks_of(maps, classes, torch.bool)
    if dtype == torch.uint8:
        masks = [255 * m.to(torch.uint8) for m in masks]
    torch.testing.assert_close(criterion(*predictions(), masks, classes), expected)


def test_overlapping_masks_cost_nothing_when_right() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :10], masks[1, 6:] = True, True
    logits = torch.full((1, 3, 16, 16), -20.0)
    logits[0, :2] = torch.where(masks, 20.0, -20.0)
    classes = torch.full((1, 3, 3), -20.0)
    classes[0, :2, 1] = classes[0, 2, 2] = 20
    criterion = ImageCriterion(MaskInfluencerLoss(0.02, condensation_weight=0.0))
    assert criterion([logits], [classes], [masks], [torch.tensor([1, 1])]) < 1e-4


def test_drawn_points_estimate_the_loss_on_all() -> None:
    """Even draws scatter around the loss on the whole grid."""
    maps, classes = label_maps()
    options: dict[str, Any] = {"class_weight": 1e3, "condensation_weight": 0.0}
    everywhere = ImageCriterion(MaskInfluencerLoss(0.02, **options))
    drawn = ImageCriterion(MaskInfluencerLoss(0.02, **options), num_points=150, edge_fraction=0.0)
    everywhere(*predictions(), maps, classes)
    torch.manual_seed(0)
    found = []
    for _ in range(20):
        drawn(*predictions(), maps, classes)
        found.append(drawn.parts["claim_mask"])
    assert torch.stack(found).mean().item() == pytest.approx(everywhere.parts["claim_mask"].item(), rel=0.05)
    assert torch.stack(found).std() > 0


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "one list longer": ([torch.zeros(8, 8).long()], [torch.zeros(0)] * 2, ValueError, "1 mask_labels came with 2"),
    "four axes": (
        [torch.zeros(1, 1, 8, 8)] * 2,
        [torch.zeros(1)] * 2,
        ValueError,
        r"mask_labels\[0\] must be an instance map \(H, W\) or masks \(K, H, W\), got \(1, 1, 8, 8\)",
    ),
    "float map": (
        [torch.zeros(8, 8)] * 2,
        [torch.zeros(0)] * 2,
        TypeError,
        r"mask_labels\[0\] is an instance map of torch.float32; it must hold integers",
    ),
    "bool map": ([torch.zeros(8, 8).bool()] * 2, [torch.zeros(1)] * 2, TypeError, "instance map of torch.bool"),
    "masks and classes": (
        [torch.zeros(3, 8, 8)] * 2,
        [torch.zeros(3), torch.zeros(2)],
        ValueError,
        r"mask_labels\[1\] holds 3 masks, class_labels\[1\] 2 classes",
    ),
    "map above its classes": (
        [torch.full((8, 8), 4)] * 2,
        [torch.zeros(3).long(), torch.zeros(2).long()],
        ValueError,
        "instance_labels go up to 4, but class_labels names only K = 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_truth(criterion: ImageCriterion, case: str) -> None:
    truths, classes, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        criterion(*predictions(), truths, classes)


def test_map_above_the_classes_of_its_own_image(criterion: ImageCriterion) -> None:
    """The second image names one class, and has two instances; the first would hide it by its larger K."""
    maps, classes = label_maps()
    maps[1][:4] = 2
    with pytest.raises(ValueError, match=r"instance 2 of image 1 has pixels, but its class .* is -1"):
        criterion(*predictions(), maps, classes)


def test_a_model_takes_both_forms() -> None:
    model = use_influencer_loss(tiny_model("mask2former")).eval()
    maps, classes = label_maps()
    by_map = model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss
    by_masks = model(pixel_values=images(), mask_labels=masks_of(maps, classes), class_labels=classes).loss
    torch.testing.assert_close(by_masks, by_map)
