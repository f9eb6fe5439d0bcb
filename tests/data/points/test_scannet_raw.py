from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from influencerformer.data.points.scannet_classes import read_label_table
from influencerformer.data.points.scannet_raw import ScanNetDataset
from influencerformer.errors import UserError

SCENE = "scene0000_00"
SEGMENTS = [7, 7, 3, 3, 9, 500, 500, 12]
OBJECTS = [("chair", [3, 9]), ("wall", [7]), ("ceiling", [500])]
TABLE = "id\traw_category\tcategory\tnyu40id\n1\twall\twall\t1\n2\tchair\tchair\t5\n3\tceiling\tceiling\t22\n"


def write_mesh(path: Path, count: int = 8, colors: str = "u1", faces: int = 3) -> None:
    dtype = [(axis, "f4") for axis in "xyz"] + (
        [(c, colors) for c in ("red", "green", "blue", "alpha")] if colors else []
    )
    vertices = np.zeros(count, dtype=dtype)
    for number, (name, _) in enumerate(dtype):
        vertices[name] = np.arange(count) + 10 * number
    triangles = np.zeros(2, dtype=[("vertex_indices", "i4", (faces,))])
    PlyData([PlyElement.describe(vertices, "vertex"), PlyElement.describe(triangles, "face")]).write(path)


def write(root: Path, name: str = SCENE, segments: Any = SEGMENTS, objects: Any = OBJECTS, table: str = TABLE) -> Path:
    """A scene of eight vertices: two of the wall, three of a chair, two of the ceiling, one unannotated."""
    folder = root / "scans" / name
    folder.mkdir(parents=True)
    write_mesh(folder / f"{name}_vh_clean_2.ply", 8)
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segments}))
    groups = [{"id": i, "objectId": i, "label": label, "segments": s} for i, (label, s) in enumerate(objects)]
    (folder / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    (root / "scannetv2-labels.combined.tsv").write_text(table)
    return folder


def test_a_scene_as_it_is_given_out(tmp_path: Path) -> None:
    write(tmp_path)
    data = ScanNetDataset(tmp_path)
    sample = data[0]
    assert sample.name == SCENE
    assert sample.coordinates.tolist() == [[i, i + 10, i + 20] for i in range(8)]
    assert sample.colors.tolist() == [[i + 30, i + 40, i + 50] for i in range(8)]
    assert sample.instance_labels.tolist() == [0, 0, 1, 1, 1, -1, -1, -1]
    assert [data.class_names[c] for c in sample.class_labels] == ["chair"]
    assert sample.superpoints is not None
    assert sample.superpoints.tolist() == [1, 1, 0, 0, 2, 4, 4, 3]
    assert data.prepare() == []


def test_scenes_themselves_as_root_splits_and_table_in_meta_data(tmp_path: Path) -> None:
    for name in ("scene0001_00", SCENE):
        write(tmp_path, name)
    (tmp_path / "scannetv2_train.txt").write_text("scene0001_00\n")
    assert ScanNetDataset(tmp_path).names == [SCENE, "scene0001_00"]
    assert ScanNetDataset(tmp_path, "train").names == ["scene0001_00"]
    scans = tmp_path / "scans"
    with pytest.raises(
        UserError, match=r"scans/scannetv2-labels.combined.tsv does not exist: .* belongs there; ScanNet is"
    ):
        ScanNetDataset(scans)
    (scans / "meta_data").mkdir()
    (tmp_path / "scannetv2-labels.combined.tsv").rename(scans / "meta_data" / "scannetv2-labels.combined.tsv")
    assert ScanNetDataset(scans).names == [SCENE, "scene0001_00"]


def test_what_is_odd_in_annotations_is_reported(tmp_path: Path) -> None:
    objects = [("chair", [3, 77, 78]), ("spaceship", [9]), ("chair", [7, 3, 3])]
    write(tmp_path, objects=objects)
    write(tmp_path, "scene0001_00", objects=[("wall", [7])])
    data = ScanNetDataset(tmp_path)
    assert data[0].instance_labels.tolist() == [1, 1, 1, 1, -1, -1, -1, -1]
    below = "scans/scene0000_00/scene0000_00.aggregation.json: "
    assert [str(repair) for repair in data.prepare()] == [
        f"{below}segments left out that no vertex has: 2 of 'chair'",
        f"{below}object ignored whose label the table lacks: 'spaceship'",
        f"{below}segments of several objects given to the last: 1 to 'chair'",
        "scans/scene0001_00/scene0001_00.aggregation.json: read without an instance: it has none",
    ]


def test_mesh_and_segments_of_different_length(tmp_path: Path) -> None:
    write(tmp_path, segments=SEGMENTS[:-1])
    with pytest.raises(
        UserError, match=r"segs.json has 7 vertices but scene0000_00_vh_clean_2.ply has 8: they must be of"
    ):
        ScanNetDataset(tmp_path)[0]


def test_meshes_that_cannot_be_used(tmp_path: Path) -> None:
    mesh = write(tmp_path) / f"{SCENE}_vh_clean_2.ply"
    data = ScanNetDataset(tmp_path)
    whole = mesh.read_bytes()
    for broken in (
        b"",
        b"hello",
        whole[:60],
        whole[:300],
        whole.replace(b"element vertex", b"element corner"),
        b"ply\n\xff",
    ):
        mesh.write_bytes(broken)
        with pytest.raises(
            UserError, match=r"vh_clean_2.ply cannot be read as a mesh \(.*\): replace the file; ScanNet is"
        ):
            data[0]
    write_mesh(mesh, colors="")
    with pytest.raises(UserError, match=r"vh_clean_2.ply has no red, green, blue of its vertices"):
        data[0]
    mesh.write_bytes(whole)
    write_mesh(mesh, faces=4)
    assert data[0].num_points == 8
    write_mesh(mesh, colors="f4")
    assert data[0].colors[7].tolist() == [37, 47, 57]


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        ("_vh_clean_2.0.010000.segs.json", "{", "segs.json is not valid JSON"),
        ("_vh_clean_2.0.010000.segs.json", "[1]", "segs.json must hold an object, got a list"),
        ("_vh_clean_2.0.010000.segs.json", "{}", "segs.json has no list of whole numbers under segIndices"),
        ("_vh_clean_2.0.010000.segs.json", '{"segIndices": [1.5, 2]}', "no list of whole numbers under segIndices"),
        (
            "_vh_clean_2.0.010000.segs.json",
            '{"segIndices": [[1], [2, 3]]}',
            "no list of whole numbers under segIndices",
        ),
        (".aggregation.json", "\xff", "aggregation.json is not valid JSON"),
        (".aggregation.json", "{}", "aggregation.json has no segGroups with a label each"),
        (".aggregation.json", '{"segGroups": [{"segments": []}]}', "aggregation.json has no segGroups with a label"),
        (".aggregation.json", '{"segGroups": [{"label": "a"}]}', "no list of whole numbers under segments"),
    ],
)
def test_broken_json(tmp_path: Path, ending: str, content: str, message: str) -> None:
    folder = write(tmp_path)
    (folder / f"{SCENE}{ending}").write_text(content, encoding="latin1")
    with pytest.raises(UserError, match=message):
        ScanNetDataset(tmp_path)[0]


