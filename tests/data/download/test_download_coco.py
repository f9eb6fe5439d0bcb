from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_server import LocalServer
from PIL import Image
from rich.console import Console

from influencerformer.data.coco import CocoDataset
from influencerformer.data.download import coco
from influencerformer.data.download.coco import TERMS, download_coco
from influencerformer.errors import UserError

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "coco" / "base.yaml"
COUNTS = {"val2017": 2, "train2017": 3}
Files = dict[str, bytes]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "JPEG")
    return file.getvalue()


def images(part: str, count: int | None = None) -> Files:
    return {f"{part}/{number:012d}.jpg": jpeg() for number in range(COUNTS[part] if count is None else count)}


def instances(part: str) -> bytes:
    rows = [f'{{"id": {i}, "height": 6, "width": 8, "file_name": "{i:012d}.jpg"}}' for i in range(COUNTS[part])]
    return (
        f'{{"images": [{", ".join(rows)}], "annotations": [], "categories": [{{"id": 1, "name": "thing"}}]}}'.encode()
    )


def annotations() -> Files:
    files = {f"annotations/instances_{part}.json": instances(part) for part in COUNTS}
    return files | {"annotations/captions_val2017.json": b"{}" * 5000}


def zip_of(files: Files, *folders: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for folder in folders:
            archive.writestr(f"{folder}/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def place(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def content_of(folder: Path) -> Files:
    """All files but the archives."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".zip"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def serve(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts archives on the local server and states their sizes and checksums."""

    def put(val: bytes | None = None, train: bytes | None = None, labels: bytes | None = None) -> None:
        for part, content in (("val2017", val), ("train2017", train)):
            content = content if content is not None else zip_of(images(part), part)
            monkeypatch.setitem(coco.IMAGES, part, stated(coco.IMAGES[part], content, 5000))
        content = labels if labels is not None else zip_of(annotations())
        monkeypatch.setattr(coco, "ANNOTATIONS", stated(coco.ANNOTATIONS, content, 1000))

    def stated(archive: coco.Archive, content: bytes, unpacked: int) -> coco.Archive:
        server.files[f"/{archive.path}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        return replace(archive, size=len(content), sha256=sha256, unpacked=unpacked)

    monkeypatch.setattr(coco, "COUNTS", COUNTS)
    put()
    return put


@pytest.fixture
def get(serve: Callable[..., None], server: LocalServer, tmp_path: Path, console: Console) -> Callable[..., str]:
    """Downloads to TMP/coco; gives what was printed."""

    def call(*parts: str) -> str:
        start = len(console.file.getvalue())  # type: ignore[attr-defined]
        download_coco(tmp_path / "coco", parts or ("val2017",), base_url=server.base + "/", console=console)
        return console.file.getvalue()[start:]  # type: ignore[attr-defined]

    return call


class TestLayout:
    def test_val2017_alone(self, get: Any, tmp_path: Path) -> None:
        get()
        wanted = images("val2017") | {"annotations/instances_val2017.json": instances("val2017")}
        assert content_of(tmp_path / "coco") == wanted

    def test_both_parts(self, get: Any, tmp_path: Path) -> None:
        get("val2017", "train2017")
        expected = images("val2017") | images("train2017") | annotations()
        del expected["annotations/captions_val2017.json"]
        assert content_of(tmp_path / "coco") == expected

    def test_is_the_one_of_the_configurations(self, get: Any, tmp_path: Path) -> None:
        get("val2017", "train2017")
        data = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["data"]
        for split, count in ((data["train_split"], 3), (data["val_split"], 2)):
            root = tmp_path / "coco"
            dataset = CocoDataset(
                root / data["annotations"].format(split=split), root / data["images"].format(split=split)
            )
            assert len(dataset) == count
            assert dataset[0].size == (6, 8)

    def test_says_what_it_did_and_the_terms(self, get: Any, tmp_path: Path) -> None:
        said = get()
        assert TERMS in said
        assert said.endswith(
            f"COCO val2017 is complete in {tmp_path / 'coco'}; no longer needed: annotations_trainval2017.zip, "
            "val2017.zip\n"
        )
        assert sorted(os.listdir(tmp_path / "coco")) == [
            "annotations",
            "annotations_trainval2017.zip",
            "val2017",
            "val2017.zip",
        ]


class TestWhatIsThere:
    def test_a_second_call_says_so_and_does_nothing(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        get()
        asked = len(server.ranges)
        for archive in (tmp_path / "coco").glob("*.zip"):
            archive.unlink()
        assert get() == f"COCO val2017 is complete in {tmp_path / 'coco'}: nothing to do\n"
        assert len(server.ranges) == asked

    def test_another_part_is_added(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        get("val2017")
        mine = tmp_path / "coco" / "annotations" / "mine.json"
        mine.write_bytes(b"mine")
        (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_bytes(b"changed")
        get("val2017", "train2017", "train2017")
        assert len(server.ranges) == 3  # labels, val2017; then train2017
        assert mine.read_bytes() == b"mine"
        assert (tmp_path / "coco" / "annotations" / "instances_val2017.json").read_bytes() == b"changed"
        assert (tmp_path / "coco" / "annotations" / "instances_train2017.json").is_file()

    def test_archives_placed_by_hand_are_used(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        placed = {path.rsplit("/", 1)[-1]: content for path, content in server.files.items()}
        place(tmp_path / "coco", placed)
        get("train2017")
        assert server.ranges == []
        assert content_of(tmp_path / "coco").keys() == {
            *images("train2017"),
            "annotations/instances_train2017.json",
        }

    @pytest.mark.parametrize("mine", [{"val2017/000000000001.jpg": b"mine"}, {"val2017": b"mine"}])
    def test_an_incomplete_folder_is_never_replaced(
        self, get: Any, server: LocalServer, tmp_path: Path, mine: Files
    ) -> None:
        place(tmp_path / "coco", mine)
        with pytest.raises(UserError) as caught:
            get()
        count = len(mine) if "val2017" not in mine else 0
        assert str(caught.value) == (
            f"{tmp_path / 'coco' / 'val2017'} holds {count} of 2 images: move it away and run the same command again "
            "to unpack all"
        )
        assert content_of(tmp_path / "coco") == mine
        assert server.ranges == []

    def test_a_disk_too_small(
        self, get: Any, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 6000))
        with pytest.raises(UserError, match=r"coco has 5\.9 KiB free, but .* KiB are needed for the archives of COCO"):
            get()
        assert server.ranges == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("parts", "name"), [(["test2017"], "test2017"), (["val2017", "x"], "x"), ([], r"\(none\)")]
    )
    def test_unknown_parts(self, tmp_path: Path, parts: list[str], name: str) -> None:
        with pytest.raises(UserError, match=f"unknown part of COCO {name}: choose from val2017, train2017"):
            download_coco(tmp_path, parts)

    def test_wrong_checksum(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        archive = bytearray(server.files["/zips/val2017.zip"])
        archive[-1] ^= 1
        server.files["/zips/val2017.zip"] = bytes(archive)
        with pytest.raises(UserError, match=r"zips/val2017\.zip is not the file expected \(SHA-256"):
            get()
        assert not (tmp_path / "coco" / "val2017").exists()

    def test_wrong_length(self, get: Any, server: LocalServer) -> None:
        server.files["/zips/val2017.zip"] += b"x"
        with pytest.raises(UserError, match=r"val2017\.zip cannot be downloaded \(it has \d+ bytes there, \d+ were"):
            get()

    def test_gone(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        del server.files["/annotations/annotations_trainval2017.zip"]
        with pytest.raises(UserError) as caught:
            get()
        target = tmp_path / "coco" / "annotations_trainval2017.zip"
        assert str(caught.value) == (
            f"{server.base}/annotations/annotations_trainval2017.zip cannot be downloaded (HTTP 404 Not Found): place "
            f"the file at {target} by hand and run the same command again"
        )

    def test_too_few_images(self, get: Any, serve: Callable[..., None], tmp_path: Path) -> None:
        serve(val=zip_of(images("val2017", 1)))
        with pytest.raises(UserError, match=r"val2017\.zip holds 1 of 2 images in val2017/: remove it"):
            get()
        assert not (tmp_path / "coco" / "val2017").exists()

    def test_no_images(self, get: Any, serve: Callable[..., None]) -> None:
        serve(val=zip_of({"other/a.jpg": jpeg()}))
        with pytest.raises(UserError, match="holds 0 of 2 images in val2017/"):
            get()

    def test_no_annotations(self, get: Any, serve: Callable[..., None]) -> None:
        serve(labels=zip_of({"annotations/captions_val2017.json": b"{}"}))
        with pytest.raises(UserError, match=r"does not hold annotations/instances_val2017\.json: remove it"):
            get()


def test_the_built_in_facts_are_whole() -> None:
    for archive in (*coco.IMAGES.values(), coco.ANNOTATIONS):
        assert len(archive.sha256) == 64
        assert archive.path.endswith(f"/{archive.name}")
        assert archive.size > 10**8
    assert coco.COUNTS.keys() == coco.IMAGES.keys()
