"""Generated events on disk: the same files for the same arguments, complete or not at all, read back unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influencerformer.data.tracks import event_files
from influencerformer.data.tracks.event_files import write_event, write_events
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.trackml import find_events, read_event, read_tables
from influencerformer.errors import UserError


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back_unchanged(tmp_path: Path, compress: bool) -> None:
    tables = generate_event(3, 30)
    write_event(tmp_path, 12, tables, compress=compress)
    names = [f"event000000012-{kind}.csv{'.gz' * compress}" for kind in ("cells", "hits", "particles", "truth")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    read = read_tables(tmp_path, "event000000012")
    for kind in ("hits", "truth", "particles", "cells"):
        for column, values in getattr(read, kind).items():
            assert np.array_equal(values, getattr(tables, kind)[column]), (kind, column)


def test_folders_are_the_same_for_the_same_arguments(tmp_path: Path) -> None:
    folders = [
        write_events(tmp_path / name, 3, (5, 20), seed=seed, noise=0.2) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert find_events(folders[0]) == ["event000000001", "event000000002", "event000000003"]
    one, two, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two
    assert one["event000000001-hits.csv"] != other["event000000001-hits.csv"]
    counts = [read_event(folders[0], name).num_particles for name in find_events(folders[0])]
    assert len(set(counts)) > 1
    assert all(5 <= count <= 20 for count in counts)


def test_an_event_does_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    few, many = write_events(tmp_path / "few", 1, 10), write_events(tmp_path / "many", 2, 10)
    name = "event000000001-truth.csv"
    assert (few / name).read_bytes() == (many / name).read_bytes()


def test_a_complete_folder_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path / "events", 2, 5)
    monkeypatch.setattr(event_files, "generate_event", None)
    assert write_events(tmp_path / "events", 2, 5) == tmp_path / "events"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(event_files, "write_event", killed)
    with pytest.raises(KeyboardInterrupt):
        write_events(tmp_path / "events", 2, 5)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} exists but does not hold the generated events")):
        write_events(tmp_path, 2, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    folder = write_events(tmp_path / "events", 2, 5)
    with pytest.raises(UserError, match="delete it or choose another folder"):
        write_events(folder, 3, 5)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"generated events cannot be written to .*file.events \("):
        write_events(tmp_path / "file" / "events", 2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": 0}, "got events=0, seed=0, particles=5"),
        ({"particles": 0}, "got events=1, seed=0, particles=0"),
        ({"particles": (7, 3)}, "smaller first"),
        ({"seed": -1}, "seed=-1"),
        ({"nois": 0.1}, "generated events have no option nois$"),
        ({"num_particles": 3}, "generated events have no option num_particles$"),
        ({"noise": 2.0}, "noise of generated events must be 0 or larger and below 1, got 2.0"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_events(tmp_path / "events", **{"events": 1, "particles": 5, **arguments})
    assert list(tmp_path.iterdir()) == []
