"""ScanNet with superpoints as OneFormer3D prepares it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from influencerformer.data.bad_samples import Take
from influencerformer.data.points.array_files import read_bin
from influencerformer.data.points.label_check import check_points, check_range, instance_repairs, whole_colors
from influencerformer.data.points.repairs import Repair
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_folders import contents, require_files, require_folder
from influencerformer.data.points.sample import PointSample
from influencerformer.data.points.scannet_classes import SCANNET_CLASSES, choose_scenes, scannet_truth
from influencerformer.errors import UserError


class ScanNetPreparedDataset(RoomDataset):
    """Scenes as bare arrays: points/SCENE.bin and files of that name in instance_mask/, semantic_mask/, super_points/.

    Points are float32 (N, 6), x, y, z in metres and colours from 0 to 255; the others int64 (N,): objects from 1 with 0
    for none, NYU40's classes 1..40 with 0 for none, and numbers of superpoints. What is background and what is ignored:
    see :func:`influencerformer.data.points.scannet_classes.scannet_truth`. Scenes are found by the names of their
    files; the annotation files scannet_oneformer3d_infos_*.pkl are pickles and not read. Without a folder super_points
    (mmdetection3d's own preparation) samples have no superpoints, which is reported.

    Args:
        root: the folder that holds points/ and the others.
        part: "all", or the split "train" or "val" by ROOT/scannetv2_train.txt or ROOT/meta_data/scannetv2_train.txt.
        split_file: a file of scene names, a line each, in place of these.
        take: is handed each defect that is found here, in place of an error; the scenes they spoil are left out.

    Raises:
        UserError: no scenes, or scenes that are not there. Reading a scene raises one where files are missing, of other
            lengths, or hold what they must not.
    """

    def __init__(
        self,
        root: str | Path,
        part: str = "all",
        split_file: str | Path | None = None,
        take: Take | None = None,
    ) -> None:
        root = Path(root)
        require_folder(root)
        there = sorted(path.stem for path in (root / "points").glob("*.bin"))
        if not there:
            raise UserError(f"no scenes in {root}: looked for points/SCENE.bin, found {contents(root)}")
        split_file = None if split_file is None else Path(split_file)
        chosen = choose_scenes(root, there, part, split_file, root / "points", take)
        self._superpoints = (root / "super_points").is_dir()
        folders = ["instance_mask", "semantic_mask", *(["super_points"] if self._superpoints else [])]
        masks = [[root / folder / f"{name}.bin" for folder in folders] for name in chosen]
        whole = require_files(root, chosen, masks, f"each scene needs its points, {', '.join(folders)}", take)
        super().__init__(root, SCANNET_CLASSES, [chosen[index] for index in whole])

    def files_of(self, index: int) -> list[Path]:
        folders = ("points", "instance_mask", "semantic_mask", "super_points")
        return [self.root / folder / f"{self.names[index]}.bin" for folder in folders]

    def folder_repairs(self) -> list[Repair]:
        return [] if self._superpoints else [Repair("super_points", None, "read without superpoints: it is not there")]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        file = f"{self.names[index]}.bin"
        path, semantic_path = self.root / "points" / file, self.root / "semantic_mask" / file
        points = read_bin(path, np.float32, columns=6)
        check_points(points[:, :3], path)
        instance = read_bin(self.root / "instance_mask" / file, np.int64, len(points))
        nyu40 = read_bin(semantic_path, np.int64, len(points))
        check_range(nyu40, 0, 40, semantic_path, "classes")
        superpoints = None
        if self._superpoints:
            numbers = read_bin(self.root / "super_points" / file, np.int64, len(points))
            superpoints = np.unique(numbers, return_inverse=True)[1]
        colors, repairs = whole_colors(points[:, 3:], f"points/{file}")
        labels, classes, split = scannet_truth(instance, nyu40)
        repairs += instance_repairs(classes, split, f"instance_mask/{file}")
        return self.sample(index, points[:, :3], colors, classes, labels, superpoints), repairs
