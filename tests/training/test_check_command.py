"""`influencerformer check`: every defect of every format is listed with its file, and the exit code says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from influencerformer.data.points.room_files import generate_s3dis
from influencerformer.data.points.scannet_classes import TABLE
from influencerformer.data.scenes import generate_scenes
from influencerformer.training.check import main as check
from influencerformer.training.cli import main

Found = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Found:
    """found(ARGUMENTS) runs the command; gives its exit code, what --json holds and what it printed."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        report = tmp_path / "report.json"
        code = check([*map(str, arguments), "--json", str(report)])
        return code, json.loads(report.read_text()), capsys.readouterr().out

    return run


def listed(report: dict[str, Any], root: Path) -> set[tuple[str, str]]:
    """(severity, file below root) of each defect."""
    return {(d["severity"], Path(d["file"]).relative_to(root).as_posix()) for d in report["defects"]}


def label_maps(root: Path, count: int = 4) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    labels = np.zeros((8, 9), np.uint16)
    labels[:3, :3], labels[5:, 5:] = 1, 40000
    for i in range(count):
        Image.fromarray(np.full((8, 9, 3), 10 * i, np.uint8)).save(root / "images" / f"s{i}.png")
        Image.fromarray(labels).save(root / "labels" / f"s{i}.png")
    (root / "train.txt").write_text("".join(f"s{i}\n" for i in range(count - 1)))
    (root / "val.txt").write_text(f"s{count - 1}\n")
    return root


def test_sound_label_maps(tmp_path: Path, found: Found) -> None:
    root = label_maps(tmp_path / "data")
    code, report, out = found(f"label_map:{root}")
    assert code == 0
    assert (report["samples"], report["read"], report["instances"]) == (4, 4, {"object": 8})
    assert "4 of 4 samples read (0 without an instance), 8 instances of 1 of 1 classes; no defects" in out
    assert found(root, "--format", "label_map")[0] == 0


