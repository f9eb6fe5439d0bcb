"""`influencerformer predict` on events: TrackML's submission form for each, and one page with what was found."""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jinja2 import Environment
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Subset

from influencerformer.data.tracks.collate import collate_events
from influencerformer.data.tracks.datamodule import TrackDataModule
from influencerformer.data.tracks.event_folder import EventFolder
from influencerformer.data.tracks.sample import Event
from influencerformer.errors import UserError
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.pictures.track_rates import rate_figure
from influencerformer.pictures.tracks import event_display
from influencerformer.training.config_files import data_of_run
from influencerformer.training.track_module import TrackSegmenter

PAGE_FILE = "tracks.html"
CSV_HEADER = "hit_id,track_id"
CROWDED = 200
"""Tracks beyond which an event is shown in a slice too."""
SLICE = (0.0, 30.0)
VALUE_WORDS = {
    "efficiency": "particles that a track finds (double majority)",
    "perfect_efficiency": "particles of which a track has exactly the hits",
    "fake_rate": "tracks without a particle that has most of their hits",
    "duplicate_rate": "tracks of a particle beyond its first one",
    "purity": "hits of tracks that find a particle, from that particle",
    "trackml_score": "the TrackML challenge's score",
}


class TrackPredictor:
    """Finds the tracks of single events with a trained model.

    Args:
        segmenter: of `load_segmenter`.
        device: where to compute.
    """

    def __init__(self, segmenter: TrackSegmenter, device: torch.device | str = "cpu") -> None:
        self.segmenter = segmenter.to(device).eval()

    @torch.inference_mode()
    def __call__(self, event: Event) -> Tensor:
        """(N,) int64 on the CPU, the track 1.. of each hit, 0 none; the event's truth is not looked at."""
        batch: dict[str, Any] = collate_events([event])
        device = self.segmenter.device
        inputs = {name: [value.to(device) for value in batch[name]] for name in ("features", "positions")}
        return self.segmenter.tracks(self.segmenter({"names": batch["names"], **inputs}), 0)


def find_event_folder(folder: Path) -> EventFolder:
    """The events of a folder, with their truth where it is there.

    Raises:
        UserError: the folder is missing or holds no events.
    """
    return EventFolder(folder, need_truth=False)


def validation_events(checkpoint: Path, config: Path | None) -> EventFolder:
    """The validation events of a run's data.

    Raises:
        UserError: there is no configuration, or its data cannot be used.
    """
    return data_of_run(TrackDataModule, checkpoint, config, "a folder of events by --events").eval_dataset()


def write_submission(path: Path, hit_ids: npt.NDArray[np.int64], tracks: npt.NDArray[np.int64]) -> None:
    """TrackML's form without the column event_id: the track of each hit, 0 none."""
    np.savetxt(path, np.stack([hit_ids, tracks], 1), fmt="%d", delimiter=",", header=CSV_HEADER, comments="")


def predict_tracks(
    segmenter: TrackSegmenter,
    events: EventFolder | Subset[Event],
    out: Path,
    shown: int = 3,
    device: str = "auto",
) -> list[str]:
    """Finds the tracks of events and writes the results.

    Args:
        segmenter: of `load_segmenter`.
        events: with or without truth.
        out: folder for NAME.csv of each, and tracks.html for all.
        shown: events that the page shows pictures of.
        device: auto, cpu, cuda, ...

    Returns:
        One sentence for each event that could not be used; the others are done.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = TrackPredictor(segmenter, device)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    metrics = TrackMetrics()
    problems: list[str] = []
    rows: list[tuple[str, int, int, str]] = []
    displays: list[dict[str, str]] = []
    total = 0
    for index in track(range(len(events)), "Finding tracks", console=console, disable=not console.is_terminal):
        try:
            event = events[index]
            found = predictor(event)
        except UserError as error:
            problems.append(str(error))
            console.print(f"skipped: {problems[-1]}", markup=False, highlight=False, soft_wrap=True)
            continue
        name = f"{event.name}.csv"
        write_submission(out / name, event.hit_ids.numpy(), found.numpy())
        count = int(found.max()) if len(found) else 0
        total += count
        rows.append((event.name, len(event), count, name))
        if event.has_truth:
            metrics.update(event.name, found, event)
        if len(displays) < shown:
            displays.append(_picture(event_display(event, found), f"{event.name}: truth and prediction"))
            if count > CROWDED:
                sliced = event_display(event, found, sector=SLICE)
                displays.append(_picture(sliced, f"{event.name}: a slice of {SLICE[1]:g} degrees"))
    write_page(out / PAGE_FILE, rows, metrics, displays)
    print(f"{len(rows)} of {len(events)} events done, {total} tracks: {out / PAGE_FILE}")
    return problems


def write_page(
    path: Path, rows: Sequence[tuple[str, int, int, str]], metrics: TrackMetrics, displays: Sequence[dict[str, str]]
) -> None:
    """One HTML file that needs nothing else.

    Args:
        path: of the page.
        rows: name, number of hits, number of tracks, and file of each event.
        metrics: of the events with a truth.
        displays: "text" and "source" of pictures of events.
    """
    values: list[tuple[str, str, str]] = []
    rates = None
    if metrics.counts()["events"]:
        computed = metrics.compute()
        values = [
            (name.replace("_", " "), f"{100 * computed[name]:.1f} %", words) for name, words in VALUE_WORDS.items()
        ]
        rates = _picture(rate_figure({"prediction": metrics}), "rates against transverse momentum and pseudorapidity")
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files("influencerformer.training").joinpath("track_page.html").read_text(encoding="utf-8")
    )
    html = template.render(rows=rows, values=values, rates=rates, displays=displays, counts=metrics.counts())
    path.write_text(html, encoding="utf-8", errors="replace")  # names of files need not be text


def _picture(figure: Figure, text: str) -> dict[str, str]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return {"text": text, "source": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}


def add_track_options(parser: argparse.ArgumentParser) -> None:
    """The options of `predict` that are for events alone."""
    group = parser.add_argument_group(
        "events",
        "For a checkpoint of particle tracks. Writes for each event NAME.csv (hit_id, track_id; 0 is no track), and "
        f"{PAGE_FILE} with pictures of events and, where the truth is known, how much was found.",
    )
    group.add_argument(
        "--events",
        type=Path,
        help="folder of events in TrackML's files; without it the validation events of the run's data",
    )
    group.add_argument("--max-events", type=int, help="number of events, the first ones (default: all)")
