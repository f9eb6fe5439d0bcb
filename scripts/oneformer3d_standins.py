"""Small replacements for the compiled packages that OneFormer3D imports and a machine without CUDA or compiler lacks.

Each is put into `sys.modules` only if the real package cannot be imported, and covers only what OneFormer3D's
spconv models use (S3DIS, ScanNet, instance-only pre-training). Whatever else is asked of one raises an error that
says which package is missing. Written for scripts/oneformer3d_cpu.py; nothing in the package uses it.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor


def importable(name: str) -> bool:
    """Whether `import name` works here; a package built for another torch or CUDA counts as missing."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


def empty_module(name: str) -> ModuleType:
    """A module without contents; its spec has no loader, by which mmengine knows mmcv's ops for missing."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def install_mmcv_ops() -> bool:
    """Puts a stand-in at `mmcv._ext`, which mmcv-lite lacks: its ops import, and raise RuntimeError when called.

    Returns:
        Whether the stand-in was needed.
    """
    if importable("mmcv._ext"):
        return False
    module = empty_module("mmcv._ext")

    def missing_op(name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def op(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise RuntimeError(f"mmcv's compiled op {name!r} is not available here: install mmcv instead of mmcv-lite")

        return op

    module.__getattr__ = missing_op  # type: ignore[method-assign]
    sys.modules["mmcv._ext"] = module
    return True


def scatter_mean(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Mean of the entries of `src` that share an index, as torch_scatter's.

    Args:
        src: any shape; along `dim` it has N entries. Of an integer dtype the mean is floored, as torch_scatter
            does: OneFormer3D's ground truth of S3DIS relies on it (a voxel counts only if all its points do).
        index: (N,) integers from 0.
        dim: the dimension that is reduced.
        out: not supported; there for torch_scatter's signature.
        dim_size: groups; one more than the largest index if None. A group without entries gets 0.

    Raises:
        RuntimeError: `out` is given, or `index` is not (N,).
    """
    if out is not None or index.dim() != 1 or index.shape[0] != src.shape[dim]:
        raise RuntimeError("this stand-in of torch_scatter.scatter_mean takes a one-dimensional index and no out")
    if dim_size is None:
        dim_size = int(index.max()) + 1 if index.numel() else 0
    shape = list(src.shape)
    shape[dim] = dim_size
    total = torch.zeros(shape, dtype=src.dtype, device=src.device).index_add(dim, index, src)
    count = torch.bincount(index, minlength=dim_size).clamp(min=1)
    view = [1] * src.dim()
    view[dim] = dim_size
    rounding = None if src.is_floating_point() else "floor"
    return torch.div(total, count.view(view).to(src.dtype), rounding_mode=rounding)


def install_torch_scatter() -> bool:
    """Puts a stand-in at `torch_scatter` with `scatter_mean` only. Returns whether it was needed."""
    if importable("torch_scatter"):
        return False
    module = empty_module("torch_scatter")
    module.scatter_mean = scatter_mean  # type: ignore[attr-defined]
    sys.modules["torch_scatter"] = module
    return True


class RegionType(enum.Enum):
    """MinkowskiEngine's kinds of kernel region, which OneFormer3D's mink_unet.py reads while it is imported."""

    HYPER_CUBE = 0
    HYPER_CROSS = 1
    CUSTOM = 2


class SparseVoxels:
    """What `TensorField.sparse()` returns: one row a voxel, in ascending order of (scene, x, y, z)."""

    def __init__(self, coordinates: Tensor, features: Tensor, key: int) -> None:
        self.coordinates = coordinates
        self.features = features
        self.coordinate_map_key = key


