"""Callbacks of every run: the last state on disk whatever happens."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from influencerformer.training.loggers import MetricsFile
from influencerformer.training.segmenter import NonFiniteLossError

LAST_CHECKPOINT = "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run's folder: after every validation, every few minutes, at the end, and when
    the run is interrupted or fails.

    A loss that is not finite leaves last.ckpt alone, as the weights may be spoilt by then.

    Args:
        folder: the run's folder.
        every_minutes: the most training time that a crash can cost.
    """

    def __init__(self, folder: Path | str, every_minutes: float = 10.0) -> None:
        self.path = Path(folder) / LAST_CHECKPOINT
        self.every_seconds = 60.0 * every_minutes
        self._saved_at = 0.0
        self._saved_step = 0
        self._validated_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.forget_after(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._saved_at > self.every_seconds
        due = trainer.strategy.broadcast(due) if trainer.world_size > 1 else due
        if due and not self._ends_unvalidated(trainer):
            self._save(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes a resumed run make good a validation that was due but not finished.

        Lightning would leave it out, or go on with the images that were left and report AP of these alone.
        """
        if trainer.global_step != self._validated_step:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):  # in its first batch
                counts.update(ready=1, started=1, processed=0, completed=0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # With several processes only an interrupt reaches all of them: elsewhere saving would wait for ever.
        reaches_all = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt)
        moved_on = trainer.state.fn == "fit" and trainer.global_step != self._saved_step
        if isinstance(exception, NonFiniteLossError) or not (reaches_all and moved_on):
            return
        if self._ends_unvalidated(trainer):
            return
        try:
            self._save(trainer)
        except Exception as error:
            rank_zero_warn(f"{self.path} could not be saved ({error}); what stopped the run follows")

    def _ends_unvalidated(self, trainer: Trainer) -> bool:
        """Whether a run resumed from here would have no step left to do, and so never do its last validation."""
        return 0 < trainer.max_steps <= trainer.global_step != self._validated_step

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path, weights_only=False)


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
    """Keeps the random generators' states in the checkpoint: a resumed run draws on as it would have."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
        version, internal, gauss_next = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
            "python": [version, list(internal), gauss_next],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._state is None:
            return
        torch.set_rng_state(self._state["torch"].cpu())
        if len(self._state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._state["cuda"]])
        name, keys, position, has_gauss, gauss = self._state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
        version, internal, gauss_next = self._state["python"]
        random.setstate((version, tuple(internal), gauss_next))
        self._state = None
