"""Labelled point clouds as PLY files, for CloudCompare, MeshLab, Open3D and the like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from plyfile import PlyData, PlyElement

from influencerformer.pictures.atomic import replace_file
from influencerformer.pictures.cloud_instances import check_points

COMMENTS = (
    "instance: 0 none, 1.. instances, -1 ignored; semantic: number of the class, -1 none",
    "score: of the instance that the point belongs to, 0 where there is none",
)


def write_ply(
    path: Path | str,
    coordinates: npt.NDArray[np.floating],
    colors: npt.NDArray[np.uint8],
    instance: npt.NDArray[np.integer],
    semantic: npt.NDArray[np.integer],
    score: npt.NDArray[np.floating] | None = None,
) -> Path:
    """Write points with labels as a binary PLY file; a file at `path` is replaced only when all is written.

    Vertices have the properties x, y, z (double where `coordinates` are float64, else float), red, green, blue
    (uchar), instance, semantic (int), and score (float) where given.

    Args:
        path: of the file; its folder is made where it is missing.
        coordinates: (N, 3) floats.
        colors: (N, 3) uint8, red, green, blue.
        instance: (N,) integers, 0 none, 1.. instances, -1 ignored.
        semantic: (N,) integers, class of each point, -1 none.
        score: (N,) floats, score of the instance that each point belongs to.

    Returns:
        `path`.

    Raises:
        ValueError: arrays of other shapes or types, or labels that do not fit 32 bits.
        UserError: `path` cannot be written.
    """
    check_points(coordinates, colors)
    real = "f8" if coordinates.dtype == np.float64 else "f4"
    columns = {
        **{name: coordinates[:, axis].astype(real) for axis, name in enumerate("xyz")},
        **{name: colors[:, axis] for axis, name in enumerate(("red", "green", "blue"))},
        "instance": _labels("instance", instance, len(coordinates)),
        "semantic": _labels("semantic", semantic, len(coordinates)),
    }
    if score is not None:
        if np.shape(score) != (len(coordinates),):
            raise ValueError(f"score must be ({len(coordinates)},), got {np.shape(score)}")
        columns["score"] = np.asarray(score, dtype=np.float32)
    vertices = np.empty(len(coordinates), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        vertices[name] = values
    comments = list(COMMENTS if score is not None else COMMENTS[:1])
    data = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=comments)
    return replace_file(path, lambda draft: data.write(str(draft)))


def _labels(name: str, values: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int32]:
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be ({count},) integers, got {values.shape} {values.dtype}")
    limit = np.iinfo(np.int32)
    if values.min() < limit.min or values.max() > limit.max:
        raise ValueError(f"{name} must fit 32 bits, got {values.min()}..{values.max()}")
    return values.astype(np.int32)
