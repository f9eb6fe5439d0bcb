"""The Lightning module for images: a mask transformer of transformers, validated by COCO mask AP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.errors import UserError
from influencerformer.metrics.mask_ap import MaskAP
from influencerformer.metrics.predictions import instance_predictions
from influencerformer.models import build_model, use_hungarian_loss, use_influencer_loss, use_stock_loss
from influencerformer.training.nonfinite import DEFAULT_SHARE, SkippedBatches
from influencerformer.training.optimization import Schedule
from influencerformer.training.segmenter import Loss, Segmenter

USE_LOSS = {"influencer": use_influencer_loss, "hungarian": use_hungarian_loss, "stock": use_stock_loss}


class InstanceSegmenter(Segmenter):
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
        max_nonfinite_share: share of the last 100 training batches that may have a loss that is not finite: such a
            batch is left out and its samples are named. More stop the run; 0 stops it at the first.
        max_detections: most predictions an image that count for AP, highest scores first.
    """

    task = "image"
    values = ("AP", "AP50", "AP75")
    same = ("architecture", "num_classes", "num_queries", "loss")

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
        max_nonfinite_share: float = DEFAULT_SHARE,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.skipped = SkippedBatches(max_nonfinite_share)
        if loss not in USE_LOSS:
            raise UserError(f"loss must be one of {', '.join(USE_LOSS)}, got {loss!r}")
        self.model = build_model(architecture, num_classes=num_classes, num_queries=num_queries, pretrained=pretrained)
        with torch.random.fork_rng(devices=[]):
            try:
                USE_LOSS[loss](self.model, **(loss_options or {}))
            except TypeError as error:
                raise UserError(f"loss_options do not fit the {loss} loss: {error}") from error
        names = class_names or [f"class {i}" for i in range(num_classes)]
        self.categories = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
        self.image_options: dict[str, Any] = {"scale": 1.0, "max_size": None, "size_divisor": 32}

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The network's outputs; with the loss where the batch carries the truth."""
        names = ("pixel_values", "pixel_mask", "mask_labels", "class_labels")
        return self.model(**{name: batch[name] for name in names if name in batch})

    def new_metric(self) -> MaskAP:
        ground_truth = getattr(getattr(self.trainer, "datamodule", None), "ground_truth", None)
        if ground_truth is None:
            raise UserError(
                "validation needs a data module with the method ground_truth(), such as InstanceDataModule: "
                "give one to the trainer, or set trainer.limit_val_batches to 0"
            )
        return MaskAP(ground_truth(), self.hparams["max_detections"])

    def measure(self, metric: MaskAP, batch: Mapping[str, Any], outputs: Any) -> None:
        padded_size = tuple(batch["pixel_values"].shape[-2:])
        for index, (image_id, size) in enumerate(zip(batch["image_ids"], batch["sizes"], strict=True)):
            found = instance_predictions(
                outputs.class_queries_logits[index],
                outputs.masks_queries_logits[index],
                size,
                padded_size=padded_size,
                top_k=self.hparams["max_detections"],
            )
            metric.update(image_id, **found)

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
        super().on_save_checkpoint(checkpoint)
        checkpoint["image_options"] = self.image_options

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.image_options = checkpoint.get("image_options", self.image_options)
        super().on_load_checkpoint(checkpoint)
