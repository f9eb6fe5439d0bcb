"""Whether a checkpoint's sparse convolutions would load into OneFormer3D, and a copy that does where they would not.

mmdet3d permutes the kernels of a sparse convolution while it loads them, from spconv 1's layout (D, H, W, in, out) to
spconv 2's (out, D, H, W, in), unless the checkpoint's metadata say that they are of version 2. mmengine up to 0.7.3
lost the metadata when it saved, so the kernels it wrote in spconv 2's layout have to be permuted back before they are
loaded: that is what OneFormer3D's tools/fix_spconv_checkpoint.py is for. Checkpoints of later versions have their
metadata and load as they are; the tool breaks them. mmengine loads what fits and only logs the rest, so a backbone
that does not load would go unnoticed. Which of these a checkpoint is can be read from it; no code in it is run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOOL = Path("tools/fix_spconv_checkpoint.py")


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, in one sentence."""


def kernels(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of sparse convolutions by name, as OneFormer3D's tool picks them."""
    return {
        name: value
        for name, value in state.items()
        if name.startswith(("unet", "input_conv")) and name.endswith("weight") and value.dim() == 5
    }


def layout_of(weights: dict[str, Tensor]) -> str:
    """ "spconv 2" (out, k, k, k, in), "spconv 1" (k, k, k, in, out), or "neither".

    A weight that fits both, such as one with k outputs, does not count.
    """
    found = set()
    for weight in weights.values():
        shape = tuple(weight.shape)
        second, first = len(set(shape[1:4])) == 1, len(set(shape[:3])) == 1
        if first != second:
            found.add("spconv 1" if first else "spconv 2")
        elif not first:
            found.add("neither")
    return found.pop() if len(found) == 1 else ("neither" if found else "spconv 2")


def remedy_for(state: dict[str, Any]) -> str:
    """What has to be done before mmdet3d loads `state`: "nothing", "permute", "forget the version" or "unknown"."""
    weights = kernels(state)
    metadata = getattr(state, "_metadata", None) or {}
    versions = {metadata.get(name.rpartition(".")[0], {}).get("version") for name in weights}
    layout = layout_of(weights)
    if not weights:
        return "nothing"
    if layout == "neither":
        return "unknown"
    if (layout == "spconv 2") == (versions == {2}):
        return "nothing"
    return "permute" if layout == "spconv 2" else "forget the version"


def log_classes() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors: options, and buffers of logged numbers with their own methods.

    `getattr`, by which the methods are named, is replaced by one that gives nothing else.
    """
    try:
        import numpy as np
        from mmengine.config import ConfigDict
        from mmengine.logging.history_buffer import HistoryBuffer
        from numpy._core import multiarray
    except ImportError:  # nothing of it can be in a file that this environment wrote
        return []

    def method(buffer: Any, name: str) -> Any:
        if buffer is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
            raise ValueError(f"it asks for {name!r} of {getattr(buffer, '__name__', type(buffer).__name__)}")
        return getattr(buffer, name)

    numbers = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"]
    arrays = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]
    # as numpy 1 names them
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in arrays[2:]]
    return [ConfigDict, HistoryBuffer, *arrays, *old, *numbers, (method, "builtins.getattr")]


def loadable_checkpoint(path: Path, root: Path) -> Path:
    """A checkpoint with the weights of `path` that OneFormer3D loads whole.

    Args:
        path: the checkpoint. It is never changed.
        root: OneFormer3D's folder.

    Returns:
        `path`, or NAME_spconv.pth beside it, written anew unless it is there and no older than `path`.

    Raises:
        CheckpointError: the file cannot be read, or its kernels are in no known layout.
    """
    import torch

    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}: name one that tools/train.py wrote, such as epoch_512.pth."
        )
    try:
        with torch.serialization.safe_globals(log_classes()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"it holds {foreign[1]}" if foreign else reason.rstrip(".")
        raise CheckpointError(
            f"{path} is not a checkpoint that torch can read without running what it holds: {reason}."
        ) from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no state_dict: name a checkpoint that tools/train.py wrote.")
    remedy = remedy_for(state)
    if remedy == "nothing":
        return path
    if remedy == "unknown":
        raise CheckpointError(
            f"{path} has sparse kernels in no layout of spconv, as after two runs of fix_spconv_checkpoint.py: start "
            "from the checkpoint as it was saved; it is converted when needed."
        )
    copy = path.with_name(f"{path.stem}_spconv{path.suffix}")
    if copy.is_file() and copy.stat().st_mtime >= path.stat().st_mtime:
        return copy
    partial = copy.with_suffix(".partial")
    try:
        if remedy == "permute":
            command = [sys.executable, str(root / TOOL), "--in-path", str(path), "--out-path", str(partial)]
            environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
            subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
        else:
            state._metadata = OrderedDict()  # type: ignore[attr-defined]
            torch.save(checkpoint, partial)
        os.replace(partial, copy)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} needs its sparse kernels converted into {copy}, which failed: {error}."
        ) from error
    print(f"note: the sparse kernels of {path} do not load as they are; using {copy}", file=sys.stderr)
    return copy
