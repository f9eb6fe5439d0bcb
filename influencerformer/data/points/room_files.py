"""Generated rooms written as S3DIS is given out, so that they walk the same road as the real data."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from influencerformer.data.points.rooms import ROOM_CLASSES, Room, generate_room
from influencerformer.data.progress import progress
from influencerformer.errors import UserError

# Raise when what is written changes: folders of another version are then not taken for this one's.
_VERSION = 1
MARKER = "generated_rooms.json"
# Areas for training and validation, as S3DIS is usually split.
_AREAS = (1, 5)


def generate_s3dis(root: str | Path, train: int = 60, val: int = 12, seed: int = 0, **room_options: Any) -> Path:
    """Writes generated rooms as Area_1 (training) and Area_5 (validation), unless the same ones are there already.

    The same arguments give the same files. The folder appears complete or not at all, also when several processes
    ask at once.

    Args:
        root: the data set's own folder; absent, empty, or made by an earlier call.
        train, val: numbers of rooms.
        seed: of all rooms, 0 or more; no two rooms share one.
        room_options: handed to :func:`influencerformer.data.points.rooms.generate_room`.

    Returns:
        `root`: Area_x/room_n/room_n.txt and Area_x/room_n/Annotations/CLASS_k.txt, coordinates in metres with three
        decimals, and generated_rooms.json.

    Raises:
        UserError: arguments out of range or unknown, or a folder that holds something else.
    """
    if train < 1 or val < 1 or seed < 0:
        raise UserError(
            f"generated rooms need train and val of 1 or more and seed of 0 or more, got train={train}, val={val}, "
            f"seed={seed}"
        )
    root = Path(root)
    wanted = {"version": _VERSION, "train": train, "val": val, "seed": seed, "options": room_options}
    wanted = json.loads(json.dumps(wanted))
    if _is_there(root, wanted):
        return root
    try:
        _write_rooms(root, wanted, room_options)
    except OSError as error:
        raise UserError(f"generated rooms cannot be written to {root} ({error.strerror})") from error
    return root


def _write_rooms(root: Path, wanted: dict[str, Any], room_options: dict[str, Any]) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}_", dir=root.parent))
    try:
        rooms = [(part, index) for part, name in enumerate(("train", "val")) for index in range(wanted[name])]
        for part, index in progress(rooms, "Generating rooms"):
            seed = int(np.random.SeedSequence((wanted["seed"], part, index)).generate_state(1, np.uint64)[0])
            _write_room(temporary / f"Area_{_AREAS[part]}" / f"room_{index + 1}", _generate(seed, room_options))
        (temporary / MARKER).write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        temporary.chmod(0o755)
        try:
            if root.is_dir():
                root.rmdir()
            os.rename(temporary, root)
        except OSError:
            # Another process was faster; its folder is the same if it is complete.
            if not _is_there(root, wanted):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_there(root: Path, wanted: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != wanted:
        raise UserError(
            f"{root} exists but does not hold the generated rooms asked for ({wanted}): delete it or choose another "
            "folder"
        )
    return True


def _generate(seed: int, options: dict[str, Any]) -> Room:
    try:
        return generate_room(seed, **options)
    except TypeError as error:
        raise UserError(f"options {options} do not fit a generated room ({error})") from error


def _write_room(folder: Path, room: Room) -> None:
    annotations = folder / "Annotations"
    annotations.mkdir(parents=True)
    counts = dict.fromkeys(ROOM_CLASSES, 0)
    texts: list[str] = []
    order = np.argsort(room.instance, kind="stable")
    bounds = np.searchsorted(room.instance[order], np.arange(int(room.instance.max()) + 2))
    for start, end in itertools.pairwise(bounds):
        points = order[start:end]
        name = ROOM_CLASSES[int(room.semantic[points[0]])]
        counts[name] += 1
        # One format string for all points is several times as fast as np.savetxt.
        values = np.concatenate([room.points[points].astype(np.float64), room.colors[points]], axis=1)
        texts.append(("%.3f %.3f %.3f %d %d %d\n" * len(points)) % tuple(values.ravel().tolist()))
        (annotations / f"{name}_{counts[name]}.txt").write_text(texts[-1], encoding="ascii", newline="\n")
    (folder / f"{folder.name}.txt").write_text("".join(texts), encoding="ascii", newline="\n")