def test_annotations_of_the_mesh_before_decimation_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    data = ScanNetDataset(tmp_path)
    path, fine = folder / f"{SCENE}.aggregation.json", folder / f"{SCENE}_vh_clean.aggregation.json"
    groups = json.loads(path.read_text())
    path.unlink()
    with pytest.raises(
        UserError, match=r"scene0000_00.aggregation.json does not exist: the scene is incomplete; ScanNet"
    ):
        data[0]
    fine.write_text(json.dumps(groups | {"segmentsFile": f"scannet.{SCENE}_vh_clean.segs.json"}))
    with pytest.raises(UserError, match=r"vh_clean.aggregation.json is about the segments of another mesh"):
        data[0]
    fine.write_text(json.dumps(groups | {"segmentsFile": f"scannet.{SCENE}_vh_clean_2.0.010000.segs.json"}))
    assert data[0].num_instances == 1


def test_missing_scenes_and_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"looked for scans/scene0000_00, found an empty folder; ScanNet is given out by"
    ):
        ScanNetDataset(tmp_path)
    folder = write(tmp_path)
    (tmp_path / "scannetv2_val.txt").write_text("scene0001_00\n")
    with pytest.raises(UserError, match=r"1 of the 1 scenes of .*val.txt are not in .*scans: scene0001_00; ScanNet is"):
        ScanNetDataset(tmp_path, "val")
    (folder / f"{SCENE}_vh_clean_2.ply").unlink()
    with pytest.raises(
        UserError, match=r"lacks scans/scene0000_00/scene0000_00_vh_clean_2.ply: the scenes are incomplete"
    ):
        ScanNetDataset(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("label,nyu40id\nwall,1\n", "is not ScanNet's label table"),
        ("raw_category\tnyu40id\nwall\tone\n", "is not ScanNet's label table"),
        ("raw_category\tnyu40id\nwall\t41\n", "holds NYU40's classes from 41 to 41, expected 0 to 40"),
    ],
)
def test_label_tables_that_do_not_fit(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(table)
    with pytest.raises(UserError, match=message):
        read_label_table(tmp_path)


def test_label_table_takes_quotes_and_gaps_as_they_are(tmp_path: Path) -> None:
    table = 'raw_category\tnyu40id\n"tv" stand\t39\nunknown\t\nbed\t4\n'
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(table)
    assert read_label_table(tmp_path) == {'"tv" stand': 39, "bed": 4}
