"""What belongs to a data set that lies in a folder, in every format that the package reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

from influencerformer.data.bad_samples import CheckedDataset, Take
from influencerformer.data.coco import CocoDataset
from influencerformer.data.datamodule import Format
from influencerformer.data.files import split_path
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.data.points.formats import PointFormat, open_points
from influencerformer.data.points.room_files import MARKER
from influencerformer.data.stream import StreamDataModule
from influencerformer.data.tracks.datamodule import TrackFormat
from influencerformer.data.tracks.event_folder import EventFolder
from influencerformer.errors import UserError

FORMATS: dict[str, str] = {
    **dict.fromkeys(get_args(Format), "image"),
    **dict.fromkeys(get_args(PointFormat), "points"),
    **dict.fromkeys(get_args(TrackFormat), "tracks"),
}
"""The task of each format."""


@dataclass(frozen=True)
class DataPart:
    """A part of a data set, such as its training split.

    Attributes:
        name: of the part.
        open: opens it; is handed what takes the defects that are found on the way.
    """

    name: str
    open: Callable[[Take], CheckedDataset[Any]]


def parts_of_module(module: StreamDataModule[Any, Any]) -> list[DataPart]:
    """The parts that a run with this data module would use."""
    parts: tuple[Literal["train", "val"], ...] = ("train", "val")
    return [DataPart(part, partial(module.open_part, part)) for part in parts]


def parts_of_folder(format: str, root: Path) -> list[DataPart]:
    """All parts that are found in a folder.

    Args:
        format: one of `FORMATS`.
        root: the data set's folder; of generated data also the folder above.

    Raises:
        UserError: the format is unknown, or the folder holds nothing of it.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown: expected one of {', '.join(FORMATS)}")
    if not root.is_dir():
        raise UserError(f"{root} {'is no folder' if root.exists() else 'does not exist'}: expected a folder of data")
    if format == "label_map":
        splits = [split for split in ("train", "val", "test") if split_path(root, split).is_file()]
        return [DataPart(s, partial(_label_maps, root, s)) for s in splits or ["train"]]
    if format == "coco":
        return _coco_parts(root)
    if format == "scenes":
        folders = _required(root, ("", "scenes_*"), "scenes.json")
        return [
            DataPart(f"{folder.name} {split}", partial(_coco, folder / f"instances_{split}.json", folder / "images"))
            for folder in folders
            for split in ("train", "val")
        ]
    if FORMATS[format] == "tracks":
        patterns = ("train_*", "val_*") if format == "generated" else ("train", "val")
        folders = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_dir()]
        return [DataPart(folder.name, partial(_events, folder)) for folder in folders or [root]]
    if format == "rooms":
        folders = _required(root, ("", "rooms_*"), MARKER)
        return [DataPart(folder.name, partial(_points, format, folder, "all")) for folder in folders]
    if format in ("scannet", "scannet_prepared"):
        lists = (root, root / "meta_data")
        splits = [s for s in ("train", "val") if any((place / f"scannetv2_{s}.txt").is_file() for place in lists)]
        return [DataPart(split, partial(_points, format, root, split)) for split in splits or ["all"]]
    return [DataPart("all", partial(_points, format, root, "all"))]


def _coco_parts(root: Path) -> list[DataPart]:
    """Every instances*.json, with the image folder that fits its name."""
    found = sorted(root.glob("annotations/instances*.json")) or sorted(root.glob("instances*.json"))
    if not found:
        raise UserError(
            f"{root} holds no annotations/instances_NAME.json or instances.json: name the files in a configuration, "
            "--config FILE"
        )
    parts = []
    for path in found:
        name = path.stem.removeprefix("instances").lstrip("_")
        places = [root / "images" / name, root / name, root / "images", root] if name else [root / "images", root]
        images = next(place for place in places if place.is_dir())
        parts.append(DataPart(name or path.stem, partial(_coco, path, images)))
    return parts


def _required(root: Path, patterns: Sequence[str], file: str) -> list[Path]:
    """The folders, `root` itself or some in it, that hold `file`."""
    folders = [path for pattern in patterns for path in ([root] if not pattern else sorted(root.glob(pattern)))]
    there = [path for path in folders if (path / file).is_file()]
    if not there:
        raise UserError(f"{root} holds no generated data: there is no {file} in it or in its {patterns[-1]}")
    return there


def _label_maps(root: Path, split: str, take: Take) -> LabelMapDataset:
    return LabelMapDataset(root, split, take=take)


def _coco(annotations: Path, images: Path, take: Take) -> CocoDataset:
    return CocoDataset(annotations, images, take=take)


def _points(format: str, root: Path, part: str, take: Take) -> Any:
    return open_points(cast(PointFormat, format), root, part, take=take)


def _events(folder: Path, take: Take) -> EventFolder:
    return EventFolder(folder)
