"""Parameter groups and learning rate schedules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencerformer.models import build_model
from influencerformer.training.optimization import learning_rate_factor, parameter_groups


def test_groups_share_out_every_parameter_once() -> None:
    model = build_model("mask2former-tiny", num_classes=2, num_queries=5)
    groups = {group["name"]: group for group in parameter_groups(model, 1e-3, 0.05, 0.1)}
    assert set(groups) == {"backbone", "backbone-no-decay", "head", "head-no-decay"}
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "backbone": (pytest.approx(1e-4), 0.05),
        "backbone-no-decay": (pytest.approx(1e-4), 0.0),
        "head": (1e-3, 0.05),
        "head-no-decay": (1e-3, 0.0),
    }
    names = {id(p): name for name, p in model.named_parameters()}
    for name, group in groups.items():
        for parameter in group["params"]:
            full = names[id(parameter)]
            assert name.startswith("backbone") == ("pixel_level_module.encoder." in full), full
            if full.endswith("bias") or "norm" in full or "embed" in full.rsplit(".", 2)[-2]:
                assert name.endswith("no-decay") or "embedder.convolution" in full, full
    decayed = {names[id(p)] for n in ("backbone", "head") for p in groups[n]["params"]}
    assert "class_predictor.weight" in decayed
    assert not any("queries_" in name or "level_embed" in name for name in decayed)


def test_embeddings_norms_and_frozen_parameters() -> None:
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(3, 4),
            "norm": torch.nn.BatchNorm2d(3),
            "attention": torch.nn.MultiheadAttention(4, 2),
            "frozen": torch.nn.Linear(2, 2).requires_grad_(False),
        }
    )
    shapes = {
        group["name"]: sorted(tuple(p.shape) for p in group["params"])
        for group in parameter_groups(model, 1.0, 0.1, 1.0)
    }
    assert shapes == {"head": [(4, 4), (12, 4)], "head-no-decay": [(3,), (3,), (3, 4), (4,), (12,)]}


def test_multistep_drops_at_90_and_95_percent() -> None:
    factors = [learning_rate_factor(step, 1000, 0, "multistep") for step in (0, 899, 900, 949, 950, 999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_runs_from_one_to_zero_after_the_warm_up() -> None:
    factors = [learning_rate_factor(step, 110, 10, "cosine") for step in (0, 4, 9, 10, 60, 110)]
    assert factors == pytest.approx([1 / 11, 5 / 11, 10 / 11, 1.0, 0.5, 0.0])


@given(
    total=st.integers(1, 1000),
    warmup=st.integers(0, 1200),
    schedule=st.sampled_from(["constant", "cosine", "multistep"]),
)
def test_factors_lie_in_0_to_1_and_rise_then_fall(total: int, warmup: int, schedule: str) -> None:
    factors = [learning_rate_factor(step, total, warmup, schedule) for step in range(total + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
