"""Labelled PLY files: what is written is what a reader gets, and no half file is left."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from plyfile import PlyData

from influencerformer.errors import UserError
from influencerformer.pictures import write_ply

COUNT = 50


def arrays(real: type = np.float32) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "coordinates": generator.normal(0, 5, (COUNT, 3)).astype(real),
        "colors": generator.integers(0, 256, (COUNT, 3), dtype=np.uint8),
        "instance": generator.integers(-1, 9, COUNT),
        "semantic": generator.integers(-1, 13, COUNT),
        "score": generator.random(COUNT),
    }


@pytest.mark.parametrize(("real", "kind"), [(np.float32, "f4"), (np.float64, "f8"), (np.float16, "f4")])
def test_round_trip(tmp_path: Path, real: type, kind: str) -> None:
    given = arrays(real)
    path = write_ply(tmp_path / "new" / "room.ply", **given)
    assert path == tmp_path / "new" / "room.ply"
    data = PlyData.read(str(path))
    assert not data.text
    assert [element.name for element in data.elements] == ["vertex"]
    vertex = data["vertex"].data
    names = ("x", "y", "z", "red", "green", "blue", "instance", "semantic", "score")
    assert vertex.dtype.names == names
    assert [vertex.dtype[name].str[1:] for name in names] == [kind] * 3 + ["u1"] * 3 + ["i4", "i4", "f4"]
    assert np.array_equal(np.stack([vertex[name] for name in "xyz"], axis=1), given["coordinates"])
    assert np.array_equal(np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1), given["colors"])
    assert np.array_equal(vertex["instance"], given["instance"])
    assert np.array_equal(vertex["semantic"], given["semantic"])
    assert np.array_equal(vertex["score"], given["score"].astype(np.float32))
    assert any("-1 ignored" in comment for comment in data.comments)


def test_score_may_be_left_out(tmp_path: Path) -> None:
    given = arrays()
    del given["score"]
    data = PlyData.read(str(write_ply(tmp_path / "room.ply", **given)))
    assert "score" not in data["vertex"].data.dtype.names
    assert not any("score" in comment for comment in data.comments)


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "room.ply", **arrays())
    old = path.read_bytes()

    def half(self: PlyData, target: str) -> None:
        Path(target).write_bytes(b"ply")
        raise OSError(28, "No space left on device")

    with mock.patch.object(PlyData, "write", half), pytest.raises(UserError, match=r"room.ply cannot be .*No space"):
        write_ply(path, **arrays(np.float64))
    assert path.read_bytes() == old
    assert [other.name for other in tmp_path.iterdir()] == ["room.ply"]


def test_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"taken/room.ply cannot be written \(.*\): free it or give another path"):
        write_ply(tmp_path / "taken" / "room.ply", **arrays())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coordinates", np.zeros((COUNT, 3), int), r"coordinates must be \(N, 3\) floats, got \(50, 3\) int64"),
        ("colors", np.zeros((COUNT, 3)), r"colors must be \(50, 3\) uint8, got \(50, 3\) float64"),
        ("instance", np.zeros(COUNT), r"instance must be \(50,\) integers, got \(50,\) float64"),
        ("semantic", np.zeros(3, int), r"semantic must be \(50,\) integers, got \(3,\) int64"),
        ("instance", np.full(COUNT, 2**40), "instance must fit 32 bits, got 1099511627776"),
        ("score", np.zeros(3), r"score must be \(50,\), got \(3,\)"),
    ],
)
def test_bad_arrays_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, value: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_ply(tmp_path / "room.ply", **{**arrays(), name: value})
    assert not list(tmp_path.iterdir())
