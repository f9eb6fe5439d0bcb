"""Generated rooms written as S3DIS is given out, so that they walk the same road as the real data."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from influencerformer.data.generated_folder import make_once
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

    def write(folder: Path) -> None:
        rooms = [(part, index) for part, count in enumerate((train, val)) for index in range(count)]
        for part, index in progress(rooms, "Generating rooms"):
            room_seed = int(np.random.SeedSequence((seed, part, index)).generate_state(1, np.uint64)[0])
            room = _generate(room_seed, room_options)
            _write_room(folder / f"Area_{_AREAS[part]}" / f"room_{index + 1}", room)

    make_once(root, "generated rooms", MARKER, wanted, write)
    return root


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