def test_every_defect_of_label_maps_is_listed(tmp_path: Path, found: Found) -> None:
    root = label_maps(tmp_path / "data", 8)
    (root / "labels" / "s0.png").write_bytes(b"")
    (root / "images" / "s1.png").write_bytes((root / "images" / "s1.png").read_bytes()[:45])
    (root / "labels" / "s1.png").write_bytes(b"no image")
    (root / "labels" / "s2.png").unlink()
    (root / "images" / "s3.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "labels" / "s4.png")
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(root / "labels" / "s7.png")
    code, report, out = found(f"label_map:{root}")
    assert code == 1
    files = ("labels/s0.png", "images/s1.png", "labels/s1.png", "labels/s2", "labels/s4.png", "labels/s7.png")
    assert {file for severity, file in listed(report, root) if severity == "error"} >= set(files)
    assert any("images/s3" in file for _, file in listed(report, root))
    assert (report["samples"], report["read"], report["errors"], report["warnings"]) == (8, 2, 7, 0)
    assert "it is empty, 0 bytes" in out
    assert "7 defects: training stops at 7 of them" in out


def coco(root: Path) -> dict[str, Any]:
    """Two images of 10 x 12 with a square each."""
    (root / "images").mkdir(parents=True)
    for i in (1, 2):
        Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(root / "images" / f"{i}.png")
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 12} for i in (1, 2)],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 3, "segmentation": square, "bbox": [2, 2, 4, 4]} for i in (1, 2)
        ],
    }


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        ({"segmentation": {"size": [12, 10], "counts": [0, 120]}}, "error", "annotation 2 [12, 10] in an image"),
        ({"segmentation": {"size": [10, 12], "counts": [0, 119]}}, "error", "RLE of another size"),
        ({"segmentation": {"size": [10, 12], "counts": [0, -1, 121]}}, "error", "do not add up"),
        ({"segmentation": {"size": [10, 12], "counts": "~~"}}, "warning", "has no mask and is left out"),
        ({"segmentation": {"size": [10, 12], "counts": "00"}}, "error", "do not add up"),
        ({"segmentation": {"size": [10, 12], "counts": "00o"}}, "error", "counts are broken"),
        ({"segmentation": []}, "warning", "annotation 2 has no mask and is left out"),
        ({"segmentation": [[1, 1, 5, 5, 1e9, 2]]}, "error", "a polygon far outside of its image"),
        ({"segmentation": [[1, 1, 5, 5, 3, "2"]]}, "error", "a polygon that is no list of numbers"),
        ({"segmentation": [[1, 1, 5, 5, 3, 2, 7]]}, "error", "a polygon of 7 numbers"),
        ({"bbox": [2, 2, 40, 4]}, "warning", "the box [2, 2, 40, 4] lies outside of its image"),
        ({"bbox": "all"}, "warning", "the box all is no left, top, width, height"),
        ({"area": "big"}, "warning", "area is big, no number"),
        ({"id": 1}, "warning", "annotation id 1 2 times"),
        ({"image_id": 9}, "error", "of image 9, not listed"),
        ({"category_id": [3]}, "error", "of category [3], not listed"),
    ],
)
def test_defects_of_coco_annotations(tmp_path: Path, found: Found, change: Any, severity: str, what: str) -> None:
    root = tmp_path / "data"
    content = coco(root)
    content["annotations"][1] |= change
    (root / "instances.json").write_text(json.dumps(content))
    code, report, _ = found(f"coco:{root}")
    assert code == 1
    (defect,) = report["defects"]
    assert (defect["severity"], defect["file"]) == (severity, str(root / "instances.json"))
    assert what in defect["what"]
    assert report["read"] == (1 if severity == "error" and "image_id" not in change else 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": 1}, "image id 1 twice"),
        ({"file_name": "../2.png"}, "leaves its folder"),
        ({"file_name": "/etc/hostname"}, "leaves its folder"),
        ({"file_name": "C:\\2.png"}, "leaves its folder"),
        ({"height": -4}, "expected 1 to"),
        ({"height": 1 << 40}, "expected 1 to"),
        ({"file_name": 7}, "lacks id, height, width"),
        ({"file_name": "3.png"}, "does not exist"),
    ],
)
def test_defects_of_coco_images(tmp_path: Path, found: Found, change: Any, what: str) -> None:
    root = tmp_path / "data"
    content = coco(root)
    content["annotations"].pop()
    content["images"][1] |= change
    (root / "instances.json").write_text(json.dumps(content))
    code, report, _ = found(f"coco:{root}")
    assert code == 1
    (defect,) = report["defects"]
    assert what in defect["what"]
    assert (report["samples"], report["read"], defect["severity"]) == (2, 1, "error")


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"images": 1' + "0" * 5000 + "}"])
def test_a_json_that_is_none_is_one_defect(tmp_path: Path, found: Found, content: str) -> None:
    root = tmp_path / "data"
    coco(root)
    (root / "instances.json").write_text(content)
    code, report, _ = found(f"coco:{root}")
    assert (code, report["errors"]) == (1, 1)
    assert report["defects"][0]["file"] == str(root / "instances.json")


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    return generate_s3dis(tmp_path / "rooms", 2, 1, width=(2.5, 2.6), density=15.0)


def test_generated_data_have_no_defect(tmp_path: Path, rooms: Path, found: Found) -> None:
    scenes = generate_scenes(tmp_path / "scenes", 3, 2, 16)
    for data, samples in ((f"scenes:{scenes}", 5), (f"scenes:{scenes.parent}", 5), (f"rooms:{rooms}", 3)):
        code, report, _ = found(data)
        assert (code, report["read"], report["defects"]) == (0, samples, [])


def test_every_broken_file_of_a_raw_room_is_listed(rooms: Path, found: Found) -> None:
    annotations = rooms / "Area_1" / "room_1" / "Annotations"
    lines = (annotations / "floor_1.txt").read_text().splitlines()
    (annotations / "floor_1.txt").write_text("\n".join(["nan nan nan 1 2 3", *lines, "1 2 3"]))
    for file in ("ceiling_1.txt", "wall_1.txt"):
        (annotations / file).write_text("1;2;3;4;5;6\n" * 20)
    (rooms / "Area_1" / "room_2" / "Annotations" / "floor_1.txt").write_text("")
    code, report, _ = found(f"rooms:{rooms}")
    assert code == 1
    files = listed(report, rooms)
    room = "Area_1/room_1/Annotations"
    assert {
        ("error", f"{room}/ceiling_1.txt"),
        ("error", f"{room}/wall_1.txt"),
        ("warning", f"{room}/floor_1.txt"),
    } <= files
    assert ("warning", "Area_1/room_2/Annotations/floor_1.txt") in files
    assert (report["samples"], report["read"]) == (3, 2)


