"""Whether rooms of S3DIS are there, whole and with instances, in the form of either source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

# Name, numbers a point, and kinds of dtype (NumPy's letters) of each array that a preprocessed room must have.
ARRAYS = (("coord", 3, "f"), ("color", 3, "iuf"), ("segment", 1, "iu"), ("instance", 1, "iu"))


def rooms_of(area: Path) -> list[Path]:
    """The room folders of an area, in order; none where it is no folder."""
    if not area.is_dir():
        return []
    return sorted(path for path in area.iterdir() if path.is_dir() and not path.name.startswith("."))


def check_texts(room: Path) -> str | None:
    """What a room of the original lacks of ROOM/Annotations with a text file for each instance, or None."""
    if any(file.stat().st_size for file in (room / "Annotations").glob("*.txt")):
        return None
    return f"{_short(room / 'Annotations')} holds no text files, one for each instance"


def check_arrays(room: Path) -> str | None:
    """What a preprocessed room lacks of coord, color, segment and instance.npy in matching shapes, or None.

    Files are mapped, not read; one that was cut short is found all the same.
    """
    count: int | None = None
    for name, width, kinds in ARRAYS:
        path = room / f"{name}.npy"
        if not path.is_file():
            hint = " (semantic labels alone cannot stand in for instances)" if name == "instance" else ""
            return f"{_short(path)} is missing{hint}"
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            return f"{_short(path)} cannot be read as an array ({' '.join(str(error).split())})"
        flat = width == 1 and values.ndim == 1
        if not (flat or values.shape[1:] == (width,)) or values.dtype.kind not in kinds:
            expected = "numbers" if "f" in kinds else "integers"
            return f"{_short(path)} holds {values.shape} {values.dtype}, expected (N, {width}) {expected}"
        count = len(values) if count is None else count
        if len(values) != count:
            return f"{_short(path)} has {len(values)} points but coord.npy {count}"
    return None


def _short(path: Path) -> str:
    """A path inside an area, from the area on."""
    for parent in path.parents:
        if parent.name.startswith("Area_"):
            return path.relative_to(parent.parent).as_posix()
    return str(path)


def have_instances(rooms: Iterable[Path]) -> bool:
    """Whether instance.npy is more than a copy of the classes in some preprocessed room.

    Semantic labels that go by the name of instances have at most as many values as there are classes in a room; true
    instances have more wherever a room has two walls.
    """
    return any(instances > classes for instances, classes in _counts(rooms))


def _counts(rooms: Iterable[Path]) -> Iterator[tuple[int, int]]:
    for room in rooms:
        instances = np.unique(np.load(room / "instance.npy", allow_pickle=False))
        classes = np.unique(np.load(room / "segment.npy", allow_pickle=False))
        yield int(np.count_nonzero(instances >= 0)), len(classes)
