"""Reads PLY files that nobody has looked into."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from plyfile import PlyData, PlyParseError

from influencerformer.errors import UserError

_LONGEST_HEADER = 1 << 16


def read_vertices(path: Path, what: str, known_list_len: dict[str, dict[str, int]] | None = None) -> npt.NDArray[Any]:
    """The vertices of a PLY file, (N,) with a field for each property.

    Args:
        path: the file.
        what: it is to be, for the message.
        known_list_len: lengths of lists that all are of one, as plyfile takes them: those are read faster; where the
            file has others it is read without.

    Raises:
        UserError: the file is no PLY file, has no vertices, is cut off, or promises more than it can hold.
    """
    try:
        _check_header(path)
        try:
            content = PlyData.read(str(path), known_list_len=known_list_len or {})
        except PlyParseError:
            if known_list_len is None:
                raise
            content = PlyData.read(str(path))
        return np.asarray(content["vertex"].data)
    except Exception as error:  # what plyfile raises depends on what the file is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as {what} ({reason}): replace the file") from error


def _check_header(path: Path) -> None:
    """Raises a ValueError where an element has more rows than the file bytes: memory is taken for all of them."""
    with path.open("rb") as file:
        header = file.read(_LONGEST_HEADER)
    end = header.find(b"end_header")
    if end < 0:
        raise ValueError("it has no end of a header")
    size = path.stat().st_size
    for name, count in re.findall(rb"\belement\s+(\S+)\s+(\S+)", header[:end]):
        if not count.isdigit() or int(count[:20]) > size:
            what = f"{count[:20].decode('latin1')} of {name[:20].decode('latin1')}"
            raise ValueError(f"its header promises {what}, the file has {size} bytes")
