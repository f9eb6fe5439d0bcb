"""Batches that are not finite: left out, named, counted; too many end the run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from influencerformer.errors import UserError
from influencerformer.training.checkpoints import read_checkpoint
from influencerformer.training.cli import FitCLI
from influencerformer.training.module import InstanceSegmenter
from influencerformer.training.nonfinite import (
    NAMED,
    WINDOW,
    NonFiniteLossError,
    RunningStatistics,
    SkippedBatches,
    listed,
    weights_are_finite,
)

Train = Callable[..., FitCLI]


class SpoilBatches(Callback):
    """Images of NaN in some batches of the run; notes their names, and the state before and after every step."""

    def __init__(self, batches: Collection[int]) -> None:
        self.batches = batches
        self.names: dict[int, list[str]] = {}
        self.moved: dict[int, bool] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        self.names[number] = list(batch["names"])
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        if number in self.batches:
            batch["pixel_values"].fill_(float("nan"))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        after = pl_module.state_dict()
        moved = any(not torch.equal(after[name], value) for name, value in self.before.items())
        self.moved[trainer.fit_loop.epoch_loop.total_batch_idx] = moved


def rows(out_dir: Path) -> list[dict[str, str]]:
    with (out_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_is_left_out_named_and_counted(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil = SpoilBatches({1, 4})
    cli = train(tmp_path, callbacks=(spoil,))
    assert spoil.moved == {0: True, 1: False, 2: True, 3: True, 4: False, 5: True}
    err = capsys.readouterr().err
    for number, batch in ((1, 1), (2, 4)):
        line = next(line for line in err.splitlines() if f"number {number} of this run" in line)
        assert f"not finite at step {batch}: " in line
        assert line.endswith(f"its samples: {', '.join(spoil.names[batch])}")
    table = rows(tmp_path)
    assert [float(row["train/skipped_batches"]) for row in table] == [0, 1, 1, 1, 2, 2]
    assert [row["train/loss"] for row in table].count("nan") == 2
    assert cli.trainer.global_step == 6
    assert weights_are_finite(cli.model)
    assert all(value.isfinite().all() for value in cli.model.state_dict().values() if value.is_floating_point())


def test_the_rest_of_an_accumulation_is_kept(train: Train, tmp_path: Path) -> None:
    spoil = SpoilBatches({1, 2, 3})
    options = ("--trainer.accumulate_grad_batches=2", "--trainer.max_steps=2")
    train(tmp_path, "--data.batch_size=2", *options, callbacks=(spoil,))
    # Batch 0 makes the first step, though at the end of batch 1; nothing makes the second.
    assert spoil.moved[1]
    assert not spoil.moved[3]


def test_a_resumed_run_goes_on_counting(train: Train, tmp_path: Path) -> None:
    train(tmp_path, "--trainer.max_steps=3", callbacks=(SpoilBatches({1}),))
    resumed = train(tmp_path, "--resume", callbacks=(SpoilBatches({4}),))
    assert resumed.model.skipped.total == 2
    assert resumed.model.skipped.summary().startswith("2 of the last 5 batches")


def test_more_than_the_share_ends_the_run_with_the_names(train: Train, tmp_path: Path) -> None:
    spoil = SpoilBatches({1, 3})
    with pytest.raises(NonFiniteLossError) as raised:
        train(tmp_path, "--model.max_nonfinite_share=0.01", callbacks=(spoil,))
    message = str(raised.value)
    assert "not finite at step 3" in message
    assert "2 of the last 4 batches" in message
    assert "max_nonfinite_share 0.01" in message
    assert all(name in message for batch in (1, 3) for name in spoil.names[batch])
    assert read_checkpoint(tmp_path / "non_finite.ckpt")["global_step"] == 3


def test_a_share_of_0_ends_the_run_at_the_first(train: Train, tmp_path: Path) -> None:
    spoil = SpoilBatches({1})
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 1: .*non_finite\.ckpt") as raised:
        train(tmp_path, "--model.max_nonfinite_share=0", callbacks=(spoil,))
    assert all(name in str(raised.value) for name in spoil.names[1])


def test_weights_that_are_not_finite_never_replace_the_last_checkpoint(train: Train, tmp_path: Path) -> None:
    class SpoilWeights(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            if trainer.global_step == 5:
                with torch.no_grad():
                    next(pl_module.model.parameters()).fill_(float("inf"))

    with pytest.raises(NonFiniteLossError, match="the weights themselves are not finite"):
        train(tmp_path, callbacks=(SpoilWeights(),))
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


def test_the_share_is_of_the_last_batches() -> None:
    skipped = SkippedBatches(0.02)
    for batch in (0, 40, WINDOW + 20):
        skipped.add(batch, [f"sample {batch}"])
        assert not skipped.too_many
    skipped.add(WINDOW + 30, ["sample 40"])
    assert skipped.too_many
    assert skipped.total == 4
    assert skipped.summary() == f"3 of the last {WINDOW} batches, with the samples sample 40, sample {WINDOW + 20}"
    copy = SkippedBatches(0.02)
    copy.load_state_dict(skipped.state_dict())
    assert copy.summary() == skipped.summary()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"max_nonfinite_share must lie in 0 to 1, got"):
        InstanceSegmenter(max_nonfinite_share=share)


def test_long_lists_of_names_are_cut() -> None:
    names = [f"n{i}" for i in range(NAMED + 3)]
    assert listed(names).endswith(f"n{NAMED - 1} and 3 more")
    assert listed(names[:2]) == "n0, n1"


def test_running_means_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.InstanceNorm1d(3), nn.LayerNorm(3))
    kept = RunningStatistics(model)
    model(torch.randn(4, 2))
    kept.keep()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.full((4, 2), float("nan")))
    assert model[1].running_mean.isnan().all()
    kept.put_back()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
