"""Spoilt files of every format: what comes is a sound sample or one sentence, never another exception, never a hang."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fuzz_cases import cases, outcome, spoilt, spoilt_json
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData, PlyElement
from pycocotools import mask as rle_api
from rich.console import Console

from influencerformer.data.bad_samples import CheckedDataset, Defect
from influencerformer.data.coco import CocoDataset, ground_truth
from influencerformer.data.collate import collate
from influencerformer.data.download.extract import unpacked
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.data.points.cloud_files import read_cloud
from influencerformer.data.points.formats import open_points
from influencerformer.data.points.sample import PointSample
from influencerformer.data.points.scannet_classes import TABLE
from influencerformer.data.sample import Sample
from influencerformer.training.checkpoints import read_checkpoint
from influencerformer.training.compare_setup import make_setup, open_setup
from influencerformer.training.config_files import resolve_config
from influencerformer.training.record import RunRecord

HEIGHT, WIDTH = 9, 11


def sound_image(sample: Sample, classes: int) -> None:
    """A sample that a batch can be made of; its constructor has looked at types and shapes."""
    assert 0 not in sample.size
    assert len(sample.class_labels) == 0 or int(sample.class_labels.max()) < classes
    if sample.instance_labels is not None:
        values = set(sample.instance_labels.unique().tolist()) - {0, -1}
        assert values == set(range(1, sample.num_instances + 1))
    else:
        assert bool(sample.masks().any((1, 2)).all())
    assert collate([sample])["pixel_values"].isfinite().all()


def sound_cloud(sample: PointSample, classes: int) -> None:
    assert sample.num_points > 0
    assert len(sample.class_labels) == 0 or int(sample.class_labels.max()) < classes
    assert set(sample.instance_labels.unique().tolist()) - {0, -1} == set(range(1, sample.num_instances + 1))


def read_all(open_it: Callable[[Any], CheckedDataset[Any]], sound: Callable[[Any, int], None]) -> None:
    """Opens a data set and reads its samples, as training does and as `check` does."""

    def as_training() -> None:
        data = open_it(None)
        for index in range(len(data)):
            sound(data[index], len(data.class_names))
        if isinstance(data, CocoDataset):
            ground_truth(data)

    def as_check() -> None:
        defects: list[Defect] = []
        data = open_it(defects.append)
        for index in range(len(data)):
            sample, found = data.examine(index)
            defects += found
            assert (sample is None) == any(defect.stops for defect in found)
            for defect in found:
                assert "cannot be used (" not in defect.what, defect  # an exception that no reader expects
        assert all("\n" not in str(defect) for defect in defects)

    outcome(as_training)
    outcome(as_check)


@dataclass
class Fixture:
    """A data set of one format: its files, and how it is opened."""

    root: Path
    open: Callable[[Path], Callable[[Any], CheckedDataset[Any]]]
    sound: Callable[[Any, int], None]

    @property
    def files(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def with_file(self, name: str, content: bytes, scratch: Path) -> None:
        """Reads a copy in which one file has another content."""
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(self.root, scratch)
        (scratch / name).write_bytes(content)
        read_all(self.open(scratch), self.sound)


def picture(suffix: str) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, suffix)
    return buffer.getvalue()


def label_maps(root: Path) -> Fixture:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[:3, :4], labels[5:, 5:] = 7, 40000
    for name, kind in (("a", "png"), ("b", "jpeg"), ("c", "tiff")):
        (root / "images" / f"{name}.{kind}").write_bytes(picture(kind))
        Image.fromarray(labels).save(root / "labels" / f"{name}.{'tif' if kind == 'tiff' else 'png'}")
    (root / "train.txt").write_text("a\nb\nc\n")
    (root / "classes.json").write_text(json.dumps({name: {"7": "big", "40000": 0} for name in "abc"}))
    return Fixture(root, lambda at: lambda take: LabelMapDataset(at, "train", ["small", "big"], take), sound_image)


def coco_content() -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:5, 3:8] = 1
    rle = rle_api.encode(np.asfortranarray(mask))
    square = [[1.0, 1.0, 6.0, 1.0, 6.5, 6.0, 1.0, 6.0]]
    masks = [square, {"size": rle["size"], "counts": rle["counts"].decode()}]
    masks += [{"size": [HEIGHT, WIDTH], "counts": [10, 30, HEIGHT * WIDTH - 40]}, square * 2]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 3, "name": "thing"}, {"id": 8, "name": "other"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1 + i % 2,
                "category_id": (3, 8)[i // 2],
                "segmentation": segmentation,
                "bbox": [1, 1, 5, 5],
                "area": 25.0,
                "iscrowd": int(i == 3),
            }
            for i, segmentation in enumerate(masks)
        ],
    }


def coco(root: Path) -> Fixture:
    root.mkdir()
    for i in (1, 2):
        (root / f"{i}.png").write_bytes(picture("png"))
    (root / "instances.json").write_text(json.dumps(coco_content()))
    return Fixture(root, lambda at: lambda take: CocoDataset(at / "instances.json", at, take=take), sound_image)


def points(format: str, root: Path) -> Fixture:
    return Fixture(root, lambda at: lambda take: open_points(format, at, "all", take=take), sound_cloud)  # type: ignore[arg-type]


def s3dis(root: Path) -> Fixture:
    folder = root / "Area_1" / "office_1" / "Annotations"
    folder.mkdir(parents=True)
    for name, rows in (("wall_1", 4), ("chair_1", 3)):
        lines = [f"{0.1 * i:.3f} 1.250 -0.500 {10 * i} 20 255" for i in range(rows)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return points("s3dis", root)


def pointcept(root: Path) -> Fixture:
    folder = root / "Area_1" / "office_1"
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", np.random.default_rng(0).random((6, 3)).astype(np.float32))
    np.save(folder / "color.npy", np.full((6, 3), 100, np.uint8))
    np.save(folder / "segment.npy", np.array([0, 0, 5, 5, 5, -1]))
    np.save(folder / "instance.npy", np.array([0, 0, 1, 1, 70000, -1])[:, None])
    return points("pointcept", root)


def bare(format: str, root: Path) -> Fixture:
    rows = np.concatenate([np.random.default_rng(1).random((7, 3)), np.full((7, 3), 100)], 1).astype(np.float32)
    arrays = {"points": rows, "instance_mask": np.array([0, 1, 1, 2, 2, 2, 2]), "semantic_mask": np.full(7, 5)}
    if format == "scannet_prepared":
        arrays["super_points"] = np.arange(7) // 2
    for folder, values in arrays.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "Area_1_a.bin").write_bytes(values.tobytes())
    return points(format, root)


def vertices(binary: bool) -> bytes:
    kinds = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.array([(i, 0.5 * i, 1, 10, 20, 30) for i in range(4)], dtype=kinds)
    faces = np.array([([0, 1, 2],), ([1, 2, 3],)], dtype=[("vertex_indices", "i4", (3,))])
    content = PlyData(
        [PlyElement.describe(rows, "vertex"), PlyElement.describe(faces, "face")], text=not binary, byte_order="<"
    )
    buffer = io.BytesIO()
    content.write(buffer)
    return buffer.getvalue()


def scannet(root: Path) -> Fixture:
    name = "scene0000_00"
    folder = root / "scans" / name
    folder.mkdir(parents=True)
    (folder / f"{name}_vh_clean_2.ply").write_bytes(vertices(True))
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": [4, 4, 9, 9]}))
    objects = {"segGroups": [{"label": "chair", "segments": [4]}, {"label": "wall", "segments": [9]}]}
    (folder / f"{name}.aggregation.json").write_text(json.dumps(objects))
    (root / TABLE).write_text("raw_category\tnyu40id\nchair\t5\nwall\t1\n")
    return points("scannet", root)


MAKERS: dict[str, Callable[[Path], Fixture]] = {
    "label_map": label_maps,
    "coco": coco,
    "s3dis": s3dis,
    "pointcept": pointcept,
    "s3dis_mmdet3d": lambda root: bare("s3dis_mmdet3d", root),
    "scannet": scannet,
    "scannet_prepared": lambda root: bare("scannet_prepared", root),
}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fixture]:
    return {format: make(tmp_path_factory.mktemp("sound") / format) for format, make in MAKERS.items()}


def test_the_files_are_sound_before_they_are_spoilt(fixtures: dict[str, Fixture]) -> None:
    for fixture in fixtures.values():
        data = fixture.open(fixture.root)(None)
        for index in range(len(data)):
            sample, defects = data.examine(index)
            assert sample is not None
            assert not defects or not any(defect.stops for defect in defects)
            fixture.sound(sample, len(data.class_names))
        shutil.rmtree(fixture.root / ".influencerformer", ignore_errors=True)


@pytest.mark.parametrize("format", MAKERS)
@cases(12, 1200)
@given(data=st.data())
def test_spoilt_files(
    format: str, fixtures: dict[str, Fixture], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fixture = fixtures[format]
    name = data.draw(st.sampled_from(fixture.files))
    content = data.draw(spoilt((fixture.root / name).read_bytes()))
    fixture.with_file(name, content, tmp_path_factory.getbasetemp() / "scratch" / format)


JSON_FILES = (
    ("coco", "instances.json"),
    ("label_map", "classes.json"),
    ("scannet", "scans/scene0000_00/scene0000_00.aggregation.json"),
    ("scannet", "scans/scene0000_00/scene0000_00_vh_clean_2.0.010000.segs.json"),
)


@pytest.mark.parametrize(("format", "name"), JSON_FILES)
@cases(15, 1500)
@given(data=st.data())
def test_json_with_odd_values(
    format: str, name: str, fixtures: dict[str, Fixture], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fixture = fixtures[format]
    text = data.draw(spoilt_json(json.loads((fixture.root / name).read_text())))
    fixture.with_file(name, text.encode(), tmp_path_factory.getbasetemp() / "scratch" / format)


def clouds() -> dict[str, bytes]:
    table = np.concatenate([np.random.default_rng(0).random((5, 3)), np.full((5, 3), 100)], 1)
    array = io.BytesIO()
    np.save(array, table)
    text = "\n".join(" ".join(f"{value:g}" for value in row) for row in table).encode()
    return {"text.ply": vertices(False), "binary.ply": vertices(True), "a.txt": text, "a.npy": array.getvalue()}


@pytest.mark.parametrize("name", clouds())
@cases(20, 1000)
@given(data=st.data())
def test_spoilt_clouds(name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / f"cloud_{name}"
    path.write_bytes(data.draw(spoilt(clouds()[name])))
    sample = outcome(lambda: read_cloud(path))
    assert sample is None or sample.num_points > 0


def test_a_spoilt_cache_changes_nothing(tmp_path: Path) -> None:
    """Every 32nd byte of it is changed."""
    fixture = s3dis(tmp_path / "data")
    whole = fixture.open(fixture.root)(None)[0]
    (path,) = (fixture.root / ".influencerformer").glob("*.npz")
    content = path.read_bytes()
    for place in range(0, len(content), 32):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        sample = outcome(lambda: fixture.open(fixture.root)(None)[0])
        assert sample is not None
        assert torch.equal(sample.coordinates, whole.coordinates)
        assert torch.equal(sample.instance_labels, whole.instance_labels)


@cases(12, 1500)
@given(data=st.data())
def test_spoilt_checkpoints(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "last.ckpt"
    content = io.BytesIO()
    torch.save({"state_dict": {"a": torch.arange(6.0)}, "hyper_parameters": {"loss": "influencer"}}, content)
    path.write_bytes(data.draw(spoilt(content.getvalue())))
    found = outcome(lambda: read_checkpoint(path))
    assert found is None or isinstance(found, dict)


@cases(15, 1500)
@given(data=st.data())
def test_spoilt_configurations(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = yaml.safe_dump({"base": None, "data": {"format": "coco", "scale": 0.5}, "model": {"loss": "influencer"}})
    (folder / "a.yaml").write_bytes(data.draw(spoilt(text.encode())))
    found = outcome(lambda: resolve_config(folder / "a.yaml"))
    assert found is None or isinstance(found, dict)


@cases(10, 800)
@given(data=st.data())
def test_spoilt_records_of_a_comparison(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "comparison"
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text("model:\n  loss: influencer\n")
    (folder / "compare.json").unlink(missing_ok=True)
    make_setup([folder / "base.yaml"], ["hungarian"], [0], ["a.b=1"], 5, 1, "compare").store(folder)
    content = (folder / "compare.json").read_text()
    (folder / "compare.json").write_text(data.draw(spoilt_json(json.loads(content))))
    outcome(lambda: open_setup(folder).digest)
    (folder / "compare.json").write_bytes(data.draw(spoilt(content.encode())))
    outcome(lambda: open_setup(folder).digest)
    record = RunRecord(loss="hungarian", seed=0, max_steps=20)
    record.save(folder)
    (path,) = [p for p in folder.iterdir() if p.name not in ("base.yaml", "compare.json")]
    path.write_bytes(data.draw(spoilt(path.read_bytes())))
    outcome(lambda: RunRecord.load(folder))


def archives() -> dict[str, bytes]:
    files = {"a/one.txt": b"one" * 50, "two.bin": bytes(range(200))}
    packed, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return {"a.tar.gz": packed.getvalue(), "a.zip": zipped.getvalue()}


@pytest.mark.parametrize("name", archives())
@cases(12, 1200)
@given(data=st.data())
def test_spoilt_archives_write_nothing_outside(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    outer = tmp_path_factory.getbasetemp() / f"outer_{name}"
    shutil.rmtree(outer, ignore_errors=True)
    folder = outer / "folder"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data.draw(spoilt(archives()[name])))

    def unpack() -> int:
        with unpacked(folder / name, folder, expected_bytes=10_000, console=Console(file=io.StringIO())) as inside:
            assert all(path.resolve().is_relative_to(inside) for path in inside.rglob("*"))
            return sum(path.stat().st_size for path in inside.rglob("*") if path.is_file())

    size = outcome(unpack)
    assert size is None or size <= 20_000
    assert [path.name for path in outer.iterdir()] == ["folder"]
    assert [path.name for path in folder.iterdir()] == [name]
