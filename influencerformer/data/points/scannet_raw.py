"""ScanNet v2 as it is given out: a folder a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influencerformer.data.bad_samples import Take
from influencerformer.data.files import read_json
from influencerformer.data.points.label_check import check_points, instance_repairs, whole_colors
from influencerformer.data.points.ply_files import read_vertices
from influencerformer.data.points.repairs import Repair, limited, shown_path
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_folders import contents, require_files, require_folder
from influencerformer.data.points.sample import PointSample
from influencerformer.data.points.scannet_classes import (
    HOW_TO_GET,
    SCANNET_CLASSES,
    choose_scenes,
    read_label_table,
    scannet_truth,
)
from influencerformer.errors import UserError

_MESH, _SEGMENTS = "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json"


class ScanNetDataset(RoomDataset):
    """Scenes as scans/SCENE/ with SCENE_vh_clean_2.ply, SCENE_vh_clean_2.0.010000.segs.json, SCENE.aggregation.json.

    Points are the mesh's vertices, not turned to the axes. Superpoints are the segments of the .segs.json, instances
    the objects of the .aggregation.json; the label that an annotator wrote becomes NYU40's class by the table
    scannetv2-labels.combined.tsv in ROOT. What is background and what is ignored: see
    :func:`influencerformer.data.points.scannet_classes.scannet_truth`. A segment that several objects name belongs
    to the last of them, as in ScanNet's own scripts; this is reported, and so are labels that the table lacks.

    Args:
        root: the folder that holds scans/ (or the scenes themselves) and the table.
        part: "all", or the split "train" or "val" by ROOT/scannetv2_train.txt or ROOT/meta_data/scannetv2_train.txt.
        split_file: a file of scene names, a line each, in place of these.
        take: is handed each defect that is found here, in place of an error; the scenes they spoil are left out.

    Raises:
        UserError: no scenes, no table, scenes that are not there. Reading a scene raises one where files are missing
            or broken, or the mesh and its segments disagree in their number of vertices.
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
        self.scenes = root / "scans" if (root / "scans").is_dir() else root
        there = sorted(p.name for p in self.scenes.iterdir() if p.is_dir() and p.name.startswith("scene"))
        if not there:
            raise UserError(f"no scenes in {root}: looked for scans/scene0000_00, found {contents(root)}; {HOW_TO_GET}")
        split_file = None if split_file is None else Path(split_file)
        chosen = choose_scenes(root, there, part, split_file, self.scenes, take)
        files = [[self.scenes / name / f"{name}{ending}" for ending in (_MESH, _SEGMENTS)] for name in chosen]
        whole = require_files(root, chosen, files, f"the scenes are incomplete; {HOW_TO_GET}", take)
        self._nyu40 = read_label_table(root)
        super().__init__(root, SCANNET_CLASSES, [chosen[index] for index in whole])

    def files_of(self, index: int) -> list[Path]:
        name = self.names[index]
        endings = (_MESH, _SEGMENTS, ".aggregation.json", "_vh_clean.aggregation.json")
        return [self.scenes / name / f"{name}{ending}" for ending in endings]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        name = self.names[index]
        folder = self.scenes / name
        coordinates, colors = _read_mesh(folder / f"{name}{_MESH}")
        check_points(coordinates, folder / f"{name}{_MESH}")
        segments_path = folder / f"{name}{_SEGMENTS}"
        segments = _integers(_read_json(segments_path).get("segIndices"), segments_path, "segIndices")
        if len(segments) != len(coordinates):
            raise UserError(
                f"{segments_path} has {len(segments)} vertices but {name}{_MESH} has {len(coordinates)}: they must "
                "be of the same mesh"
            )
        numbers, superpoints = np.unique(segments, return_inverse=True)
        objects_path = _find_aggregation(folder, name)
        file = shown_path(objects_path, self.root)
        owner, nyu40, repairs = self._annotate(numbers, _read_objects(objects_path), file)
        labels, classes, split = scannet_truth(owner[superpoints], nyu40[superpoints])
        whole, found = whole_colors(colors, shown_path(folder / f"{name}{_MESH}", self.root))
        repairs += found + instance_repairs(classes, split, file)
        return self.sample(index, coordinates, whole, classes, labels, superpoints), repairs

    def _annotate(
        self, numbers: npt.NDArray[np.int64], objects: list[tuple[str, npt.NDArray[np.int64]]], file: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[Repair]]:
        """Object from 1 (0 for none) and NYU40's class (0 for none) of each segment number (S,), sorted."""
        owner = np.zeros(len(numbers), dtype=np.int64)
        nyu40 = np.zeros(len(numbers), dtype=np.int64)
        repairs: list[Repair] = []
        for count, (label, segments) in enumerate(objects, 1):
            at = np.searchsorted(numbers, segments).clip(max=len(numbers) - 1)
            known = numbers[at] == segments
            if not known.all():
                repairs.append(
                    Repair(file, None, f"segments left out that no vertex has: {(~known).sum()} of {label!r}")
                )
            at = at[known]
            if owner[at].any():
                taken = np.count_nonzero(owner[np.unique(at)])
                repairs.append(
                    Repair(file, None, f"segments of several objects given to the last: {taken} to {label!r}")
                )
            if label not in self._nyu40:
                repairs.append(Repair(file, None, f"object ignored whose label the table lacks: {label!r}"))
            owner[at], nyu40[at] = count, self._nyu40.get(label, 0)
        return owner, nyu40, limited(repairs)


