"""Reading what `fit` wrote, without running any code in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no readable checkpoint: {reason}") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path} is no checkpoint of `fit`: it lacks state_dict or hyper_parameters")
    return content
