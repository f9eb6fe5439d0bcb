"""Plots of rates show what the metrics counted."""

from __future__ import annotations

import numpy as np
import pytest

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.generate import generate_event
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.pictures.track_rates import rate_figure


@pytest.fixture(scope="module")
def metrics() -> dict[str, TrackMetrics]:
    event = assemble_event("e", generate_event(4, 60))
    kept = event.particle_labels.clone()
    kept[event.particle_labels % 3 == 0] = 0
    found = {}
    for name, labels in (("influencer", event.particle_labels), ("Hungarian", kept)):
        found[name] = TrackMetrics()
        found[name].update("e", labels, event)
    return found


def test_points_and_errors_are_those_of_the_metrics(metrics: dict[str, TrackMetrics]) -> None:
    figure = rate_figure(metrics)
    assert len(figure.axes) == 6
    for panel, quantity in ((0, "pt"), (1, "eta")):
        for container, values in zip(figure.axes[panel].containers, metrics.values(), strict=True):
            binned = values.against("efficiency", quantity)  # type: ignore[arg-type]
            filled = binned.total > 0
            low, high = binned.interval
            points, _, bars = container
            assert points.get_ydata().tolist() == binned.rate[filled].tolist()
            ends = np.array([segment[:, 1] for segment in bars[1].get_segments()])
            assert np.allclose(ends, np.stack([low, high], 1)[filled])
            widths = np.array([segment[:, 0] for segment in bars[0].get_segments()])
            assert np.allclose(widths, np.stack([binned.edges[:-1], binned.edges[1:]], 1)[filled])


def test_names_axes_and_counts_are_written(metrics: dict[str, TrackMetrics]) -> None:
    figure = rate_figure(metrics)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["influencer", "Hungarian"]
    assert [figure.axes[row].get_ylabel() for row in (0, 2, 4)] == ["efficiency", "fake rate", "particles found twice"]
    assert [axes.get_xlabel() for axes in figure.axes[4:]] == ["transverse momentum (GeV)", "pseudorapidity"]
    assert figure.get_suptitle() == "1 events, 60 particles of interest"
    alone = rate_figure({"only": metrics["influencer"]})
    assert alone.axes[0].get_legend() is None


@pytest.mark.parametrize("nothing", [{}, {"empty": TrackMetrics()}])
def test_nothing_to_show(nothing: dict[str, TrackMetrics]) -> None:
    with pytest.raises(ValueError, match="rate_figure needs metrics with at least one event"):
        rate_figure(nothing)
