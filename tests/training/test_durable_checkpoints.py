"""Checkpoints are whole or the old ones, whatever the disk does."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from influencerformer.errors import UserError
from influencerformer.training import checkpoints
from influencerformer.training.callbacks import BestCheckpoint
from influencerformer.training.checkpoints import DurableCheckpointIO, read_checkpoint, write_durably
from influencerformer.training.cli import FitCLI


def test_a_file_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (happened.append("on disk"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (happened.append("named"), replace(old, new)))
    write_durably(tmp_path / "folder" / "file", b"content")
    assert happened == ["on disk", "named", "on disk"]  # the last one is the folder
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up."""


def test_a_kill_while_writing_leaves_the_old_file_and_the_next_save_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "file", b"old")

    def killed(fd: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            write_durably(tmp_path / "file", b"new content")
    assert (tmp_path / "file").read_bytes() == b"old"
    write_durably(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real limit of the operating system, 64 KiB a file, in place of a disk of that size."""
    path, io = tmp_path / "last.ckpt", DurableCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limit[1]))
    try:
        io.save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert torch.load(path)["step"] == 1
    assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]
    assert "the one saved before is kept" in io.failures[path]
    assert capsys.readouterr().err.count("could not be saved (File too large)") == 1
    io.save_checkpoint({"step": 3}, path)
    assert not io.failures


class Falling(LightningModule):
    """One weight, one step an epoch, and an AP of 30 that falls to 20."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("AP", {1: 30.0, 2: 20.0}[self.trainer.global_step])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader([0])

    val_dataloader = train_dataloader


class FullDisk(Callback):
    """No checkpoint can be written after some steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
        self.monkeypatch = monkeypatch
        self.full = range(first, last + 1)
        self.tried: list[tuple[int, str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write = checkpoints.write_durably

        def fail(path: Path, content: Any) -> None:
            if trainer.global_step not in self.full:
                return write(path, content)
            self.tried.append((trainer.global_step, path.name))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.monkeypatch.setattr(checkpoints, "write_durably", fail)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    train: Callable[..., FitCLI],
    finished: FitCLI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = FullDisk(monkeypatch, 2, 4)
    cli = train(tmp_path, "--save_every_minutes=0", callbacks=(full,))
    assert {(2, "last.ckpt"), (3, "last.ckpt")} <= set(full.tried)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 6
    warning = (
        f"warning: checkpoint {tmp_path / 'last.ckpt'} could not be saved (No space left on device): the one saved"
    )
    assert warning in capsys.readouterr().err
    for name, value in finished.model.state_dict().items():
        assert torch.equal(cli.model.state_dict()[name], value), name


def test_a_best_state_that_could_not_be_saved_is_not_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP 30, which is lost, then 20: the best that there is a file of."""
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[DurableCheckpointIO()],
        callbacks=[BestCheckpoint(tmp_path, monitor="AP"), FullDisk(monkeypatch, 1, 1)],
    )
    trainer.fit(Falling())
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2
    assert float(trainer.checkpoint_callback.best_model_score) == 20


def test_a_run_that_ends_on_a_full_disk_says_what_is_kept(
    train: Callable[..., FitCLI], finished: FitCLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullDisk(monkeypatch, 6, 7)
    with pytest.raises(UserError, match=r"last state is not saved: .*No space left.*saved before is kept.*--resume"):
        train(tmp_path, callbacks=(full,))
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3
    monkeypatch.undo()
    assert train(tmp_path, "--resume").trainer.global_step == 6
    saved = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    for name, value in finished.model.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_a_log_on_a_full_disk_ends_the_run_in_one_sentence(train: Callable[..., FitCLI], tmp_path: Path) -> None:
    class FullAt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
            if trainer.global_step == 4:
                raise OSError(errno.ENOSPC, "No space left on device", "metrics.tmp")

    with pytest.raises(UserError, match=r"no more can be written in .* \(No space left on device\).*--resume"):
        train(tmp_path, callbacks=(FullAt(),))
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4
