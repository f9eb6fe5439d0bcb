from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from influencerformer.data.points.formats import PointFormat, class_names, open_points
from influencerformer.data.points.rooms import ROOM_CLASSES, generate_room
from influencerformer.data.points.scannet_classes import SCANNET_CLASSES
from influencerformer.errors import UserError

SMALL: dict[str, Any] = {"train": 1, "val": 1, "width": (2.5, 2.6), "density": 10.0, "scanners": 0}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms") / "generated"
    open_points("rooms", root, rooms=SMALL)
    return root


def test_every_format_has_class_names() -> None:
    for format in get_args(PointFormat):
        expected = SCANNET_CLASSES if format.startswith("scannet") else ROOM_CLASSES
        assert class_names(format) == list(expected)
    with pytest.raises(
        UserError, match=r"format 'las' is unknown: expected one of rooms, s3dis, s3dis_mmdet3d, pointcept"
    ):
        class_names("las")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="format 'las' is unknown"):
        open_points("las", ".")  # type: ignore[arg-type]


def test_generated_rooms_are_read_as_s3dis_and_taken_as_they_are(rooms: Path) -> None:
    train, val = (open_points("rooms", rooms, part) for part in ("train", "val"))
    assert (train.names, val.names) == (["Area_1_room_1"], ["Area_5_room_1"])
    assert open_points("s3dis", rooms, "all").names == train.names + val.names
    assert open_points("rooms", rooms, areas=(5,)).names == val.names
    assert train.class_names == class_names("rooms")
    with pytest.raises(UserError, match="does not hold the generated rooms asked for"):
        open_points("rooms", rooms, rooms=SMALL | {"seed": 1})


def test_cache_goes_where_it_is_told(rooms: Path, tmp_path: Path) -> None:
    open_points("rooms", rooms, cache=tmp_path / "cache").prepare()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["Area_1_room_1.npz"]


def test_one_room_is_the_same_in_all_forms_of_s3dis(rooms: Path, tmp_path: Path) -> None:
    raw = open_points("s3dis", rooms, "val")[0]
    seed = int(np.random.SeedSequence((0, 1, 0)).generate_state(1, np.uint64)[0])
    room = generate_room(seed, **{k: v for k, v in SMALL.items() if k not in ("train", "val")})
    mmdet3d, pointcept = tmp_path / "mmdet3d", tmp_path / "pointcept" / "Area_5" / "room_1"
    for folder, values in (
        ("points", np.hstack([room.points, room.colors]).astype("<f4")),
        ("instance_mask", (room.instance + 1).astype("<i8")),
        ("semantic_mask", room.semantic.astype("<i8")),
    ):
        (mmdet3d / folder).mkdir(parents=True)
        values.tofile(mmdet3d / folder / "Area_5_room_1.bin")
    pointcept.mkdir(parents=True)
    for name, array in (
        ("coord", room.points),
        ("color", room.colors),
        ("segment", room.semantic),
        ("instance", room.instance),
    ):
        np.save(pointcept / f"{name}.npy", array)
    for format, root in (("s3dis_mmdet3d", mmdet3d), ("pointcept", tmp_path / "pointcept")):
        sample = open_points(format, root, "val", split_file=root / "unused.txt")[0]  # type: ignore[arg-type]
        assert sample.name == raw.name
        assert np.array_equal(sample.coordinates.numpy(), room.points)
        assert np.array_equal(sample.instance_labels.numpy(), room.instance + 1)
        assert sorted(sample.class_labels.tolist()) == sorted(raw.class_labels.tolist())
        assert sample.num_points == raw.num_points


@pytest.mark.parametrize("format", get_args(PointFormat))
def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path, format: PointFormat) -> None:
    with pytest.raises(UserError, match=r"no (rooms|scenes) in .*: looked for .*, found an empty folder"):
        open_points(format, tmp_path)


def test_report_of_a_damaged_copy(tmp_path: Path, raw_room: Callable[[str, Mapping[str, str | bytes]], Path]) -> None:
    raw_room("Area_1/office_1", {"floor_1.txt": b"0.0 0.0 0.0 185\x00187 182\n"})
    data = open_points("s3dis", tmp_path / "s3dis")
    assert [str(repair) for repair in data.prepare()] == [
        "Area_1/office_1/Annotations/floor_1.txt line 1: unprintable byte 0x00 read as a blank"
    ]
