"""Efficiency, fakes and duplicates of tracks against momentum and direction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from influencerformer.metrics.track_rates import BinnedRate
from influencerformer.metrics.tracks import Quantity, Rate, TrackMetrics

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a4508b", "#7f6000", "#56b4e9")
"""Distinguishable to the colour-blind."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GRID, _TEXT = "#d8dee4", "#1f2328"
_TITLES: dict[Rate, str] = {
    "efficiency": "efficiency",
    "fake_rate": "fake rate",
    "duplicate_rate": "particles found twice",
}
_LABELS: dict[Quantity, str] = {"pt": "transverse momentum (GeV)", "eta": "pseudorapidity"}
_PT_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def rate_figure(metrics: Mapping[str, TrackMetrics]) -> Figure:
    """Rates in bins of transverse momentum and pseudorapidity, one colour and marker a name.

    The bars are Wilson's 68 % intervals, and bin widths. Efficiency and duplicates are against the particles' true
    values, fakes against the values fitted to the tracks. Bins without an entry are left out.

    Args:
        metrics: what to show by its name for the legend, such as one entry a loss.

    Raises:
        ValueError: nothing to show.
    """
    if not metrics or not any(values.counts()["events"] for values in metrics.values()):
        raise ValueError("rate_figure needs metrics with at least one event")
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(_TITLES), len(_LABELS), sharex="col", sharey="row", squeeze=False)
    for row, (rate, title) in enumerate(_TITLES.items()):
        for column, (quantity, label) in enumerate(_LABELS.items()):
            axes = grid[row, column]
            for number, (name, values) in enumerate(metrics.items()):
                shift = (number - (len(metrics) - 1) / 2) * 0.12
                _draw(axes, values.against(rate, quantity), quantity, name, number, shift)
            _style(axes, quantity)
            if column == 0:
                axes.set_ylabel(title, color=_TEXT)
            if row == len(_TITLES) - 1:
                axes.set_xlabel(f"{label}", color=_TEXT)
        low, high = grid[row, 0].get_ylim()
        grid[row, 0].set_ylim(*((min(low, 0.8), 1.02) if rate == "efficiency" else (-0.005, max(high, 0.1))))
    if len(metrics) > 1:
        grid[0, 0].legend(loc="lower right", fontsize=9, edgecolor=_GRID)
    counts = next(iter(metrics.values())).counts()
    figure.suptitle(f"{counts['events']} events, {counts['particles']} particles of interest", color=_TEXT, fontsize=12)
    return figure


def _draw(axes: Axes, binned: BinnedRate, quantity: Quantity, name: str, number: int, shift: float) -> None:
    filled = binned.total > 0
    low, high = (end[filled] for end in binned.interval)
    rate = binned.rate[filled]
    left, right = binned.edges[:-1][filled], binned.edges[1:][filled]
    # Several names stand side by side within a bin.
    place = 0.5 + shift
    middle = left * (right / left) ** place if quantity == "pt" else left + (right - left) * place
    axes.errorbar(
        middle,
        rate,
        xerr=(middle - left, right - middle),
        yerr=(np.maximum(rate - low, 0), np.maximum(high - rate, 0)),
        fmt=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        linewidth=1.2,
        color=COLOURS[number % len(COLOURS)],
        label=name,
    )


def _style(axes: Axes, quantity: Quantity) -> None:
    if quantity == "pt":
        axes.set_xscale("log")
        axes.set_xticks(_PT_TICKS)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_TEXT, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
