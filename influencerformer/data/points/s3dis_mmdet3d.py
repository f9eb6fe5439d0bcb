"""S3DIS as mmdetection3d prepares it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from influencerformer.data.bad_samples import Take
from influencerformer.data.files import examples
from influencerformer.data.points.array_files import read_bin
from influencerformer.data.points.label_check import (
    check_points,
    check_range,
    instance_repairs,
    number_instances,
    whole_colors,
)
from influencerformer.data.points.repairs import Repair
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_folders import (
    choose_areas,
    contents,
    natural_order,
    require_files,
    require_folder,
)
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError

_FOLDERS = ("points", "instance_mask", "semantic_mask")


class S3DISMmdet3dDataset(RoomDataset):
    """Rooms as bare arrays: points/Area_1_office_3.bin and files of that name in instance_mask/ and semantic_mask/.

    Points are float32 (N, 6), x, y, z in metres from the room's corner and colours from 0 to 255; the masks are int64
    (N,), instances from 1 with 0 for unannotated (read as -1), classes 0..12 in S3DIS's order. Rooms are found by the
    names of their files; the annotation files s3dis_infos_Area_*.pkl are pickles and not read.

    Args:
        root: the folder that holds points/, instance_mask/ and semantic_mask/.
        areas: numbers of the areas to read; None for those of `part`.
        part: "train" (all areas but Area_5), "val" (Area_5) or "all"; only "all" takes names that carry no area.
        take: is handed each defect that is found here, in place of an error; the rooms they spoil are left out.

    Raises:
        UserError: no rooms, names that carry no area, areas that are not there. Reading a room raises one where files
            are missing, of other lengths, or hold what they must not.
    """

    def __init__(
        self, root: str | Path, areas: Sequence[int] | None = None, part: str = "all", take: Take | None = None
    ) -> None:
        root = Path(root)
        require_folder(root)
        files = sorted((root / "points").glob("*.bin"), key=natural_order)
        if not files:
            raise UserError(f"no rooms in {root}: looked for points/Area_*_ROOM.bin, found {contents(root)}")
        names = [path.stem for path in files]
        if areas is not None or part != "all":
            found = {name: int(match[1]) for name in names if (match := re.match(r"Area_(\d+)_.", name))}
            bare = [name for name in names if name not in found]
            if bare:
                raise UserError(
                    f"names in {root / 'points'} carry no area ({examples(bare)}): expected names such as "
                    "Area_1_office_3.bin where areas are chosen"
                )
            chosen = choose_areas(found.values(), areas, part, root)
            names = [name for area in chosen for name in names if found[name] == area]
        masks = [[root / folder / f"{name}.bin" for folder in _FOLDERS[1:]] for name in names]
        whole = require_files(root, names, masks, "each room needs its points, instance_mask and semantic_mask", take)
        super().__init__(root, ROOM_CLASSES, [names[index] for index in whole])

    def files_of(self, index: int) -> list[Path]:
        return [self.root / folder / f"{self.names[index]}.bin" for folder in _FOLDERS]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        file = f"{self.names[index]}.bin"
        path, instance_path, semantic_path = self.files_of(index)
        points = read_bin(path, np.float32, columns=6)
        check_points(points[:, :3], path)
        instance = read_bin(instance_path, np.int64, len(points))
        semantic = read_bin(semantic_path, np.int64, len(points))
        check_range(semantic, 0, len(ROOM_CLASSES) - 1, semantic_path, "classes")
        colors, repairs = whole_colors(points[:, 3:], f"points/{file}")
        labels, classes, split = number_instances(instance, semantic, instance > 0)
        labels[instance <= 0] = -1
        repairs += instance_repairs(classes, split, f"instance_mask/{file}")
        return self.sample(index, points[:, :3], colors, classes, labels), repairs
