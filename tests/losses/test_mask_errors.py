"""Input that does not fit: one sentence that says what was expected and what came."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from mask_cases import Batch

from influencerformer.losses import (
    HungarianMaskLoss,
    MaskInfluencerLoss,
    hungarian_mask_loss,
    mask_influencer_loss,
)

MODULES = [MaskInfluencerLoss, HungarianMaskLoss]
LOSSES = [mask_influencer_loss, hungarian_mask_loss]


@pytest.fixture
def batch() -> Batch:
    """B = 2, Q = 5, N = 17, K = 3, C = 3."""
    return Batch(0)


def arguments(batch: Batch, **changes: Any) -> dict[str, Any]:
    names = ("mask_logits", "instance_labels", "class_logits", "class_labels")
    return {**dict(zip(names, batch.arguments, strict=True)), **changes}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["mask_logits", "class_logits"])
def test_nonfinite_names_the_tensor(loss: Any, batch: Batch, name: str, bad: float) -> None:
    broken = arguments(batch)[name].clone()
    broken[0, 1, 2, 3] = bad
    with pytest.raises(ValueError, match=rf"{name} holds 1 of {broken.numel()} values that are NaN or infinite"):
        loss(**arguments(batch, **{name: broken}))


@pytest.mark.parametrize("loss", LOSSES)
def test_large_finite_logits_are_not_taken_for_infinite(loss: Any, batch: Batch) -> None:
    big = torch.full_like(batch.masks, 1e38).float()
    loss(**arguments(batch, mask_logits=big, nonfinite="skip"))
    big[..., 0] = torch.inf
    with pytest.raises(ValueError, match="mask_logits holds 10 of 170"):
        loss(**arguments(batch, mask_logits=big))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "integer masks": ({"mask_logits": torch.zeros(2, 5, 17).long()}, TypeError, "mask_logits must be floating point"),
    "integer masks in the last layer": (
        {"mask_logits": [torch.zeros(2, 5, 17), torch.zeros(2, 5, 17).long()]},
        TypeError,
        "mask_logits must be floating point",
    ),
    "unflattened masks": (
        {"mask_logits": torch.zeros(1, 1, 2, 5, 17)},
        ValueError,
        r"mask_logits must be \(Q, N\).*got \(1, 1, 2, 5, 17\): flatten",
    ),
    "no query": ({"mask_logits": torch.zeros(1, 2, 0, 17)}, ValueError, "no query"),
    "no truth": ({"instance_labels": None}, ValueError, "instance_labels or instance_masks is needed"),
    "float label map": (
        {"instance_labels": torch.zeros(2, 17)},
        TypeError,
        "instance_labels must be integers .*got torch.float32",
    ),
    "other pixels": (
        {"instance_labels": torch.zeros(2, 16).long()},
        ValueError,
        r"instance_labels must be \(2, 17\).*got \(2, 16\)",
    ),
    "label map of an image": (
        {"instance_labels": torch.zeros(2, 17, 1).long()},
        ValueError,
        r"instance_labels must be \(2, 17\)",
    ),
    "labels above K": (
        {"instance_labels": torch.full((2, 17), 4)},
        ValueError,
        "instance_labels go up to 4, but class_labels names only K = 3",
    ),
    "float classes": ({"class_labels": torch.zeros(2, 3)}, TypeError, "class_labels must be integers"),
    "classes of another batch": (
        {"class_labels": torch.zeros(3, 3).long()},
        ValueError,
        r"class_labels must be \(B, K\) = \(2, 3\), got \(3, 3\)",
    ),
    "class out of range": (
        {"class_labels": torch.full((2, 3), 3)},
        ValueError,
        "class_labels go up to 3, but class_logits has only C = 3 classes",
    ),
    "class logits of other queries": (
        {"class_logits": torch.zeros(1, 2, 4, 4)},
        ValueError,
        r"class_logits must be .*\(1, 2, 5, 'C \+ 1'\).*got \(1, 2, 4, 4\)",
    ),
    "class logits of other layers": (
        {"class_logits": torch.zeros(2, 2, 5, 4)},
        ValueError,
        r"class_logits must be .*got \(2, 2, 5, 4\)",
    ),
    "class logits without no-object": (
        {"class_logits": torch.zeros(1, 2, 5, 1)},
        ValueError,
        "class_logits must be .* with no-object last",
    ),
    "query mask of other queries": (
        {"query_mask": torch.ones(2, 4, dtype=torch.bool)},
        ValueError,
        r"query_mask must be \(B, Q\) = \(2, 5\), got \(2, 4\)",
    ),
    "integer query mask": ({"query_mask": torch.ones(2, 5).long()}, TypeError, "query_mask must be bool, got"),
    "masks of other pixels": (
        {"instance_masks": torch.zeros(2, 3, 16, dtype=torch.bool)},
        ValueError,
        r"instance_masks must be \(B, K, N\) = \(2, K, 17\), got \(2, 3, 16\)",
    ),
    "masks of an image": (
        {"instance_masks": torch.zeros(3, 17, dtype=torch.bool)},
        ValueError,
        r"instance_masks must be \(B, K, N\)",
    ),
    "masks of other instances": (
        {"instance_masks": torch.zeros(2, 4, 17, dtype=torch.bool)},
        ValueError,
        r"class_labels must be \(B, K\) = \(2, 4\), got \(2, 3\)",
    ),
    "layers of different shapes": (
        {"mask_logits": [torch.zeros(2, 5, 17), torch.zeros(2, 5, 16)]},
        ValueError,
        r"mask_logits as a sequence must be L tensors .*\(2, 5, 16\)",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(loss: Any, batch: Batch, case: str) -> None:
    changes, error, message = WRONG[case]
    with pytest.raises(error, match=message) as caught:
        loss(**arguments(batch, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_negative_margin(batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"rep_margin must be a finite number of at least 0, got -0\.1"):
        mask_influencer_loss(**arguments(batch, rep_margin=-0.1))


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_temperature(batch: Batch, temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        mask_influencer_loss(**arguments(batch, temperature=temperature))
    with pytest.raises(ValueError, match="temperature must be positive"):
        MaskInfluencerLoss(temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        MaskInfluencerLoss(temperature=(0.5, temperature))


@pytest.mark.parametrize("module", MODULES)
def test_modules_hand_on_all_options(module: Any, batch: Batch) -> None:
    """A module with options equals the function with them, and every option of the function is one of the module."""
    function = {MaskInfluencerLoss: mask_influencer_loss, HungarianMaskLoss: hungarian_mask_loss}[module]
    tensors = {"mask_logits", "instance_labels", "class_logits", "class_labels", "instance_masks", "query_mask"}
    tensors |= {"claim_mask", "objectness"}
    # which count for nothing without predicted qualities, or with a single layer
    without_effect = {"nonfinite", "objectness_weight", "shared_claims"}
    options = set(inspect.signature(function).parameters) - tensors
    assert options <= set(inspect.signature(module.__init__).parameters)
    values: dict[str, Any] = {
        "class_weight": 1.5,
        "mask_weight": 3.0,
        "dice_weight": 2.0,
        "objectness_weight": 3.0,
        "shared_claims": True,
        "no_object_weight": 0.3,
        "attr_weight": 0.8,
        "rep_weight": 1.3,
        "bg_weight": 0.6,
        "rep_margin": 0.2,
        "condensation_weight": 2.0,
        "quality": 0.5,
        "temperature": 0.2,
        "iterations": 4,
        "num_points": 11,
        "nonfinite": "skip",
    }
    for name in options:
        assert name in values, f"add a value for the new option {name}"
        torch.manual_seed(0)
        plain = function(*batch.arguments)["loss"]
        torch.manual_seed(0)
        expected = function(*batch.arguments, **{name: values[name]})["loss"]
        torch.manual_seed(0)
        found = module(
            **{"temperature": 0.02, name: values[name]} if "temperature" in options else {name: values[name]}
        )(*batch.arguments)["loss"]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        if name not in without_effect:
            assert found != plain, name
