"""S3DIS as it is given out (Stanford3dDataset_v1.2 and its Aligned_Version), and generated rooms in the same form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from influencerformer.data.bad_samples import Defect, Take, defect_of, refuse
from influencerformer.data.files import examples
from influencerformer.data.points.label_check import whole_colors
from influencerformer.data.points.repairs import Repair, from_json, shown_path, to_json
from influencerformer.data.points.room_cache import Arrays, RoomCache, source_key, text_array
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_folders import area_folders, choose_areas, natural_order
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.s3dis_repairs import Table, read_annotation
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError

# Raise when rooms are read differently: caches of another version are then made anew.
_VERSION = 1
_ANNOTATIONS = "Annotations"


class S3DISDataset(RoomDataset):
    """Rooms as Area_*/ROOM/Annotations/CLASS_n.txt, each file one true instance of lines `x y z r g b`.

    A room is read from text once and then kept in a cache, which is made anew where a source file has changed.
    What is known to be broken in the originals is mended and reported: see :meth:`prepare`. Classes other than
    S3DIS's 13 (the original has "stairs") are clutter. Every point belongs to an instance. Coordinates are those
    of the files, colours are bytes. Names are such as "Area_5_office_3".

    Args:
        root: the folder that holds Area_1, Area_2, ...
        areas: numbers of the areas to read; None for those of `part`.
        part: "train" (all areas but Area_5), "val" (Area_5) or "all".
        cache: folder for what was read, one for each data set; ROOT/.influencerformer by default.
        take: is handed each defect that is found here, in place of an error; the rooms they spoil are left out.

    Raises:
        UserError: no areas, areas that are not there, or rooms without annotations. Reading a room raises one
            where a file is not of that form, the room is without a point, or the cache cannot be written.
    """

    per_sample = ("names", "_rooms")

    def __init__(
        self,
        root: str | Path,
        areas: Sequence[int] | None = None,
        part: str = "all",
        cache: str | Path | None = None,
        take: Take | None = None,
    ) -> None:
        root = Path(root)
        folders = area_folders(root, "ROOM/Annotations/CLASS_n.txt")
        self._rooms: list[_Room] = []
        self._strays: list[Repair] = []
        for area in choose_areas(folders, areas, part, root):
            self._add_area(root, folders[area])
        bare = [room for room in self._rooms if not room.files]
        shown = [shown_path(room.folder, root) for room in bare]
        refuse(
            [Defect(str(r.folder), f"no {_ANNOTATIONS}/CLASS_n.txt: complete or remove it", r.name) for r in bare],
            f"{root} has rooms without annotations ({examples(shown)}): expected "
            f"{shown[0] if shown else ''}/{_ANNOTATIONS}/CLASS_n.txt, complete them or move them away",
            take,
        )
        self._rooms = [room for room in self._rooms if room.files]
        if not self._rooms:
            raise UserError(f"the areas of {root} hold no rooms: expected Area_1/ROOM/{_ANNOTATIONS}/CLASS_n.txt")
        super().__init__(root, ROOM_CLASSES, [room.name for room in self._rooms])
        self.cache = RoomCache(root / ".influencerformer" if cache is None else Path(cache))

    def _add_area(self, root: Path, area: Path) -> None:
        for path in sorted(area.iterdir(), key=natural_order):
            if path.name.startswith(".") or not path.is_dir():
                # Area_n_alignmentAngle.txt belongs there, it gives each room's turn.
                if path.suffix != ".txt":
                    self._strays.append(_left_out(path, root))
            elif not (path / _ANNOTATIONS).is_dir() and not any(path.glob("*.txt")):
                self._strays.append(Repair(shown_path(path, root), None, "left out: a folder that is no room"))
            else:
                self._rooms.append(_list_room(path, root))

    def files_of(self, index: int) -> list[Path]:
        room = self._rooms[index]
        return [room.folder / _ANNOTATIONS, *room.files]

    def examine(self, index: int) -> tuple[PointSample | None, list[Defect]]:
        """Every file of a room that cannot be used is named, not the first alone."""
        sample, defects = super().examine(index)
        if sample is None:
            name, found = self.names[index], []
            for path in self._rooms[index].files:
                try:
                    repairs = read_annotation(path, shown_path(path, self.root))[1]
                    found += [self.repaired(repair, name) for repair in repairs]
                except UserError as error:
                    found.append(defect_of(error, [path], name))
            defects = found if any(defect.stops for defect in found) else [*defects, *found]
        return sample, defects

    def folder_repairs(self) -> list[Repair]:
        return self._strays + [repair for room in self._rooms for repair in room.strays]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        arrays = self._arrays(index)
        sample = self.sample(index, arrays["coordinates"], arrays["colors"], arrays["classes"], arrays["labels"])
        return sample, _repairs(arrays)

    def room_repairs(self, index: int) -> list[Repair]:
        return _repairs(self._arrays(index, only="repairs"))

    def _arrays(self, index: int, only: str | None = None) -> Arrays:
        """The room from the cache, read and put there first where needed."""
        room, name = self._rooms[index], self.names[index]
        try:
            key = source_key(_VERSION, self.root, room.files)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
        arrays = self.cache.load(name, key, only)
        if arrays is None:
            arrays = _read_room(room, self.root)
            self.cache.store(name, key, arrays)
        return arrays


@dataclass(frozen=True)
class _Room:
    """A room's folder, its annotation files, and what else lies between them."""

    folder: Path
    files: list[Path]
    strays: list[Repair]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}_{self.folder.name}"


