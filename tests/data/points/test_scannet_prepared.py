from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influencerformer.data.points.scannet_classes import NYU40_NUMBERS, SCANNET_CLASSES, scannet_truth
from influencerformer.data.points.scannet_prepared import ScanNetPreparedDataset
from influencerformer.errors import UserError

POINTS = np.arange(36, dtype="<f4").reshape(6, 6)


def write(root: Path, name: str, **changed: Any) -> None:
    """A scene of six points: wall, floor, two of a chair, an unannotated one, one of a class not evaluated."""
    arrays: dict[str, Any] = {
        "points": POINTS,
        "instance_mask": [1, 2, 3, 3, 0, 4],
        "semantic_mask": [1, 2, 5, 5, 0, 22],
        "super_points": [900, 900, 17, 40, 40, 17],
    }
    for folder, values in (arrays | changed).items():
        if values is not None:
            (root / folder).mkdir(parents=True, exist_ok=True)
            array = values if isinstance(values, np.ndarray) else np.array(values, dtype="<i8")
            array.tofile(root / folder / f"{name}.bin")


def test_classes_are_those_of_the_benchmark() -> None:
    assert len(SCANNET_CLASSES) == len(NYU40_NUMBERS) == 18
    names = dict(zip(SCANNET_CLASSES, NYU40_NUMBERS, strict=True))
    assert (names["cabinet"], names["chair"], names["desk"], names["shower curtain"]) == (3, 5, 14, 28)
    assert (names["bathtub"], names["otherfurniture"]) == (36, 39)


def test_truth_by_the_benchmark() -> None:
    instance = np.array([1, 0, 2, 2, 2, 0, 5, -1, 6])
    nyu40 = np.array([1, 2, 39, 39, 3, 5, 22, 5, 0])
    labels, classes, split = scannet_truth(instance, nyu40)
    # Wall and floor 0 even where annotated; a chair without an object, a ceiling and an unlabelled object ignored.
    assert labels.tolist() == [0, 0, 2, 2, 1, -1, -1, -1, -1]
    assert [SCANNET_CLASSES[c] for c in classes] == ["cabinet", "otherfurniture"]
    assert split == [2]


def test_a_scene_as_oneformer3d_writes_it(tmp_path: Path) -> None:
    write(tmp_path, "scene0000_00")
    data = ScanNetPreparedDataset(tmp_path)
    sample = data[0]
    assert sample.name == "scene0000_00"
    assert sample.coordinates.tolist() == POINTS[:, :3].tolist()
    assert sample.colors.tolist() == POINTS[:, 3:].tolist()
    assert sample.instance_labels.tolist() == [0, 0, 1, 1, -1, -1]
    assert [data.class_names[c] for c in sample.class_labels] == ["chair"]
    assert sample.superpoints is not None
    assert sample.superpoints.tolist() == [2, 2, 0, 1, 1, 0]
    assert data.prepare() == []


def test_without_superpoints(tmp_path: Path) -> None:
    write(tmp_path, "scene0000_00", super_points=None, instance_mask=[0] * 6)
    data = ScanNetPreparedDataset(tmp_path)
    assert data[0].superpoints is None
    assert [str(repair) for repair in data.prepare()] == [
        "super_points: read without superpoints: it is not there",
        "instance_mask/scene0000_00.bin: read without an instance: it has none",
    ]


def test_splits(tmp_path: Path) -> None:
    for name in ("scene0001_00", "scene0000_00", "scene0000_01"):
        write(tmp_path, name)
    assert ScanNetPreparedDataset(tmp_path).names == ["scene0000_00", "scene0000_01", "scene0001_00"]
    with pytest.raises(UserError, match=r"scannetv2_val.txt does not exist: name a file .* option split_file"):
        ScanNetPreparedDataset(tmp_path, "val")
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data" / "scannetv2_val.txt").write_text("scene0001_00\nscene0000_01\n")
    assert ScanNetPreparedDataset(tmp_path, "val").names == ["scene0001_00", "scene0000_01"]
    (tmp_path / "scannetv2_val.txt").write_text("scene0000_01\n")
    assert ScanNetPreparedDataset(tmp_path, "val").names == ["scene0000_01"]
    mine = tmp_path / "mine.txt"
    mine.write_text("scene0000_00\n\n")
    assert ScanNetPreparedDataset(tmp_path, "val", mine).names == ["scene0000_00"]
    mine.write_text("scene0000_00\nscene0707_00\n")
    with pytest.raises(
        UserError, match=r"1 of the 2 scenes of .*mine.txt are not in .*points: scene0707_00; ScanNet is"
    ):
        ScanNetPreparedDataset(tmp_path, split_file=mine)
    with pytest.raises(UserError, match=r"other.txt does not exist: expected one name a line"):
        ScanNetPreparedDataset(tmp_path, split_file=tmp_path / "other.txt")
    (tmp_path / "scannetv2_val.txt").unlink()
    with pytest.raises(UserError, match=r"val.txt does not exist, but .*meta_data/scannetv2_val.txt does: name that"):
        ScanNetPreparedDataset(tmp_path, split_file=tmp_path / "scannetv2_val.txt")


def test_folders_without_scenes_or_masks(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(UserError, match=r"no scenes in .*: looked for points/SCENE.bin, found scans"):
        ScanNetPreparedDataset(tmp_path)
    write(tmp_path, "scene0000_00")
    write(tmp_path, "scene0000_01", super_points=None)
    with pytest.raises(UserError, match=r"lacks super_points/scene0000_01.bin: each scene needs"):
        ScanNetPreparedDataset(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"semantic_mask": [1, 2, 5, 5, 0, 1163]},
            r"semantic_mask/a.bin holds classes from 0 to 1163, expected 0 to 40",
        ),
        ({"super_points": [1, 2]}, r"super_points/a.bin is 16 bytes long, expected 48 for 6 points"),
        ({"instance_mask": [1] * 7}, r"instance_mask/a.bin is 56 bytes long, expected 48"),
        ({"points": np.zeros(35, dtype="<f4")}, r"points/a.bin is 140 bytes long"),
        ({"points": np.full((6, 6), np.inf, dtype="<f4")}, r"points/a.bin: 6 of 6 points have NaN or infinite"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path, "a", **changed)
    with pytest.raises(UserError, match=message):
        ScanNetPreparedDataset(tmp_path)[0]
