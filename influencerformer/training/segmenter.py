"""What every Lightning module of the package does: one network, one criterion, validation by one metric."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from influencerformer.data.accumulation import ACCUMULATION
from influencerformer.data.eval_sampler import EvalSampler
from influencerformer.errors import UserError
from influencerformer.losses import HungarianMaskLoss, MaskInfluencerLoss
from influencerformer.losses.normalizer import Accumulation, accumulated_with
from influencerformer.models import set_progress
from influencerformer.training.nonfinite import (
    DEFAULT_SHARE,
    NonFiniteLossError,
    RunningStatistics,
    SkippedBatches,
    listed,
    weights_are_finite,
)
from influencerformer.training.optimization import Progress, follow_new_length, learning_rate_factor, parameter_groups
from influencerformer.training.timing import CriterionClock

Loss = Literal["influencer", "hungarian", "stock"]
NON_FINITE_CHECKPOINT = "non_finite.ckpt"
NON_FINITE_WORDS = ("NaN", "infinite", "infeasible", "invalid numeric")
"""What the criteria, or scipy's assignment within one, say of values that are not finite."""


class Metric(Protocol):
    """Collects predictions over a validation and over processes."""

    def state(self) -> Any:
        """What another process merges; picklable."""

    def merge(self, state: Any) -> None:
        """Adds what another process collected."""

    def compute(self) -> dict[str, Any]:
        """Values in 0..1 by name, those of the module's `values` among them."""