def _repairs(arrays: Arrays) -> list[Repair]:
    return from_json(arrays["repairs"].tobytes().decode())


def _left_out(path: Path, root: Path) -> Repair:
    kind = "folder" if path.is_dir() else "file"
    return Repair(shown_path(path, root), None, f"left out: a stray {kind}")


def _list_room(folder: Path, root: Path) -> _Room:
    files: list[Path] = []
    strays = [
        _left_out(p, root)
        for p in sorted(folder.iterdir(), key=natural_order)
        if p.suffix != ".txt" and p.name != _ANNOTATIONS
    ]
    annotations = folder / _ANNOTATIONS
    for path in sorted(annotations.iterdir(), key=natural_order) if annotations.is_dir() else []:
        if path.suffix == ".txt" and path.is_file() and not path.name.startswith("."):
            files.append(path)
        else:
            strays.append(_left_out(path, root))
    return _Room(folder, files, strays)


def _read_room(room: _Room, root: Path) -> Arrays:
    """The room's points in the order of its files, with instances 1..K."""
    repairs: list[Repair] = []
    tables: dict[Path, Table] = {}
    for path in room.files:
        table, found = read_annotation(path, shown_path(path, root))
        repairs += found
        if len(table):
            tables[path] = table
    repairs += _drop_copies(tables, root)
    if not tables:
        raise UserError(f"{room.folder / _ANNOTATIONS} holds no point: none of its {len(room.files)} files can be used")
    classes: list[int] = []
    for path in tables:
        name = path.stem.split("_")[0].lower()
        if name not in ROOM_CLASSES:
            repairs.append(Repair(shown_path(path, root), None, f"class {name!r} read as clutter"))
            name = "clutter"
        classes.append(ROOM_CLASSES.index(name))
    points = np.concatenate(list(tables.values()))
    colors, found = whole_colors(points[:, 3:], shown_path(room.folder, root))
    sizes = [len(table) for table in tables.values()]
    return {
        "coordinates": points[:, :3],
        "colors": colors,
        "classes": np.array(classes, dtype=np.int64),
        "labels": np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes),
        "repairs": text_array(to_json(repairs + found)),
    }


def _drop_copies(tables: dict[Path, Table], root: Path) -> list[Repair]:
    """Takes out files such as "wall_3 (1).txt" (Area_5/office_36) whose points are mostly those of "wall_3.txt"."""
    repairs: list[Repair] = []
    for path in list(tables):
        match = re.fullmatch(r"(.+) \(\d+\)", path.stem)
        if match is None:
            continue
        original = path.with_name(f"{match[1]}.txt")
        if original in tables and _shared(tables[path], tables[original]) > 0.5:
            del tables[path]
            repairs.append(Repair(shown_path(path, root), None, f"left out: a copy of {original.name}"))
    return repairs


def _shared(one: Table, other: Table) -> float:
    """The fraction of the rows of `one` that `other` has too."""
    rows: list[npt.NDArray[np.void]] = [np.ascontiguousarray(t).view("V24").reshape(-1) for t in (one, other)]
    return float(np.isin(rows[0], rows[1]).mean())
