"""Reading single point clouds of any origin, without a truth: PLY, text and NumPy files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from influencerformer.data.points.array_files import read_npy
from influencerformer.data.points.label_check import check_points
from influencerformer.data.points.ply_files import read_vertices
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError

CLOUD_SUFFIXES = (".ply", ".txt", ".xyz", ".npy")
GREY = 128


def read_cloud(path: Path, sample_id: int = 0) -> PointSample:
    """A cloud as a sample without instances.

    A .ply file has vertices x, y, z and may have red, green, blue; a .txt or .xyz file a line a point, x y z or
    x y z r g b; a .npy file an array (N, 3) or (N, 6) of the same. Colours are 0..255; a cloud without colours is grey.
    Metres, z up.

    Raises:
        UserError: the file is missing, of another kind, cut off, empty, or holds values that are not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    suffix = path.suffix.lower()
    if suffix == ".ply":
        table = _read_ply(path)
    elif suffix in CLOUD_SUFFIXES:
        table = _read_table(path, suffix)
    else:
        raise UserError(f"{path} is no point cloud: expected a file ending in {', '.join(CLOUD_SUFFIXES)}")
    if table.ndim != 2 or table.shape[1] not in (3, 6) or not len(table):
        raise UserError(f"{path} must hold points as x y z or x y z r g b, got an array of shape {table.shape}")
    if not np.isfinite(table).all():
        raise UserError(f"{path} holds {int((~np.isfinite(table)).sum())} values that are NaN or infinite")
    check_points(table[:, :3], path)
    colors = np.full((len(table), 3), GREY, dtype=np.uint8)
    if table.shape[1] == 6:
        values = table[:, 3:]
        if values.min() < 0 or values.max() > 255:
            raise UserError(f"{path} has colours from {values.min():g} to {values.max():g}: expected 0..255")
        if values.max() <= 1 and values.max() > 0:
            raise UserError(f"{path} has colours in 0..1: expected 0..255; multiply them by 255")
        colors = values.round().astype(np.uint8)
    nothing = torch.zeros(0, dtype=torch.int64)
    return PointSample(
        path.stem,
        torch.from_numpy(table[:, :3].astype(np.float32)),
        torch.from_numpy(colors),
        nothing,
        torch.zeros(len(table), dtype=torch.int64),
        None,
        sample_id,
    )


def _read_ply(path: Path) -> npt.NDArray[Any]:
    vertices = read_vertices(path, "a PLY file with vertices")
    names = vertices.dtype.names or ()
    missing = [name for name in "xyz" if name not in names]
    if missing:
        raise UserError(f"{path} has vertices without {', '.join(missing)}; it has {', '.join(names) or 'nothing'}")
    columns = ["x", "y", "z"]
    if {"red", "green", "blue"} <= set(names):
        columns += ["red", "green", "blue"]
    if any(vertices[name].dtype.kind not in "iuf" for name in columns):
        raise UserError(f"{path} has vertices whose {', '.join(columns)} are not all numbers: replace the file")
    return np.stack([vertices[name].astype(np.float64) for name in columns], 1)


def _read_table(path: Path, suffix: str) -> npt.NDArray[Any]:
    try:
        if suffix == ".npy":
            return np.asarray(read_npy(path), dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is named below
            return np.asarray(np.loadtxt(path, ndmin=2), dtype=np.float64)
    except UserError:
        raise
    except Exception as error:  # what numpy raises depends on what the file is
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as points, x y z or x y z r g b ({reason}): replace the file") from None
