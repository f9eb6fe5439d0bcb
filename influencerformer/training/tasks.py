"""What can be trained: a module and its data for each kind of input."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning

from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.data.tracks.datamodule import TrackDataModule
from influencerformer.errors import UserError
from influencerformer.training.checkpoints import read_checkpoint
from influencerformer.training.config_files import named_configs, resolve_config
from influencerformer.training.module import InstanceSegmenter
from influencerformer.training.point_module import PointSegmenter
from influencerformer.training.segmenter import Segmenter
from influencerformer.training.track_module import TrackSegmenter

TaskName = Literal["image", "points", "tracks"]


@dataclass(frozen=True)
class Task:
    """A kind of input: its Lightning module and data module, and how to call what it is about."""

    module: type[Segmenter]
    data: type[lightning.LightningDataModule]
    inputs: str


TASKS: dict[str, Task] = {
    "image": Task(InstanceSegmenter, InstanceDataModule, "images"),
    "points": Task(PointSegmenter, PointDataModule, "point clouds"),
    "tracks": Task(TrackSegmenter, TrackDataModule, "events"),
}


def named_task(arguments: Sequence[str]) -> Task:
    """The task that the arguments of a command name, by `--task` or in a configuration; images by default.

    Raises:
        UserError: there is no such task, or a configuration cannot be read.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", nargs="?")  # without a value the command's own parser says so
    name = parser.parse_known_args(list(arguments))[0].task
    for path in reversed(named_configs(arguments)):
        name = name or resolve_config(path).get("task")
    if name is not None and name not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name or "image"]


def load_segmenter(checkpoint: Path | str) -> Segmenter:
    """The model of a checkpoint of `fit`, on the CPU, in evaluation mode.

    Raises:
        UserError: the file is missing, no checkpoint of `fit`, or of another version's model.
    """
    path = Path(checkpoint)
    name = read_checkpoint(path).get("task", "image")
    if name not in TASKS:
        raise UserError(f"{path} is of the task {name!r}, which this version does not know: {', '.join(TASKS)}")
    options: dict[str, Any] = {"pretrained": False} if name == "image" else {}
    segmenter = TASKS[name].module.load_from_checkpoint(path, map_location="cpu", weights_only=True, **options)
    return segmenter.eval()
