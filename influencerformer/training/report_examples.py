"""The same validation images or clouds as every loss sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.data.tracks.datamodule import TrackDataModule
from influencerformer.training.callbacks import LAST_CHECKPOINT
from influencerformer.training.compare_setup import Setup, run_folder
from influencerformer.training.config_files import CONFIG_FILE, build_data
from influencerformer.training.record import RunRecord
from influencerformer.training.report_clouds import cloud_row
from influencerformer.training.report_events import event_row
from influencerformer.training.report_images import MATCH_IOU, ImageRow, image_row
from influencerformer.training.segmenter import Segmenter
from influencerformer.training.tasks import TASKS, load_segmenter

EXAMPLES = 6
NOTE = (
    "{count} of {total} validation {inputs}, evenly spaced in their list and not chosen by result; final "
    "weights of seed {seed}. Each loss shows as many predictions as there are instances, those with the "
    "highest scores (of predictions that cover each other only the best). A prediction has the colour of the "
    "instance of its class that it covers at IoU {iou} or more, each instance counted once; {unmatched}: none "
    "(also where only the class is wrong)."
)


EVENTS = 3
EVENT_NOTE = (
    "{count} of {total} validation events, evenly spaced in their list and not chosen by result; final weights of seed "
    "{seed}. Beside the tracks of each loss is the truth. A particle has the same colour wherever a track finds it "
    "(more than half of the track's hits are the particle's, and more than half of the particle's hits are in the "
    "track). Dashed: tracks of a particle that do not find it, and in the truth, grey, particles that this loss does "
    "not find; black: fakes."
)


def validation_examples(out: Path, setup: Setup, records: Sequence[RunRecord]) -> tuple[list[ImageRow], str]:
    """Pictures of the first seed that all losses have finished, and the sentence above them."""
    finished = {(r.loss, r.seed) for r in records if r.finished}
    seeds = [seed for seed in setup.seeds if all((loss, seed) in finished for loss in setup.losses)]
    folders = {loss: run_folder(out, loss, seeds[0]) for loss in setup.losses} if seeds else {}
    if not seeds:
        return [], "No seed has been trained to the end with every loss, so there are no pictures to compare."
    absent = [str(folder / LAST_CHECKPOINT) for folder in folders.values() if not (folder / LAST_CHECKPOINT).is_file()]
    if absent:
        return [], f"No pictures: there is no checkpoint {', '.join(absent)}."
    runs = {loss: load_run(folder) for loss, folder in folders.items()}
    models: dict[str, Any] = {loss: model for loss, (model, _) in runs.items()}
    data = next(iter(runs.values()))[1]
    if isinstance(data, PointDataModule):
        rooms = data.eval_dataset()
        total, indices = len(rooms), evenly(len(rooms), EXAMPLES)
        unmatched, rows = "dark grey", [cloud_row(rooms[index], models) for index in indices]
    elif isinstance(data, TrackDataModule):
        events = data.eval_dataset()
        total, indices = len(events), evenly(len(events), EVENTS)
        return [event_row(events[index], models) for index in indices], EVENT_NOTE.format(
            count=len(indices), total=total, seed=seeds[0]
        )
    else:
        images = data.eval_dataset()
        total, indices = len(images), evenly(len(images), EXAMPLES)
        unmatched, rows = "white", [image_row(images[index], models, data.size_divisor) for index in indices]
    inputs = TASKS[next(iter(models.values())).task].inputs
    note = NOTE.format(
        count=len(indices), total=total, inputs=inputs, seed=seeds[0], iou=MATCH_IOU, unmatched=unmatched
    )
    return rows, note


def load_run(folder: Path) -> tuple[Segmenter, InstanceDataModule | PointDataModule | TrackDataModule]:
    """The trained network of a run, ready to predict on the CPU, and its data."""
    config = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    segmenter = load_segmenter(folder / LAST_CHECKPOINT)
    data: Any = build_data(TASKS[segmenter.task].data, config["data"])
    return segmenter, data


def evenly(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices spread evenly over 0..count-1, whatever lies there."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
