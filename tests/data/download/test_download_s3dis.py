from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_server import Fault, LocalServer
from rich.console import Console

from influencerformer.data.download.s3dis import AREAS, SOURCES, TERMS, download_s3dis
from influencerformer.data.download.s3dis_rooms import check_arrays, check_texts, have_instances, rooms_of
from influencerformer.errors import UserError

Arrays = dict[str, np.ndarray]
Files = dict[str, bytes]


def room(points: int = 12, instances: int = 4, classes: int = 2) -> Arrays:
    """A preprocessed room as the archive has it: labels (N, 1) int16."""
    numbers = np.arange(points)
    return {
        "coord": np.zeros((points, 3), np.float32),
        "color": np.zeros((points, 3), np.uint8),
        "normal": np.zeros((points, 3), np.float32),
        "segment": (numbers % classes).astype(np.int16)[:, None],
        "instance": (numbers % instances).astype(np.int16)[:, None],
    }


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def array_files(top: str = "s3dis/", **change: Arrays) -> Files:
    """One room in each area, two in Area_5; `change` gives other arrays for the room of an area."""
    rooms = [(area, "office_1") for area in AREAS] + [("Area_5", "hallway_2")]
    return {
        f"{top}{area}/{name}/{array}.npy": npy(values)
        for area, name in rooms
        for array, values in change.get(area, room()).items()
    }


def text_files() -> Files:
    files = {"Stanford/.DS_Store": b"x", "Stanford/Area_1/Area_1_alignmentAngle.txt": b"office_1 0\n"}
    for area in AREAS:
        files[f"Stanford/{area}/office_1/office_1.txt"] = b"0 0 0 1 2 3\n"
        files[f"Stanford/{area}/office_1/Annotations/wall_1.txt"] = b"0 0 0 1 2 3\n"
    return files


