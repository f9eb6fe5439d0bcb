"""The Lightning module: one network, one criterion, validation by mask AP."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.errors import UserError
from influencerformer.metrics.mask_ap import MaskAP
from influencerformer.metrics.predictions import instance_predictions
from influencerformer.models import (
    build_model,
    set_progress,
    use_hungarian_loss,
    use_influencer_loss,
    use_stock_loss,
)
from influencerformer.training.optimization import Schedule, learning_rate_factor, parameter_groups
from influencerformer.training.timing import CriterionClock

Loss = Literal["influencer", "hungarian", "stock"]
USE_LOSS = {"influencer": use_influencer_loss, "hungarian": use_hungarian_loss, "stock": use_stock_loss}
NON_FINITE_CHECKPOINT = "non_finite.ckpt"
NON_FINITE_WORDS = ("NaN", "infinite", "infeasible", "invalid numeric")
"""What the criteria, or scipy's assignment within one, say of values that are not finite."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; training cannot go on."""


class InstanceSegmenter(LightningModule):
    """Trains a mask transformer for instance segmentation, with either loss.

    Attributes:
        model: the network, with the loss as `model.criterion`.
        categories: {"id", "name"} of each class, as in the data; ids of COCO data are COCO's.
        image_options: how images are prepared: scale, max_size (pixels or None), size_divisor.

    Logs train/loss and its parts, val/loss and val/AP, val/AP50, val/AP75 in percent.

    Everything but the criterion is the same for both losses: weights are drawn before the criterion is put
    in, and putting it in draws no random numbers.

    Args:
        architecture: a name known to `build_model` (mask2former-tiny, mask2former-swin-t, mask2former-r50),
            a folder with a transformers checkpoint, or a hub id.
        num_classes: number of classes C; on the command line taken from the data.
        class_names: C names, kept for predictions; on the command line taken from the data.
        num_queries: Q, the most instances an image can have predicted.
        pretrained: start from published weights of the backbone (needs them on disk or a network).
        loss: influencer; hungarian, the standard loss with bipartite matching, hardened and on the same pixels; or
            stock, transformers' own criterion.
        loss_options: keyword options of that loss, for example {condensation_weight: 2.0}.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, on weight matrices and kernels only.
        backbone_lr_multiplier: the backbone's learning rate as a fraction of the others'.
        schedule: constant; cosine to 0; or multistep, times 0.1 at 90 % and at 95 % of the steps.
        warmup_steps: steps of linear warm-up.
        max_detections: most predictions an image that count for AP, highest scores first.
    """

    def __init__(
        self,
        architecture: str = "mask2former-tiny",
        num_classes: int = 1,
        class_names: list[str] | None = None,
        num_queries: int = 100,
        pretrained: bool = False,
        loss: Loss = "influencer",
        loss_options: dict[str, Any] | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.05,
        backbone_lr_multiplier: float = 0.1,
        schedule: Schedule = "multistep",
        warmup_steps: int = 0,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if loss not in USE_LOSS:
            raise UserError(f"loss must be one of {', '.join(USE_LOSS)}, got {loss!r}")
        self.model = build_model(architecture, num_classes=num_classes, num_queries=num_queries, pretrained=pretrained)
        with torch.random.fork_rng(devices=[]):
            try:
                USE_LOSS[loss](self.model, **(loss_options or {}))
            except TypeError as error:
                raise UserError(f"loss_options do not fit the {loss} loss: {error}") from error
        self._clock: CriterionClock | None = None
        self._metric: MaskAP | None = None
        names = class_names or [f"class {i}" for i in range(num_classes)]
        self.categories: list[dict[str, Any]] = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
        self.image_options: dict[str, Any] = {"scale": 1.0, "max_size": None, "size_divisor": 32}

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The network's outputs; with the loss where the batch carries the truth."""
        names = ("pixel_values", "pixel_mask", "mask_labels", "class_labels")
        return self.model(**{name: batch[name] for name in names if name in batch})

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
        ground_truth = getattr(getattr(self.trainer, "datamodule", None), "ground_truth", None)
        if ground_truth is None:
            raise UserError(
                "validation needs a data module with the method ground_truth(), such as InstanceDataModule: "
                "give one to the trainer, or set trainer.limit_val_batches to 0"
            )
        self._metric = MaskAP(ground_truth(), self.hparams["max_detections"])

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        assert self._metric is not None
        outputs = self(batch)
        self.log("val/loss", outputs.loss, batch_size=len(batch["names"]), sync_dist=True)
        padded_size = tuple(batch["pixel_values"].shape[-2:])
        for index, (image_id, size) in enumerate(zip(batch["image_ids"], batch["sizes"], strict=True)):
            found = instance_predictions(
                outputs.class_queries_logits[index],
                outputs.masks_queries_logits[index],
                size,
                padded_size=padded_size,
                top_k=self.hparams["max_detections"],
            )
            self._metric.update(image_id, **found)

    def on_validation_epoch_end(self) -> None:
        assert self._metric is not None
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (self._metric.results, self._metric.image_ids))
            for results, image_ids in parts:
                self._metric.merge(results, image_ids)
        values = self._metric.compute()
        self.log_dict({f"val/{name}": 100.0 * values[name] for name in ("AP", "AP50", "AP75")})
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
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, InstanceDataModule):
            self.categories = getattr(data.dataset("val"), "categories", self.categories)
            self.image_options = {
                "scale": data.eval_transform.scale,
                "max_size": data.eval_transform.max_size,
                "size_divisor": data.size_divisor,
            }
        checkpoint["categories"] = self.categories
        checkpoint["image_options"] = self.image_options

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model with one sentence instead of a list of all their names."""
        self.categories = checkpoint.get("categories", self.categories)
        self.image_options = checkpoint.get("image_options", self.image_options)
        there, here = checkpoint.get("hyper_parameters", {}), self.hparams
        for name in ("architecture", "num_classes", "num_queries", "loss"):
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


def load_segmenter(checkpoint: Path | str) -> InstanceSegmenter:
    """The model of a checkpoint of `fit`, on the CPU, in evaluation mode.

    Raises:
        UserError: the file is missing, no checkpoint of `fit`, or of another version's model.
    """
    path = Path(checkpoint)
    read_checkpoint(path)
    segmenter = InstanceSegmenter.load_from_checkpoint(path, map_location="cpu", pretrained=False, weights_only=True)
    return segmenter.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint of `fit`; only tensors and plain values are read, no code is run.

    Raises:
        UserError: the file is missing, cut off, or something else.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no checkpoint, or was cut off: expected a file that `fit` wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch raises depends on what the file is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no readable checkpoint: {reason}") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path} is no checkpoint of `fit`: it lacks state_dict or hyper_parameters")
    return content
