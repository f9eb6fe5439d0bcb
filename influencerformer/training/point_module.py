"""The Lightning module for point clouds: the package's point mask transformer, validated by ScanNet's AP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from influencerformer.data.points.collate import NUM_FEATURES
from influencerformer.errors import UserError
from influencerformer.metrics.point_ap import PointAP
from influencerformer.metrics.point_predictions import point_predictions
from influencerformer.models.points.criterion import use_point_loss
from influencerformer.models.points.point_model import build_point_model
from influencerformer.training.nonfinite import DEFAULT_SHARE, SkippedBatches
from influencerformer.training.optimization import Schedule
from influencerformer.training.segmenter import Loss, Segmenter

INPUTS = ("coordinates", "features", "superpoints", "instance_labels", "class_labels")


class PointSegmenter(Segmenter):
    """Trains a point mask transformer for instance segmentation, with either loss.

    Attributes:
        model: the network, with the loss as `model.criterion`.
        categories: {"id", "name"} of each class.

    Logs train/loss and its parts, val/loss and val/AP, val/AP50, val/AP25 in percent.

    Everything but the criterion is the same for both losses: weights are drawn before the criterion is put
    in, and putting it in draws no random numbers.

    Args:
        architecture: point-tiny, which one core trains in minutes, or point-base.
        num_classes: number of classes C; on the command line taken from the data.
        class_names: C names, kept for predictions; on the command line taken from the data.
        num_queries: Q, the most instances a room can have predicted.
        voxel_size: side in metres of the voxels that the network computes on.
        loss: influencer; or hungarian, the standard loss with bipartite matching, hardened and on the same points.
        loss_options: keyword options of that loss, for example {condensation_weight: 2.0}.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, on weight matrices and kernels only.
        backbone_lr_multiplier: the backbone's learning rate as a fraction of the others'.
        schedule: constant; cosine to 0; or multistep, times 0.1 at 90 % and at 95 % of the steps.
        warmup_steps: steps of linear warm-up.
        max_nonfinite_share: share of the last 100 training batches that may have a loss that is not finite: such a
            batch is left out and its samples are named. More stop the run; 0 stops it at the first.
        max_detections: most predictions a room that count for AP, highest scores first.
    """

    task = "points"
    values = ("AP", "AP50", "AP25")
    same = ("architecture", "num_classes", "num_queries", "voxel_size", "loss")

    def __init__(
        self,
        architecture: str = "point-tiny",
        num_classes: int = 1,
        class_names: list[str] | None = None,
        num_queries: int = 100,
        voxel_size: float = 0.05,
        loss: Loss = "influencer",
        loss_options: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        backbone_lr_multiplier: float = 1.0,
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        max_nonfinite_share: float = DEFAULT_SHARE,
        max_detections: int = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.skipped = SkippedBatches(max_nonfinite_share)
        if loss == "stock":
            raise UserError("loss must be influencer or hungarian for point clouds, got 'stock'")
        self.model = build_point_model(
            architecture,
            num_classes=num_classes,
            num_queries=num_queries,
            in_channels=NUM_FEATURES,
            voxel_size=voxel_size,
        )
        with torch.random.fork_rng(devices=[]):
            try:
                use_point_loss(self.model, loss, **(loss_options or {}))
            except TypeError as error:
                raise UserError(f"loss_options do not fit the {loss} loss: {error}") from error
        names = class_names or [f"class {i}" for i in range(num_classes)]
        self.categories = [{"id": i, "name": n} for i, n in enumerate(names)]

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The network's outputs; with the loss where the batch carries the truth."""
        return self.model({name: batch[name] for name in INPUTS if name in batch})

    def new_metric(self) -> PointAP:
        return PointAP([category["name"] for category in self.categories])

    def measure(self, metric: PointAP, batch: Mapping[str, Any], outputs: Any) -> None:
        for i, name in enumerate(batch["names"]):
            found = point_predictions(
                outputs.class_logits[-1][i],
                outputs.mask_logits[-1][i],
                outputs.token_of_point[i],
                top_k=self.hparams["max_detections"],
            )
            metric.update(
                name, **found, instance_labels=batch["instance_labels"][i], class_labels=batch["class_labels"][i]
            )
