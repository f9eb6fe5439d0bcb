"""What the study of OneFormer3D writes: rooms in its data sets' layouts, and tables of finished runs."""

import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from influencerformer.data.points.rooms import ROOM_CLASSES, generate_room
from influencerformer.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "oneformer3d"
OPTIONS: dict[str, Any] = {"width": (3.0, 3.5), "density": 60.0}


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import layouts

    return layouts


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import results

    return results


def read(root: Path, row: dict[str, Any]) -> dict[str, np.ndarray]:
    name = row["lidar_points"]["lidar_path"]
    files = {"points": np.float32, "instance_mask": np.int64, "semantic_mask": np.int64, "super_points": np.int64}
    return {f: np.fromfile(root / f / name, dtype=d) for f, d in files.items() if (root / f).is_dir()}


def test_s3dis_files_hold_the_rooms(layouts: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "s3dis"
    layouts.write_s3dis(root, {1: [3, 4], 5: [7]}, **OPTIONS)
    for area, seeds in ((1, [3, 4]), (5, [7])):
        rows = pickle.loads((root / f"s3dis_infos_Area_{area}.pkl").read_bytes())["data_list"]
        assert len(rows) == len(seeds)
        for row, seed in zip(rows, seeds, strict=True):
            room, found = generate_room(seed, **OPTIONS), read(root, row)
            cloud = found["points"].reshape(-1, 6)
            assert np.array_equal(cloud[:, :3], room.points)
            assert np.array_equal(cloud[:, 3:], room.colors)
            assert np.array_equal(found["instance_mask"], room.instance + 1)
            assert np.array_equal(found["semantic_mask"], room.semantic)
            things = [c for c in room.semantic[np.unique(room.instance, return_index=True)[1]] if 7 <= c <= 11]
            assert [box["bbox_label_3d"] + 7 for box in row["instances"]] == things
            inside = [
                np.abs(cloud[:, :3] - box["bbox_3d"][:3]).max(1).min() < max(box["bbox_3d"][3:])
                for box in row["instances"]
            ]
            assert all(inside)


def test_scannet_files_have_raw_classes_and_superpoints(layouts: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "scannet"
    layouts.write_scannet(root, train=[0], val=[1], **OPTIONS)
    rows = pickle.loads((root / "scannet_oneformer3d_infos_val.pkl").read_bytes())["data_list"]
    room, found = generate_room(1, **OPTIONS), read(root, rows[0])
    names = {1: "wall", 2: "floor", 5: "chair", 7: "table", 22: "ceiling"}
    for number, name in names.items():
        assert np.array_equal(found["semantic_mask"] == number, room.semantic == ROOM_CLASSES.index(name))
    groups = found["super_points"]
    assert np.array_equal(np.unique(groups), np.arange(groups.max() + 1))
    assert rows[0]["super_pts_path"] == rows[0]["lidar_points"]["lidar_path"]


def test_superpoints_follow_surfaces_and_never_labels(layouts: ModuleType) -> None:
    room = generate_room(0, width=(3.2, 4.4), density=300.0)
    groups = layouts.superpoints(room.points, room.colors)
    assert np.array_equal(groups, layouts.superpoints(room.points, room.colors))
    assert 200 < groups.max() + 1 < 1200
    counts = np.zeros((groups.max() + 1, room.instance.max() + 1))
    np.add.at(counts, (groups, room.instance), 1)
    # Nearly all points are in a group that one instance dominates.
    assert counts.max(1).sum() / counts.sum() > 0.95


def test_written_once_and_not_over_other_data(layouts: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "s3dis"
    layouts.write_s3dis(root, {5: [1]}, **OPTIONS)
    before = (root / "s3dis_infos_Area_5.pkl").stat().st_mtime_ns
    layouts.write_s3dis(root, {5: [1]}, **OPTIONS)
    assert (root / "s3dis_infos_Area_5.pkl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other data"):
        layouts.write_s3dis(root, {5: [2]}, **OPTIONS)


LOG = """
| classes  | AP_0.25 | AP_0.50 | AP     | Prec_0.50 | Rec_0.50 |
| chair    | 0.9000  | 0.8000  | 0.1000 | 1.0000    | 1.0000   |
+----------+
| classes  | AP_0.25 | AP_0.50 | AP     | Prec_0.50 | Rec_0.50 |
| beam     | nan     | nan     | nan    | nan       | nan      |
| chair    | 0.9000  | 0.8000  | 0.7000 | 1.0000    | 1.0000   |
| Overall  | 0.9000  | 0.8000  | 0.7000 | 1.0000    | 1.0000   |
"""


def finished(out: Path, arm: str, seed: int, aps: list[float]) -> None:
    record = out / f"{arm}_seed{seed}" / "work" / "20260101_000000" / "vis_data"
    record.mkdir(parents=True)
    (record.parents[2] / "done.json").write_text(json.dumps({"arm": arm, "seed": seed, "seconds": 9.0}))
    (record.parents[2] / "log.txt").write_text(LOG)
    rows: list[dict[str, float]] = []
    for epoch, ap in enumerate(aps, start=1):
        rows.append({"loss": 3.0 / epoch, "inst_loss": 1.0, "time": 0.5, "epoch": epoch, "iter": epoch, "step": epoch})
        rows.append({"all_ap": ap, "all_ap_50%": ap, "all_ap_25%": ap, "miou": 0.5, "pq": 0.1, "step": epoch})
    (record / "scalars.json").write_text("\n".join(json.dumps(row) for row in rows))


def test_table_pairs_runs_by_seed(results: ModuleType, tmp_path: Path) -> None:
    for seed, (base, mine) in enumerate([([0.1, 0.2], [0.2, 0.3]), ([0.1, 0.4], [0.1, 0.3]), ([0.2, 0.3], [0.3, 0.6])]):
        finished(tmp_path, "oneformer3d", seed, base)
        finished(tmp_path, "mine", seed, mine)
    finished(tmp_path, "mine", 9, [0.0, 0.9])
    table = results.write(tmp_path, "s3dis", "oneformer3d")
    assert "| 2 | oneformer3d | 3 | 0.3000 ± 0.1000 |" in table
    # Seed 9 has no partner: it counts for the arm's mean, not for the difference.
    assert "| 2 | mine | 4 |" in table
    assert "0.1000 ± 0.0000 | 0.1000 ± 0.2000 | 2 of 3 |" in table  # PQ, then the difference of AP
    assert "| mine | 0.700 |" in table
    content = json.loads((tmp_path / "results.json").read_text())
    assert [run["arm"] for run in content["runs"]] == ["oneformer3d"] * 3 + ["mine"] * 4
    assert content["runs"][0]["losses"][0]["loss"] == 3.0
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_without_validation_is_named(results: ModuleType, tmp_path: Path) -> None:
    finished(tmp_path, "oneformer3d", 0, [])
    with pytest.raises(UserError, match="oneformer3d_seed0"):
        results.write(tmp_path, "s3dis", "oneformer3d")
    assert results.write(tmp_path / "empty", "s3dis", "oneformer3d") == "no finished run"
