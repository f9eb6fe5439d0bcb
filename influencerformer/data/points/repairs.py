"""What a reader mended or left out, so that nothing changes in silence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Repair:
    """One thing that was mended, left out or taken differently from how it stands in the data.

    Attributes:
        file: path below the data set's root, with forward slashes.
        line: of a text file, counted from 1; None where the whole file is meant.
        what: what was done and why, such as "left out: it is empty".
    """

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f' line {self.line}'}: {self.what}"


def shown_path(path: Path, root: Path) -> str:
    """`path` below `root` with forward slashes; unprintable characters of a name are escaped."""
    text = path.relative_to(root).as_posix()
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def repair_summary(repairs: Sequence[Repair], limit: int = 20) -> str:
    """A text for the user: how many repairs in how many files, then the first `limit` of them, a line each."""
    if not repairs:
        return "Nothing had to be repaired."
    files = len({repair.file for repair in repairs})
    count = "1 repair" if len(repairs) == 1 else f"{len(repairs)} repairs"
    lines = [f"{count} in {files} {'file' if files == 1 else 'files'}:"]
    lines += [f"  {repair}" for repair in repairs[:limit]]
    if len(repairs) > limit:
        lines.append(f"  and {len(repairs) - limit} more")
    return "\n".join(lines)


def limited(repairs: Sequence[Repair], limit: int = 10) -> list[Repair]:
    """Repairs of one file with at most `limit` of a kind; one more repair says how many more there are.

    Of one kind are those whose text agrees up to the first colon.
    """
    kinds: dict[str, list[Repair]] = {}
    for repair in repairs:
        kinds.setdefault(repair.what.split(":")[0], []).append(repair)
    result: list[Repair] = []
    for kind, found in kinds.items():
        result += found[:limit]
        if len(found) > limit:
            result.append(Repair(found[0].file, None, f"{len(found) - limit} more: {kind}"))
    return result


def to_json(repairs: Iterable[Repair]) -> str:
    """Repairs as text that :func:`from_json` reads."""
    return json.dumps([astuple(repair) for repair in repairs])


def from_json(text: str) -> list[Repair]:
    """Repairs from what :func:`to_json` wrote."""
    return [Repair(file, line, what) for file, line, what in json.loads(text)]
