"""Batches whose images differ in queries, pixels and instances, against padded ones and against single images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mask_cases import NUM_CLASSES
from torch import Tensor

from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss, hungarian_mask_loss, mask_influencer_loss

SHAPES = [(5, 17, 3), (3, 9, 2), (6, 12, 0)]
"""(Q, N, K) of the images."""
LAYERS = 2


class Ragged:
    """Random predictions and truth of images of different shapes."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        self.masks = [[normal(q, n) for q, n, _ in SHAPES] for _ in range(LAYERS)]
        self.class_logits = [[normal(q, NUM_CLASSES + 1) for q, _, _ in SHAPES] for _ in range(LAYERS)]
        self.objectness = [[normal(q) for q, _, _ in SHAPES] for _ in range(LAYERS)]
        self.labels = [torch.randint(-1, k + 1, (n,), generator=g) for _, n, k in SHAPES]
        for (_, _, k), labels in zip(SHAPES, self.labels, strict=True):
            labels[:k] = torch.arange(1, k + 1)
        self.classes = [torch.randint(NUM_CLASSES, (k,), generator=g) for _, _, k in SHAPES]
        self.claim_masks = [torch.rand(q, k, generator=g) < 0.7 for q, _, k in SHAPES]

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.masks, self.labels, self.class_logits, self.classes

    def padded(self) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
        """The same as one tensor each, with query_mask."""
        q, n, k = (max(shape[axis] for shape in SHAPES) for axis in range(3))

        def pad(values: list[Tensor], *sizes: int, fill: float = 7.0) -> Tensor:
            full = torch.full((len(values), *sizes), fill, dtype=values[0].dtype)
            for i, value in enumerate(values):
                full[i][tuple(slice(s) for s in value.shape)] = value
            return full

        masks = torch.stack([pad(layer, q, n) for layer in self.masks])
        class_logits = torch.stack([pad(layer, q, NUM_CLASSES + 1) for layer in self.class_logits])
        query_mask = pad([torch.ones(shape[0], dtype=torch.bool) for shape in SHAPES], q, fill=False)
        labels, classes = pad(self.labels, n, fill=-1), pad(self.classes, k, fill=-1)
        more = {
            "query_mask": query_mask,
            "objectness": torch.stack([pad(layer, q) for layer in self.objectness]),
            "claim_mask": pad(self.claim_masks, q, k, fill=False),
        }
        return (masks, labels, class_logits, classes), more


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("limited", [False, True])
def test_influencer_equals_the_padded_batch(limited: bool) -> None:
    ragged = Ragged()
    arguments, more = ragged.padded()
    options: dict[str, Any] = {"objectness": ragged.objectness}
    if limited:
        options["claim_mask"] = ragged.claim_masks
    else:
        del more["claim_mask"]
    for temperature in (0.5, 0.02):
        close(
            mask_influencer_loss(*ragged.arguments, temperature=temperature, **options),
            mask_influencer_loss(*arguments, temperature=temperature, **more),
        )


def test_baseline_equals_the_padded_batch() -> None:
    ragged = Ragged()
    arguments, more = ragged.padded()
    close(hungarian_mask_loss(*ragged.arguments), hungarian_mask_loss(*arguments, query_mask=more["query_mask"]))


def test_gradients_equal_those_of_the_padded_batch() -> None:
    ragged = Ragged()
    arguments, more = ragged.padded()
    leaves = [[mask.requires_grad_() for mask in layer] for layer in ragged.masks]
    mask_influencer_loss(leaves, *ragged.arguments[1:])["loss"].backward()
    padded = arguments[0].detach().requires_grad_()
    mask_influencer_loss(padded, *arguments[1:], query_mask=more["query_mask"])["loss"].backward()
    for found, expected in zip(leaves, padded.grad, strict=True):
        for i, leaf in enumerate(found):
            q, n = leaf.shape
            torch.testing.assert_close(leaf.grad, expected[i, :q, :n])


def test_masks_equal_labels() -> None:
    """The truth as masks; ignored pixels still by labels."""
    ragged = Ragged()
    masks = [
        labels[None] == torch.arange(1, k + 1)[:, None] for labels, (_, _, k) in zip(ragged.labels, SHAPES, strict=True)
    ]
    close(mask_influencer_loss(*ragged.arguments, instance_masks=masks), mask_influencer_loss(*ragged.arguments))


