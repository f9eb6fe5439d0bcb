"""Pictures of events: hits and tracks across and along the beam, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from torch import Tensor

from influencerformer.data.tracks.detector import LAYERS
from influencerformer.data.tracks.sample import Event
from influencerformer.metrics.track_matching import FAKE, TrackMatches, match_tracks
from influencerformer.pictures.cloud_colours import instance_colours

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LAYER = "#dfe3e8"
BACKGROUND = "#a4a9b0"
OTHER_COLOUR = "#8f959d"
UNFOUND = "#4d535b"
FAKE_COLOUR = "#000000"
TEXT = "#1f2328"


@dataclass(frozen=True)
class _Group:
    """Tracks that are drawn alike: hits of each (in order), colours (T, 3) in 0..1, name for the legend."""

    name: str
    tracks: Sequence[Integers]
    colours: Floats
    dashed: bool = False
    marker: str = "o"

    def select(self, which: npt.NDArray[np.bool_]) -> _Group:
        """The group with some of its tracks; the name stays."""
        return replace(self, tracks=_chosen(self.tracks, which), colours=self.colours[which])


def event_display(
    event: Event,
    tracks_of_hits: Tensor | None = None,
    *,
    min_hits: int = 3,
    sector: tuple[float, float] | None = None,
) -> Figure:
    """The truth of an event, and beside it a prediction, each seen along the beam (x-y) and from the side (z-r).

    A particle that is found has a colour of its own, the same in the truth and in the track that finds it; one that is
    not found is dark grey and dashed. Tracks of a particle that do not find it (duplicates, fragments) have its colour
    too, dashed. Fakes are black with crosses. Tracks of particles that fail the cuts are light grey, hits in no track
    grey dots. Straight lines join the hits of a track in the order of their distance from the origin.

    Args:
        event: with or without truth.
        tracks_of_hits: (N,) integer label of each hit's track, 0 none; None shows the truth alone.
        min_hits: tracks of fewer hits are no tracks, as in `TrackMetrics`.
        sector: shows only the tracks whose middle hit has an azimuth between these two angles in degrees, counter-
            clockwise from the first to the second: crowded events are clear in a slice. Legends count all tracks.

    Raises:
        ValueError: labels that do not fit the event, neither truth nor prediction, or a sector that does not ascend.
    """
    if sector is not None and not 0 < sector[1] - sector[0] <= 360:
        raise ValueError(f"sector must be two angles in degrees, the smaller first, got {sector}")
    columns: list[tuple[str, list[_Group]]] = []
    matches = None
    if event.has_truth and tracks_of_hits is not None:
        matches = match_tracks(tracks_of_hits, event, min_hits)
    if event.has_truth:
        columns.append((f"truth: {event.num_particles} particles", _true_groups(event, matches)))
    if tracks_of_hits is not None:
        if tuple(tracks_of_hits.shape) != (len(event),):
            raise ValueError(f"tracks_of_hits must be ({len(event)},), got {tuple(tracks_of_hits.shape)}")
        labels = tracks_of_hits.detach().cpu().numpy()
        columns.append(_predicted(event, labels, matches, min_hits))
    if not columns:
        raise ValueError(f"event {event.name!r} has no truth: give tracks_of_hits to show")

    figure = Figure(figsize=(6.4 * len(columns), 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    positions = event.positions.numpy().astype(np.float64)
    across = positions[:, :2]
    along = np.stack([positions[:, 2], np.hypot(positions[:, 0], positions[:, 1])], 1)
    axes = figure.subplots(2, len(columns), squeeze=False, gridspec_kw={"height_ratios": [1.7, 1]})
    for column, (title, groups) in enumerate(columns):
        _add_legend(axes[0, column], title, groups)
        if sector is not None:
            groups = [group.select(_within(across, group.tracks, sector)) for group in groups]
        for view, (place, draw_layers) in enumerate(((across, _draw_rings), (along, _draw_side))):
            draw_layers(axes[view, column])
            _draw(axes[view, column], place, groups)
        if sector is not None:
            _zoom(axes[0, column], sector)
    slice_name = "" if sector is None else f", azimuth {sector[0]:g} to {sector[1]:g} degrees"
    figure.suptitle(f"{event.name}, {len(event)} hits{slice_name}", color=TEXT, fontsize=13)
    return figure


def _true_groups(event: Event, matches: TrackMatches | None) -> list[_Group]:
    labels = event.particle_labels.numpy()
    hits = _members(event, labels, np.arange(1, event.num_particles + 1))
    colours = instance_colours(event.num_particles) / 255
    found = np.ones(len(hits), dtype=bool) if matches is None else matches.found
    rest = np.flatnonzero(labels == 0)
    groups = [_loose(event, rest, f"{len(rest)} hits of noise or of other particles")]
    missed = np.tile(_rgb(UNFOUND), (int((~found).sum()), 1))
    groups.append(_Group(f"{len(missed)} not found", _chosen(hits, ~found), missed, dashed=True))
    name = f"{int(found.sum())} particles" if matches is None else f"{int(found.sum())} found"
    groups.append(_Group(name, _chosen(hits, found), colours[found]))
    return groups


def _predicted(event: Event, labels: Integers, matches: TrackMatches | None, min_hits: int) -> tuple[str, list[_Group]]:
    """Title and groups of the prediction."""
    if matches is None:
        numbers, sizes = np.unique(labels[labels > 0], return_counts=True)
        numbers = numbers[sizes >= min_hits]
        loose = np.flatnonzero(~np.isin(labels, numbers))
        tracks = _Group(
            f"{len(numbers)} tracks", _members(event, labels, numbers), instance_colours(len(numbers)) / 255
        )
        return f"prediction: {len(numbers)} tracks", [_loose(event, loose, f"{len(loose)} hits in no track"), tracks]
    hits = _members(event, labels, matches.labels)
    loose = np.flatnonzero(~np.isin(labels, matches.labels))
    colours = instance_colours(event.num_particles) / 255
    fake, of_particle = matches.particle == FAKE, matches.particle > 0
    extra, other = of_particle & ~matches.double, ~fake & ~of_particle
    groups = [_loose(event, loose, f"{len(loose)} hits in no track")]
    for name, which, colour, dashed, marker in (
        ("of other particles", other, OTHER_COLOUR, False, "o"),
        ("duplicate or fragment", extra, None, True, "o"),
        ("find a particle", matches.double, None, False, "o"),
        ("fake", fake, FAKE_COLOUR, False, "x"),
    ):
        shades = (
            colours[matches.particle[which] - 1] if colour is None else np.tile(_rgb(colour), (int(which.sum()), 1))
        )
        groups.append(_Group(f"{int(which.sum())} {name}", _chosen(hits, which), shades, dashed, marker))
    return f"prediction: {len(hits)} tracks", groups


def _members(event: Event, labels: Integers, numbers: Integers) -> list[Integers]:
    """The hits of each label in the order of their distance from the origin; `numbers` ascend."""
    distance = event.positions.norm(dim=1).numpy()
    order = np.lexsort((distance, labels))
    starts = np.searchsorted(labels[order], numbers)
    ends = np.searchsorted(labels[order], numbers, side="right")
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _chosen(hits: Sequence[Integers], which: npt.NDArray[np.bool_]) -> list[Integers]:
    return [members for members, chosen in zip(hits, which, strict=True) if chosen]


def _within(across: Floats, tracks: Sequence[Integers], sector: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """(T,) whether the middle hit of each track lies in the sector."""
    x, y = across[np.array([members[len(members) // 2] for members in tracks], dtype=np.int64)].T
    low, high = sector
    inside: npt.NDArray[np.bool_] = (np.degrees(np.arctan2(y, x)) - low) % 360 <= high - low
    return inside


def _loose(event: Event, hits: Integers, name: str) -> _Group:
    """Hits that are joined by nothing."""
    return _Group(name, [hits[n : n + 1] for n in range(len(hits))], np.tile(_rgb(BACKGROUND), (len(hits), 1)))


def _rgb(colour: str) -> Floats:
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255


def _draw(axes: Axes, place: Floats, groups: Sequence[_Group]) -> None:
    crowd = sum(len(group.tracks) for group in groups[1:])
    # Hundreds of tracks need thin lines and small dots.
    width, size = np.interp(crowd, (30, 500), (1.4, 0.4)), np.interp(crowd, (30, 500), (12, 1.5))
    for number, group in enumerate(groups):
        if not len(group.tracks):
            continue
        x, y = place[np.concatenate(group.tracks)].T
        shades = np.repeat(group.colours, [len(members) for members in group.tracks], axis=0)
        cross = group.marker == "x"
        factor, edge = (2.5, 1.0) if cross else (0.5 if number == 0 else 1.0, 0.0)
        axes.scatter(x, y, s=size * factor, c=shades, marker=group.marker, linewidths=edge, zorder=3 + number)
        if number:
            style = (0, (3, 2)) if group.dashed else "solid"
            lines = [place[members] for members in group.tracks]
            axes.add_collection(
                LineCollection(lines, colors=group.colours, linewidths=width, linestyles=[style], zorder=2 + number)
            )


def _zoom(axes: Axes, sector: tuple[float, float]) -> None:
    """Limits a view along the beam to the sector and 10 degrees on both sides, the beam line included."""
    angle = np.radians(np.linspace(sector[0] - 10, sector[1] + 10, 181))
    outline = 1040 * np.stack([np.append(np.cos(angle), 0), np.append(np.sin(angle), 0)], 1)
    low, high = outline.min(0), outline.max(0)
    (left, bottom), side = (low + high) / 2 - (high - low).max() / 2, (high - low).max()
    axes.set_xlim(left, left + side)
    axes.set_ylim(bottom, bottom + side)


def _draw_rings(axes: Axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 181)
    for layer in LAYERS:
        if layer.barrel:
            axes.plot(layer.place * np.cos(angle), layer.place * np.sin(angle), color=LAYER, linewidth=0.8, zorder=1)
    axes.set_aspect("equal")
    _label(axes, "x (mm)", "y (mm)")


def _draw_side(axes: Axes) -> None:
    for layer in LAYERS:
        ends, place = (layer.low, layer.high), (layer.place, layer.place)
        axes.plot(*((ends, place) if layer.barrel else (place, ends)), color=LAYER, linewidth=0.8, zorder=1)
    axes.set_ylim(bottom=0)
    _label(axes, "z (mm)", "r (mm)")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=TEXT)
    axes.set_ylabel(y, color=TEXT)
    axes.tick_params(colors=TEXT, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(LAYER)


def _add_legend(axes: Axes, title: str, groups: Sequence[_Group]) -> None:
    """Above the axes, where it hides no hit; groups of several colours show three of them."""
    handles, names = [], []
    for number, group in enumerate(groups):
        if not len(group.tracks):
            continue
        style: Literal["none", "-", "--"] = "none" if number == 0 else "--" if group.dashed else "-"
        colours = np.unique(group.colours[:3], axis=0)
        marks = [Line2D([], [], color=colour, linestyle=style, marker=group.marker, markersize=4) for colour in colours]
        handles.append(tuple(marks))
        names.append(group.name)
    legend = axes.legend(
        handles,
        names,
        title=title,
        title_fontsize=12,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        fontsize=9,
        frameon=False,
        handlelength=3.0,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
    )
    legend.get_title().set_color(TEXT)
