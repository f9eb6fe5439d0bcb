"""Nothing depends on the order of queries, instances, pixels or images, nor on padding: value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mask_cases import Batch, value_and_gradients
from torch import Tensor

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss, membership

Loss = Callable[..., dict[str, Tensor]]


@pytest.fixture(params=["influencer", "influencer scatter", "hungarian"])
def loss(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Loss:
    if request.param == "hungarian":
        return hungarian_mask_loss
    if request.param == "influencer scatter":
        monkeypatch.setattr(membership, "DENSE_LIMIT", 0)
    return lambda *args, **kw: mask_influencer_loss(*args, temperature=0.1, **kw)


@pytest.fixture
def batch() -> Batch:
    return Batch(4, layers=2, counts=(3, 1, 4), queries=6)


def permutation(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(1))


def test_queries(loss: Loss, batch: Batch) -> None:
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    order = permutation(6)
    again = value_and_gradients(
        loss, batch.masks[:, :, order], batch.labels, batch.class_logits[:, :, order], batch.classes
    )
    torch.testing.assert_close(again, (value, masks[:, :, order], classes[:, :, order]))


def test_pixels(loss: Loss, batch: Batch) -> None:
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    order = permutation(batch.masks.shape[-1])
    again = value_and_gradients(
        loss, batch.masks[..., order], batch.labels[:, order], batch.class_logits, batch.classes
    )
    torch.testing.assert_close(again, (value, masks[..., order], classes))


def test_images(loss: Loss, batch: Batch) -> None:
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    order = torch.tensor([2, 0, 1])
    again = value_and_gradients(
        loss, batch.masks[:, order], batch.labels[order], batch.class_logits[:, order], batch.classes[order]
    )
    torch.testing.assert_close(again, (value, masks[:, order], classes[:, order]))


def test_instances(loss: Loss) -> None:
    """Instance k becomes instance order[k]: the label map and the classes change together."""
    batch = Batch(5, counts=(4, 4))
    expected = value_and_gradients(loss, *batch.arguments)
    order = torch.tensor([2, 0, 3, 1])
    labels = torch.where(batch.labels > 0, order[(batch.labels - 1).clamp(min=0)] + 1, batch.labels)
    classes = torch.empty_like(batch.classes)
    classes[:, order] = batch.classes
    torch.testing.assert_close(value_and_gradients(loss, batch.masks, labels, batch.class_logits, classes), expected)


@pytest.mark.parametrize("filling", [0.0, 50.0, -1e4])
def test_padded_pixels(loss: Loss, batch: Batch, filling: float) -> None:
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    padded = torch.nn.functional.pad(batch.masks, (0, 5), value=filling)
    labels = torch.nn.functional.pad(batch.labels, (0, 5), value=-1)
    again = value_and_gradients(loss, padded, labels, batch.class_logits, batch.classes)
    torch.testing.assert_close(again, (value, torch.nn.functional.pad(masks, (0, 5)), classes))


def test_padded_instances(loss: Loss, batch: Batch) -> None:
    expected = value_and_gradients(loss, *batch.arguments)
    classes = torch.nn.functional.pad(batch.classes, (0, 3), value=-1)
    torch.testing.assert_close(
        value_and_gradients(loss, batch.masks, batch.labels, batch.class_logits, classes), expected
    )


def test_instance_without_a_pixel_counts_as_absent(loss: Loss, batch: Batch) -> None:
    expected = value_and_gradients(loss, *batch.arguments)
    classes = torch.nn.functional.pad(batch.classes, (0, 1), value=2)
    torch.testing.assert_close(
        value_and_gradients(loss, batch.masks, batch.labels, batch.class_logits, classes), expected
    )


@pytest.mark.parametrize("filling", [0.0, 1e4])
def test_padded_queries(loss: Loss, batch: Batch, filling: float) -> None:
    value, masks, classes = value_and_gradients(loss, *batch.arguments)
    pad = (0, 0, 0, 2)
    padded = torch.nn.functional.pad(batch.masks, pad, value=filling)
    padded_classes = torch.nn.functional.pad(batch.class_logits, pad, value=filling)
    real = (torch.arange(8) < 6).expand(3, 8)
    again = value_and_gradients(loss, padded, batch.labels, padded_classes, batch.classes, query_mask=real)
    expected = value, torch.nn.functional.pad(masks, pad), torch.nn.functional.pad(classes, pad)
    torch.testing.assert_close(again, expected)


def test_images_may_have_different_numbers_of_queries(loss: Loss) -> None:
    """A batch of images padded to one Q, against each without its padding."""
    batch = Batch(6, counts=(2, 3), queries=5)
    real = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    parts = loss(*batch.arguments, query_mask=real)
    alone = [
        loss(batch.masks[:, i, :q], batch.labels[i : i + 1], batch.class_logits[:, i, :q], batch.classes[i : i + 1, :k])
        for i, q, k in ((0, 3, 2), (1, 5, 3))
    ]
    for name in set(parts) - {"loss", "existence", "nonfinite"}:
        torch.testing.assert_close(parts[name], (2 * alone[0][name] + 3 * alone[1][name]) / 5)


@pytest.mark.parametrize("scale", [1, 3])
def test_repeated_pixels_change_nothing_but_the_smoothing(scale: int) -> None:
    """Sums are means: with every pixel thrice only the dice smoothing moves, which a zero dice weight removes."""
    batch = Batch(7)
    expected = mask_influencer_loss(*batch.arguments, dice_weight=0.0)["loss"]
    repeated = mask_influencer_loss(
        batch.masks.repeat_interleave(scale, -1),
        batch.labels.repeat_interleave(scale, -1),
        batch.class_logits,
        batch.classes,
        dice_weight=0.0,
    )["loss"]
    torch.testing.assert_close(repeated, expected)


def test_condensation_is_blind_to_a_constant_added_to_all_queries() -> None:
    batch = Batch(8)
    expected = mask_influencer_loss(*batch.arguments)
    shift = torch.randn(batch.masks.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = mask_influencer_loss(batch.masks + shift, *batch.arguments[1:])
    for name in ("attraction", "repulsion"):
        torch.testing.assert_close(shifted[name], expected[name])