def pointcept(root: Path) -> Path:
    for area in (1, 5):
        for number in range(2):
            folder = root / f"Area_{area}" / f"office_{number}"
            folder.mkdir(parents=True)
            np.save(folder / "coord.npy", np.random.default_rng(0).random((6, 3)).astype(np.float32))
            np.save(folder / "color.npy", np.zeros((6, 3), np.uint8))
            np.save(folder / "segment.npy", np.zeros(6, np.int64))
            np.save(folder / "instance.npy", np.array([0, 0, 0, 70000, 70000, -1]))
    return root


@pytest.mark.parametrize(
    ("array", "values", "what"),
    [
        ("coord", np.full((6, 3), np.nan, np.float32), "6 of 6 points have NaN or infinite coordinates"),
        ("coord", np.zeros((0, 3), np.float32), "holds no point"),
        ("coord", np.zeros((6, 2), np.float32), "expected (N, 3) numbers"),
        ("color", np.zeros((5, 3), np.uint8), "expected (6, 3) numbers"),
        ("segment", np.full(6, 13), "holds classes from 13 to 13, expected 0 to 12"),
        ("instance", np.zeros(6, np.float32), "expected (6) integers"),
        ("instance", None, "does not exist"),
    ],
)
def test_defects_of_pointcept_rooms(tmp_path: Path, found: Found, array: str, values: Any, what: str) -> None:
    root = pointcept(tmp_path / "data")
    assert found(f"pointcept:{root}")[:2][0] == 0
    path = root / "Area_5" / "office_1" / f"{array}.npy"
    path.unlink() if values is None else np.save(path, values)
    code, report, _ = found(f"pointcept:{root}")
    assert code == 1
    (defect,) = report["defects"]
    assert (defect["file"], defect["severity"], defect["sample"]) == (str(path), "error", "Area_5_office_1")
    assert what in defect["what"]
    assert (report["samples"], report["read"]) == (4, 3)


def bare_arrays(root: Path, names: tuple[str, ...], with_superpoints: bool) -> Path:
    """Rooms as mmdetection3d and OneFormer3D write them."""
    points = np.concatenate([np.random.default_rng(1).random((7, 3)), np.full((7, 3), 100)], 1).astype(np.float32)
    arrays = {"points": points, "instance_mask": np.array([0, 1, 1, 2, 2, 2, 2]), "semantic_mask": np.full(7, 5)}
    if with_superpoints:
        arrays["super_points"] = np.arange(7)
    for folder, values in arrays.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name}.bin").write_bytes(values.tobytes())
    return root


@pytest.mark.parametrize("format", ["s3dis_mmdet3d", "scannet_prepared"])
@pytest.mark.parametrize(
    ("folder", "content", "what"),
    [
        ("points", b"\0" * 25, "25 bytes long, expected a multiple of 24"),
        ("points", np.full((7, 6), np.inf, np.float32).tobytes(), "NaN or infinite coordinates"),
        ("points", b"", "holds no point"),
        ("instance_mask", b"\0" * 48, "48 bytes long, expected 56 for 7 points"),
        ("semantic_mask", np.full(7, 2**40).tobytes(), "holds classes from 1099511627776"),
        ("semantic_mask", None, "does not exist"),
    ],
)
def test_defects_of_bare_arrays(
    tmp_path: Path, found: Found, format: str, folder: str, content: bytes | None, what: str
) -> None:
    root = bare_arrays(tmp_path / "data", ("Area_1_a", "Area_5_b"), format == "scannet_prepared")
    assert found(f"{format}:{root}")[0] == 0
    path = root / folder / "Area_5_b.bin"
    path.unlink() if content is None else path.write_bytes(content)
    code, report, _ = found(f"{format}:{root}")
    assert code == 1
    (defect,) = report["defects"]
    assert (defect["file"], defect["sample"]) == (str(path), "Area_5_b")
    assert what in defect["what"]


