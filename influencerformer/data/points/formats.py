"""Opens rooms and scenes of every format that the package reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from influencerformer.data.bad_samples import Take
from influencerformer.data.points.pointcept import PointceptDataset
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_files import generate_s3dis
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.s3dis_mmdet3d import S3DISMmdet3dDataset
from influencerformer.data.points.s3dis_raw import S3DISDataset
from influencerformer.data.points.scannet_classes import SCANNET_CLASSES
from influencerformer.data.points.scannet_prepared import ScanNetPreparedDataset
from influencerformer.data.points.scannet_raw import ScanNetDataset
from influencerformer.errors import UserError

PointFormat = Literal["rooms", "s3dis", "s3dis_mmdet3d", "pointcept", "scannet", "scannet_prepared"]


def class_names(format: PointFormat) -> list[str]:
    """Names of the classes 0..C-1 of a format's data sets."""
    _check(format)
    return list(SCANNET_CLASSES if format in ("scannet", "scannet_prepared") else ROOM_CLASSES)


def open_points(
    format: PointFormat,
    root: str | Path,
    part: str = "train",
    *,
    areas: Sequence[int] | None = None,
    split_file: str | Path | None = None,
    cache: str | Path | None = None,
    rooms: Mapping[str, Any] | None = None,
    take: Take | None = None,
) -> RoomDataset:
    """Opens a part of a data set; rooms are read when they are asked for.

    Call `prepare()` of the result before a long run: it reads every room once and gives the report of what was
    repaired.

    Args:
        format: rooms (generated, written in S3DIS's own form), s3dis (as given out), s3dis_mmdet3d and pointcept (as
            these projects prepare it), scannet (as given out) or scannet_prepared (as OneFormer3D prepares it).
        root: the data set's folder.
        part: "train", "val" or "all". S3DIS is split by area (Area_5 is "val"), ScanNet by scannetv2_train.txt and
            scannetv2_val.txt in `root` or `root`/meta_data.
        areas: of S3DIS in every form, in place of those of `part`; ScanNet has none.
        split_file: of ScanNet in either form, scene names a line each, in place of that of `part`; S3DIS has none.
        cache: of rooms and s3dis, a folder for what was read; `root`/.influencerformer by default.
        rooms: of rooms, arguments of :func:`influencerformer.data.points.room_files.generate_s3dis`; None takes the
            rooms that are there, or generates its default ones where `root` does not exist.
        take: is handed each defect that is found on the way, in place of an error; the rooms they spoil are left out.

    Raises:
        UserError: an unknown format, or what the format's data set raises.
    """
    _check(format)
    if format == "rooms":
        root = Path(root)
        if rooms is not None or not root.exists():
            generate_s3dis(root, **(rooms or {}))
    if format in ("rooms", "s3dis"):
        return S3DISDataset(root, areas, part, cache, take)
    if format == "s3dis_mmdet3d":
        return S3DISMmdet3dDataset(root, areas, part, take)
    if format == "pointcept":
        return PointceptDataset(root, areas, part, take)
    if format == "scannet":
        return ScanNetDataset(root, part, split_file, take)
    return ScanNetPreparedDataset(root, part, split_file, take)


def _check(format: str) -> None:
    if format not in get_args(PointFormat):
        raise UserError(f"format {format!r} is unknown: expected one of {', '.join(get_args(PointFormat))}")
