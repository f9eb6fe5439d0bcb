"""A mask transformer for tracks: queries that start from hits near the beam line and predict masks over hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influencerformer.errors import UserError
from influencerformer.losses.hungarian import HungarianMaskLoss
from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.models.query_decoder import Memory, QueryDecoder, TokenSet
from influencerformer.models.tracks.batch import Hits, event_name, pack_hits
from influencerformer.models.tracks.condensation import MIN_HITS, drop_short
from influencerformer.models.tracks.encoder import NUM_COORDINATES, HitEncoder, hit_coordinates

LOSSES: dict[str, type[MaskInfluencerLoss] | type[HungarianMaskLoss]] = {
    "influencer": MaskInfluencerLoss,
    "hungarian": HungarianMaskLoss,
}
_WAVELENGTHS = (0.03, 4.0)
CONTENT_SCALE = 0.1
"""Small: a query is to know the hit that it starts from, not its own number."""


class TrackMasks(NamedTuple):
    """Predictions for B events by L heads, of which the last is the output. A tuple, so that hooks find the tensors.

    Attributes:
        mask_logits: L lists of B tensors (Q, N_i).
        class_logits: L lists of B tensors (Q, 2): track, no-object.
        seeds: B tensors (Q,) int64, 0..N_i-1, the hit that each query starts from.
        loss: scalar, or None without the truth.
    """

    mask_logits: list[list[Tensor]]
    class_logits: list[list[Tensor]]
    seeds: list[Tensor]
    loss: Tensor | None = None


class TrackMaskCriterion(nn.Module):
    """A mask loss over the hits of events, which are all of one class.

    Args:
        loss: MaskInfluencerLoss or HungarianMaskLoss.
        own_claims: a query may claim, or be matched with, the particle of the hit that it starts from and no other, as
            queries from superpoints in OneFormer3D.

    Attributes:
        parts: detached scalars of the last call, for the log.
    """

    def __init__(self, loss: MaskInfluencerLoss | HungarianMaskLoss, own_claims: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.own_claims = own_claims
        self.parts: dict[str, Tensor] = {}

    def forward(self, outputs: TrackMasks, instance_labels: Sequence[Tensor], class_labels: Sequence[Tensor]) -> Tensor:
        """The loss.

        Args:
            outputs: of the model, whatever its ``loss`` holds.
            instance_labels: B tensors (N_i,) int64: 0 background, 1..K_i particles, -1 ignored.
            class_labels: B tensors (K_i,) int64 zeros.
        """
        options: dict[str, Any] = {}
        if self.own_claims:
            options["claim_mask"] = [
                labels[seeds][:, None] == torch.arange(1, len(classes) + 1, device=labels.device)
                for labels, seeds, classes in zip(instance_labels, outputs.seeds, class_labels, strict=True)
            ]
        result = self.loss(
            outputs.mask_logits, list(instance_labels), outputs.class_logits, list(class_labels), **options
        )
        self.parts = {name: value.detach() for name, value in result.items() if name != "loss"}
        return result["loss"]


class MaskTracker(nn.Module):
    """Track finding by queries: each query is a track or none, and its mask the hits of the track.

    Queries start from the hits nearest to the beam line, so that nearly every particle has one or two from the first
    step on. They look at the hits themselves.

    Args:
        in_features: F, features of a hit.
        num_queries: Q, more than an event has tracks; two for each track is a good choice.
        dim, num_layers, num_heads, window: see :class:`HitEncoder`.
        decoder_layers: of the query decoder; each has (Q, N) masks of its own.
        loss: "influencer" or "hungarian".
        loss_options: keywords of :class:`influencerformer.losses.MaskInfluencerLoss` or of
            :class:`influencerformer.losses.HungarianMaskLoss`.
        own_claims: see :class:`TrackMaskCriterion`.

    Raises:
        UserError: an unknown loss, or an unknown option of it.
    """

    def __init__(
        self,
        in_features: int,
        num_queries: int,
        dim: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        window: int = 64,
        decoder_layers: int = 2,
        loss: str = "influencer",
        loss_options: Mapping[str, Any] | None = None,
        own_claims: bool = False,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)} for the mask tracker, got {loss!r}")
        self.in_features = in_features
        self.num_queries = num_queries
        self.backbone = HitEncoder(in_features, dim, num_layers, num_heads, window)
        self.decoder = QueryDecoder(
            dim,
            decoder_layers,
            num_heads,
            num_queries,
            1,
            token_dim=dim,
            memory_dims=[dim],
            num_coordinates=NUM_COORDINATES,
            wavelengths=_WAVELENGTHS,
            content_scale=CONTENT_SCALE,
        )
        try:
            self.criterion = TrackMaskCriterion(LOSSES[loss](**(loss_options or {})), own_claims)
        except TypeError as error:
            raise UserError(f"loss_options do not fit the {loss} loss: {error}") from error

    def forward(self, batch: Mapping[str, Any]) -> TrackMasks:
        """Predictions, and the loss where the batch holds the truth.

        Args:
            batch: sequences of B events: "features" (N_i, F), "positions" (N_i, 3) in mm, and optionally
                "instance_labels" (N_i,) int64 with "class_labels" (K_i,) int64. Other keys are ignored.

        Raises:
            UserError: an event with more particles than queries.
            UserError, ValueError: see :func:`influencerformer.models.tracks.batch.pack_hits`.
        """
        hits = pack_hits(batch, self.in_features)
        tokens = TokenSet(self.backbone(*hits), hit_coordinates(hits.positions), hits.sizes)
        seeds = self._seeds(hits)
        predicted = self.decoder(tokens, [Memory(tokens)], seeds)
        outputs = TrackMasks(predicted.mask_logits, predicted.class_logits, seeds)
        if batch.get("instance_labels") is None:
            return outputs
        for index, classes in enumerate(batch["class_labels"]):
            if len(classes) > self.num_queries:
                raise UserError(
                    f"event {event_name(batch, index)} has {len(classes)} particles, more than the {self.num_queries} "
                    "queries of the network: train one with a larger num_queries"
                )
        return outputs._replace(loss=self.criterion(outputs, batch["instance_labels"], batch["class_labels"]))

    def _seeds(self, hits: Hits) -> list[Tensor]:
        """The Q hits of each event that are nearest to the beam line; beyond their number the choice begins anew."""
        radius = torch.hypot(hits.positions[:, 0], hits.positions[:, 1])
        return [
            one.argsort(stable=True).repeat(-(-self.num_queries // len(one)))[: self.num_queries]
            for one in radius.split(hits.sizes)
        ]

    def tracks(self, outputs: TrackMasks, index: int) -> Tensor:
        """(N_i,) int64, the track 1.. of each hit of one event, 0 none."""
        return masked_tracks(outputs.mask_logits[-1][index], outputs.class_logits[-1][index])


@torch.no_grad()
def masked_tracks(
    mask_logits: Tensor,
    class_logits: Tensor,
    score_threshold: float = 0.5,
    max_iou: float = 0.5,
    min_hits: int = MIN_HITS,
) -> Tensor:
    """Tracks from masks: every hit goes to the query that claims it most, if that claims it above 0.5.

    Before, of queries whose masks are much the same (IoU above ``max_iou``) all but the most confident are left out.

    Args:
        mask_logits: (Q, N).
        class_logits: (Q, 2): track, no-object.
        score_threshold: queries with a lower probability of being a track are left out.
        max_iou: most overlap that two tracks may have.
        min_hits: a track with fewer hits is none.

    Returns:
        (N,) int64, 0 none, 1..m tracks without gaps.
    """
    scores = class_logits.float().softmax(-1)[:, 0]
    order = scores.argsort(descending=True, stable=True)
    logits = mask_logits[order[scores[order] >= score_threshold]]
    logits = logits[_distinct(logits > 0, max_iou)]
    if not len(logits):
        return torch.zeros(mask_logits.shape[1], dtype=torch.int64, device=mask_logits.device)
    best, query = logits.max(0)
    return drop_short(torch.where(best > 0, query + 1, 0), min_hits)


def _distinct(masks: Tensor, max_iou: float) -> Tensor:
    """Which of (Q, N) masks, the best first, overlap none of those before that are kept."""
    rows = masks.float()
    shared = rows @ rows.T
    sizes = shared.diagonal()
    alike = (shared > max_iou * (sizes[:, None] + sizes - shared)).cpu().numpy()
    kept = np.zeros(len(masks), dtype=bool)
    for index in range(len(masks)):
        kept[index] = not alike[index, :index][kept[:index]].any()
    return torch.from_numpy(kept).to(masks.device)
