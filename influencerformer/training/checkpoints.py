"""Checkpoints of `fit`: written whole or not at all, read without running any code in them."""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from influencerformer.errors import UserError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint of `fit`; only tensors and plain values are read, no code is run.

    Raises:
        UserError: the file is missing, cut off, or something else.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no checkpoint, or was cut off: expected a file that `fit` wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch raises depends on what the file is
        foreign = re.search(r"GLOBAL (\S+)", str(error))  # torch's own sentence advises to run it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = f"it holds {foreign[1]}, which is neither a tensor nor a plain value" if foreign else reason
        raise UserError(f"{path} is no readable checkpoint: {reason}") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path} is no checkpoint of `fit`: it lacks state_dict or hyper_parameters")
    return content


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, waits until it is on the disk, then lets it take the old one's name.

    So a file of that name is always whole, and the last good one survives a kill, a power cut and a full disk. A
    checkpoint that cannot be written does not end the run: one sentence says so, and `failures` keeps it.

    Attributes:
        failures: by path, the sentence of a last save that failed; a save that succeeds takes it out.
    """

    def __init__(self) -> None:
        self.failures: dict[Path, str] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """As Lightning's; only a process that is to write calls it."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_durably(path, content.getbuffer())
        except OSError as error:
            kept = "the one saved before is kept" if path.exists() else "there is none from before"
            self.failures[path] = (
                f"checkpoint {path} could not be saved ({error.strerror or error}): {kept}; make room on that disk"
            )
            print(f"warning: {self.failures[path]}; training goes on", file=sys.stderr, flush=True)
        else:
            self.failures.pop(path, None)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file by one that is on the disk already; makes the folder where it is missing.

    Raises:
        OSError: it cannot be written; a file that was there is untouched, and nothing is left beside it.
    """
    draft = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is on the disk only when the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
