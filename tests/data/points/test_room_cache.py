from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from influencerformer.data.points.room_cache import RoomCache, source_key, text_array
from influencerformer.errors import UserError

ARRAYS = {"a": np.arange(6).reshape(2, 3), "text": text_array("é")}


def test_what_is_stored_is_loaded_without_pickle(tmp_path: Path) -> None:
    cache = RoomCache(tmp_path / "deep" / "cache")
    assert cache.load("room", "key") is None
    cache.store("room", "key", ARRAYS)
    loaded = cache.load("room", "key")
    assert loaded is not None
    assert sorted(loaded) == ["a", "text"]
    assert np.array_equal(loaded["a"], ARRAYS["a"])
    assert loaded["text"].tobytes().decode() == "é"
    only = cache.load("room", "key", only="text")
    assert only is not None
    assert list(only) == ["text"]
    assert [path.name for path in cache.folder.iterdir()] == ["room.npz"]


def test_another_key_or_a_broken_file_is_no_hit(tmp_path: Path) -> None:
    cache = RoomCache(tmp_path)
    cache.store("room", "key", ARRAYS)
    assert cache.load("room", "other") is None
    data = (tmp_path / "room.npz").read_bytes()
    for broken in (data[: len(data) // 2], b"", b"nonsense", data.replace(ARRAYS["a"].tobytes(), bytes(48))):
        (tmp_path / "room.npz").write_bytes(broken)
        assert cache.load("room", "key") is None


def test_key_changes_with_version_name_size_and_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("1")
    two.write_text("2")
    key = source_key(1, tmp_path, [one, two])
    assert key == source_key(1, tmp_path, [two, one])
    keys = {key, source_key(2, tmp_path, [one, two]), source_key(1, tmp_path, [one])}
    os.utime(one, ns=(0, 1_000_000_001))
    keys.add(source_key(1, tmp_path, [one, two]))
    one.write_text("11")
    os.utime(one, ns=(0, 1_000_000_001))
    keys.add(source_key(1, tmp_path, [one, two]))
    assert len(keys) == 5


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"rooms cannot be kept in .*file.*: name a folder .* option cache"):
        RoomCache(tmp_path / "file").store("room", "key", ARRAYS)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        RoomCache(tmp_path).store("room", "key", ARRAYS)
    assert list(tmp_path.iterdir()) == []
