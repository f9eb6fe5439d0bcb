"""Single clouds of any origin: what is read, and one sentence for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from influencerformer.data.points.cloud_files import GREY, read_cloud
from influencerformer.errors import UserError

TABLE = np.array([[0.5, 1, 2, 0, 128, 255], [3, 4, 5, 10, 20, 30]])


def write_ply(path: Path, names: str, table: np.ndarray) -> Path:
    kinds = [(name, "f4" if name in "xyz" else "u1") for name in names.split()]
    rows = np.array([tuple(row[: len(kinds)]) for row in table], dtype=kinds)
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
    return path


@pytest.mark.parametrize("suffix", [".txt", ".xyz", ".npy", ".ply"])
def test_the_same_points_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"room{suffix}"
    if suffix == ".npy":
        np.save(path, TABLE)
    elif suffix == ".ply":
        write_ply(path, "x y z red green blue", TABLE)
    else:
        np.savetxt(path, TABLE)
    sample = read_cloud(path)
    assert sample.name == "room"
    np.testing.assert_allclose(sample.coordinates.numpy(), TABLE[:, :3])
    assert sample.colors.tolist() == TABLE[:, 3:].tolist()
    assert sample.num_instances == 0


def test_without_colours_grey(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.txt", TABLE[:1, :3])
    assert read_cloud(tmp_path / "a.txt").colors.tolist() == [[GREY] * 3]
    assert read_cloud(write_ply(tmp_path / "a.ply", "x y z", TABLE)).colors.tolist() == [[GREY] * 3] * 2


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("1 2\n", "shape"),
        ("1 2 3\n4 five 6\n", "cannot be read"),
        ("1 2 nan\n", "NaN"),
        ("1 2 3 0 0 300\n", r"0\.\.255"),
        ("1 2 3 0 0.5 1\n", "multiply"),
        ("", "shape|cannot"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_text_that_is_no_cloud(tmp_path: Path, content: str, word: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=f"broken.txt.*({word})"):
        read_cloud(path)


def test_binary_files_that_are_no_cloud(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "a.ply").write_bytes(b"not a ply")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    whole = write_ply(tmp_path / "cut.ply", "x y z red green blue", TABLE)
    whole.write_bytes(whole.read_bytes()[:-9])
    for name in ("a.npy", "a.ply", "objects.npy", "cut.ply"):
        with pytest.raises(UserError, match=name):
            read_cloud(tmp_path / name)


def test_ply_without_a_coordinate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without z"):
        read_cloud(write_ply(tmp_path / "flat.ply", "x y", TABLE))


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_cloud(tmp_path / "no.ply")
    (tmp_path / "a.las").write_text("x")
    with pytest.raises(UserError, match=r"\.ply, \.txt"):
        read_cloud(tmp_path / "a.las")