def _read_mesh(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Vertices (N, 3) and their colours (N, 3)."""
    try:
        # Faces of a known length are not parsed, which takes most of the time otherwise.
        vertices = read_vertices(path, "a mesh", {"face": {"vertex_indices": 3}})
    except UserError as error:
        raise UserError(f"{error}; {HOW_TO_GET}") from error
    types = {name: vertices.dtype[name] for name in vertices.dtype.names or ()}
    lacking = [n for n in ("x", "y", "z", "red", "green", "blue") if n not in types or types[n].kind not in "iuf"]
    if lacking:
        raise UserError(f"{path} has no {', '.join(lacking)} of its vertices: expected x, y, z, red, green and blue")
    coordinates = np.stack([vertices[name] for name in ("x", "y", "z")], axis=1).astype(np.float32)
    return coordinates, np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)


def _find_aggregation(folder: Path, name: str) -> Path:
    """SCENE.aggregation.json; SCENE_vh_clean.aggregation.json only where it is about the same segments.

    The latter is of the mesh before decimation, whose segments have other numbers.
    """
    path, fine = folder / f"{name}.aggregation.json", folder / f"{name}_vh_clean.aggregation.json"
    if path.is_file() or not fine.is_file():
        return path
    if str(_read_json(fine).get("segmentsFile", "")).endswith(_SEGMENTS):
        return fine
    raise UserError(
        f"{path} does not exist, and {fine.name} is about the segments of another mesh ({name}_vh_clean.ply): "
        f"{HOW_TO_GET}"
    )


def _read_objects(path: Path) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Label and segment numbers of each object."""
    groups = _read_json(path).get("segGroups")
    if not isinstance(groups, list) or not all(isinstance(g, dict) and isinstance(g.get("label"), str) for g in groups):
        raise UserError(f"{path} has no segGroups with a label each: replace the file; {HOW_TO_GET}")
    return [(group["label"], _integers(group.get("segments"), path, "segments")) for group in groups]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the scene is incomplete; {HOW_TO_GET}")
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error}: replace the file; {HOW_TO_GET}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object, got a {type(content).__name__}: replace the file; {HOW_TO_GET}")
    return content


def _integers(values: Any, path: Path, field: str) -> npt.NDArray[np.int64]:
    """A list of integers as an array (N,)."""
    try:
        array = np.array(values if isinstance(values, list) else None)
    except (ValueError, OverflowError):
        array = np.array(None)
    if array.ndim != 1 or (len(array) and array.dtype.kind != "i"):
        raise UserError(f"{path} has no list of whole numbers under {field}: replace the file; {HOW_TO_GET}")
    return array.astype(np.int64)
