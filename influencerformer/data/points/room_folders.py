"""Finding rooms: folders of areas, which areas to read, and messages that say what is there instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from influencerformer.data.bad_samples import Defect, Take, refuse
from influencerformer.data.files import examples
from influencerformer.errors import UserError

# The area that is validated on where none is named, as is customary for S3DIS.
VALIDATION_AREA = 5


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


def require_files(
    root: Path, names: Sequence[str], files: Sequence[Sequence[Path]], why: str, take: Take | None = None
) -> list[int]:
    """Refuses rooms that lack a file.

    Args:
        root: the data set's folder.
        names: of the rooms.
        files: of each room, all below `root`.
        why: what a room needs, for the message.
        take: is handed a defect for each file that is not there.

    Returns:
        indices of the rooms that are complete.

    Raises:
        UserError: files are not there, and there is no `take`.
    """
    lacking = [(index, path) for index, paths in enumerate(files) for path in paths if not path.is_file()]
    refuse(
        [Defect(str(path), f"does not exist: {why}", names[index]) for index, path in lacking],
        f"{root} lacks {examples([path.relative_to(root).as_posix() for _, path in lacking])}: {why}",
        take,
    )
    incomplete = {index for index, _ in lacking}
    return [index for index in range(len(names)) if index not in incomplete]


def contents(folder: Path) -> str:
    """What is in a folder, for a message: "a, b, c and 7 more"."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return examples(names) if names else "an empty folder"


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A sort key by which office_2 comes before office_10."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
