"""The radius of condensation, chosen on validation events."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from influencerformer.data.tracks.sample import Event
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.models.tracks.condensation import CondensationTracker, condensed_tracks


class RadiusChoice:
    """Track metrics at each radius that a model offers; `compute` gives those of the best, and the model that radius.

    The best radius has the largest harmonic mean of efficiency and precision; of equals the smallest.

    Args:
        model: whose `radii` are tried, and whose `radius` is set.
    """

    def __init__(self, model: CondensationTracker) -> None:
        self.model = model
        self.metrics = {radius: TrackMetrics() for radius in model.radii}

    def update(self, name: str, followers: Tensor, influencers: Tensor, event: Event) -> None:
        """Adds one event.

        Args:
            name: of the event.
            followers, influencers: (N, D).
            event: with its truth.
        """
        for radius, metric in self.metrics.items():
            metric.update(name, condensed_tracks(followers, influencers, radius), event)

    def state(self) -> list[Any]:
        """What another process merges; picklable."""
        return [metric.state() for metric in self.metrics.values()]

    def merge(self, state: list[Any]) -> None:
        """Adds what another process collected."""
        for metric, one in zip(self.metrics.values(), state, strict=True):
            metric.merge(one)

    def compute(self) -> dict[str, Any]:
        """The values of the best radius; it becomes the model's."""
        found = {radius: metric.compute() for radius, metric in self.metrics.items()}
        best = max(found, key=lambda radius: _balance(found[radius]))
        self.model.radius.fill_(best)
        return found[best]


def _balance(values: dict[str, Any]) -> float:
    found, right = values["efficiency"], values["precision"]
    return 2 * found * right / (found + right) if found and right else 0.0
