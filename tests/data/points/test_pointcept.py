from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influencerformer.data.points.pointcept import PointceptDataset
from influencerformer.errors import UserError

COORD = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)


def write(root: Path, name: str, **changed: Any) -> Path:
    """A room of four points: two of a chair, one unlabelled, one of the floor; arrays of None are left out."""
    arrays: dict[str, Any] = {
        "coord": COORD,
        "color": np.arange(12, dtype=np.uint8).reshape(4, 3),
        "segment": np.array([8, 8, -1, 1], dtype=np.int16)[:, None],
        "instance": np.array([7, 7, -1, 0], dtype=np.int16)[:, None],
    }
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for array, values in (arrays | changed).items():
        if values is not None:
            np.save(folder / f"{array}.npy", np.asarray(values))
    return folder


def test_a_room_as_pointcept_writes_it(tmp_path: Path) -> None:
    write(tmp_path, "Area_1/office_3", normal=COORD)
    data = PointceptDataset(tmp_path)
    sample = data[0]
    assert sample.name == "Area_1_office_3"
    assert sample.coordinates.tolist() == COORD.tolist()
    assert sample.colors.tolist() == np.arange(12).reshape(4, 3).tolist()
    assert sample.instance_labels.tolist() == [2, 2, -1, 1]
    assert [data.class_names[c] for c in sample.class_labels] == ["floor", "chair"]
    assert data.prepare() == []


def test_flat_arrays_doubles_and_float_colours(tmp_path: Path) -> None:
    write(
        tmp_path,
        "Area_1/office_3",
        coord=COORD.astype(np.float64),
        color=np.full((4, 3), 12.0),
        segment=[8, 8, 8, 1],
        instance=[7, 7, -1, 0],
    )
    sample = PointceptDataset(tmp_path)[0]
    assert sample.instance_labels.tolist() == [2, 2, -1, 1]
    assert sample.colors.tolist() == [[12] * 3] * 4


def test_rooms_by_area(tmp_path: Path) -> None:
    for name in ("Area_2/WC_1", "Area_1/office_10", "Area_1/office_2", "Area_5/hallway_1"):
        write(tmp_path, name)
    names = ["Area_1_office_2", "Area_1_office_10", "Area_2_WC_1", "Area_5_hallway_1"]
    assert PointceptDataset(tmp_path).names == names
    assert PointceptDataset(tmp_path, part="train").names == names[:3]
    assert PointceptDataset(tmp_path, areas=[5]).names == names[3:]


def test_an_instance_number_of_two_classes_is_split_and_reported(tmp_path: Path) -> None:
    write(tmp_path, "Area_1/a", segment=[0, 5, 0, -1], instance=[1, 1, 2, 2])
    write(tmp_path, "Area_1/b", segment=[-1] * 4, instance=[1, 2, 3, 4])
    data = PointceptDataset(tmp_path)
    assert data[0].instance_labels.tolist() == [1, 2, 3, -1]
    assert data[0].class_labels.tolist() == [0, 5, 0]
    assert data[1].num_instances == 0
    assert [str(repair) for repair in data.prepare()] == [
        "Area_1/a/instance.npy: instance 1 of several classes, split by class",
        "Area_1/b/instance.npy: read without an instance: it has none",
    ]


def test_folders_without_rooms(tmp_path: Path) -> None:
    (tmp_path / "Area_1").mkdir()
    with pytest.raises(UserError, match=r"hold no rooms: expected Area_1/ROOM/coord.npy$"):
        PointceptDataset(tmp_path)
    (tmp_path / "Area_1" / "office_1.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"office_1.pth is a pickle, which is not read: prepare the rooms as .npy"):
        PointceptDataset(tmp_path)
    write(tmp_path, "Area_1/office_1", instance=None)
    with pytest.raises(
        UserError, match=r"lacks Area_1/office_1/instance.npy: each room needs coord, color, segment, in"
    ):
        PointceptDataset(tmp_path)


@pytest.mark.parametrize(
    ("array", "values", "message"),
    [
        ("coord", np.zeros((4, 2)), r"coord.npy holds \(4, 2\) float64, expected \(N, 3\) numbers"),
        ("coord", np.array(3.0), r"coord.npy holds \(\) float64"),
        ("coord", np.full((4, 3), np.nan), "coord.npy: 4 of 4 points have NaN"),
        ("coord", np.zeros((0, 3)), "coord.npy holds no point"),
        ("color", np.zeros((3, 3)), r"color.npy holds \(3, 3\) float64, expected \(4, 3\) numbers"),
        ("segment", [0, 0, 0], r"segment.npy holds \(3,\) int64, expected \(4\) integers"),
        ("segment", [0, 0, 0, 13], "segment.npy holds classes from 0 to 13, expected 0 to 12"),
        ("instance", [0.0, 1.0, 1.0, 1.0], r"instance.npy holds \(4,\) float64, expected \(4\) integers"),
        ("instance", np.zeros((2, 2), dtype=int), r"instance.npy holds \(2, 2\) int64"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: str, values: Any, message: str) -> None:
    write(tmp_path, "Area_1/a", **{array: values})
    with pytest.raises(UserError, match=message):
        PointceptDataset(tmp_path)[0]


def test_a_truncated_array(tmp_path: Path) -> None:
    path = write(tmp_path, "Area_1/a") / "coord.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"coord.npy cannot be read as an array of numbers"):
        PointceptDataset(tmp_path).prepare()
