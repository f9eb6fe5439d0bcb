"""Reads one annotation file of S3DIS (lines of `x y z r g b`) and mends what is known to be broken in them.

The files of the original hold a few bytes with one bit lost: 0x00 for a blank (Area_5/hallway_6), 0x10 for "0"
(Area_5/office_19), 0x16 for "6" (Area_3/hallway_2). Each is the intended byte with bit 0x20 cleared.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from influencerformer.data.points.label_check import FARTHEST
from influencerformer.data.points.repairs import Repair, limited
from influencerformer.errors import UserError

Table = npt.NDArray[np.float32]

_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LINE = re.compile(rb"[ \t]*" + rb"[ \t]+".join([_NUMBER] * 6) + rb"[ \t]*")
_CLEAN = b"0123456789.-+eE \t\r\n"
_STRAY = re.compile(rb"[^\x20-\x7e\t]")


def read_annotation(path: Path, file: str) -> tuple[Table, list[Repair]]:
    """The points of one annotation file.

    A clean file is parsed as a whole; only one that does not parse so is read line by line. A line that cannot be
    mended is left out. An empty file gives no points.

    Args:
        path: the file.
        file: its name in repairs.

    Returns:
        (N, 6) float32: x, y, z in metres and red, green, blue from 0 to 255, colours not rounded; and the repairs.

    Raises:
        UserError: the file cannot be opened, or most of its lines are not of that form.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if not data.strip():
        return np.empty((0, 6), dtype=np.float32), [Repair(file, None, "left out: it is empty")]
    table = _parse(path, data)
    if table is not None:
        return table, []
    return _mend_file(path, file, data)


def _parse(path: Path, data: bytes) -> Table | None:
    """The whole file, or None where anything in it needs a closer look."""
    if data.translate(None, _CLEAN):
        return None
    try:
        table = np.loadtxt(path, dtype=np.float32, comments=None, encoding="latin1", ndmin=2)
    except ValueError:
        return None
    if table.shape[1] != 6 or not np.abs(table[:, :3]).max() < FARTHEST:
        return None
    return table if table[:, 3:].min() >= 0 and table[:, 3:].max() <= 255 else None


def _mend_file(path: Path, file: str, data: bytes) -> tuple[Table, list[Repair]]:
    """The file line by line; bytes.splitlines() takes every usual end of line."""
    rows: list[list[float]] = []
    repairs: list[Repair] = []
    first = b""
    lines = 0
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        lines += 1
        row, what = _read_line(line)
        if what:
            first = first or line
            repairs.append(Repair(file, number, what))
        if row is not None:
            rows.append(row)
    if len(repairs) > 10 and 2 * len(repairs) > lines:
        raise UserError(
            f"{path} does not hold lines of `x y z r g b` with colours from 0 to 255: {len(repairs)} of its {lines} "
            f"lines are unfit, line {repairs[0].line} is {first[:60].decode('latin1')!r}; replace the file"
        )
    if not rows:
        repairs.append(Repair(file, None, "left out: no line of it can be read"))
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    table[:, 3:] = table[:, 3:].clip(0, 255)
    return table, limited(repairs)


def _read_line(line: bytes) -> tuple[list[float] | None, str | None]:
    """The six numbers of a line, or None; and what was done to it, or None."""
    row, done = _numbers(line), []
    if row is None and _STRAY.search(line):
        line, what = _mend(line)
        row, done = _numbers(line), [what]
    if row is None:
        return None, _fault(line)
    if not _in_range(row):
        wrong = [f"{value:g}" for value in row[3:] if not 0 <= value <= 255]
        done.append(f"colours clipped to 0..255: {' and '.join(wrong)}")
    return row, "; ".join(done) or None


def _numbers(line: bytes) -> list[float] | None:
    if not _LINE.fullmatch(line):
        return None
    row = [float(text) for text in line.split()]
    return row if max(map(abs, row[:3])) < FARTHEST else None


def _in_range(row: list[float]) -> bool:
    return all(0 <= value <= 255 for value in row[3:])


def _mend(line: bytes) -> tuple[bytes, str]:
    """The line without its stray bytes in the likeliest way, and which way that is.

    A byte is restored by its lost bit, taken out, or read as a blank: the first of these that gives six numbers
    with as many decimals in every coordinate and in every colour, as S3DIS writes them; failing that the first that
    gives six numbers.
    """
    strays = sorted(set(_STRAY.findall(line)))
    names = " and ".join(f"0x{stray[0]:02x}" for stray in strays)
    noun = "unprintable byte" if len(strays) == 1 else "unprintable bytes"
    restored = bytes(byte | 0x20 if byte < 0x20 and byte != 0x09 else byte for byte in line)
    meant = " and ".join("a blank" if stray == b"\x00" else repr(chr(stray[0] | 0x20)) for stray in strays)
    ways = [
        (restored, f"{noun} {names} read as {meant}"),
        (_STRAY.sub(b"", line), f"{noun} {names} taken out"),
        (_STRAY.sub(b" ", line), f"{noun} {names} read as a blank"),
    ]
    valid = [(text, what) for text, what in ways if (row := _numbers(text)) is not None and _in_range(row)]
    even = [way for way in valid if _even_decimals(way[0])]
    return (even or valid or ways[1:])[0]


def _even_decimals(line: bytes) -> bool:
    decimals = [len(text.partition(b".")[2]) for text in line.split()]
    return len(set(decimals[:3])) == 1 and len(set(decimals[3:])) == 1


def _fault(line: bytes) -> str:
    """Why a line is left out."""
    words = line.split()
    for word in words:
        if not re.fullmatch(_NUMBER, word):
            return f"left out: {word[:20].decode('latin1')!r} is no number"
    if len(words) != 6:
        return f"left out: {len(words)} columns instead of 6"
    return f"left out: coordinates beyond {FARTHEST:.0f} m"
