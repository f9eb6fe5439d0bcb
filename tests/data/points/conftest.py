"""Helpers for the tests of readers: small rooms of every format, written on the fly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

RawRoom = Callable[[str, Mapping[str, str | bytes]], Path]


@pytest.fixture
def raw_room(tmp_path: Path) -> RawRoom:
    """Writes a room such as "Area_1/office_1" below tmp_path/s3dis with these annotation files; gives its folder."""

    def write(name: str, files: Mapping[str, str | bytes]) -> Path:
        annotations = tmp_path / "s3dis" / name / "Annotations"
        annotations.mkdir(parents=True)
        for file, content in files.items():
            (annotations / file).write_bytes(content.encode() if isinstance(content, str) else content)
        (annotations.parent / f"{annotations.parent.name}.txt").write_text("0.0 0.0 0.0 1 2 3\n")
        return annotations.parent

    return write
