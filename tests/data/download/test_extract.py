from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from influencerformer.data.download import extract
from influencerformer.data.download.extract import unpacked
from influencerformer.errors import UserError

FILES = {"top/a.txt": b"first", "top/deep/b.bin": bytes(range(256)) * 20, "top/empty": b""}
KINDS = ("tar.gz", "zip")
Write = Callable[[Path, dict[str, bytes]], None]


def write_tar(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in special:
            tar.addfile(info)


def write_zip(path: Path, files: dict[str, bytes], *special: zipfile.ZipInfo) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, content in files.items():
            zip_file.writestr(name, content)
        for info in special:
            zip_file.writestr(info, b"/etc/passwd")


def write(path: Path, files: dict[str, bytes]) -> Path:
    (write_zip if path.suffix == ".zip" else write_tar)(path, files)
    return path


def tar_entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o777) << 16
    return info


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def content(console: Console) -> Callable[..., dict[str, bytes]]:
    """What an archive gives, unpacked beside itself."""

    def get(archive: Path, expected_bytes: int = 100_000, **options: Any) -> dict[str, bytes]:
        with unpacked(archive, archive.parent, expected_bytes=expected_bytes, console=console, **options) as folder:
            return read_all(folder)

    return get


def refusal(archive: Path, console: Console, expected_bytes: int = 100_000) -> str:
    """The message of an archive that is refused and leaves nothing behind."""
    before = sorted(archive.parent.parent.rglob("*"))
    with (
        pytest.raises(UserError) as caught,
        unpacked(archive, archive.parent, expected_bytes=expected_bytes, console=console),
    ):
        pass
    assert sorted(archive.parent.parent.rglob("*")) == before
    return str(caught.value)


class TestUnpacked:
    @pytest.mark.parametrize("kind", KINDS)
    def test_gives_every_file_and_goes_again(self, content: Any, tmp_path: Path, kind: str) -> None:
        archive = write(tmp_path / f"archive.{kind}", FILES)
        assert content(archive) == FILES
        assert os.listdir(tmp_path) == [archive.name]

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_moved_out_stays(self, console: Console, tmp_path: Path, kind: str) -> None:
        archive = write(tmp_path / f"archive.{kind}", FILES)
        with unpacked(archive, tmp_path, expected_bytes=10_000, console=console) as folder:
            (folder / "top").rename(tmp_path / "top")
        assert read_all(tmp_path / "top") == {name.removeprefix("top/"): data for name, data in FILES.items()}

    @pytest.mark.parametrize("kind", KINDS)
    def test_only_wanted_files(self, content: Any, tmp_path: Path, kind: str) -> None:
        archive = write(tmp_path / f"archive.{kind}", FILES | {"big": bytes(500_000)})
        assert content(archive, 6000, wanted={"top/a.txt"}.__contains__) == {"top/a.txt": b"first"}

    @pytest.mark.parametrize("kind", KINDS)
    def test_names_that_begin_with_a_dot_and_slash(self, content: Any, tmp_path: Path, kind: str) -> None:
        archive = write(tmp_path / f"archive.{kind}", {"./a/./b": b"b", "c": b"c"})
        assert content(archive, wanted={"a/b"}.__contains__) == {"a/b": b"b"}

    def test_folders_of_a_tar(self, content: Any, tmp_path: Path) -> None:
        archive = tmp_path / "archive.tar.gz"
        write_tar(archive, {"a/b": b"b"}, tar_entry("a", tarfile.DIRTYPE), tar_entry(".", tarfile.DIRTYPE))
        assert content(archive) == {"a/b": b"b"}

    def test_long_and_foreign_names(self, content: Any, tmp_path: Path) -> None:
        files = {"/".join(["folder" * 10] * 5) + "/Ünïcode": b"x"}
        assert content(write(tmp_path / "archive.tar.gz", files)) == files
        assert content(write(tmp_path / "archive.zip", files)) == files

    @pytest.mark.parametrize("kind", KINDS)
    def test_modes_are_not_restored(self, console: Console, tmp_path: Path, kind: str) -> None:
        archive = tmp_path / f"archive.{kind}"
        if kind == "zip":
            write_zip(archive, {}, zip_entry("tool", stat.S_IFREG | stat.S_ISUID))
        else:
            info = tar_entry("tool", tarfile.REGTYPE)
            info.mode = 0o4777
            write_tar(archive, {}, info)
        with unpacked(archive, tmp_path, expected_bytes=1000, console=console) as folder:
            assert not (folder / "tool").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH)

    def test_the_rest_of_a_killed_run_is_replaced(self, content: Any, tmp_path: Path) -> None:
        archive = write(tmp_path / "archive.zip", FILES)
        rest = tmp_path / ".archive.zip.unpacking"
        rest.mkdir()
        (rest / "half").write_bytes(b"x")
        assert content(archive) == FILES

    @pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
    def test_goes_after_an_error_in_the_block(
        self, console: Console, tmp_path: Path, error: type[BaseException]
    ) -> None:
        archive = write(tmp_path / "archive.zip", FILES)
        with pytest.raises(error), unpacked(archive, tmp_path, expected_bytes=10_000, console=console):
            raise error
        assert os.listdir(tmp_path) == ["archive.zip"]

    def test_no_archive(self, console: Console, tmp_path: Path) -> None:
        with (
            pytest.raises(UserError, match=r"gone\.zip cannot be read \(No such file or directory\)"),
            unpacked(tmp_path / "gone.zip", tmp_path, expected_bytes=1, console=console),
        ):
            pass


