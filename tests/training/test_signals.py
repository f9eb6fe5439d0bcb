"""What a run and the processes that load its data do with signals, and what it takes from its surroundings."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader

from influencerformer.data.workers import leave_signals_to_the_trainer
from influencerformer.training.checkpoints import DurableCheckpointIO, read_checkpoint
from influencerformer.training.cli import FitCLI, default_plugins, main


class TerminateAt(Callback):
    """SIGTERM in the middle of a step, or in a validation."""

    def __init__(self, step: int, within_validation: bool = False) -> None:
        self.step = step
        self.within_validation = within_validation

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if not self.within_validation and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, trainer: Trainer, *args: object) -> None:
        if self.within_validation and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("terminate", "saved"),
    [(TerminateAt(2), 3), (TerminateAt(3, within_validation=True), 3)],
    ids=["within a step, before a validation", "within a validation"],
)
def test_sigterm_saves_the_state_and_ends_with_code_0(
    terminate: TerminateAt, saved: int, train: Callable[..., FitCLI], finished: FitCLI, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, callbacks=(terminate,))
    assert ended.value.code == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == saved
    resumed = train(tmp_path, "--resume")
    for name, value in finished.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert (tmp_path / "metrics.csv").read_text() == (finished.out_dir / "metrics.csv").read_text()


def test_sigterm_after_the_last_step_lets_the_last_validation_finish(
    train: Callable[..., FitCLI], finished: FitCLI, tmp_path: Path
) -> None:
    train(tmp_path, callbacks=(TerminateAt(6, within_validation=True),))
    assert (tmp_path / "metrics.csv").read_text() == (finished.out_dir / "metrics.csv").read_text()


def test_loading_processes_outlive_sigterm_and_end_with_their_loader() -> None:
    loader = DataLoader(
        range(100),  # type: ignore[arg-type]
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        worker_init_fn=leave_signals_to_the_trainer,
    )
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert len(list(batches)) == 49
    assert worker.is_alive()
    batches._shutdown_workers()  # type: ignore[attr-defined]
    worker.join(5)
    assert worker.exitcode == 0


def test_on_slurm_lightning_keeps_no_checkpoints_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(plugin) for plugin in default_plugins()] == [DurableCheckpointIO]
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    slurm = default_plugins()[1]
    assert isinstance(slurm, SLURMEnvironment)
    assert not slurm.auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert [type(plugin) for plugin in default_plugins()] == [DurableCheckpointIO]


def test_a_negative_saving_interval_is_one_sentence(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(tiny_config), "--save_every_minutes", "-1"])
    assert ended.value.code == 2
    assert "save_every_minutes" in capsys.readouterr().err
