"""A run that is resumed with another length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from influencerformer.training.cli import FitCLI


class Schedules(Callback):
    """The temperature and the learning rate of each step."""

    def __init__(self) -> None:
        self.temperatures: list[float] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.temperatures.append(pl_module.model.criterion.loss.temperature)
        self.rates.append(max(group["lr"] for group in optimizer.param_groups))


def test_a_longer_run_follows_its_new_length_and_never_turns_soft_again(
    train: Callable[..., FitCLI], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--trainer.limit_val_batches=0", "--model.loss_options={temperature: [0.5, 0.02], anneal: 1.0}")
    planned, longer, whole = Schedules(), Schedules(), Schedules()
    train(tmp_path / "a", *options, "--trainer.max_steps=3", callbacks=(planned,))
    train(tmp_path / "a", *options, "--trainer.max_steps=9", "--resume", callbacks=(longer,))
    train(tmp_path / "b", *options, "--trainer.max_steps=9", callbacks=(whole,))
    assert longer.rates == pytest.approx(whole.rates[3:])
    temperatures = planned.temperatures + longer.temperatures
    assert temperatures == sorted(temperatures, reverse=True)
    assert longer.temperatures == pytest.approx([0.02] * 6)  # where the planned end was
    said = [record.getMessage() for record in caplog.records if "planned for" in record.getMessage()]
    assert len(said) == 1
    assert "planned for 3 steps and now has 9: after step 3 the learning rate" in said[0]


def test_a_run_stopped_early_and_made_longer_waits_for_the_new_schedule(
    train: Callable[..., FitCLI], tmp_path: Path
) -> None:
    class StopAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    options = ("--trainer.limit_val_batches=0", "--model.loss_options={temperature: [0.5, 0.02], anneal: 1.0}")
    longer, whole = Schedules(), Schedules()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", *options, "--trainer.max_steps=4", callbacks=(StopAt(),))
    train(tmp_path / "a", *options, "--trainer.max_steps=8", "--resume", callbacks=(longer,))
    train(tmp_path / "b", *options, "--trainer.max_steps=8", callbacks=(whole,))
    # Half of the run was done: 0.1 is held until the new length has come to its half, step 4.
    assert longer.temperatures[:3] == pytest.approx([0.1, 0.1, 0.1])
    assert longer.temperatures[2:] == pytest.approx(whole.temperatures[4:])


def test_an_unchanged_length_says_nothing(
    train: Callable[..., FitCLI], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, "--trainer.limit_val_batches=0", "--trainer.max_epochs=1", "--trainer.max_steps=4")
    train(tmp_path, "--trainer.limit_val_batches=0", "--trainer.max_steps=4", "--resume")
    assert not [record for record in caplog.records if "planned for" in record.getMessage()]
