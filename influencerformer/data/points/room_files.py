"""What readers of rooms share: the data set of rooms, folders of areas, and files of numbers that may be broken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from influencerformer.data.files import examples
from influencerformer.data.points.repairs import Repair
from influencerformer.data.points.sample import PointDataset, PointSample
from influencerformer.errors import UserError

# The area that is validated on where none is named, as is customary for S3DIS.
VALIDATION_AREA = 5


class RoomDataset(PointDataset):
    """Rooms or scenes of a folder, each read when it is asked for.

    Attributes:
        root: the data set's folder.
        class_names: names of the classes 0..C-1.
        names: of the rooms, in order.
    """

    def __init__(self, root: Path, class_names: Sequence[str], names: Sequence[str]) -> None:
        self.root = root
        self.class_names = list(class_names)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> PointSample:
        return self.read(range(len(self))[index])[0]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        """Room `index` (0 or more) and what was repaired in it."""
        raise NotImplementedError

    def folder_repairs(self) -> list[Repair]:
        """What was found amiss outside the rooms."""
        return []

    def prepare(self) -> list[Repair]:
        """Reads every room once, with a progress bar: fills the cache if there is one, and finds unfit files.

        Returns:
            All repairs, for :func:`influencerformer.data.points.repairs.repair_summary`.

        Raises:
            UserError: a room cannot be read.
        """
        repairs = self.folder_repairs()
        for index in progress(range(len(self)), "Reading rooms"):
            repairs += self.room_repairs(index)
        return repairs

    def room_repairs(self, index: int) -> list[Repair]:
        """What was repaired in room `index`."""
        return self.read(index)[1]

    def sample(
        self,
        index: int,
        coordinates: npt.NDArray[Any],
        colors: npt.NDArray[np.uint8],
        classes: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        superpoints: npt.NDArray[Any] | None = None,
    ) -> PointSample:
        """The arrays of room `index` as a sample."""
        return PointSample(
            name=self.names[index],
            coordinates=torch.from_numpy(np.ascontiguousarray(coordinates, dtype=np.float32)),
            colors=torch.from_numpy(np.ascontiguousarray(colors)),
            class_labels=torch.from_numpy(classes.astype(np.int64)),
            instance_labels=torch.from_numpy(labels.astype(np.int64)),
            superpoints=None if superpoints is None else torch.from_numpy(superpoints.astype(np.int64)),
            sample_id=index,
        )


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A sort key by which office_2 comes before office_10."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def progress(items: Sequence[Any], description: str) -> Iterable[Any]:
    """The items with a progress bar on the error stream where that is a terminal."""
    console = Console(stderr=True)
    return track(items, description, console=console, disable=not console.is_terminal)


def choose_areas(there: Iterable[int], areas: Sequence[int] | None, part: str, root: Path) -> list[int]:
    """The areas to read, in order.

    Args:
        there: areas of the folder.
        areas: those asked for; None for those of `part`.
        part: "train" (all but Area_5), "val" (Area_5) or "all".
        root: the folder, for messages.

    Raises:
        UserError: an unknown part, or areas that are not there.
    """
    have = sorted(set(there))
    if areas is None:
        if part not in ("train", "val", "all"):
            raise UserError(f"part {part!r} is unknown where rooms are split by area: expected train, val or all")
        areas = have if part == "all" else [a for a in have if (a == VALIDATION_AREA) == (part == "val")]
        if not areas:
            rest = "other than Area_5 for training" if part == "train" else "Area_5 for validation"
            raise UserError(f"{root} has no area {rest}, it has {_areas(have)}: name others with the option areas")
    missing = sorted(set(areas) - set(have))
    if missing or not areas:
        raise UserError(f"{root} has no {_areas(missing) or 'area that was asked for'}: it has {_areas(have)}")
    return sorted(set(areas))


def _areas(numbers: Sequence[int]) -> str:
    return examples([f"Area_{number}" for number in numbers], 6)


def area_folders(root: Path, inside: str) -> dict[int, Path]:
    """The folders Area_1, Area_2, ... of `root` by number.

    Args:
        root: the data set's folder.
        inside: what an area holds, for the message.

    Raises:
        UserError: there is none.
    """
    require_folder(root)
    found = {
        int(match[1]): path
        for path in root.iterdir()
        if (match := re.fullmatch(r"Area_(\d+)", path.name)) and path.is_dir()
    }
    if not found:
        deeper = [p.parent for p in sorted(root.glob("*/Area_*")) if p.is_dir()]
        hint = f"; {deeper[0]} has them: is that the root?" if deeper else ""
        raise UserError(f"no rooms in {root}: looked for Area_*/{inside}, found {contents(root)}{hint}")
    return dict(sorted(found.items()))


def require_folder(root: Path) -> None:
    """Raises a UserError where `root` is no folder."""
    if not root.is_dir():
        raise UserError(f"{root} {'is no folder' if root.exists() else 'does not exist'}: expected a folder of rooms")


def contents(folder: Path) -> str:
    """What is in a folder, for a message: "a, b, c and 7 more"."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return examples(names) if names else "an empty folder"


def read_npy(path: Path) -> npt.NDArray[Any]:
    """An array saved by numpy, never unpickled.

    Raises:
        UserError: the file is missing, truncated, or no array of numbers.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the room is incomplete") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read as an array of numbers ({error}): replace the file") from error


def read_bin(path: Path, dtype: npt.DTypeLike, count: int | None = None, columns: int = 1) -> npt.NDArray[Any]:
    """A bare array of rows of `columns` numbers, little-endian.

    Args:
        path: the file.
        dtype: of the numbers.
        count: rows that it must have.
        columns: numbers in a row.

    Returns:
        (N, columns), or (N,) for one column.

    Raises:
        UserError: the file is missing or its length does not fit.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    row = kind.itemsize * columns
    if len(data) % row or (count is not None and len(data) != count * row):
        of = f"a multiple of {row}" if count is None else f"{count * row} for {count} points"
        raise UserError(
            f"{path} is {len(data)} bytes long, expected {of} ({columns} {kind.name} a point): it is truncated or of "
            "another type or room"
        )
    values = np.frombuffer(data, dtype=kind).astype(dtype)
    return values.reshape(-1, columns) if columns > 1 else values
