"""A condensation network for tracks: hits as followers and influencers, trained by the Influencer Loss."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor, nn

from influencerformer.errors import UserError
from influencerformer.losses.embedding import InfluencerLoss
from influencerformer.models.tracks.batch import pack_hits
from influencerformer.models.tracks.encoder import HitEncoder

RADII = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Radii to choose from, in units of the margin of followers."""
MIN_HITS = 3
"""Hits of the smallest track."""


class EmbeddingOutputs(NamedTuple):
    """Embeddings for B events. A tuple, so that hooks find the tensors.

    Attributes:
        followers, influencers: B tensors (N_i, D).
        loss: scalar, or None without the truth.
    """

    followers: list[Tensor]
    influencers: list[Tensor]
    loss: Tensor | None = None


class EmbeddingCriterion(nn.Module):
    """The Influencer Loss of each event, averaged over the batch.

    Attributes:
        parts: detached scalars of the last call, for the log.
    """

    def __init__(self, loss: InfluencerLoss) -> None:
        super().__init__()
        self.loss = loss
        self.parts: dict[str, Tensor] = {}

    def forward(self, outputs: EmbeddingOutputs, instance_labels: Sequence[Tensor]) -> Tensor:
        """The loss.

        Args:
            outputs: of the model.
            instance_labels: B tensors (N_i,) int64: 0 background, 1.. particles, -1 ignored.
        """
        results = [
            self.loss(followers, influencers, labels)
            for followers, influencers, labels in zip(
                outputs.followers, outputs.influencers, instance_labels, strict=True
            )
        ]
        means = {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}
        self.parts = {name: value.detach() for name, value in means.items() if name != "loss"}
        return means["loss"]


class CondensationTracker(nn.Module):
    """Track finding by condensation, after D. Murnane, EPJ Web Conf. 295, 09016, 2024.

    Args:
        in_features: F, features of a hit.
        dim, num_layers, num_heads, window: see :class:`HitEncoder`.
        embedding_dim: D of followers and influencers.
        loss_options: keywords of :class:`influencerformer.losses.InfluencerLoss`.

    Attributes:
        radius: (,) float32, within which followers belong to an influencer, in units of the embedding; kept in the
            state_dict. Choose it on validation events, see :func:`condensed_tracks`.

    Raises:
        UserError: an unknown option of the loss.
    """

    radius: Tensor

    def __init__(
        self,
        in_features: int,
        dim: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        window: int = 64,
        embedding_dim: int = 8,
        loss_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.backbone = HitEncoder(in_features, dim, num_layers, num_heads, window)
        self.followers = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, embedding_dim))
        self.influencers = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, embedding_dim))
        try:
            loss = InfluencerLoss(**(loss_options or {}))
        except TypeError as error:
            raise UserError(f"loss_options do not fit the embeddings' influencer loss: {error}") from error
        self.criterion = EmbeddingCriterion(loss)
        self.register_buffer("radius", torch.tensor(0.5 * loss.rep_margin))

    @property
    def radii(self) -> list[float]:
        """Radii to choose from, in units of the embedding."""
        return [self.criterion.loss.rep_margin * radius for radius in RADII]

    def forward(self, batch: Mapping[str, Any]) -> EmbeddingOutputs:
        """Embeddings, and the loss where the batch holds the truth.

        Args:
            batch: sequences of B events: "features" (N_i, F), "positions" (N_i, 3) in mm, and optionally
                "instance_labels" (N_i,) int64. Other keys are ignored.

        Raises:
            UserError, ValueError: see :func:`influencerformer.models.tracks.batch.pack_hits`.
        """
        hits = pack_hits(batch, self.in_features)
        encoded = self.backbone(*hits)
        outputs = EmbeddingOutputs(
            list(self.followers(encoded).split(hits.sizes)), list(self.influencers(encoded).split(hits.sizes))
        )
        if batch.get("instance_labels") is None:
            return outputs
        return outputs._replace(loss=self.criterion(outputs, batch["instance_labels"]))

    def tracks(self, outputs: EmbeddingOutputs, index: int) -> Tensor:
        """(N_i,) int64, the track 1.. of each hit of one event at the model's radius, 0 none."""
        return condensed_tracks(outputs.followers[index], outputs.influencers[index], float(self.radius))


@torch.no_grad()
def condensed_tracks(followers: Tensor, influencers: Tensor, radius: float, min_hits: int = MIN_HITS) -> Tensor:
    """Tracks from embeddings: hits within a radius around chosen influencers.

    Candidates are the influencers that are nearest to some follower. Of those duplicates are left out as by
    :func:`influencerformer.losses.influencer_choice.choose_influencers`, and each hit goes to the nearest that is left,
    as by :func:`influencerformer.losses.condense`; here by trees, whose memory does not grow with the pairs of hits.

    Args:
        followers, influencers: (N, D).
        radius: in units of the embedding.
        min_hits: a track with fewer is none.

    Returns:
        (N,) int64, 0 none, 1..m tracks without gaps.
    """
    f, g = (values.double().cpu().numpy() for values in (followers, influencers))
    none = torch.zeros(len(f), dtype=torch.int64, device=followers.device)
    if not len(f):
        return none
    nearest = KDTree(g).query(f, distance_upper_bound=radius)[1]
    candidates = g[np.unique(nearest[nearest < len(g)])]
    chosen = _chosen(KDTree(f), candidates, radius, min_hits)
    if not chosen:
        return none
    track = KDTree(candidates[chosen]).query(f, distance_upper_bound=radius)[1] + 1
    return drop_short(torch.from_numpy(np.where(track > len(chosen), 0, track)), min_hits).to(followers.device)


def _chosen(followers: KDTree, candidates: NDArray[np.float64], radius: float, min_hits: int) -> list[int]:
    """Greedy set cover: again and again the candidate with most followers within the radius that are left.

    A candidate never gains followers, so its last count is a bound: it is counted anew only when it comes first.
    """
    if not len(candidates):
        return []
    left = np.ones(followers.n, dtype=bool)
    counts = followers.query_ball_point(candidates, radius, return_length=True)
    queue = [(-int(count), index) for index, count in enumerate(counts)]
    heapq.heapify(queue)
    chosen = []
    while queue and -queue[0][0] >= min_hits:
        bound, index = queue[0]
        around = np.asarray(followers.query_ball_point(candidates[index], radius), dtype=np.int64)
        around = around[left[around]]
        if len(around) == -bound:
            heapq.heappop(queue)
            chosen.append(index)
            left[around] = False
        else:
            heapq.heapreplace(queue, (-len(around), index))
    return chosen


def drop_short(tracks: Tensor, min_hits: int = MIN_HITS) -> Tensor:
    """(N,) tracks 1.. of hits, 0 none, without those of fewer hits, numbered 1..m anew."""
    counts = torch.bincount(tracks)
    kept = counts >= min_hits
    kept[:1] = False
    numbers = torch.where(kept, kept.cumsum(0), 0)
    return numbers[tracks]
