"""Arrays as prepared data hold them, .npy and bare .bin, with one clear sentence where one cannot be read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from influencerformer.errors import UserError


def read_npy(path: Path) -> npt.NDArray[Any]:
    """An array saved by numpy, never unpickled.

    Raises:
        UserError: the file is missing, truncated, or no array of numbers.
    """
    try:
        with path.open("rb") as file:
            _check_header(file, path)
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the room is incomplete") from None
    except Exception as error:  # what numpy raises depends on what the file is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as an array of numbers ({reason}): replace the file") from error


def _check_header(file: BinaryIO, path: Path) -> None:
    """Raises a ValueError where an array is said to be larger than its file: memory is taken for all of it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype.name} values")
    stated, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
    if stated > there:
        raise ValueError(f"its header promises {stated} bytes of numbers, it has {there}")
    file.seek(0)


def read_bin(path: Path, dtype: npt.DTypeLike, count: int | None = None, columns: int = 1) -> npt.NDArray[Any]:
    """A bare array of rows of `columns` numbers, little-endian.

    Args:
        path: the file.
        dtype: of the numbers.
        count: rows that it must have.
        columns: numbers in a row.

    Returns:
        (N, columns), or (N,) for one column.

    Raises:
        UserError: the file is missing or its length does not fit.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    row = kind.itemsize * columns
    if len(data) % row or (count is not None and len(data) != count * row):
        of = f"a multiple of {row}" if count is None else f"{count * row} for {count} points"
        raise UserError(
            f"{path} is {len(data)} bytes long, expected {of} ({columns} {kind.name} a point): it is truncated or of "
            "another type or room"
        )
    values = np.frombuffer(data, dtype=kind).astype(dtype)
    return values.reshape(-1, columns) if columns > 1 else values
