"""S3DIS as Pointcept prepares it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influencerformer.data.bad_samples import Take
from influencerformer.data.points.array_files import read_npy
from influencerformer.data.points.label_check import (
    check_points,
    check_range,
    instance_repairs,
    number_instances,
    whole_colors,
)
from influencerformer.data.points.repairs import Repair, shown_path
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_folders import area_folders, choose_areas, natural_order, require_files
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError

_ARRAYS = ("coord", "color", "segment", "instance")


class PointceptDataset(RoomDataset):
    """Rooms as Area_*/ROOM/{coord,color,segment,instance}.npy.

    coord is (N, 3) in metres, color (N, 3) from 0 to 255, segment the class 0..12 in S3DIS's order and instance the
    number of the object, both integers of (N,) or (N, 1); a negative one means unlabelled and is read as -1. An
    instance number that occurs with several classes becomes one instance for each, and is reported. Pickled rooms of
    older versions (.pth) are not read. Names are such as "Area_5_office_3".

    Args:
        root: the folder that holds Area_1, Area_2, ...
        areas: numbers of the areas to read; None for those of `part`.
        part: "train" (all areas but Area_5), "val" (Area_5) or "all".
        take: is handed each defect that is found here, in place of an error; the rooms they spoil are left out.

    Raises:
        UserError: no rooms, areas that are not there, rooms without all four arrays. Reading a room raises one where
            arrays are broken, of other lengths, or hold what they must not.
    """

    per_sample = ("names", "_folders")

    def __init__(
        self, root: str | Path, areas: Sequence[int] | None = None, part: str = "all", take: Take | None = None
    ) -> None:
        root = Path(root)
        folders = area_folders(root, "ROOM/coord.npy")
        chosen = choose_areas(folders, areas, part, root)
        self._folders = [
            folder
            for area in chosen
            for folder in sorted(folders[area].iterdir(), key=natural_order)
            if folder.is_dir() and not folder.name.startswith(".")
        ]
        if not self._folders:
            pickled = [path for area in chosen for path in sorted(folders[area].glob("*.pth"))]
            hint = f" ({pickled[0]} is a pickle, which is not read: prepare the rooms as .npy)" if pickled else ""
            raise UserError(f"the areas of {root} hold no rooms: expected Area_1/ROOM/coord.npy{hint}")
        names = [f"{folder.parent.name}_{folder.name}" for folder in self._folders]
        files = [[folder / f"{array}.npy" for array in _ARRAYS] for folder in self._folders]
        whole = require_files(root, names, files, f"each room needs {', '.join(_ARRAYS)} as .npy", take)
        self._folders = [self._folders[index] for index in whole]
        super().__init__(root, ROOM_CLASSES, [names[index] for index in whole])

    def files_of(self, index: int) -> list[Path]:
        return [self._folders[index] / f"{array}.npy" for array in _ARRAYS]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        folder = self._folders[index]
        coordinates = self._array(folder, "coord", 3)
        count = len(coordinates)
        check_points(coordinates, folder / "coord.npy")
        colors, repairs = whole_colors(
            self._array(folder, "color", 3, count), shown_path(folder / "color.npy", self.root)
        )
        semantic = self._array(folder, "segment", 1, count).astype(np.int64)
        instance = self._array(folder, "instance", 1, count).astype(np.int64)
        check_range(semantic[semantic >= 0], 0, len(ROOM_CLASSES) - 1, folder / "segment.npy", "classes")
        inside = (instance >= 0) & (semantic >= 0)
        labels, classes, split = number_instances(instance, semantic, inside)
        labels[~inside] = -1
        repairs += instance_repairs(classes, split, shown_path(folder / "instance.npy", self.root))
        return self.sample(index, coordinates, colors, classes, labels), repairs

    def _array(self, folder: Path, name: str, width: int, count: int | None = None) -> npt.NDArray[Any]:
        """An array of a room, (N, 3), or (N,) of integers."""
        path = folder / f"{name}.npy"
        values = read_npy(path)
        if width == 1 and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        rows = values.shape[0] if values.ndim and count is None else count
        kinds = "iuf" if width == 3 else "iu"
        if values.shape != ((rows, 3) if width == 3 else (rows,)) or values.dtype.kind not in kinds:
            form = f"({'N' if count is None else count}{', 3' if width == 3 else ''})"
            kind = "numbers" if width == 3 else "integers"
            raise UserError(
                f"{path} holds {values.shape} {values.dtype}, expected {form} {kind}: prepare the room anew"
            )
        return values
