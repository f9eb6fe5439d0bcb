"""Two processes train as one does on the batch of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_cases import COUNTS, IMAGES, KINDS, Ranks, gradients
from ranks import TERMINATED_STEP, one_step
from torch import Tensor

TERMS = ["masks", "all"]


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Of two gradients, relative to their length."""
    assert first.keys() == second.keys()
    apart = sum(float((first[name] - second[name]).double().square().sum()) for name in first)
    return (apart / sum(float(value.double().square().sum()) for value in first.values())) ** 0.5


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("kind", KINDS)
def test_criterion_of_two_ranks_is_that_of_the_batch_of_both(ranks: Ranks, kind: str, terms: str, case: str) -> None:
    whole = gradients(kind, terms, COUNTS[case], range(IMAGES))
    shares = [found["criteria"][kind, terms, case] for found in ranks.found]
    assert float(whole["loss"]) == pytest.approx(sum(float(share["loss"]) for share in shares) / 2, rel=1e-6)
    together = {name: value / 2 for share in shares for name, value in share.items() if name != "loss"}
    del whole["loss"]
    assert distance(whole, together) < 1e-6


@pytest.fixture(scope="module")
def alone(ranks: Ranks) -> dict[str, tuple[dict[str, Tensor], dict[str, float]]]:
    """The same steps in one process, four images in a batch."""
    return {terms: one_step(str(ranks.config), ranks.folder / "alone" / terms, terms) for terms in ("masks", "all")}


@pytest.mark.parametrize("terms", TERMS)
def test_fit_on_two_ranks_takes_the_step_of_the_batch_of_both(ranks: Ranks, alone: dict, terms: str) -> None:
    gradient, logged = alone[terms]
    for found in ranks.found:
        own, own_logged = found["fit"][terms]
        assert distance(gradient, own) < 1e-5
        assert own_logged["train/loss"] == pytest.approx(logged["train/loss"], rel=1e-5)


def test_validation_of_three_images_on_two_ranks_counts_each_once(ranks: Ranks, alone: dict) -> None:
    logged = alone["masks"][1]
    for found in ranks.found:
        for name in ("val/loss", "val/AP", "val/AP50", "val/AP75"):
            assert found["fit"]["masks"][1][name] == pytest.approx(logged[name], rel=1e-5), name


def test_a_batch_that_is_not_finite_in_one_rank_is_left_out_in_all(ranks: Ranks) -> None:
    first, second = ranks.found
    assert first["skipped"][0] == second["skipped"][0] == 1
    names = second["skipped"][2]
    assert len(names) == 2
    assert all(name in found["skipped"][1] for name in names for found in ranks.found)
    assert ranks.output.count(f"its samples: {', '.join(names)}") == 2  # rank 0 of each of two runs
    for name, value in first["whole"].items():
        assert torch.equal(value, second["whole"][name]) or "running" in name or "num_batches" in name, name
        assert bool(value.float().isfinite().all()), name


def test_sigterm_to_one_rank_ends_all_after_the_same_step_and_nothing_is_lost(ranks: Ranks) -> None:
    for found in ranks.found:
        assert found["code"] == 0
        assert found["ended_at"] == TERMINATED_STEP + 1
    for name, value in ranks.found[0]["whole"].items():
        assert torch.equal(value, ranks.found[0]["resumed"][name]), name


def test_only_one_rank_writes(ranks: Ranks) -> None:
    files = sorted(path.name for path in Path(ranks.folder / "ended").iterdir() if path.is_file())
    assert [name for name in files if name.endswith((".ckpt", ".tmp"))] == ["best.ckpt", "last.ckpt"]
