from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from influencerformer.data import generated_folder
from influencerformer.data.points import room_files
from influencerformer.data.points.formats import open_points
from influencerformer.data.points.room_files import generate_s3dis
from influencerformer.data.points.rooms import Room, generate_room
from influencerformer.errors import UserError

SMALL: dict[str, Any] = {"width": (2.5, 3.0), "density": 30.0, "scanners": 0}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fake(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """Lets the writer draw rooms of a few random points; gives the list of rooms drawn."""
    rooms: list[Room] = []

    def draw(seed: int, **options: Any) -> Room:
        generator = np.random.default_rng(seed)
        instance = np.concatenate([np.arange(8), generator.integers(0, 8, 40)])
        points = generator.normal(0, 30, (48, 3)).astype(np.float32)
        colors = generator.integers(0, 256, (48, 3), dtype=np.uint8)
        rooms.append(Room(points, colors, generator.integers(0, 13, 8)[instance], instance))
        return rooms[-1]

    monkeypatch.setattr(room_files, "generate_room", draw)
    return rooms


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_is_what_was_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rooms = fake(monkeypatch)
    root = generate_s3dis(tmp_path / "rooms", train=2, val=1, seed=seed)
    train, val = (open_points("s3dis", root, part) for part in ("train", "val"))
    assert train.names == ["Area_1_room_1", "Area_1_room_2"]
    assert val.names == ["Area_5_room_1"]
    assert train.prepare() + val.prepare() == []
    for room, sample in zip(rooms, [train[0], train[1], val[0]], strict=True):
        labels = sample.instance_labels.numpy()
        # The same points in another order: compared by coordinate, the instances by the sets of their points.
        written, read = (np.lexsort(p.round(2).T) for p in (room.points, sample.coordinates.numpy()))
        assert np.abs(room.points[written] - sample.coordinates.numpy()[read]).max() <= 0.0005 + 1e-5
        assert np.array_equal(room.colors[written], sample.colors.numpy()[read])
        assert np.array_equal(room.semantic[written], sample.class_labels.numpy()[labels[read] - 1])
        pairs = np.unique(np.stack([room.instance[written], labels[read]]), axis=1)
        assert pairs.shape[1] == sample.num_instances == 8


def test_a_real_room_walks_the_same_road(tmp_path: Path) -> None:
    root = generate_s3dis(tmp_path / "rooms", train=1, val=1, seed=3, **SMALL)
    seed = int(np.random.SeedSequence((3, 0, 0)).generate_state(1, np.uint64)[0])
    room, sample = generate_room(seed, **SMALL), open_points("s3dis", root)[0]
    assert sample.num_points == len(room.points)
    assert np.array_equal(np.sort(np.bincount(sample.instance_labels.numpy())[1:]), np.sort(np.bincount(room.instance)))
    whole = np.loadtxt(root / "Area_1" / "room_1" / "room_1.txt")
    assert whole.shape == (len(room.points), 6)


def test_same_arguments_give_the_same_files_and_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = fake(monkeypatch)
    arguments: dict[str, Any] = {"train": 2, "val": 1, "seed": 1, "width": (3.0, 4.0)}
    first = generate_s3dis(tmp_path / "a", **arguments)
    assert contents(first) == contents(generate_s3dis(tmp_path / "b", **arguments))
    assert len(rooms) == 6
    assert generate_s3dis(tmp_path / "a", **arguments) == first
    assert len(rooms) == 6
    with pytest.raises(UserError, match="does not hold the generated rooms asked for"):
        generate_s3dis(tmp_path / "a", **(arguments | {"seed": 2}))
    (first / "generated_rooms.json").write_text("{")
    with pytest.raises(UserError, match="delete it or choose another folder"):
        generate_s3dis(tmp_path / "a", **arguments)


def test_an_empty_folder_is_taken_and_a_full_one_or_a_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch)
    (tmp_path / "rooms").mkdir()
    generate_s3dis(tmp_path / "rooms", train=1, val=1)
    assert sorted(p.name for p in (tmp_path / "rooms").iterdir()) == ["Area_1", "Area_5", "generated_rooms.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match="does not hold the generated rooms"):
            generate_s3dis(tmp_path / name, train=1, val=1)
    with pytest.raises(UserError, match=r"cannot be written to .*file/rooms"):
        generate_s3dis(tmp_path / "file" / "rooms", train=1, val=1)


def test_a_killed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room_files, "generate_room", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_s3dis(tmp_path / "rooms", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_losing_the_race_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    other = generate_s3dis(tmp_path / "other", train=1, val=1)

    def someone_was_faster(source: Path, target: Path) -> None:
        shutil.move(other, target)
        raise OSError("the folder is not empty")

    monkeypatch.setattr(generated_folder, "os", SimpleNamespace(rename=someone_was_faster))
    root = generate_s3dis(tmp_path / "rooms", train=1, val=1)
    assert (root / "generated_rooms.json").is_file()
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0}, "train=0"),
        ({"val": 0}, "val=0"),
        ({"seed": -1}, "seed=-1"),
        ({"colour": "red"}, r"options \{'colour': 'red'\} do not fit a generated room"),
        ({"density": -1.0}, "density=-1.0"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate_s3dis(tmp_path / "rooms", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_marker_names_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    open_points("rooms", tmp_path / "rooms", rooms={"train": 1, "val": 1, "density": 9.0})
    marker = json.loads((tmp_path / "rooms" / "generated_rooms.json").read_text())
    assert (marker["train"], marker["val"], marker["seed"], marker["options"]) == (1, 1, 0, {"density": 9.0})