def tar_gz(files: Files) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(files: Files) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def place(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def content_of(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def get(server: LocalServer, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Downloads to TMP/s3dis from the local server, where the archives are small; gives what was printed."""
    archives = {"pointcept": tar_gz(array_files()), "original": zip_of(text_files())}
    for name, archive in archives.items():
        server.files[f"/{name}"] = archive
        source = SOURCES[name]
        stated = replace(source.remote, url=f"{server.base}/{name}")
        if name == "original":
            stated = replace(stated, size=len(archive), sha256=hashlib.sha256(archive).hexdigest())
        monkeypatch.setitem(SOURCES, name, replace(source, remote=stated, download=1000, unpacked=50_000))

    def call(**options: Any) -> str:
        start = len(console.file.getvalue())  # type: ignore[attr-defined]
        download_s3dis(tmp_path / "s3dis", console=console, **options)
        return console.file.getvalue()[start:]  # type: ignore[attr-defined]

    return call


class TestPointcept:
    @pytest.mark.parametrize("top", ["s3dis/", "", "./", "./s3dis/"])
    def test_the_areas_are_in_place_with_their_arrays(
        self, get: Any, server: LocalServer, tmp_path: Path, top: str
    ) -> None:
        server.files["/pointcept"] = tar_gz(array_files(top))
        get()
        assert sorted(os.listdir(tmp_path / "s3dis")) == [*AREAS, "s3dis.tar.gz"]
        (tmp_path / "s3dis" / "s3dis.tar.gz").unlink()
        assert content_of(tmp_path / "s3dis") == array_files("")

    def test_says_what_it_did_and_the_terms(self, get: Any, tmp_path: Path) -> None:
        said = get()
        assert TERMS in said
        root = tmp_path / "s3dis"
        assert said.endswith(
            f"S3DIS is complete in {root} (7 rooms, though S3DIS has 272); {root / 's3dis.tar.gz'} is no longer "
            "needed\n"
        )

    def test_a_second_call_says_so_and_does_nothing(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        get()
        (tmp_path / "s3dis" / "s3dis.tar.gz").unlink()
        asked = len(server.ranges)
        said = get()
        root = tmp_path / "s3dis"
        assert said == f"S3DIS is complete in {root} (7 rooms, though S3DIS has 272): nothing to do\n"
        assert len(server.ranges) == asked
        assert not (tmp_path / "s3dis" / "s3dis.tar.gz").exists()

    def test_an_archive_placed_by_hand_is_used(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        place(tmp_path / "s3dis", {"s3dis.tar.gz": server.files["/pointcept"]})
        get()
        assert server.ranges == []
        assert (tmp_path / "s3dis" / "Area_6" / "office_1" / "instance.npy").is_file()

    def test_goes_on_after_a_broken_connection_of_an_earlier_call(
        self, get: Any, server: LocalServer, tmp_path: Path
    ) -> None:
        half = server.files["/pointcept"][:700]
        place(tmp_path / "s3dis", {"s3dis.tar.gz.part": half})
        get()
        assert server.ranges == ["bytes=700-"]
        assert (tmp_path / "s3dis" / "Area_1").is_dir()

    def test_labels_without_a_second_axis_will_do(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        flat = {name: values[:, 0] if values.shape[1] == 1 else values for name, values in room().items()}
        server.files["/pointcept"] = tar_gz(array_files(Area_2=flat))
        get()
        assert (tmp_path / "s3dis" / "Area_2").is_dir()

    def test_what_the_hub_states_is_checked(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        server.files["/resolve"] = b""
        server.faults = [Fault(status=302, headers={"Location": "/pointcept", "X-Linked-Etag": '"' + "0" * 64 + '"'})]
        with pytest.raises(UserError, match=f"SHA-256 [0-9a-f]{{64}}, expected {'0' * 64}"):
            get(url=f"{server.base}/resolve")
        assert os.listdir(tmp_path / "s3dis") == ["s3dis.tar.gz.part"]

    def test_a_given_sha256_is_checked(self, get: Any, server: LocalServer) -> None:
        with pytest.raises(UserError, match=r"is not the file expected \(SHA-256"):
            get(sha256="0" * 64)
        get(sha256=hashlib.sha256(server.files["/pointcept"]).hexdigest())


class TestOtherArchives:
    """Each is refused with what is wrong and what to do, and leaves nothing but itself."""

    def refused(self, get: Any, server: LocalServer, tmp_path: Path, files: Files) -> str:
        server.files["/pointcept"] = tar_gz(files)
        with pytest.raises(UserError) as caught:
            get()
        assert os.listdir(tmp_path / "s3dis") == ["s3dis.tar.gz"]
        message = str(caught.value)
        start = f"{tmp_path / 's3dis' / 's3dis.tar.gz'} is not the archive expected: "
        end = f"; replace it by {server.base}/pointcept"
        assert message.startswith(start)
        assert message.endswith(end)
        return message[len(start) : -len(end)]

    def test_semantic_labels_only(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        lacking = room()
        del lacking["instance"]
        assert self.refused(get, server, tmp_path, array_files(Area_3=lacking)) == (
            "Area_3/office_1/instance.npy is missing (semantic labels alone cannot stand in for instances)"
        )

    def test_semantic_labels_that_go_by_the_name_of_instances(
        self, get: Any, server: LocalServer, tmp_path: Path
    ) -> None:
        copied = room()
        copied["instance"] = copied["segment"]
        files = array_files(**{area: copied for area in AREAS})
        assert self.refused(get, server, tmp_path, files) == (
            "it has no instance labels: in no room does instance.npy hold more values than segment.npy"
        )

    @pytest.mark.parametrize("array", ["coord", "color", "segment"])
    def test_a_missing_array(self, get: Any, server: LocalServer, tmp_path: Path, array: str) -> None:
        lacking = room()
        del lacking[array]
        files = array_files(Area_5=lacking)
        assert self.refused(get, server, tmp_path, files) == f"Area_5/hallway_2/{array}.npy is missing"

    def test_a_missing_area(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        files = {name: content for name, content in array_files().items() if "Area_4" not in name}
        assert self.refused(get, server, tmp_path, files) == "Area_4 holds no rooms"

    def test_something_else(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        assert self.refused(get, server, tmp_path, {"all.h5": b"blocks"}) == "Area_1 holds no rooms"

    def test_arrays_of_different_length(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        other = room() | {"color": room(11)["color"]}
        assert self.refused(get, server, tmp_path, array_files(Area_1=other)) == (
            "Area_1/office_1/color.npy has 11 points but coord.npy 12"
        )

    @pytest.mark.parametrize(
        ("array", "values", "expected"),
        [
            ("coord", np.zeros((12, 2), np.float32), "(12, 2) float32, expected (N, 3) numbers"),
            ("coord", np.zeros((12, 3), np.int32), "(12, 3) int32, expected (N, 3) numbers"),
            ("instance", np.zeros((12, 1), np.float32), "(12, 1) float32, expected (N, 1) integers"),
            ("segment", np.zeros((12, 3), np.int16), "(12, 3) int16, expected (N, 1) integers"),
            ("segment", np.zeros((), np.int16), "() int16, expected (N, 1) integers"),
        ],
    )
    def test_arrays_of_another_shape_or_kind(
        self, get: Any, server: LocalServer, tmp_path: Path, array: str, values: np.ndarray, expected: str
    ) -> None:
        files = array_files(Area_1=room() | {array: values})
        assert self.refused(get, server, tmp_path, files) == f"Area_1/office_1/{array}.npy holds {expected}"

    def test_an_array_that_was_cut_short_before_it_was_packed(
        self, get: Any, server: LocalServer, tmp_path: Path
    ) -> None:
        files = array_files()
        files["s3dis/Area_2/office_1/segment.npy"] = files["s3dis/Area_2/office_1/segment.npy"][:-1]
        problem = self.refused(get, server, tmp_path, files)
        assert problem.startswith("Area_2/office_1/segment.npy cannot be read as an array (")

    def test_an_array_of_objects_is_not_unpickled(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        files = array_files(Area_1=room() | {"instance": np.array([{}] * 12, dtype=object)})
        assert "Area_1/office_1/instance.npy cannot be read as an array (" in self.refused(get, server, tmp_path, files)

    def test_a_damaged_archive(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        server.files["/pointcept"] = server.files["/pointcept"][:-200]
        with pytest.raises(UserError, match=r"s3dis\.tar\.gz is damaged or incomplete .*remove it and run the same"):
            get()
        assert os.listdir(tmp_path / "s3dis") == ["s3dis.tar.gz"]

    def test_a_bomb(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        server.files["/pointcept"] = tar_gz(array_files() | {"s3dis/Area_1/zeros": bytes(200_000)})
        with pytest.raises(UserError, match=r"unpacks to more than 97\.7 KiB, twice what was expected"):
            get()


class TestWhatIsThere:
    def test_some_areas_are_kept_and_the_others_fetched(self, get: Any, tmp_path: Path) -> None:
        """A run that was killed while it moved the areas into place leaves this."""
        own = array_files("", Area_1=room(30, 9))
        place(tmp_path / "s3dis", {name: content for name, content in own.items() if name.startswith("Area_1/")})
        get()
        (tmp_path / "s3dis" / "s3dis.tar.gz").unlink()
        assert content_of(tmp_path / "s3dis") == own

    def test_another_folder_of_that_name_is_never_replaced(self, get: Any, server: LocalServer, tmp_path: Path) -> None:
        mine = {"Area_3/notes/readme.txt": b"mine", "Area_1/office_1/office_1.txt": b"0 0 0 1 2 3"}
        place(tmp_path / "s3dis", mine)
        with pytest.raises(UserError) as caught:
            get()
        root = tmp_path / "s3dis"
        assert str(caught.value) == (
            f"{root} holds another or a broken S3DIS: Area_1/office_1/coord.npy is missing; move the area away or use "
            "another folder"
        )
        assert content_of(root) == mine
        assert server.ranges == []

    def test_an_area_that_is_a_file(self, get: Any, tmp_path: Path) -> None:
        place(tmp_path / "s3dis", {"Area_2": b"mine"})
        with pytest.raises(UserError, match="Area_2 holds no rooms; move the area away"):
            get()

    def test_an_area_that_appears_meanwhile_is_never_replaced(
        self, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(rooms: list[Path]) -> bool:
            place(tmp_path / "s3dis", {"Area_2/mine": b"mine"})
            return True

        monkeypatch.setattr("influencerformer.data.download.s3dis.have_instances", busy)
        with pytest.raises(UserError, match="Area_2 exists already and is not replaced: move it away"):
            get()
        assert (tmp_path / "s3dis" / "Area_2" / "mine").read_bytes() == b"mine"

    def test_a_disk_too_small_for_archive_and_content(
        self, get: Any, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 50_500))
        with pytest.raises(UserError, match=r"has 49\.3 KiB free, but 49\.8 KiB are needed for the archive of S3DIS"):
            get()
        assert server.ranges == []
        place(tmp_path / "s3dis", {"s3dis.tar.gz": server.files["/pointcept"]})
        get()


class TestOriginal:
    def test_the_areas_are_in_place_with_their_texts(self, get: Any, tmp_path: Path) -> None:
        get(source="original")
        root = tmp_path / "s3dis"
        (root / "Stanford3dDataset_v1.2_Aligned_Version.zip").unlink()
        expected = {name.removeprefix("Stanford/"): content for name, content in text_files().items()}
        del expected[".DS_Store"]
        assert content_of(root) == expected
        assert get(source="original").endswith("nothing to do\n")

    def test_size_and_sha256_are_built_in(self, get: Any, server: LocalServer) -> None:
        archive = bytearray(server.files["/original"])
        archive[50] ^= 1
        server.files["/original"] = bytes(archive)
        with pytest.raises(UserError, match="SHA-256"):
            get(source="original")
        server.files["/original"] = bytes(archive[:-1])
        with pytest.raises(UserError, match=r"bytes there, .* were expected"):
            get(source="original", url=f"{server.base}/original#mirror")

    def test_a_room_without_annotations(self, get: Any, server: LocalServer) -> None:
        files = text_files()
        del files["Stanford/Area_6/office_1/Annotations/wall_1.txt"]
        archive = server.files["/original"] = zip_of(files)
        remote = SOURCES["original"].remote
        SOURCES["original"] = replace(SOURCES["original"], remote=replace(remote, size=len(archive)))
        with pytest.raises(UserError, match="Area_6/office_1/Annotations holds no text files, one for each instance"):
            get(source="original", sha256=hashlib.sha256(archive).hexdigest())

    def test_the_other_source_in_the_same_folder(self, get: Any, server: LocalServer) -> None:
        get(source="original")
        asked = len(server.ranges)
        with pytest.raises(UserError, match=r"holds another .*Area_1/office_1/coord\.npy is missing"):
            get(source="pointcept")
        assert len(server.ranges) == asked


def test_the_built_in_facts_are_whole() -> None:
    for source in SOURCES.values():
        assert source.remote.url.startswith("https://")
        assert source.remote.url.endswith("/" + source.name)
    original = SOURCES["original"].remote
    assert original.size == SOURCES["original"].download
    assert original.sha256 is not None
    assert len(original.sha256) == 64


def test_rooms_are_folders_that_are_not_hidden(tmp_path: Path) -> None:
    place(tmp_path, {"Area_1/b/x": b"", "Area_1/a/x": b"", "Area_1/.cache/x": b"", "Area_1/angles.txt": b""})
    assert [path.name for path in rooms_of(tmp_path / "Area_1")] == ["a", "b"]
    assert rooms_of(tmp_path / "Area_2") == []


@pytest.mark.parametrize(("instances", "classes", "expected"), [(3, 2, True), (2, 2, False), (1, 2, False)])
def test_instances_outnumber_classes(tmp_path: Path, instances: int, classes: int, expected: bool) -> None:
    place(tmp_path, {f"{name}.npy": npy(values) for name, values in room(12, instances, classes).items()})
    assert have_instances([tmp_path]) is expected


def test_ignored_points_are_no_instance(tmp_path: Path) -> None:
    labels = room(12, 3, 2)
    labels["instance"] -= 1  # -1, 0, 1: two instances of two classes
    place(tmp_path, {f"{name}.npy": npy(values) for name, values in labels.items()})
    assert have_instances([tmp_path]) is False


def test_a_room_of_either_form_is_whole(tmp_path: Path) -> None:
    place(tmp_path / "Area_1" / "arrays", {f"{name}.npy": npy(values) for name, values in room().items()})
    place(tmp_path / "Area_1" / "texts", {"Annotations/a_1.txt": b"", "Annotations/b_1.txt": b"0 0 0 1 2 3"})
    assert check_arrays(tmp_path / "Area_1" / "arrays") is None
    assert check_texts(tmp_path / "Area_1" / "texts") is None
    assert check_texts(tmp_path / "Area_1" / "arrays") == (
        "Area_1/arrays/Annotations holds no text files, one for each instance"
    )
