"""Room on the disk, sizes in words, and moving finished files into place."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from influencerformer.errors import UserError


def byte_progress(console: Console) -> Progress:
    """A progress bar that counts bytes."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def say(console: Console, message: str) -> None:
    """Prints one plain line, however long."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def in_words(size: int) -> str:
    """A number of bytes for a message: "815 bytes", "1.5 MiB"."""
    if size < 1024:
        return f"{size} bytes"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents.

    Raises:
        UserError: it is a file, or may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be made ({error.strerror}): choose another one") from error


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Checks that the disk of an existing `folder` has `needed` bytes free.

    Raises:
        UserError: it has fewer; the message says what they are needed for.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {in_words(free)} free, but {in_words(needed)} are needed {purpose}: free the rest or choose "
            "another folder"
        )


def cannot_write(path: Path, error: OSError, kept: str) -> UserError:
    """What to tell the user when writing `path` failed; `kept` says what is left of the work."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk filled up while writing {path}: free some space and run the same command again; {kept}"
        )
    return UserError(f"{path} cannot be written ({error.strerror or error}): {kept}")


def move(source: Path, destination: Path) -> None:
    """Renames a file or folder within one disk and never replaces anything.

    Raises:
        UserError: `destination` exists.
    """
    if os.path.lexists(destination):
        raise UserError(
            f"{destination} exists already and is not replaced: move it away and run the same command again"
        )
    source.rename(destination)
