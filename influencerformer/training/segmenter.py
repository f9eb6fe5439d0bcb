"""What every Lightning module of the package does: one network, one criterion, validation by one metric."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from influencerformer.errors import UserError
from influencerformer.models import set_progress
from influencerformer.training.optimization import learning_rate_factor, parameter_groups
from influencerformer.training.timing import CriterionClock

Loss = Literal["influencer", "hungarian", "stock"]
NON_FINITE_CHECKPOINT = "non_finite.ckpt"
NON_FINITE_WORDS = ("NaN", "infinite", "infeasible", "invalid numeric")
"""What the criteria, or scipy's assignment within one, say of values that are not finite."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; training cannot go on."""


class Metric(Protocol):
    """Collects predictions over a validation and over processes."""

    def state(self) -> Any:
        """What another process merges; picklable."""

    def merge(self, state: Any) -> None:
        """Adds what another process collected."""

    def compute(self) -> dict[str, Any]:
        """Values in 0..1 by name, "AP" and "AP50" among them."""


class Segmenter(LightningModule):
    """Trains a model with a criterion, validates it by AP.

    A task's module sets `model`, whose `criterion` is a module, and gives `forward`, `new_metric` and `measure`.
    A batch is a mapping with the list "names", one entry a sample. `hparams` hold what the constructors of tasks
    share: learning_rate, weight_decay, backbone_lr_multiplier, schedule, warmup_steps and loss.

    Attributes:
        model: the network, with the loss as `model.criterion`.
        categories: {"id", "name"} of each class, as in the data.

    Logs train/loss and its parts, val/loss and, in percent, the `values` of the metric.
    """

    task: ClassVar[str]
    values: ClassVar[tuple[str, ...]]
    """Names of the metric's values that are logged."""
    same: ClassVar[tuple[str, ...]]
    """Options in which a checkpoint must agree with the module that it is loaded into."""
    model: nn.Module
    categories: list[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self._clock: CriterionClock | None = None
        self._metric: Metric | None = None

    def new_metric(self) -> Metric:
        """An empty metric for a validation of the trainer's data."""
        raise NotImplementedError

    def measure(self, metric: Any, batch: Mapping[str, Any], outputs: Any) -> None:
        """Adds the predictions for a batch to the metric."""
        raise NotImplementedError

    @property
    def criterion_seconds(self) -> float:
        """Seconds of the last training step spent in the criterion's forward pass."""
        return self._clock.forward_seconds if self._clock else 0.0

    @property
    def criterion_backward_seconds(self) -> float:
        """Seconds of the last training step spent in the criterion's backward pass."""
        return self._clock.backward_seconds if self._clock else 0.0

    def on_fit_start(self) -> None:
        self._clock = CriterionClock(self.model.get_submodule("criterion"))

    def on_fit_end(self) -> None:
        if self._clock is not None:
            self._clock.remove()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        assert self._clock is not None
        set_progress(self.model, self.progress)
        self._clock.reset()
        loss, problem = None, ""
        try:
            loss = self(batch).loss
            problem = self._problem(loss)
        except (ValueError, FloatingPointError) as error:
            if not any(word in str(error) for word in NON_FINITE_WORDS):
                raise
            problem = str(error)
        # Decided by all ranks together: one that stops alone leaves the others waiting for ever.
        if self.trainer.strategy.reduce_boolean_decision(bool(problem), all=False):
            self._stop_at_non_finite_loss(problem or "it is finite here, but not in another process")
        assert loss is not None
        size = len(batch["names"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        parts = {f"train/{name}": value for name, value in self._parts().items() if name != "nonfinite"}
        self.log_dict(parts, batch_size=size)
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        self.log("train/learning_rate", max(rates), batch_size=size)
        self._log_step(self.trainer.global_step + 1)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        if self._clock is not None:
            self._clock.start_backward()

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, 0 to 1; 0 where its length is unknown."""
        total = self.trainer.estimated_stepping_batches
        return min(1.0, self.trainer.global_step / total) if math.isfinite(total) and total > 0 else 0.0

    def _parts(self) -> dict[str, Tensor]:
        parts = getattr(self.model.criterion, "parts", {})
        return {name: value for name, value in parts.items() if name != "loss" and value.numel() == 1}

    def _problem(self, loss: Tensor) -> str:
        """What is not finite, "" if nothing. A criterion may replace such logits and only count them."""
        replaced = self._parts().get("nonfinite")
        if not math.isfinite(float(loss.detach())):
            return f"it is {float(loss.detach())}"
        if replaced is not None and int(replaced) > 0:
            return f"{int(replaced)} of the predicted logits are NaN or infinite"
        return ""

    def _stop_at_non_finite_loss(self, problem: str) -> None:
        path = Path(self.trainer.default_root_dir) / NON_FINITE_CHECKPOINT
        self.trainer.save_checkpoint(path, weights_only=False)
        raise NonFiniteLossError(
            f"the loss is not finite at step {self.trainer.global_step}: {problem}; the state before this "
            f"step is in {path}; lower model.learning_rate, or use trainer.precision 32-true"
        )

    def on_validation_epoch_start(self) -> None:
        # The loss depends on the progress: outside a run it is that of a finished one.
        set_progress(self.model, self.progress if self.trainer.state.fn == "fit" else 1.0)
        self._metric = self.new_metric()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        outputs = self(batch)
        self.log("val/loss", outputs.loss, batch_size=len(batch["names"]), sync_dist=True)
        self.measure(self._metric, batch, outputs)

    def on_validation_epoch_end(self) -> None:
        assert self._metric is not None
        if self.trainer.world_size > 1:
            states: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, self._metric.state())
            for state in states:
                self._metric.merge(state)
        found = self._metric.compute()
        self.log_dict({f"val/{name}": 100.0 * found[name] for name in self.values})
        self._metric = None
        if self.trainer.state.fn == "fit":
            self._log_step(self.trainer.global_step)

    def _log_step(self, step: int) -> None:
        """Files what is logged now under the optimiser steps done; Lightning's own count is off after a resume."""
        self.log("step", float(step), batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        options = self.hparams
        total = self.trainer.estimated_stepping_batches
        if options["schedule"] != "constant" and not math.isfinite(total):
            raise UserError(
                f"model.schedule {options['schedule']} needs to know the length of the run: "
                "set trainer.max_steps or trainer.max_epochs"
            )
        groups = parameter_groups(
            self.model, options["learning_rate"], options["weight_decay"], options["backbone_lr_multiplier"]
        )
        factor = functools.partial(
            learning_rate_factor,
            total_steps=total,
            warmup_steps=options["warmup_steps"],
            schedule=options["schedule"],
        )
        optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what prediction needs to know of the data."""
        checkpoint["task"] = self.task
        checkpoint["categories"] = self.categories

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model with one sentence instead of a list of all their names."""
        self.categories = checkpoint.get("categories", self.categories)
        there, here = checkpoint.get("hyper_parameters", {}), self.hparams
        for name in self.same:
            if name in there and there[name] != here[name]:
                raise UserError(
                    f"the checkpoint is of another model: its {name} is {there[name]!r}, this model's {here[name]!r}"
                )
        weights, own = checkpoint.get("state_dict", {}), self.state_dict()
        wrong = sorted(
            name
            for name in weights.keys() | own.keys()
            if name not in weights or name not in own or weights[name].shape != own[name].shape
        )
        if wrong:
            raise UserError(
                f"the checkpoint is of another model: {len(wrong)} of {len(own)} tensors are missing, "
                f"unknown or of another shape, the first {wrong[0]}"
            )