MESH = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
0 0 0 1 2 3
1 0 0 1 2 3
0 1 0 1 2 3
"""


def scannet(root: Path) -> Path:
    for name in ("scene0000_00", "scene0001_00"):
        folder = root / "scans" / name
        folder.mkdir(parents=True)
        (folder / f"{name}_vh_clean_2.ply").write_text(MESH)
        (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": [4, 4, 70000]}))
        objects = {"segGroups": [{"label": "chair", "segments": [4]}, {"label": "wall", "segments": [70000]}]}
        (folder / f"{name}.aggregation.json").write_text(json.dumps(objects))
    (root / TABLE).write_text("raw_category\tnyu40id\nchair\t5\nwall\t1\n")
    return root


@pytest.mark.parametrize(
    ("ending", "content", "severity", "what"),
    [
        ("_vh_clean_2.ply", MESH.replace("vertex 3", "vertex 4000000000"), "error", "cannot be read as a mesh"),
        ("_vh_clean_2.ply", MESH.replace("0 1 0", "0 nan 0"), "error", "NaN or infinite"),
        ("_vh_clean_2.ply", "", "error", "cannot be read as a mesh"),
        ("_vh_clean_2.0.010000.segs.json", '{"segIndices": [4, 4]}', "error", "has 2 vertices but"),
        ("_vh_clean_2.0.010000.segs.json", '{"segIndices": [4, 4, 1e400]}', "error", "no list of whole numbers"),
        ("_vh_clean_2.0.010000.segs.json", '{"segIndices": [4, 4, 1' + "0" * 30 + "]}", "error", "no list of whole"),
        ("_vh_clean_2.0.010000.segs.json", "[" * 100_000, "error", "not valid JSON"),
        (".aggregation.json", '{"segGroups": 3}', "error", "no segGroups"),
        (".aggregation.json", None, "error", "does not exist"),
        (".aggregation.json", '{"segGroups": [{"label": "ufo", "segments": [4]}]}', "warning", "the table lacks"),
    ],
)
def test_defects_of_scannet_scenes(
    tmp_path: Path, found: Found, ending: str, content: str | None, severity: str, what: str
) -> None:
    root = scannet(tmp_path / "data")
    assert found(f"scannet:{root}")[0] == 0
    path = root / "scans" / "scene0001_00" / f"scene0001_00{ending}"
    path.unlink() if content is None else path.write_text(content)
    code, report, _ = found(f"scannet:{root}")
    assert code == 1
    defect = report["defects"][0]
    assert (defect["file"], defect["sample"], defect["severity"]) == (str(path), "scene0001_00", severity)
    assert what in defect["what"]


def test_a_configuration_says_which_data_are_read(tmp_path: Path, found: Found) -> None:
    root = label_maps(tmp_path / "data")
    (root / "some.txt").write_text("s0\n")
    data = {"format": "label_map", "root": str(root), "train_split": "some.txt", "class_names": ["cell"]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": data}))
    code, report, _ = found("--config", tmp_path / "c.yaml")
    assert (code, report["samples"], report["instances"]) == (0, 2, {"cell": 4})
    assert found("--config", tmp_path / "c.yaml", "--data.train_split=train.txt")[1]["samples"] == 4
    assert found(f"label_map:{root}", "--data.class_names", "[a, b]")[0] == 1


def test_names_from_files_do_not_act_on_the_terminal(tmp_path: Path, found: Found) -> None:
    root = tmp_path / "data"
    content = coco(root)
    content["images"][1]["file_name"] = "\x1b[2J[red]\u2028.png"
    content["annotations"].pop()
    (root / "instances.json").write_text(json.dumps(content))
    code, _, out = found(f"coco:{root}")
    assert code == 1
    assert "\x1b" not in out
    assert "\\x1b[2J[red]\\u2028.png" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to check: FORMAT:FOLDER"),
        (["{here}"], "say what to check: FORMAT:FOLDER"),
        (["films:{here}"], "format 'films' is unknown: expected one of scenes, label_map"),
        (["coco:{here}", "--format", "label_map"], "DATA says coco, --format says label_map: give one"),
        (["label_map:{here}/absent"], "absent does not exist: expected a folder of data"),
        (["coco:{here}"], "holds no annotations/instances_NAME.json"),
        (["rooms:{here}"], "holds no generated data"),
        (["coco:{here}", "--bogus", "1"], "unrecognized arguments: --bogus"),
        (["coco:{here}", "--data.shop", "1"], "the data options do not fit"),
        (["coco:{here}", "--data.seed", "[1"], "data.seed"),
        (["--config", "absent.yaml"], "cannot read the configuration absent.yaml"),
    ],
)
def test_options_that_cannot_be_used_end_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", *(argument.format(here=tmp_path) for argument in arguments)])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
