"""The Lightning module for particle tracks: condensation or queries over hits, validated by the double majority."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from influencerformer.data.tracks.sample import NUM_HIT_FEATURES, Event
from influencerformer.errors import UserError
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.models.tracks.condensation import CondensationTracker, EmbeddingOutputs
from influencerformer.models.tracks.mask_tracker import MaskTracker
from influencerformer.training.nonfinite import DEFAULT_SHARE, SkippedBatches
from influencerformer.training.optimization import Schedule
from influencerformer.training.segmenter import Loss, Segmenter
from influencerformer.training.track_radius import RadiusChoice

Architecture = Literal["condensation", "mask"]
INPUTS = ("names", "features", "positions", "instance_labels", "class_labels")


class TrackSegmenter(Segmenter):
    """Trains a network that finds the tracks of particles among the hits of an event.

    Attributes:
        model: the network, with the loss as `model.criterion`.
        categories: the one class, a track.

    Logs train/loss and its parts, val/loss and, in percent, val/efficiency, val/fake_rate, val/duplicate_rate,
    val/purity and val/trackml_score, see `influencerformer.metrics.tracks.TrackMetrics`.

    With `architecture: condensation` the radius within which hits belong to an influencer is chosen anew at every
    validation of `fit`, on the validation events, and kept in the checkpoint; `validate` and `predict` take it as it
    is. Figures to report therefore come from other events than those of `fit`.

    Args:
        architecture: condensation (embeddings of hits, trained by the Influencer Loss for embeddings) or mask
            (queries with masks over hits, trained by either mask loss).
        width: features a hit.
        layers: of attention among hits.
        heads: of each attention.
        window: hits that a layer attends to on either side in azimuth, an even number.
        embedding_dim: for condensation, D of the embeddings.
        num_queries: for mask, Q, more than an event has tracks; two for each is a good choice.
        decoder_layers: for mask, layers of the query decoder.
        own_claims: for mask, let a query claim, or be matched with, only the particle of the hit that it starts from.
        loss: influencer; or, for mask, hungarian: the standard loss with bipartite matching, hardened.
        loss_options: keyword options of that loss, for example {condensation_weight: 2.0}.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, on weight matrices only.
        backbone_lr_multiplier: the hit encoder's learning rate as a fraction of the others'.
        schedule: constant; cosine to 0; or multistep, times 0.1 at 90 % and at 95 % of the steps.
        warmup_steps: steps of linear warm-up.
        max_nonfinite_share: the part of the training batches that may be left out because their loss is not finite;
            beyond it the run ends.
    """

    task = "tracks"
    values = ("efficiency", "fake_rate", "duplicate_rate", "purity", "trackml_score")
    compared = values
    same = ("architecture", "width", "layers", "window", "embedding_dim", "num_queries", "decoder_layers", "loss")
    model: CondensationTracker | MaskTracker

    def __init__(
        self,
        architecture: Architecture = "condensation",
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        window: int = 64,
        embedding_dim: int = 8,
        num_queries: int = 120,
        decoder_layers: int = 2,
        own_claims: bool = False,
        loss: Loss = "influencer",
        loss_options: dict[str, Any] | None = None,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        backbone_lr_multiplier: float = 1.0,
        schedule: Schedule = "cosine",
        warmup_steps: int = 50,
        max_nonfinite_share: float = DEFAULT_SHARE,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.skipped = SkippedBatches(max_nonfinite_share)
        if width < 1 or width % heads:
            raise UserError(f"model.width must be a multiple of model.heads, got {width} and {heads}")
        if window < 2 or window % 2:
            raise UserError(f"model.window must be even and positive, got {window}")
        if num_queries < 1:
            raise UserError(f"model.num_queries must be 1 or more, got {num_queries}")
        if architecture == "condensation":
            if loss != "influencer":
                raise UserError(f"model.loss must be influencer for a condensation network, got {loss}")
            self.model = CondensationTracker(
                NUM_HIT_FEATURES, width, layers, heads, window, embedding_dim, loss_options
            )
        else:
            self.model = MaskTracker(
                NUM_HIT_FEATURES,
                num_queries,
                width,
                layers,
                heads,
                window,
                decoder_layers,
                loss,
                loss_options,
                own_claims,
            )
        self.categories = [{"id": 0, "name": "track"}]

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """The network's outputs; with the loss where the batch carries the truth."""
        return self.model({name: batch[name] for name in INPUTS if name in batch})

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves what the network takes; the events themselves are for the metrics and stay on the CPU."""
        inputs = {name: value for name, value in batch.items() if name != "events"}
        return {**batch, **super().transfer_batch_to_device(inputs, device, dataloader_idx)}

    def tracks(self, outputs: Any, index: int) -> Tensor:
        """(N_i,) int64 on the CPU, the track 1.. of each hit of an event of the batch, 0 none."""
        return self.model.tracks(outputs, index).cpu()

    def new_metric(self) -> TrackMetrics | RadiusChoice:
        if isinstance(self.model, CondensationTracker) and self.trainer.state.fn == "fit":
            return RadiusChoice(self.model)
        return TrackMetrics()

    def measure(self, metric: TrackMetrics | RadiusChoice, batch: Mapping[str, Any], outputs: Any) -> None:
        events: list[Event] = batch["events"]
        for index, event in enumerate(events):
            if isinstance(metric, RadiusChoice):
                assert isinstance(outputs, EmbeddingOutputs)
                metric.update(event.name, outputs.followers[index].cpu(), outputs.influencers[index].cpu(), event)
            else:
                metric.update(event.name, self.tracks(outputs, index), event)
