"""Opens rooms of any format the package reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_files import generate_s3dis
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.s3dis_raw import S3DISDataset

PointFormat = Literal["rooms", "s3dis"]


def class_names(format: PointFormat) -> list[str]:
    """Names of the classes 0..C-1 of a format."""
    return list(ROOM_CLASSES)


def open_points(
    format: PointFormat,
    root: str | Path,
    part: str = "train",
    *,
    areas: Sequence[int] | None = None,
    cache: str | Path | None = None,
    rooms: Mapping[str, Any] | None = None,
) -> RoomDataset:
    """Opens a part of a data set; rooms are read when they are asked for."""
    if format == "rooms":
        root = generate_s3dis(root, **(rooms or {}))
    return S3DISDataset(root, areas, part, cache)
