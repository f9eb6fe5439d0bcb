"""The temperature's schedule: values, counting, saving, and copying."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from mask_cases import Batch

from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss, mask_influencer_loss
from influencerformer.losses.schedule import Annealing

SPAN = (0.5, 0.02)


def call(criterion: MaskInfluencerLoss, times: int = 1) -> None:
    batch = Batch(0, counts=(1,), queries=2, pixels=4)
    for _ in range(times):
        criterion(*batch.arguments)


def test_geometric_then_constant() -> None:
    schedule = Annealing((0.5, 0.02), 0.7, 100)
    assert schedule.temperature == 0.5
    found = []
    for _ in range(100):
        found.append(schedule.temperature)
        schedule.advance()
    ratio = (0.02 / 0.5) ** (1 / 70)
    for step in range(70):
        assert found[step] == pytest.approx(0.5 * ratio**step)
    assert found[70:] == pytest.approx([0.02] * 30)
    assert schedule.temperature == pytest.approx(0.02)


@pytest.mark.parametrize(("progress", "expected"), [(0, 0.5), (0.35, 0.1), (0.7, 0.02), (1, 0.02)])
def test_progress(progress: float, expected: float) -> None:
    criterion = MaskInfluencerLoss(SPAN)
    criterion.set_progress(progress)
    assert criterion.temperature == pytest.approx(expected)


def test_constant() -> None:
    criterion = MaskInfluencerLoss(0.07, total_steps=2)
    call(criterion, 3)
    assert criterion.temperature == pytest.approx(0.07)


def test_may_rise() -> None:
    assert Annealing((0.1, 0.4), 1.0, 2).temperature == 0.1


def test_the_temperature_of_a_call_is_the_one_before_it() -> None:
    batch = Batch(0)
    criterion = MaskInfluencerLoss(SPAN, total_steps=4)
    for _ in range(4):
        temperature = criterion.temperature
        expected = mask_influencer_loss(*batch.arguments, temperature=temperature)
        torch.testing.assert_close(criterion(*batch.arguments), expected)
        assert criterion.temperature <= temperature


def test_counts_calls_in_training_mode_alone() -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    call(criterion, 2)
    temperature = criterion.temperature
    criterion.eval()
    call(criterion, 5)
    assert criterion.temperature == temperature
    criterion.train()
    call(criterion)
    assert criterion.temperature < temperature
    assert int(criterion.annealing.calls) == 3


def test_set_progress_wins_over_counting() -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    criterion.set_progress(0.35)
    call(criterion, 10)
    assert criterion.temperature == pytest.approx(0.1)


def test_state_is_saved_and_restored() -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    call(criterion, 4)
    stream = io.BytesIO()
    torch.save(criterion.state_dict(), stream)
    stream.seek(0)
    resumed = MaskInfluencerLoss(SPAN, total_steps=10)
    resumed.load_state_dict(torch.load(stream))
    assert resumed.temperature == criterion.temperature < 0.5
    call(criterion)
    call(resumed)
    assert resumed.temperature == criterion.temperature


def test_state_inside_a_model() -> None:
    model = torch.nn.ModuleDict({"net": torch.nn.Linear(1, 1), "criterion": MaskInfluencerLoss(SPAN, total_steps=10)})
    call(model["criterion"], 4)  # type: ignore[arg-type]
    other = torch.nn.ModuleDict({"net": torch.nn.Linear(1, 1), "criterion": MaskInfluencerLoss(SPAN, total_steps=10)})
    other.load_state_dict(model.state_dict())
    assert other["criterion"].temperature == model["criterion"].temperature


def test_state_without_the_counter_keeps_the_count() -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    call(criterion, 4)
    before = criterion.temperature
    criterion.load_state_dict({}, strict=False)
    assert criterion.temperature == before


@pytest.mark.parametrize("way", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("counted", [True, False])
def test_copies(way: object, counted: bool) -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    if counted:
        call(criterion, 3)
    else:
        criterion.set_progress(0.5)
    twin = way(criterion)  # type: ignore[operator]
    assert twin.temperature == criterion.temperature < 0.5
    call(twin)
    assert int(criterion.annealing.calls) == 3 * counted
    if counted:
        assert twin.temperature < criterion.temperature


def test_moving_and_halving_the_module_keeps_the_counter() -> None:
    criterion = MaskInfluencerLoss(SPAN, total_steps=10)
    call(criterion, 3)
    criterion.half().to("cpu")
    assert criterion.annealing.calls.dtype == torch.long
    assert int(criterion.annealing.calls) == 3


def test_no_parameters() -> None:
    assert not list(MaskInfluencerLoss().parameters())
    assert not HungarianMaskLoss().state_dict()


@pytest.mark.parametrize("progress", [-0.1, 1.1])
def test_progress_out_of_range(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got"):
        MaskInfluencerLoss().set_progress(progress)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anneal": 0.0}, r"anneal must be in \(0, 1\], got 0"),
        ({"anneal": 1.5}, r"anneal must be in \(0, 1\], got 1.5"),
        ({"total_steps": 0}, "total_steps must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskInfluencerLoss(**options)  # type: ignore[arg-type]
