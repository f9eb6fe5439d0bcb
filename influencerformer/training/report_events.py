"""One validation event as every loss sees it."""

from __future__ import annotations

import io
from collections.abc import Mapping

from influencerformer.data.tracks.sample import Event
from influencerformer.metrics.track_matching import match_tracks
from influencerformer.pictures.tracks import event_display
from influencerformer.training.compare_stats import loss_title
from influencerformer.training.report_images import ImageRow
from influencerformer.training.track_module import TrackSegmenter
from influencerformer.training.track_predict import TrackPredictor


def event_row(event: Event, models: Mapping[str, TrackSegmenter]) -> ImageRow:
    """The panels of one event: for each loss the truth and its tracks."""
    panels, counts = [], []
    for loss, model in models.items():
        found = TrackPredictor(model)(event)
        buffer = io.BytesIO()
        event_display(event, found).savefig(buffer, format="png", dpi=80)
        panels.append((loss_title(loss), buffer.getvalue()))
        counts.append(f"{loss_title(loss)} {int(match_tracks(found, event).found.sum())}")
    name = f"{event.name}, particles: {event.num_particles}, found: {', '.join(counts)}"
    return ImageRow(name, tuple(panels))
