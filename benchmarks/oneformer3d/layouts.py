"""Writes generated rooms as OneFormer3D reads S3DIS (mmdetection3d's layout) and ScanNet (its own layout)."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from superpoints import superpoints

from influencerformer.data.points.rooms import ROOM_CLASSES, Room, generate_room
from influencerformer.errors import UserError

# Raise when what is written changes: folders of another version are then not taken for this one's.
_VERSION = 1
# Things of S3DIS whose boxes its annotation files list, in mmdetection3d's order.
_BOX_CLASSES = ("table", "chair", "sofa", "bookcase", "board")
# ScanNet's (NYU40's) class numbers; those that ScanNet does not evaluate become unlabelled when they are read.
_SCANNET_IDS = {
    "wall": 1,
    "floor": 2,
    "chair": 5,
    "sofa": 6,
    "table": 7,
    "door": 8,
    "window": 9,
    "bookcase": 10,
    "board": 11,
    "ceiling": 22,
    "beam": 38,
    "column": 38,
    "clutter": 39,
}


def write_s3dis(root: Path, areas: Mapping[int, Sequence[int]], **room_options: Any) -> None:
    """Rooms as S3DIS, unless the same ones are there already.

    Args:
        root: the data root, such as data/s3dis.
        areas: seeds of the rooms of each area (1 to 6).
        room_options: handed to `generate_room`.

    Raises:
        UserError: `root` holds something else, or the room options are out of range.
    """
    files = {f"s3dis_infos_Area_{area}.pkl": list(seeds) for area, seeds in areas.items()}
    _write(root, "s3dis", files, room_options)


def write_scannet(
    root: Path, train: Sequence[int], val: Sequence[int], superpoint: float = 0.4, **room_options: Any
) -> None:
    """Rooms as ScanNet with superpoints, unless the same ones are there already.

    Args:
        root: the data root, such as data/scannet.
        train, val: seeds of the rooms.
        superpoint: length of a superpoint in metres.
        room_options: handed to `generate_room`.

    Raises:
        UserError: `root` holds something else, or the room options are out of range.
    """
    files = {f"scannet_oneformer3d_infos_{name}.pkl": list(seeds) for name, seeds in (("train", train), ("val", val))}
    _write(root, "scannet", files, room_options, superpoint)


def _write(
    root: Path, kind: str, files: dict[str, list[int]], options: dict[str, Any], superpoint: float | None = None
) -> None:
    marker = root / "rooms.json"
    wanted = {"version": _VERSION, "kind": kind, "files": files, "options": options, "superpoint": superpoint}
    wanted = json.loads(json.dumps(wanted))
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == wanted:
        return
    if root.exists() and (marker.is_file() or any(root.iterdir())):
        raise UserError(f"{root} holds other data than the rooms asked for: delete it or choose another folder")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("points", "instance_mask", "semantic_mask", *(["super_points"] if superpoint else [])):
        (partial / name).mkdir(parents=True)
    for file, seeds in files.items():
        rows = [_write_room(partial, kind, generate_room(seed, **options), seed, superpoint) for seed in seeds]
        meta = {"categories": {name: index for index, name in enumerate(ROOM_CLASSES)}, "dataset": kind}
        (partial / file).write_bytes(pickle.dumps({"metainfo": meta, "data_list": rows}))
    (partial / "rooms.json").write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    if root.exists():
        root.rmdir()
    partial.rename(root)


def _write_room(root: Path, kind: str, room: Room, seed: int, superpoint: float | None) -> dict[str, Any]:
    """Writes one room's files; returns its row of the annotation file."""
    name = f"room_{seed:06d}.bin"
    cloud = np.concatenate([room.points, room.colors.astype(np.float32)], axis=1)
    cloud.astype(np.float32).tofile(root / "points" / name)
    # Both data sets count instances from 1: their evaluation takes 0 of the first class for no instance.
    (room.instance + 1).astype(np.int64).tofile(root / "instance_mask" / name)
    row: dict[str, Any] = {
        "lidar_points": {"num_pts_feats": 6, "lidar_path": name},
        "pts_instance_mask_path": name,
        "pts_semantic_mask_path": name,
        "instances": [],
    }
    if kind == "s3dis":
        row["instances"] = _boxes(room)
        semantic = room.semantic
    else:
        semantic = np.array([_SCANNET_IDS[c] for c in ROOM_CLASSES], dtype=np.int64)[room.semantic]
    semantic.astype(np.int64).tofile(root / "semantic_mask" / name)
    if superpoint:
        superpoints(room.points, room.colors, superpoint).tofile(root / "super_points" / name)
        row["super_pts_path"] = name
    return row


def _boxes(room: Room) -> list[dict[str, Any]]:
    """Axis-aligned boxes (centre and size) of the things; rooms without one are not trained on."""
    boxes: list[dict[str, Any]] = []
    for instance in range(int(room.instance.max()) + 1):
        inside: npt.NDArray[np.bool_] = room.instance == instance
        name = ROOM_CLASSES[int(room.semantic[inside][0])]
        if name in _BOX_CLASSES:
            low, high = room.points[inside].min(0), room.points[inside].max(0)
            box = np.concatenate([(low + high) / 2, high - low]).tolist()
            boxes.append({"bbox_3d": box, "bbox_label_3d": _BOX_CLASSES.index(name)})
    return boxes