class TensorField:
    """Points that `sparse()` gathers into voxels, the features averaged: MinkowskiEngine's default.

    Args:
        features: (N, C) floats.
        coordinates: (N, 4) scene index and voxel x, y, z, whole numbers.
    """

    def __init__(self, features: Tensor, coordinates: Tensor, **_kwargs: Any) -> None:
        self.features = features
        self.coordinates = coordinates
        # One number a voxel sorts much faster than rows do, and in the same order.
        low = coordinates.amin(0).long()
        extent = coordinates.amax(0).long() - low + 1
        key = torch.zeros(len(coordinates), dtype=torch.long, device=coordinates.device)
        for axis in range(coordinates.shape[1]):
            key = key * extent[axis] + (coordinates[:, axis].long() - low[axis])
        unique, self._inverse = torch.unique(key, return_inverse=True)
        voxels = torch.empty(len(unique), coordinates.shape[1], dtype=torch.int32, device=coordinates.device)
        voxels[self._inverse] = coordinates.to(torch.int32)
        self._voxels = voxels

    def sparse(self, **_kwargs: Any) -> SparseVoxels:
        """The occupied voxels: coordinates (V, 4) int32, features (V, C)."""
        mean = scatter_mean(self.features, self._inverse, dim=0, dim_size=len(self._voxels))
        return SparseVoxels(self._voxels, mean, id(self))

    def inverse_mapping(self, key: int) -> Tensor:
        """(N,) int64, the row of each point's voxel; RuntimeError if `key` is another field's."""
        if key != id(self):
            raise RuntimeError("the coordinate map key belongs to another TensorField")
        return self._inverse


def batch_sparse_collate(
    data: Sequence[tuple[Tensor, Tensor]], device: torch.device | str | None = None, **_kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Scenes as one batch.

    Args:
        data: for each scene coordinates (N_i, 3) in voxels, which are floored, and features (N_i, C).
        device: where the result lies; that of the coordinates if None.

    Returns:
        Coordinates (sum N_i, 4) int32 with the scene index in front, features (sum N_i, C).
    """
    coordinates = []
    for scene, (points, _) in enumerate(data):
        points = torch.as_tensor(points).floor().to(torch.int32)
        coordinates.append(torch.cat([points.new_full((len(points), 1), scene), points], dim=1))
    features = torch.cat([torch.as_tensor(values) for _, values in data])
    return torch.cat(coordinates).to(device), features.to(device)


def missing_minkowski(name: str) -> type:
    """A class in the place of one of MinkowskiEngine's layers: it can be named, not made."""
    if not (name.startswith("Minkowski") or name in ("KernelGenerator", "SparseTensor")):
        raise AttributeError(name)

    def refuse(_self: Any, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(f"MinkowskiEngine is not installed and {name} needs it (ScanNet200's Res16UNet34C does)")

    return type(name, (), {"__init__": refuse})


def install_minkowski() -> bool:
    """Puts a stand-in at `MinkowskiEngine`: collating and voxel averaging work, layers cannot be made.

    Import mmdet3d.models before, so that mmdet3d itself finds MinkowskiEngine missing and leaves it alone.

    Returns:
        Whether the stand-in was needed.
    """
    if importable("MinkowskiEngine"):
        return False
    engine, ops, utils = (empty_module("MinkowskiEngine" + part) for part in ("", ".MinkowskiOps", ".utils"))
    engine.__path__ = []
    engine.__getattr__ = missing_minkowski  # type: ignore[method-assign]
    contents = {"MinkowskiOps": ops, "utils": utils, "TensorField": TensorField, "RegionType": RegionType}
    for name, value in contents.items():
        setattr(engine, name, value)
    ops.cat = missing_minkowski("MinkowskiOps")  # type: ignore[attr-defined]
    utils.batch_sparse_collate = batch_sparse_collate  # type: ignore[attr-defined]
    sys.modules.update({module.__name__: module for module in (engine, ops, utils)})
    return True


def patch_spconv_backward() -> bool:
    """Lets spconv 2.3's backward run without CUDA, where it asks for the current CUDA stream and fails.

    Returns:
        Whether it was patched: only if torch sees no CUDA device.
    """
    if torch.cuda.is_available():
        return False
    ops: Any = importlib.import_module("spconv.pytorch.ops")
    ops.get_current_stream = lambda: 0
    return True