class TestHostile:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Beside it lies a file that nobody may touch."""
        (tmp_path / "outside").write_bytes(b"mine")
        folder = tmp_path / "folder"
        folder.mkdir()
        return folder

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "name",
        [
            "../outside",
            "a/../../outside",
            "a/..",
            "/tmp/influencerformer_outside",
            "//host/share",
            "C:/outside",
            "C:outside",
            "..\\outside",
            "a\\b",
        ],
    )
    def test_paths_that_lead_outside(self, folder: Path, console: Console, kind: str, name: str) -> None:
        archive = write(folder / f"archive.{kind}", {"good": b"", name: b"evil"})
        message = refusal(archive, console)
        assert message.startswith(f"{archive} holds {name!r}, which does not lie inside the folder it is unpacked to")
        assert message.endswith("get the archive from its official address, or unpack it by hand if you trust it")

    def test_also_among_the_files_that_are_not_wanted(self, folder: Path, console: Console) -> None:
        archive = write(folder / "archive.zip", {"good": b"", "../outside": b"evil"})
        with (
            pytest.raises(UserError, match="does not lie inside"),
            unpacked(archive, folder, expected_bytes=100, wanted={"good"}.__contains__, console=console),
        ):
            pass

    def test_a_zip_name_with_a_zero_byte(self, folder: Path, console: Console) -> None:
        archive = write(folder / "archive.zip", {"good@/../outside": b"evil"})
        archive.write_bytes(archive.read_bytes().replace(b"good@", b"good\0"))
        assert "does not lie inside" in refusal(archive, console)

    @pytest.mark.parametrize(
        ("kind", "link", "reason"),
        [
            (tarfile.SYMTYPE, "../../outside", "a link to '../../outside'"),
            (tarfile.SYMTYPE, "/etc/passwd", "a link to '/etc/passwd'"),
            (tarfile.LNKTYPE, "../outside", "a link to '../outside'"),
            (tarfile.SYMTYPE, "good", "a link to 'good'"),
            (tarfile.CHRTYPE, "", "a device or pipe"),
            (tarfile.BLKTYPE, "", "a device or pipe"),
            (tarfile.FIFOTYPE, "", "a device or pipe"),
        ],
    )
    def test_tar_members_that_are_no_files(
        self, folder: Path, console: Console, kind: bytes, link: str, reason: str
    ) -> None:
        archive = folder / "archive.tar.gz"
        write_tar(archive, {"good": b""}, tar_entry("odd", kind, link))
        assert f"holds 'odd', which is {reason}, neither a file nor a folder" in refusal(archive, console)

    def test_a_file_written_through_a_link(self, folder: Path, console: Console) -> None:
        archive = folder / "archive.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(tar_entry("door", tarfile.SYMTYPE, ".."))
            info = tarfile.TarInfo("door/outside")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
        assert "a link to '..'" in refusal(archive, console)

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device or pipe"), (stat.S_IFIFO, "a device or pipe")],
    )
    def test_zip_members_that_are_no_files(self, folder: Path, console: Console, mode: int, reason: str) -> None:
        archive = folder / "archive.zip"
        write_zip(archive, {"good": b""}, zip_entry("odd", mode))
        assert f"holds 'odd', which is {reason}, neither a file nor a folder" in refusal(archive, console)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_file_twice(self, folder: Path, console: Console, kind: str) -> None:
        archive = write(folder / f"archive.{kind}", {"a/b": b"1", "./a/b": b"2"})
        assert "holds './a/b' twice, or as a file and as a folder" in refusal(archive, console)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
    def test_a_file_that_is_a_folder_too(
        self, folder: Path, console: Console, kind: str, names: tuple[str, str]
    ) -> None:
        archive = write(folder / f"archive.{kind}", {name: b"" for name in names})
        assert f"holds {names[1]!r} twice, or as a file and as a folder" in refusal(archive, console)


class TestBombs:
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_large_file(self, tmp_path: Path, console: Console, kind: str) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = write(folder / f"archive.{kind}", {"zeros": bytes(20 << 20)})
        assert archive.stat().st_size < 1 << 20
        message = refusal(archive, console, expected_bytes=1 << 20)
        assert f"{archive} unpacks to more than 2.0 MiB, twice what was expected, and is not unpacked" in message

    @pytest.mark.parametrize("kind", KINDS)
    def test_many_small_files(self, tmp_path: Path, console: Console, kind: str) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = write(folder / f"archive.{kind}", {str(i): bytes(100) for i in range(30)})
        assert "unpacks to more than 2.0 KiB" in refusal(archive, console, expected_bytes=1024)

    @pytest.mark.parametrize("kind", KINDS)
    def test_twice_the_expected_size_will_do(self, content: Any, tmp_path: Path, kind: str) -> None:
        archive = write(tmp_path / f"archive.{kind}", {"a": bytes(1500), "b": bytes(500)})
        assert len(content(archive, 1000)) == 2

    def test_a_zip_that_understates_its_size(self, tmp_path: Path, console: Console) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = write(folder / "archive.zip", {"zeros": bytes(1 << 20)})
        data = archive.read_bytes()
        assert data.count(struct.pack("<I", 1 << 20)) == 2
        archive.write_bytes(data.replace(struct.pack("<I", 1 << 20), struct.pack("<I", 10)))
        assert "is damaged or incomplete" in refusal(archive, console, expected_bytes=1024)

    @pytest.mark.parametrize("kind", KINDS)
    def test_endless_members(
        self, tmp_path: Path, console: Console, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        monkeypatch.setattr(extract, "MAX_MEMBERS", 20)
        archive = write(folder / f"archive.{kind}", {str(i): b"" for i in range(21)})
        assert "has more than 20 members" in refusal(archive, console)

    @pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
    def test_a_tar_header_that_would_fill_the_memory(self, tmp_path: Path, console: Console, kind: bytes) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = folder / "archive.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            info = tar_entry("long", kind)
            info.size = 8 << 20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
        assert "is damaged or incomplete (a header of" in refusal(archive, console)

    @pytest.mark.parametrize("size", [-1, -10240, -(1 << 40)])
    @pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_tar_member_of_negative_size(self, tmp_path: Path, console: Console, size: int, kind: bytes) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        info = tar_entry("odd", kind)
        info.size = size
        header = info.tobuf(tarfile.GNU_FORMAT)
        archive = folder / "archive.tar.gz"
        archive.write_bytes(gzip.compress(header + bytes(1024)))
        assert "is damaged or incomplete" in refusal(archive, console)


class TestDamaged:
    @pytest.fixture(params=KINDS)
    def archive(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        folder = tmp_path / "folder"
        folder.mkdir()
        noise = bytes((i * i * 31 + i // 7) % 251 for i in range(30_000))
        return write(folder / f"archive.{request.param}", {"a/noise": noise, "b": b"b", "c": noise[::-1]})

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.999])
    def test_truncated(self, archive: Path, console: Console, kept: float) -> None:
        data = archive.read_bytes()
        archive.write_bytes(data[: int(len(data) * kept)])
        message = refusal(archive, console)
        assert message.startswith(f"{archive} is damaged or incomplete (")
        assert message.endswith("): remove it and run the same command again")

    def test_a_gzip_stream_without_its_checksum(self, tmp_path: Path, console: Console) -> None:
        (tmp_path / "folder").mkdir()
        archive = write(tmp_path / "folder" / "archive.tar.gz", FILES)
        archive.write_bytes(archive.read_bytes()[:-8])
        assert "is damaged or incomplete (" in refusal(archive, console)

    def test_a_gzip_stream_with_another_checksum(self, tmp_path: Path, console: Console) -> None:
        (tmp_path / "folder").mkdir()
        archive = write(tmp_path / "folder" / "archive.tar.gz", FILES)
        data = archive.read_bytes()
        archive.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
        assert "CRC check failed" in refusal(archive, console)

    def test_something_else(self, tmp_path: Path, console: Console) -> None:
        (tmp_path / "folder").mkdir()
        archive = tmp_path / "folder" / "archive.tar.gz"
        archive.write_bytes(b"<html>Not here</html>" * 100)
        assert "Not a gzipped file" in refusal(archive, console)

    def test_an_encrypted_zip(self, tmp_path: Path, console: Console) -> None:
        (tmp_path / "folder").mkdir()
        archive = write(tmp_path / "folder" / "archive.zip", {"secret": b"abc"})
        data = bytearray(archive.read_bytes())
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        archive.write_bytes(data)
        assert "'secret' is encrypted" in refusal(archive, console)

    @pytest.mark.parametrize(("field", "value"), [(42, 0xFFFFFFFF), (28, 0)])
    def test_a_zip_directory_that_points_nowhere(
        self, tmp_path: Path, console: Console, field: int, value: int
    ) -> None:
        """Offset of the file, length of its name."""
        (tmp_path / "folder").mkdir()
        archive = write(tmp_path / "folder" / "archive.zip", {"a": b"abc"})
        data = bytearray(archive.read_bytes())
        start = data.index(b"PK\x01\x02") + field
        width = 4 if field == 42 else 2
        data[start : start + width] = value.to_bytes(width, "little")
        archive.write_bytes(data)
        assert "is damaged or incomplete" in refusal(archive, console)

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_any_flipped_bit_gives_the_right_content_or_a_clear_message(
        self, archive: Path, console: Console, data: st.DataObject
    ) -> None:
        whole = archive.read_bytes()
        position = data.draw(st.integers(0, len(whole) - 1))
        broken = bytearray(whole)
        broken[position] ^= 1 << data.draw(st.integers(0, 7))
        copy = archive.with_name(f"copy-{archive.name}")
        copy.write_bytes(broken)
        contents: set[bytes] = set()
        # Names in a zip file have no checksum; contents do, and that a file is missing is for others to find.
        with (
            contextlib.suppress(UserError),
            unpacked(copy, copy.parent, expected_bytes=100_000, console=console) as got,
        ):
            contents = set(read_all(got).values())
        with unpacked(archive, archive.parent, expected_bytes=100_000, console=console) as folder:
            assert contents <= set(read_all(folder).values())
        assert sorted(os.listdir(archive.parent)) == sorted([archive.name, copy.name])


class TestDisk:
    @pytest.mark.parametrize(("kind", "needed"), [("tar.gz", "97.7 KiB"), ("zip", "5.0 KiB")])
    def test_a_disk_too_small(
        self, tmp_path: Path, console: Console, kind: str, needed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A zip file says how much it needs, of a tar it is what was expected."""
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = write(folder / f"archive.{kind}", FILES)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 4096))
        message = refusal(archive, console)
        assert f"has 4.0 KiB free, but {needed} are needed to unpack archive.{kind}: free the rest or" in message

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_disk_fills_up(
        self, tmp_path: Path, console: Console, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        archive = write(folder / f"archive.{kind}", FILES)
        real = Path.open

        def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode == "xb" and path.name == "b.bin":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", full)
        assert "the disk filled up while writing" in refusal(archive, console)
