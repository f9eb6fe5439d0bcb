from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from influencerformer.data.points import s3dis_raw
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.data.points.s3dis_raw import S3DISDataset
from influencerformer.errors import UserError

RawRoom = Callable[[str, Mapping[str, str | bytes]], Path]

CHAIR = "1.000 2.000 0.500 10 20 30\n1.100 2.000 0.500 11 21 31\n"
FLOOR = "0.000 0.000 0.000 100 100 100\n"


def named(data: S3DISDataset) -> list[str]:
    return [str(repair) for repair in data.prepare()]


def test_each_file_is_one_instance(raw_room: RawRoom, tmp_path: Path) -> None:
    raw_room(
        "Area_1/office_1", {"floor_1.txt": FLOOR, "chair_2.txt": CHAIR, "chair_10.txt": FLOOR, "beam_1.txt": CHAIR}
    )
    data = S3DISDataset(tmp_path / "s3dis")
    sample = data[0]
    assert sample.name == "Area_1_office_1"
    assert [ROOM_CLASSES[c] for c in sample.class_labels] == ["beam", "chair", "chair", "floor"]
    assert sample.instance_labels.tolist() == [1, 1, 2, 2, 3, 4]
    assert torch.equal(sample.coordinates[2:4], torch.tensor([[1.0, 2.0, 0.5], [1.1, 2.0, 0.5]]))
    assert sample.colors[3].tolist() == [11, 21, 31]
    assert sample.superpoints is None
    assert named(data) == []


def test_rooms_and_areas_in_natural_order(raw_room: RawRoom, tmp_path: Path) -> None:
    for room in ("Area_2/office_10", "Area_2/office_2", "Area_1/hallway_1", "Area_5/WC_1", "Area_10/office_1"):
        raw_room(room, {"floor_1.txt": FLOOR})
    root = tmp_path / "s3dis"
    everything = S3DISDataset(root)
    names = ["Area_1_hallway_1", "Area_2_office_2", "Area_2_office_10", "Area_5_WC_1", "Area_10_office_1"]
    assert everything.names == names
    assert [(sample.name, sample.sample_id) for sample in everything] == [(n, i) for i, n in enumerate(names)]
    assert everything[-1].name == "Area_10_office_1"
    assert S3DISDataset(root, part="train").names == [*names[:3], names[4]]
    assert S3DISDataset(root, part="val").names == [names[3]]
    assert S3DISDataset(root, areas=(5, 1, 5), part="train").names == [names[0], names[3]]