class Segmenter(LightningModule):
    """Trains a model with a criterion, validates it by the task's values, such as AP.

    A task's module sets `model`, whose `criterion` is a module, and gives `forward`, `new_metric` and `measure`.
    A batch is a mapping with the list "names", one entry a sample. `hparams` hold what the constructors of tasks
    share: learning_rate, weight_decay, backbone_lr_multiplier, schedule, warmup_steps, max_nonfinite_share and loss.

    Attributes:
        model: the network, with the loss as `model.criterion`.
        categories: {"id", "name"} of each class, as in the data.

    Logs train/loss and its parts, the mean over processes; train/skipped_batches; val/loss and, in percent, the
    `values` of the metric. A training batch whose loss is not finite is left out in all processes and named; the
    optimiser and the running means of the network stay as they were.
    """

    task: ClassVar[str]
    values: ClassVar[tuple[str, ...]]
    """Names of the metric's values that are logged; by the first the best checkpoint is chosen."""
    compared: ClassVar[tuple[str, ...]] = ("AP", "AP50")
    """Of these, the values that a comparison of losses shows, two or more; by the first it judges."""
    same: ClassVar[tuple[str, ...]]
    """Options in which a checkpoint must agree with the module that it is loaded into."""
    model: nn.Module
    categories: list[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.skipped = SkippedBatches(DEFAULT_SHARE)
        self._clock: CriterionClock | None = None
        self._running: RunningStatistics | None = None
        self._window_has_gradient = False
        self._metric: Metric | None = None
        self._losses: dict[int, tuple[Tensor, int]] = {}
        self._before_resume: Progress | None = None

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
        self._running = RunningStatistics(self.model)
        if self.trainer.world_size > 1:
            # One process that raises before the criterion's exchange of counts would leave the others waiting in it.
            for module in self.model.modules():
                if isinstance(module, MaskInfluencerLoss | HungarianMaskLoss):
                    module.nonfinite = "skip"

    def on_fit_end(self) -> None:
        if self._clock is not None:
            self._clock.remove()

    def on_train_start(self) -> None:
        before = self._before_resume
        if before is not None and before.total_steps != self.trainer.estimated_stepping_batches:
            follow_new_length(self.trainer, before)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        assert self._clock is not None
        assert self._running is not None
        set_progress(self.model, self.progress)
        self._clock.reset()
        self._running.keep()
        loss, problem = None, ""
        step = batch.get(ACCUMULATION)
        try:
            with accumulated_with(Accumulation(**step) if step else None):
                loss = self(batch).loss
            problem = self._problem(loss)
        except (ValueError, FloatingPointError) as error:
            if not any(word in str(error) for word in NON_FINITE_WORDS):
                raise
            problem = str(error)
        # Decided by all ranks together: one that stops alone leaves the others waiting for ever.
        if self.trainer.strategy.reduce_boolean_decision(bool(problem), all=False):
            self._skip(batch, problem)
            loss = self._zero_loss() if self.trainer.world_size > 1 else None
        else:
            assert loss is not None
            self._window_has_gradient = True
            self._log_losses(loss.detach(), len(batch["names"]))
        size = len(batch["names"])
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        self.log("train/learning_rate", max(rates), batch_size=size)
        self.log("train/skipped_batches", float(self.skipped.total), batch_size=size)
        self._log_step(self.trainer.global_step + 1)
        return loss

    def _log_losses(self, loss: Tensor, size: int) -> None:
        parts = {name: value for name, value in self._parts().items() if name != "nonfinite"}
        values = torch.stack([loss.float(), *(value.detach().float().reshape(()) for value in parts.values())])
        values = self.trainer.strategy.reduce(values, reduce_op="mean")
        self.log("train/loss", values[0], prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value for name, value in zip(parts, values[1:], strict=True)}, batch_size=size)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._window_has_gradient:  # every batch of this step was left out: nothing moves, momentum included
            optimizer.zero_grad(set_to_none=True)
        self._window_has_gradient = False

    def on_before_backward(self, loss: Tensor) -> None:
        if self._clock is not None:
            self._clock.start_backward()

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, 0 to 1; 0 where its length is unknown.

        It never falls: a resumed run that was made longer stays where it was until the new length has come as far.
        """
        total = self.trainer.estimated_stepping_batches
        done = min(1.0, self.trainer.global_step / total) if math.isfinite(total) and total > 0 else 0.0
        return max(done, self._before_resume.fraction) if self._before_resume is not None else done

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

    def _skip(self, batch: Mapping[str, Any], problem: str) -> None:
        """Notes a batch that is left out and names its samples; stops the run where that is no way to go on."""
        assert self._running is not None
        self._running.put_back()
        found: list[tuple[str, list[str]]] = [(problem, list(map(str, batch["names"])))]
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, found[0])
            found = [one for one in gathered if one[0]]
        names = [name for _, seen in found for name in seen]
        problem = found[0][0]
        if not self.trainer.strategy.reduce_boolean_decision(weights_are_finite(self.model), all=True):
            self._stop_at_non_finite_loss(problem, "the weights themselves are not finite: the step before spoilt them")
        self.skipped.add(self.trainer.fit_loop.epoch_loop.total_batch_idx, names)
        if self.skipped.too_many:
            allowed = f"model.max_nonfinite_share {self.skipped.max_share:g}"
            seen = f"{self.skipped.summary()} were left out, more than {allowed} allows"
            self._stop_at_non_finite_loss(
                problem, seen if self.skipped.max_share else f"with the samples {listed(names)}"
            )
        if self.trainer.is_global_zero:
            print(
                f"warning: the loss is not finite at step {self.trainer.global_step}: {problem}; the batch is left "
                f"out, number {self.skipped.total} of this run; its samples: {listed(names)}",
                file=sys.stderr,
                flush=True,
            )
        missing = dict.fromkeys(["train/loss", *(f"train/{name}" for name in self._parts() if name != "nonfinite")])
        for name in missing:
            self.log(name, torch.tensor(math.nan, device=self.device), prog_bar=name == "train/loss", batch_size=1)

    def _zero_loss(self) -> Tensor:
        """0 with a gradient of 0 for every weight: what the exchange of gradients between processes waits for."""
        return torch.stack([p.flatten()[0] * 0 for p in self.model.parameters() if p.requires_grad]).sum()

    def _stop_at_non_finite_loss(self, problem: str, why: str) -> None:
        path = Path(self.trainer.default_root_dir) / NON_FINITE_CHECKPOINT
        self.trainer.save_checkpoint(path, weights_only=False)
        raise NonFiniteLossError(
            f"the loss is not finite at step {self.trainer.global_step}: {problem}; {why}; the state before this "
            f"step is in {path}; lower model.learning_rate, or use trainer.precision 32-true"
        )

    def on_validation_epoch_start(self) -> None:
        # The loss depends on the progress: outside a run it is that of a finished one.
        set_progress(self.model, self.progress if self.trainer.state.fn == "fit" else 1.0)
        self._metric, self._losses = self.new_metric(), {}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        outputs = self(batch)
        loader: Any = self.trainer.val_dataloaders
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, EvalSampler) and sampler.repeats(batch_idx):
            return  # another process has it; this one only keeps pace
        self._losses[batch_idx] = (outputs.loss.detach(), len(batch["names"]))
        self.measure(self._metric, batch, outputs)

    def on_validation_epoch_end(self) -> None:
        assert self._metric is not None
        sums = [(float(loss) * size, size) for loss, size in self._losses.values()]
        states: list[Any] = [(self._metric.state(), sums)]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, (self._metric.state(), sums))
            for state, _ in states:
                self._metric.merge(state)
        total, size = (math.fsum(values) for values in zip(*(one for _, own in states for one in own), strict=True))
        found = self._metric.compute()
        self.log("val/loss", total / size)
        self.log_dict({f"val/{name}": 100.0 * found[name] for name in self.values})
        self._metric, self._losses = None, {}
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
        checkpoint["skipped_batches"] = self.skipped.state_dict()
        if self.trainer.state.fn == "fit" and math.isfinite(self.trainer.estimated_stepping_batches):
            checkpoint["progress"] = Progress(self.progress, int(self.trainer.estimated_stepping_batches))._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model with one sentence instead of a list of all their names."""
        self.categories = checkpoint.get("categories", self.categories)
        if self._trainer is not None and self.trainer.state.fn == "fit":  # the run goes on; else only weights are taken
            if "skipped_batches" in checkpoint:
                self.skipped.load_state_dict(checkpoint["skipped_batches"])
            if "progress" in checkpoint:
                self._before_resume = Progress(**checkpoint["progress"])
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
