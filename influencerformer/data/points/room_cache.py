"""Rooms that take long to read, kept as plain arrays beside the data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influencerformer.errors import UserError

Arrays = dict[str, npt.NDArray[Any]]


def source_key(version: int, root: Path, sources: Iterable[Path]) -> str:
    """A text that changes with the version, or with the name, size or time of any source."""
    lines = [str(version)]
    for path in sorted(sources):
        state = path.stat()
        lines.append(f"{path.relative_to(root).as_posix()} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(lines)


class RoomCache:
    """A folder with one uncompressed .npz file a room, each with the key of what it was made from.

    Args:
        folder: made when the first room is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str, key: str, only: str | None = None) -> Arrays | None:
        """The arrays of a room, or None where they are absent, broken or of another key.

        Args:
            name: of the room.
            key: from :func:`source_key`.
            only: the one array to read; None for all.
        """
        try:
            with np.load(self._path(name), allow_pickle=False) as file:
                if file["key"].tobytes() != key.encode():
                    return None
                return {field: file[field] for field in file.files if field != "key" and only in (None, field)}
        except Exception:  # what numpy raises depends on what the file is
            return None

    def store(self, name: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Writes a room; its file appears complete or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self._path(name)
        temporary: str | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f".{name}_", delete=False) as file:
                temporary = file.name
                np.savez(file, key=text_array(key), **arrays)  # type: ignore[arg-type]
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            raise UserError(
                f"rooms cannot be kept in {self.folder} ({error.strerror}): name a folder that can be written with the "
                "option cache"
            ) from error
        finally:
            if temporary is not None:
                os.unlink(temporary)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def text_array(text: str) -> npt.NDArray[np.uint8]:
    """A text as bytes, as arrays without pickle hold it."""
    return np.frombuffer(text.encode(), dtype=np.uint8)
