from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influencerformer.data.points.s3dis_mmdet3d import S3DISMmdet3dDataset
from influencerformer.errors import UserError

POINTS = np.array([[0, 0, 0, 1, 2, 3], [1, 0, 0, 4, 5, 6], [0, 1, 0, 7, 8, 9], [0, 0, 1, 10, 11, 12]])


def write(
    root: Path,
    name: str,
    points: np.ndarray = POINTS,
    instance: object = (3, 3, 0, 1),
    semantic: object = (8, 8, 12, 1),
) -> None:
    """A room of four points: two of a chair, one unannotated, one of the floor."""
    for folder, values in (
        ("points", points.astype("<f4")),
        ("instance_mask", np.array(instance, dtype="<i8")),
        ("semantic_mask", np.array(semantic, dtype="<i8")),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        values.tofile(root / folder / f"{name}.bin")


def test_a_room_as_mmdetection3d_writes_it(tmp_path: Path) -> None:
    write(tmp_path, "Area_1_office_3")
    (tmp_path / "s3dis_infos_Area_1.pkl").write_bytes(b"not even a pickle")
    data = S3DISMmdet3dDataset(tmp_path)
    sample = data[0]
    assert sample.name == "Area_1_office_3"
    assert sample.coordinates.tolist() == POINTS[:, :3].tolist()
    assert sample.colors.tolist() == POINTS[:, 3:].tolist()
    assert sample.instance_labels.tolist() == [2, 2, -1, 1]
    assert sample.class_labels.tolist() == [1, 8]
    assert [data.class_names[c] for c in sample.class_labels] == ["floor", "chair"]
    assert data.prepare() == []


def test_rooms_by_area(tmp_path: Path) -> None:
    for name in ("Area_2_WC_1", "Area_1_office_10", "Area_1_office_2", "Area_5_hallway_1"):
        write(tmp_path, name)
    names = ["Area_1_office_2", "Area_1_office_10", "Area_2_WC_1", "Area_5_hallway_1"]
    assert S3DISMmdet3dDataset(tmp_path).names == names
    assert S3DISMmdet3dDataset(tmp_path, part="train").names == names[:3]
    assert S3DISMmdet3dDataset(tmp_path, part="val").names == names[3:]
    assert S3DISMmdet3dDataset(tmp_path, areas=[5, 2]).names == names[2:]
    with pytest.raises(UserError, match="has no Area_3: it has Area_1, Area_2, Area_5"):
        S3DISMmdet3dDataset(tmp_path, areas=[3])


def test_names_without_an_area(tmp_path: Path) -> None:
    write(tmp_path, "Area_1_office_1")
    write(tmp_path, "room_000007")
    assert S3DISMmdet3dDataset(tmp_path).names == ["Area_1_office_1", "room_000007"]
    with pytest.raises(
        UserError, match=r"points carry no area \(room_000007\): expected names such as Area_1_office_3"
    ):
        S3DISMmdet3dDataset(tmp_path, part="train")


def test_an_instance_of_two_classes_and_a_room_of_none_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "Area_1_a", instance=(1, 1, 1, 2), semantic=(0, 5, 0, 0))
    write(tmp_path, "Area_1_b", instance=(0, 0, 0, 0))
    data = S3DISMmdet3dDataset(tmp_path)
    assert data[0].instance_labels.tolist() == [1, 2, 1, 3]
    assert data[0].class_labels.tolist() == [0, 5, 0]
    assert data[1].num_instances == 0
    assert data[1].instance_labels.tolist() == [-1] * 4
    assert [str(repair) for repair in data.prepare()] == [
        "instance_mask/Area_1_a.bin: instance 1 of several classes, split by class",
        "instance_mask/Area_1_b.bin: read without an instance: it has none",
    ]


def test_folders_without_rooms_or_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing does not exist"):
        S3DISMmdet3dDataset(tmp_path / "nothing")
    (tmp_path / "s3dis_data").mkdir()
    with pytest.raises(UserError, match=r"no rooms in .*: looked for points/Area_\*_ROOM.bin, found s3dis_data"):
        S3DISMmdet3dDataset(tmp_path)
    write(tmp_path, "Area_1_a")
    (tmp_path / "semantic_mask" / "Area_1_a.bin").unlink()
    with pytest.raises(UserError, match=r"lacks semantic_mask/Area_1_a.bin: each room needs"):
        S3DISMmdet3dDataset(tmp_path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, "Area_1_a", instance=(1, 1, 1))
    with pytest.raises(UserError, match=r"instance_mask/Area_1_a.bin is 24 bytes long, expected 32 for 4 points"):
        S3DISMmdet3dDataset(tmp_path)[0]
    write(tmp_path, "Area_1_a", semantic=(0, 0, 0, 13))
    with pytest.raises(UserError, match=r"semantic_mask/Area_1_a.bin holds classes from 0 to 13, expected 0 to 12"):
        S3DISMmdet3dDataset(tmp_path)[0]
    write(tmp_path, "Area_1_a")
    (tmp_path / "points" / "Area_1_a.bin").write_bytes(POINTS.astype("<f4").tobytes()[:-3])
    with pytest.raises(UserError, match=r"points/Area_1_a.bin is 93 bytes long, expected a multiple of 24"):
        S3DISMmdet3dDataset(tmp_path)[0]
    write(tmp_path, "Area_1_a", points=np.where(POINTS == 10, np.nan, POINTS))
    with pytest.raises(UserError, match=r"points/Area_1_a.bin: colours hold NaN"):
        S3DISMmdet3dDataset(tmp_path)[0]