def test_one_image_equals_its_tensor() -> None:
    ragged = Ragged()
    one = [[layer[0]] for layer in ragged.masks], ragged.labels[:1], [[layer[0]] for layer in ragged.class_logits]
    stacked = torch.stack([layer[0][None] for layer in ragged.masks])
    classes = torch.stack([layer[0][None] for layer in ragged.class_logits])
    close(
        mask_influencer_loss(*one, ragged.classes[:1]),
        mask_influencer_loss(stacked, ragged.labels[0][None], classes, ragged.classes[0][None]),
    )


def test_random_pixels_of_every_image() -> None:
    """More points than any image has are all of them; fewer are drawn from each image."""
    ragged = Ragged()
    close(mask_influencer_loss(*ragged.arguments, num_points=100), mask_influencer_loss(*ragged.arguments))
    assert mask_influencer_loss(*ragged.arguments, num_points=4)["loss"].isfinite()


def test_modules_take_ragged_batches() -> None:
    ragged = Ragged()
    close(MaskInfluencerLoss(0.02)(*ragged.arguments), mask_influencer_loss(*ragged.arguments))
    close(HungarianMaskLoss()(*ragged.arguments), hungarian_mask_loss(*ragged.arguments))


def test_instance_that_nobody_may_claim_leaves_the_rest_as_it_is() -> None:
    """It is no part of claims and classes, as if it were not there; condensation is, as it needs no claim."""
    ragged = Ragged()
    claim_masks = [mask.clone().fill_(True) for mask in ragged.claim_masks]
    claim_masks[0][:, 2] = False
    options = {"condensation_weight": 0.0}
    found = mask_influencer_loss(*ragged.arguments, claim_mask=claim_masks, **options)
    classes = [c.clone() for c in ragged.classes]
    classes[0] = classes[0][:2]
    masks = [
        labels[None] == torch.arange(1, k + 1)[:, None] for labels, (_, _, k) in zip(ragged.labels, SHAPES, strict=True)
    ]
    masks[0] = masks[0][:2]
    arguments = (ragged.masks, ragged.labels, ragged.class_logits, classes)
    close(found, mask_influencer_loss(*arguments, instance_masks=masks, **options))
    assert mask_influencer_loss(*ragged.arguments, claim_mask=claim_masks)["attraction"] > 0


def test_nobody_may_claim_anything() -> None:
    ragged = Ragged()
    claim_masks = [torch.zeros_like(mask) for mask in ragged.claim_masks]
    result = mask_influencer_loss(*ragged.arguments, claim_mask=claim_masks)
    assert result["loss"].isfinite()
    assert result["claim_mask"] == result["claim_dice"] == 0
    assert result["existence"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_mask": torch.ones(3, 6, dtype=torch.bool)}, "query_mask is for padded queries"),
        ({"claim_mask": [torch.ones(2, 2, dtype=torch.bool)] * 3}, r"image 0: claim_mask must be bool \(B, Q, K\)"),
        ({"claim_mask": [torch.ones(5, 3)] * 3}, "image 0: claim_mask must be bool"),
        ({"objectness": [[torch.zeros(5)] * 3] * LAYERS}, r"image 1: objectness must be \(L, B, Q\)"),
        ({"objectness": [[torch.zeros(5), torch.zeros(3), torch.zeros(6)]]}, "image 0: objectness must be"),
        ({"instance_masks": [torch.zeros(3, 17)]}, "truth has 1 entries for a batch of 3"),
    ],
)
def test_errors_name_the_image(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_influencer_loss(*Ragged().arguments, **change)


def test_layers_of_different_batches() -> None:
    ragged = Ragged()
    ragged.masks[1].pop()
    with pytest.raises(ValueError, match="mask_logits must hold B tensors in every layer, got 2 beside 3"):
        mask_influencer_loss(*ragged.arguments)


def test_images_of_different_classes() -> None:
    ragged = Ragged()
    for layer in ragged.class_logits:
        layer[1] = torch.randn(3, 9, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"one C \+ 1 in all images"):
        mask_influencer_loss(*ragged.arguments)


def test_no_image() -> None:
    with pytest.raises(ValueError, match="hold no image"):
        mask_influencer_loss([[], []], [], None, [])
