"""A folder of generated data that appears complete or not at all, and is made once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from influencerformer.errors import UserError


def make_once(folder: Path, what: str, marker: str, wanted: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Has ``write`` fill the folder, unless it holds the same data already; several processes may ask at once.

    Args:
        folder: absent, empty, or made by an earlier call.
        what: what is generated, for messages: "generated rooms".
        marker: name of the file that says what the folder holds.
        wanted: all that decides the data, as JSON keeps it.
        write: fills a folder, which then takes the place of ``folder``.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    wanted = json.loads(json.dumps(wanted))
    if _holds(folder, what, marker, wanted):
        return
    try:
        _make(folder, what, marker, wanted, write)
    except OSError as error:
        raise UserError(f"{what} cannot be written to {folder} ({error.strerror or error})") from error


def _make(folder: Path, what: str, marker: str, wanted: dict[str, Any], write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}_", dir=folder.parent))
    try:
        write(temporary)
        (temporary / marker).write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        temporary.chmod(0o755)
        try:
            if folder.is_dir():
                folder.rmdir()
            os.rename(temporary, folder)
        except OSError:
            # Another process was faster; its folder is the same if it is complete.
            if not _holds(folder, what, marker, wanted):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _holds(folder: Path, what: str, marker: str, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds these data; False where it is absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / marker).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != wanted:
        raise UserError(
            f"{folder} exists but does not hold the {what} asked for ({wanted}): delete it or choose another folder"
        )
    return True
