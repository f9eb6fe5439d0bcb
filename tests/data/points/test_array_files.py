from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influencerformer.data.points.array_files import read_bin, read_npy
from influencerformer.errors import UserError


def test_arrays_come_back(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    values.astype("<f4").tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", values)
    read = read_bin(tmp_path / "a.bin", np.float32, columns=6)
    assert np.array_equal(read, values)
    assert read.flags.writeable
    assert np.array_equal(read_npy(tmp_path / "a.npy"), values)
    np.array([5, -6]).astype("<i8").tofile(tmp_path / "b.bin")
    assert read_bin(tmp_path / "b.bin", np.int64, 2).tolist() == [5, -6]


def test_lengths_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(50))
    with pytest.raises(UserError, match=r"a.bin is 50 bytes long, expected a multiple of 24 \(6 float32 a point\)"):
        read_bin(tmp_path / "a.bin", np.float32, columns=6)
    (tmp_path / "a.bin").write_bytes(bytes(40))
    with pytest.raises(
        UserError, match=r"a.bin is 40 bytes long, expected 48 for 6 points \(1 int64 a point\): it is tr"
    ):
        read_bin(tmp_path / "a.bin", np.int64, 6)
    with pytest.raises(UserError, match=r"b.bin cannot be read \(No such file"):
        read_bin(tmp_path / "b.bin", np.int64)


def test_broken_npy_files_and_pickles(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(UserError, match=r"a.npy does not exist: the room is incomplete"):
        read_npy(path)
    np.save(path, np.arange(100))
    data = path.read_bytes()
    for broken in (data[:200], data[:20], b"", b"nonsense"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a.npy cannot be read as an array of numbers"):
            read_npy(path)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"a.npy cannot be read as an array of numbers"):
        read_npy(path)
