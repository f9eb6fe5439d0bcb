"""Callbacks of every run: the last state on disk whatever happens."""

from __future__ import annotations

import copy
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from influencerformer.errors import UserError
from influencerformer.training.checkpoints import DurableCheckpointIO
from influencerformer.training.loggers import MetricsFile
from influencerformer.training.nonfinite import NonFiniteLossError, weights_are_finite

LAST_CHECKPOINT = "last.ckpt"
RETRY_SECONDS = 60.0
"""How long after a save that failed the next one is tried, if no validation comes first."""


class Terminated(SIGTERMException):
    """The run was asked to end by SIGTERM, and its state is saved; ends the process with code 0."""

    def __init__(self) -> None:
        super().__init__(0)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run's folder: after every validation, every few minutes, at the end, and when
    the run is interrupted, terminated or fails.

    A checkpoint is of a moment between two optimiser steps, so that the gradient accumulated in between is never
    lost. Weights that are not finite leave last.ckpt alone. SIGTERM ends the run, in all processes after the same step.

    Args:
        folder: the run's folder.
        every_minutes: the most training time that a crash can cost.
    """

    def __init__(self, folder: Path | str, every_minutes: float = 10.0) -> None:
        self.path = Path(folder) / LAST_CHECKPOINT
        self.every_seconds = 60.0 * every_minutes
        self._due_at = 0.0
        self._saved_step = 0
        self._validated_step = -1
        self._due_after_step = False
        self._terminate = False
        self._step_began_at: tuple[int, dict[str, int]] | None = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over_sigterm(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over_sigterm(trainer)
        self._due_at = time.monotonic() + self.every_seconds
        self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.forget_after(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._step_began_at is None:
            progress: Any = trainer.fit_loop.epoch_loop.batch_progress
            behind = {"total": progress.total.completed, "current": progress.current.completed}
            self._step_began_at = (trainer.global_step, behind)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._step_began_at is not None and trainer.global_step == self._step_began_at[0]:
            return  # within an accumulation
        self._step_began_at = None
        due = self._due_after_step or time.monotonic() > self._due_at
        due, terminate = _in_any_process(trainer, due, self._terminate)
        if (due or terminate) and not self._ends_unvalidated(trainer):
            trainer._logger_connector.update_train_step_metrics()  # or a kill right after this costs this step's row
            self._save(trainer, pl_module)
            if terminate:
                raise Terminated

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn != "fit":
            return
        (terminate,) = _in_any_process(trainer, self._terminate)
        if terminate and not self._ends_unvalidated(trainer):
            if not trainer.sanity_checking and self._step_began_at is None:
                self._save(trainer, pl_module)
            raise Terminated

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self._step_began_at is None:
                self._save(trainer, pl_module)
            else:
                self._due_after_step = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes a resumed run make good what was not finished: a validation that was due, or a step.

        Lightning would leave the validation out, or go on with the images that were left and report AP of these
        alone; of a step it would make only the batches that were left.
        """
        loops = checkpoint["loops"]["fit_loop"]
        if trainer.global_step != self._validated_step:
            progress = loops["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):  # in its first batch
                counts.update(ready=1, started=1, processed=0, completed=0)
        if self._step_began_at is not None and trainer.global_step == self._step_began_at[0]:
            for name, count in self._step_began_at[1].items():
                behind = dict.fromkeys(("ready", "started", "processed", "completed"), count)
                loops["epoch_loop.batch_progress"][name].update(behind)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step and not self._save(trainer, pl_module):
            raise UserError(
                f"the run is over, but its last state is not saved: {self._failure(trainer)}; "
                "then continue it with --resume"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # With several processes only an interrupt reaches all of them: elsewhere saving would wait for ever.
        reaches_all = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt)
        moved_on = trainer.state.fn == "fit" and trainer.global_step != self._saved_step
        if isinstance(exception, NonFiniteLossError | Terminated) or not (reaches_all and moved_on):
            return
        if self._ends_unvalidated(trainer):
            return
        try:
            self._save(trainer, pl_module)
        except Exception as error:
            rank_zero_warn(f"{self.path} could not be saved ({error}); what stopped the run follows")

    def _take_over_sigterm(self, trainer: Trainer) -> None:
        """Lightning's own handler talks to other processes at once, in the middle of whatever they exchange."""

        def notice(signum: int, frame: object) -> None:
            launcher: Any = trainer.strategy.launcher
            if launcher is not None and not self._terminate:
                launcher.kill(signum)  # the processes that this one started
            self._terminate = True

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, notice)

    def _ends_unvalidated(self, trainer: Trainer) -> bool:
        """Whether a run resumed from here would have no step left to do, and so never do its last validation."""
        return 0 < trainer.max_steps <= trainer.global_step != self._validated_step

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether it was saved. All processes must call this together."""
        if getattr(trainer, "fast_dev_run", False):
            return True
        for logger in trainer.loggers:
            logger.save()
        self._due_after_step = False
        saved = trainer.strategy.reduce_boolean_decision(weights_are_finite(pl_module), all=True)
        if saved:
            saved = save_checkpoint(trainer, self.path)
        self._due_at = time.monotonic() + (self.every_seconds if saved else min(self.every_seconds, RETRY_SECONDS))
        if saved:
            self._saved_step = trainer.global_step
        return saved

    def _failure(self, trainer: Trainer) -> str:
        io = trainer.strategy.checkpoint_io
        failures = io.failures if isinstance(io, DurableCheckpointIO) else {}
        return failures.get(self.path, "the weights are not finite")


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the state of the highest value of a metric; a save that failed does not count as the best.

    Args:
        folder: the run's folder.
        monitor: the metric.
    """

    def __init__(self, folder: Path | str, monitor: str) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Lightning's own, so that runs which began with its callback go on with their best value."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = copy.deepcopy(self.state_dict())
        super().on_validation_end(trainer, pl_module)
        if not _is_written(trainer, Path(self.dirpath or "") / f"best{self.FILE_EXTENSION}"):
            self.load_state_dict(before)


