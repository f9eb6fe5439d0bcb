"""The curves of a comparison as PNG images, for light and for dark pages."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from influencerformer.training.compare_stats import VALUE_TITLES, loss_title, values_of
from influencerformer.training.record import EvalPoint, RunRecord

Line = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: page, text, grid, and one a loss (distinguishable to the colour-blind)."""

    name: str
    page: str
    text: str
    grid: str
    losses: tuple[str, ...]


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d8dee4", ("#0072b2", "#d55e00", "#009e73", "#a4508b"))
DARK = Theme("dark", "#14171c", "#e6e8eb", "#343a42", ("#56b4e9", "#f5a254", "#3cc8a0", "#e5a5cc"))


def curve_figures(records: Sequence[RunRecord], losses: Sequence[str], theme: Theme) -> dict[str, bytes]:
    """All figures by file stem, as PNG. Figures without data are left out."""
    figures: dict[str, bytes] = {}
    if any(r.evaluations for r in records):
        first, second, *others = values_of(records)
        figures[f"{first.lower()}_per_step"] = _metric_figure(
            records, losses, theme, lambda p: p.step, "training steps", lambda p: p.ap, _label(first)
        )
        figures[f"{first.lower()}_per_second"] = _metric_figure(
            records, losses, theme, lambda p: p.seconds, "seconds of training", lambda p: p.ap, _label(first)
        )
        figures[f"{second.lower()}_per_step"] = _metric_figure(
            records, losses, theme, lambda p: p.step, "training steps", lambda p: p.ap50, _label(second)
        )
        for index, name in enumerate(others):
            figures[f"{name.lower()}_per_step"] = _metric_figure(
                records, losses, theme, lambda p: p.step, "training steps", _other(index), _label(name)
            )
    if any(r.losses for r in records):
        figures["training_loss"] = _loss_figure(records, losses, theme)
    return figures


def curve_texts(values: Sequence[str]) -> dict[str, str]:
    """What each figure shows, by file stem, for runs that are judged by these values."""
    texts = {f"{name.lower()}_per_step": f"{_label(name)} against training steps" for name in values}
    texts[f"{values[0].lower()}_per_second"] = f"{_label(values[0])} against seconds of training"
    return texts | {"training_loss": "training loss against training steps, one panel a loss"}


def _label(name: str) -> str:
    return f"{VALUE_TITLES[name]}, %" if name in VALUE_TITLES else f"mask {name}"


def _other(index: int) -> Callable[[EvalPoint], float]:
    return lambda point: point.others[index]


def mean_line(lines: Sequence[Line]) -> Line:
    """The mean of several curves point by point, over the points that all of them have."""
    length = min((len(x) for x, _ in lines), default=0)
    return (
        [sum(x[i] for x, _ in lines) / len(lines) for i in range(length)],
        [sum(y[i] for _, y in lines) / len(lines) for i in range(length)],
    )


def _metric_figure(
    records: Sequence[RunRecord],
    losses: Sequence[str],
    theme: Theme,
    x_of: Callable[[EvalPoint], float],
    x_label: str,
    y_of: Callable[[EvalPoint], float],
    y_label: str,
) -> bytes:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for index, loss in enumerate(losses):
        runs = [r for r in records if r.loss == loss and r.evaluations]
        lines = [([float(x_of(p)) for p in r.evaluations], [y_of(p) for p in r.evaluations]) for r in runs]
        finished = [line for line, r in zip(lines, runs, strict=True) if r.finished]
        _draw(axes, lines, finished, loss_title(loss), _colour(theme, index))
    finals = [r.evaluations[-1] for r in records if r.loss == losses[0] and r.finished and r.evaluations]
    if finals:
        level = sum(y_of(p) for p in finals) / len(finals)
        axes.axhline(level, color=_colour(theme, 0), linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            f"baseline's final {level:.1f}",
            (0.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8,
            color=_colour(theme, 0),
            bbox={"facecolor": theme.page, "edgecolor": "none", "pad": 1.5},
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend(axes, theme)
    return _png(figure, theme)


def _loss_figure(records: Sequence[RunRecord], losses: Sequence[str], theme: Theme) -> bytes:
    """One panel a loss: their values have different meanings and share no axis."""
    figure = Figure(figsize=(max(6.4, 3.2 * len(losses)), 4.0), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(losses), squeeze=False)[0]
    for index, (axes, loss) in enumerate(zip(panels, losses, strict=True)):
        runs = [r for r in records if r.loss == loss and r.losses]
        lines = [
            ([float(p.step) for p in r.losses], [math.nan if p.loss is None else p.loss for p in r.losses])
            for r in runs
        ]
        finished = [line for line, r in zip(lines, runs, strict=True) if r.finished]
        _draw(axes, lines, finished, "", _colour(theme, index), marker="")
        values = [y for _, ys in lines for y in ys if not math.isnan(y)]
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        elif values and min(values) > 0:
            axes.set_ylim(bottom=0)
        axes.set_title(loss_title(loss), fontsize=10)
        axes.set_xlabel("training steps")
        axes.set_ylabel("training loss")
        axes.set_xlim(left=0)
    return _png(figure, theme)


def _draw(
    axes: Axes, lines: Sequence[Line], finished: Sequence[Line], label: str, colour: str, marker: str = "o"
) -> None:
    """Each seed thin, the mean of the finished ones bold."""
    if len(lines) > 1 or not finished:
        for x, y in lines:
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.45, zorder=2)
    if finished:
        x, y = mean_line(finished)
        label = label and f"{label} ({'1 seed' if len(finished) == 1 else f'mean of {len(finished)} seeds'})"
        axes.plot(x, y, color=colour, linewidth=2.4, marker=marker, markersize=4, zorder=3, label=label)


def _colour(theme: Theme, index: int) -> str:
    return theme.losses[index % len(theme.losses)]


def _legend(axes: Axes, theme: Theme) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    legend = axes.legend(loc="lower right", frameon=True, fontsize=9)
    legend.get_frame().set(facecolor=theme.page, edgecolor=theme.grid, alpha=0.85)
    for text in legend.get_texts():
        text.set_color(theme.text)


def _png(figure: Figure, theme: Theme) -> bytes:
    figure.set_facecolor(theme.page)
    for axes in figure.axes:
        axes.set_facecolor(theme.page)
        axes.grid(color=theme.grid, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=theme.text, labelsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
            part.set_color(theme.text)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
