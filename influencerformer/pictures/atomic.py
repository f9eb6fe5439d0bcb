"""Files that are either the old or the new one, never half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from influencerformer.errors import UserError


def replace_file(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file beside `path`, then give it that name; makes the folder where it is missing.

    Returns:
        `path`.

    Raises:
        UserError: the file or its folder cannot be written; nothing is left beside it.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): free it or give another path"
        ) from error
    return path