def test_every_known_defect_is_repaired_and_named(raw_room: RawRoom, tmp_path: Path) -> None:
    room = raw_room(
        "Area_5/hallway_6",
        {
            "ceiling_1.txt": b"1.000 1.000 3.000 185\x00187 182\n1.000 1.000 3.0\x100 1 2 3\n",
            "chair_1.txt": CHAIR + "1 2 3\n",
            "clutter_1.txt": "",
            "stairs_1.txt": FLOOR,
            "wall_3.txt": CHAIR,
            "wall_3 (1).txt": CHAIR,
            "wall_4 (1).txt": FLOOR,
            "window_1.txt": "1.0 1.0 1.0 256 0 0\n1.0 1.0 1.0 0.5 0 0\n",
            ".DS_Store": b"\x00\x01",
            "._chair_1.txt": b"\x00",
            "chair_1.txt~": CHAIR,
            "Icon\r": b"",
        },
    )
    (room / "Annotations" / "old").mkdir()
    (room / ".DS_Store").write_bytes(b"\x00")
    area = room.parent
    (area / "Area_5_alignmentAngle.txt").write_text("hallway_6 90\n")
    (area / ".DS_Store").write_bytes(b"\x00")
    (area / "office_19").mkdir()
    (area / "office_19" / "Thumbs.db").write_bytes(b"")
    data = S3DISDataset(tmp_path / "s3dis")
    below = "Area_5/hallway_6/Annotations/"
    expected = [
        "Area_5/.DS_Store: left out: a stray file",
        "Area_5/office_19: left out: a folder that is no room",
        "Area_5/hallway_6/.DS_Store: left out: a stray file",
        f"{below}._chair_1.txt: left out: a stray file",
        f"{below}.DS_Store: left out: a stray file",
        f"{below}chair_1.txt~: left out: a stray file",
        f"{below}Icon\\r: left out: a stray file",
        f"{below}old: left out: a stray folder",
        f"{below}ceiling_1.txt line 1: unprintable byte 0x00 read as a blank",
        f"{below}ceiling_1.txt line 2: unprintable byte 0x10 read as '0'",
        f"{below}chair_1.txt line 3: left out: 3 columns instead of 6",
        f"{below}clutter_1.txt: left out: it is empty",
        f"{below}window_1.txt line 1: colours clipped to 0..255: 256",
        f"{below}wall_3 (1).txt: left out: a copy of wall_3.txt",
        f"{below}stairs_1.txt: class 'stairs' read as clutter",
        "Area_5/hallway_6: colours with fractions rounded: 1 points",
    ]
    assert sorted(named(data)) == sorted(expected)
    # The report comes from the cache the second time, and a new data set shows it too.
    assert sorted(named(S3DISDataset(tmp_path / "s3dis"))) == sorted(expected)
    sample = data[0]
    found = [ROOM_CLASSES[c] for c in sample.class_labels]
    assert found == ["ceiling", "chair", "clutter", "wall", "wall", "window"]
    assert sample.instance_labels.tolist() == [1, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert sample.coordinates[:2].tolist() == [[1, 1, 3], [1, 1, 3]]
    assert sample.colors[0].tolist() == [185, 187, 182]
    assert sample.colors[8].tolist() == [255, 0, 0]


def test_colours_from_0_to_1_are_scaled(raw_room: RawRoom, tmp_path: Path) -> None:
    raw_room("Area_1/office_1", {"floor_1.txt": "0 0 0 1.0 0.5 0\n", "chair_1.txt": "0 0 0 1 0 1\n"})
    data = S3DISDataset(tmp_path / "s3dis")
    assert data[0].colors.tolist() == [[255, 0, 255], [255, 128, 0]]
    assert named(data) == ["Area_1/office_1: colours from 0 to 1 multiplied by 255"]


def test_a_room_is_parsed_once_and_again_when_a_source_changes(
    raw_room: RawRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = raw_room("Area_1/office_1", {"floor_1.txt": FLOOR, "chair_1.txt": CHAIR})
    root, cache = tmp_path / "s3dis", tmp_path / "cache"
    first = S3DISDataset(root, cache=cache)[0]
    assert [path.name for path in cache.iterdir()] == ["Area_1_office_1.npz"]
    assert not (root / ".influencerformer").exists()
    with monkeypatch.context() as patch:
        patch.setattr(s3dis_raw, "read_annotation", None)
        again = S3DISDataset(root, cache=cache)[0]
    assert torch.equal(first.coordinates, again.coordinates)
    assert torch.equal(first.instance_labels, again.instance_labels)
    (room / "Annotations" / "chair_1.txt").write_text(CHAIR.replace("1.100", "1.200"))
    os.utime(room / "Annotations" / "chair_1.txt", ns=(0, 1))
    assert S3DISDataset(root, cache=cache)[0].coordinates[1, 0] == pytest.approx(1.2)
    (room / "Annotations" / "board_1.txt").write_text(FLOOR)
    assert S3DISDataset(root, cache=cache)[0].num_instances == 3
    (cache / "Area_1_office_1.npz").write_bytes(b"broken")
    assert S3DISDataset(root, cache=cache)[0].num_instances == 3
    assert np.load(cache / "Area_1_office_1.npz")["classes"].shape == (3,)


def test_a_cache_that_cannot_be_written_names_the_option(raw_room: RawRoom, tmp_path: Path) -> None:
    raw_room("Area_1/office_1", {"floor_1.txt": FLOOR})
    (tmp_path / "s3dis" / ".influencerformer").write_text("")
    with pytest.raises(UserError, match=r"rooms cannot be kept in .*\.influencerformer.*option cache"):
        S3DISDataset(tmp_path / "s3dis")[0]
    assert S3DISDataset(tmp_path / "s3dis", cache=tmp_path / "cache")[0].num_points == 1


def test_areas_that_are_not_there(raw_room: RawRoom, tmp_path: Path) -> None:
    raw_room("Area_1/office_1", {"floor_1.txt": FLOOR})
    root = tmp_path / "s3dis"
    with pytest.raises(UserError, match="has no Area_2, Area_7: it has Area_1"):
        S3DISDataset(root, areas=(1, 2, 7))
    with pytest.raises(UserError, match="has no area that was asked for"):
        S3DISDataset(root, areas=())
    with pytest.raises(UserError, match=r"has no area Area_5 for validation, it has Area_1: .* option areas"):
        S3DISDataset(root, part="val")
    with pytest.raises(UserError, match="part 'test' is unknown"):
        S3DISDataset(root, part="test")
    (root / "Area_1").rename(root / "Area_5")
    with pytest.raises(UserError, match="has no area other than Area_5 for training"):
        S3DISDataset(root, part="train")


def test_folders_without_rooms(raw_room: RawRoom, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing does not exist"):
        S3DISDataset(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is no folder"):
        S3DISDataset(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"looked for Area_\*/ROOM/Annotations/CLASS_n.txt, found an empty folder"):
        S3DISDataset(tmp_path / "empty")
    (tmp_path / "empty" / "Area_1").mkdir()
    with pytest.raises(UserError, match=r"the areas of .* hold no rooms"):
        S3DISDataset(tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty")
    raw_room("Area_1/office_1", {"floor_1.txt": FLOOR})
    with pytest.raises(UserError, match=r"found file, s3dis; .*s3dis has them: is that the root\?"):
        S3DISDataset(tmp_path)


def test_rooms_without_annotations_or_points(raw_room: RawRoom, tmp_path: Path) -> None:
    room = raw_room("Area_1/office_1", {"floor_1.txt": FLOOR})
    bare = raw_room("Area_1/office_2", {})
    root = tmp_path / "s3dis"
    with pytest.raises(UserError, match=r"rooms without annotations \(Area_1/office_2\): expected .*complete them"):
        S3DISDataset(root)
    (bare / "Annotations").rmdir()
    with pytest.raises(UserError, match=r"rooms without annotations \(Area_1/office_2\)"):
        S3DISDataset(root)
    (bare / "office_2.txt").unlink()
    data = S3DISDataset(root)
    assert data.names == ["Area_1_office_1"]
    (room / "Annotations" / "floor_1.txt").write_text("")
    with pytest.raises(UserError, match=r"office_1/Annotations holds no point: none of its 1 files"):
        data[0]
    (room / "Annotations" / "floor_1.txt").unlink()
    with pytest.raises(UserError, match=r"floor_1.txt cannot be read \(No such file"):
        data[0]