def save_checkpoint(trainer: Trainer, path: Path) -> bool:
    """Saves the run's whole state; False where it could not be written. All processes must call this together."""
    trainer.save_checkpoint(path, weights_only=False)
    return _is_written(trainer, path)


def _is_written(trainer: Trainer, path: Path) -> bool:
    """Whether the last save to a path did not fail, in the process that writes."""
    io = trainer.strategy.checkpoint_io
    failed = isinstance(io, DurableCheckpointIO) and path in io.failures
    return not trainer.strategy.reduce_boolean_decision(failed, all=False)


def _in_any_process(trainer: Trainer, *flags: bool) -> list[bool]:
    """Which flags are set in any of the processes; one exchange for all of them."""
    if trainer.world_size == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in found.tolist()]


class RunProgressBar(RichProgressBar):
    """A bar an epoch, with the step of the whole run beside it and one line a validation, also in a log file."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return {"step": _of_all(trainer), **metrics}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            values = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items() if name.startswith("val/"))
            print(f"step {_of_all(trainer)}: {values}", flush=True)


def _of_all(trainer: Trainer) -> str:
    return f"{trainer.global_step}/{trainer.estimated_stepping_batches}"


class RandomState(Callback):
    """Keeps the random generators' states of every process in the checkpoint: a resumed run draws on as it would have.

    Resumed by another number of processes, those that are new go on from the first one's state.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        own = _generator_states()
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [own]}
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._states = state_dict.get("ranks", [state_dict])  # one state alone: of a run begun before

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._states:
            return
        state = self._states[trainer.global_rank if trainer.global_rank < len(self._states) else 0]
        self._states = []
        torch.set_rng_state(state["torch"].cpu())
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
        version, internal, gauss_next = state["python"]
        random.setstate((version, tuple(internal), gauss_next))


def _generator_states() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
