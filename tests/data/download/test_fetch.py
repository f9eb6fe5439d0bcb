from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_server import Fault, LocalServer
from rich.console import Console

from influencerformer.data.download import connection
from influencerformer.data.download.fetch import RemoteFile, fetch_file, part_path
from influencerformer.errors import UserError

CONTENT = bytes(range(256)) * 12_000  # 2.9 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
MIB = 1 << 20

Fetch = Callable[..., bool]


@pytest.fixture
def get(server: LocalServer, tmp_path: Path, console: Console) -> Fetch:
    """Fetches /file to TMP/file without waiting between attempts."""
    server.files["/file"] = CONTENT

    def call(size: int | None = None, sha256: str | None = None, path: str = "/file", **options: Any) -> bool:
        remote = RemoteFile(server.base + path, size, sha256)
        return fetch_file(remote, tmp_path / "file", console=console, pause=0.0, timeout=5.0, **options)

    return call


def text(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def only_file(folder: Path) -> bytes:
    """The content of the target, which is all that is left in the folder."""
    assert os.listdir(folder) == ["file"]
    return (folder / "file").read_bytes()


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))


class TestWhole:
    @pytest.mark.parametrize("size", [None, len(CONTENT)])
    @pytest.mark.parametrize("sha256", [None, SHA256, SHA256.upper()])
    def test_the_file_arrives_and_nothing_else(
        self, get: Fetch, tmp_path: Path, size: int | None, sha256: str | None
    ) -> None:
        assert get(size, sha256) is True
        assert only_file(tmp_path) == CONTENT

    def test_length_not_stated(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        server.always = Fault(no_length=True)
        assert get() is True
        assert only_file(tmp_path) == CONTENT

    def test_missing_folders_are_made(self, get: Fetch, server: LocalServer, tmp_path: Path, console: Console) -> None:
        target = tmp_path / "a" / "b" / "file"
        fetch_file(RemoteFile(f"{server.base}/file"), target, console=console)
        assert target.read_bytes() == CONTENT

    def test_a_complete_file_is_not_asked_for_again(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(CONTENT)
        assert get(len(CONTENT), SHA256) is False
        assert server.ranges == []

    def test_an_uncompressed_body_is_asked_for(self, get: Fetch, server: LocalServer) -> None:
        get()
        assert server.headers[0]["Accept-Encoding"] == "identity"
        assert server.headers[0]["User-Agent"] == "influencerformer"

    @pytest.mark.parametrize(("size", "sha256"), [(3, None), (None, OTHER)])
    def test_another_file_in_its_place_is_never_replaced(
        self, get: Fetch, server: LocalServer, tmp_path: Path, size: int | None, sha256: str | None
    ) -> None:
        (tmp_path / "file").write_bytes(b"mine")
        with pytest.raises(UserError, match=r"file is not the file at .*expected.*move it away"):
            get(size, sha256)
        assert only_file(tmp_path) == b"mine"
        assert server.ranges == []

    def test_a_folder_in_its_place(self, get: Fetch, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        with pytest.raises(UserError, match="is not a file: move it away"):
            get()

    def test_a_file_where_the_folder_should_be(self, server: LocalServer, tmp_path: Path, console: Console) -> None:
        (tmp_path / "folder").write_bytes(b"")
        with pytest.raises(UserError, match=r"folder .*folder cannot be made .*choose another one"):
            fetch_file(RemoteFile(f"{server.base}/file"), tmp_path / "folder" / "file", console=console)


class TestResume:
    @pytest.mark.parametrize("have", [1, 4096, len(CONTENT) - 1])
    def test_only_the_missing_bytes_are_asked_for(
        self, get: Fetch, server: LocalServer, tmp_path: Path, have: int
    ) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT[:have])
        get(len(CONTENT), SHA256)
        assert server.ranges == [f"bytes={have}-"]
        assert only_file(tmp_path) == CONTENT

    def test_a_server_without_range_sends_all_and_the_bytes_are_not_doubled(
        self, get: Fetch, server: LocalServer, tmp_path: Path, console: Console
    ) -> None:
        part_path(tmp_path / "file").write_bytes(b"x" * 5000)
        server.always = Fault(ignore_range=True)
        get(None, SHA256)
        assert only_file(tmp_path) == CONTENT
        assert "the server cannot resume; starting anew" in text(console)

    def test_a_reply_from_another_byte_is_not_used(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT[:5000])
        server.faults = [Fault(range_start=4000)]
        get(None, SHA256)
        assert server.ranges == ["bytes=5000-", None]
        assert only_file(tmp_path) == CONTENT

    @pytest.mark.parametrize("size", [None, len(CONTENT)])
    def test_a_finished_part_is_only_checked(
        self, get: Fetch, server: LocalServer, tmp_path: Path, size: int | None
    ) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT)
        get(size, SHA256)
        assert only_file(tmp_path) == CONTENT
        assert server.ranges == ([f"bytes={len(CONTENT)}-"] if size is None else [])

    @pytest.mark.parametrize("size", [None, len(CONTENT)])
    def test_a_finished_part_with_the_wrong_sha256_is_fetched_anew(
        self, get: Fetch, server: LocalServer, tmp_path: Path, console: Console, size: int | None
    ) -> None:
        part_path(tmp_path / "file").write_bytes(b"x" * len(CONTENT))
        get(size, SHA256)
        assert only_file(tmp_path) == CONTENT
        assert server.ranges[-1] is None
        assert "fetching it anew" in text(console)

    @pytest.mark.parametrize("size", [None, len(CONTENT)])
    def test_a_part_longer_than_the_file_is_thrown_away(
        self, get: Fetch, server: LocalServer, tmp_path: Path, size: int | None
    ) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT + b"more")
        get(size, SHA256)
        assert only_file(tmp_path) == CONTENT

    def test_interrupting_keeps_the_part_and_the_next_call_resumes(
        self, get: Fetch, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = connection.read
        calls = []

        def interrupted(body: http.client.HTTPResponse, size: int) -> bytes:
            calls.append(size)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(body, min(size, 1000))

        with monkeypatch.context() as patch:
            patch.setattr("influencerformer.data.download.fetch.read", interrupted)
            with pytest.raises(KeyboardInterrupt):
                get(None, SHA256)
        assert os.listdir(tmp_path) == ["file.part"]
        have = part_path(tmp_path / "file").read_bytes()
        assert 0 < len(have) <= 2000
        assert CONTENT.startswith(have)
        get(None, SHA256)
        assert server.ranges == [None, f"bytes={len(have)}-"]
        assert only_file(tmp_path) == CONTENT


class TestTransient:
    def test_a_dropped_connection_goes_on_where_it_broke(
        self, get: Fetch, server: LocalServer, tmp_path: Path, console: Console
    ) -> None:
        server.faults = [Fault(drop_after=5000), Fault(drop_after=7)]
        get(len(CONTENT), SHA256)
        assert server.ranges == [None, "bytes=5000-", "bytes=5007-"]
        assert only_file(tmp_path) == CONTENT
        assert "file: the connection ended after 4.9 KiB of 2.9 MiB; trying again in 0 s" in text(console)

    def test_busy_servers_are_asked_again(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        server.faults = [Fault(status=503), Fault(status=429), Fault(status=500)]
        get()
        assert only_file(tmp_path) == CONTENT
        assert len(server.ranges) == 4

    def test_attempts_are_bounded_and_the_part_is_kept(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        server.always = Fault(drop_after=100)
        with pytest.raises(
            UserError, match=r"\(the connection ended after 300 bytes of 2.9 MiB; 3 attempts\)"
        ) as caught:
            get(attempts=3)
        assert server.ranges == [None, "bytes=100-", "bytes=200-"]
        assert part_path(tmp_path / "file").read_bytes() == CONTENT[:300]
        assert str(caught.value).endswith(
            f"run the same command again, which resumes and goes on after 300 bytes, or place the file at "
            f"{tmp_path / 'file'} by hand"
        )

    def test_an_attempt_that_brought_much_does_not_count_against_the_bound(
        self, get: Fetch, server: LocalServer, tmp_path: Path
    ) -> None:
        server.always = Fault(drop_after=MIB)
        get(attempts=2)
        assert only_file(tmp_path) == CONTENT
        assert server.ranges == [None, f"bytes={MIB}-", f"bytes={2 * MIB}-"]

    def test_pauses_double_and_follow_retry_after(
        self, server: LocalServer, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("time.sleep", pauses.append)
        server.files["/file"] = CONTENT
        busy = Fault(status=503)
        server.faults = [
            busy,
            busy,
            busy,
            Fault(status=503, headers={"Retry-After": "17"}),
            Fault(status=503, headers={"Retry-After": "3600"}),
            Fault(status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        ]
        fetch_file(RemoteFile(f"{server.base}/file"), tmp_path / "file", attempts=7, pause=1.0, console=console)
        assert pauses == [1.0, 2.0, 4.0, 17.0, 60.0, 32.0]

    def test_a_body_shorter_than_stated(self, get: Fetch, server: LocalServer) -> None:
        server.always = Fault(missing=10)
        server.faults = [Fault(missing=len(CONTENT) - 50)]
        with pytest.raises(UserError, match=r"the connection ended after .* of 2.9 MiB; 2 attempts"):
            get(attempts=2)

    def test_no_network(self, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        remote = RemoteFile(f"http://127.0.0.1:{port}/file")
        with pytest.raises(UserError) as caught:
            fetch_file(remote, tmp_path / "file", attempts=2, pause=0.0, console=console)
        assert str(caught.value) == (
            f"{remote.url} cannot be downloaded (Connection refused; 2 attempts): check the network and run the same "
            f"command again, which resumes, or place the file at {tmp_path / 'file'} by hand"
        )
        assert os.listdir(tmp_path) == []

    def test_a_silent_server_times_out(self, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            remote = RemoteFile(f"http://127.0.0.1:{silent.getsockname()[1]}/file")
            with pytest.raises(UserError, match=r"\(no answer in time; 1 attempts\)"):
                fetch_file(remote, tmp_path / "file", attempts=1, timeout=0.1, console=console)


class TestPermanent:
    def test_404_is_not_tried_again(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            get(path="/gone")
        assert str(caught.value) == (
            f"{server.base}/gone cannot be downloaded (HTTP 404 Not Found): place the file at {tmp_path / 'file'} by "
            "hand and run the same command again"
        )
        assert len(server.ranges) == 1
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("status", [401, 403, 410])
    def test_neither_are_refusals(self, get: Fetch, server: LocalServer, status: int) -> None:
        server.always = Fault(status=status)
        with pytest.raises(UserError, match=f"HTTP {status}"):
            get()
        assert len(server.ranges) == 1

    def test_wrong_length_is_found_before_the_download(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=rf"it has {len(CONTENT)} bytes there, 1000 were expected\): place the file"
        ):
            get(size=1000)
        assert os.listdir(tmp_path) == []

    def test_wrong_length_that_the_server_does_not_state(self, get: Fetch, server: LocalServer) -> None:
        server.always = Fault(no_length=True)
        server.files["/file"] = CONTENT[:500]
        with pytest.raises(UserError, match=r"the connection ended after 500 bytes of 1000 bytes; 1 attempts"):
            get(size=1000, attempts=1)

    def test_wrong_sha256_keeps_the_part_for_a_corrected_command(
        self, get: Fetch, server: LocalServer, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError) as caught:
            get(None, OTHER)
        assert str(caught.value) == (
            f"what came from {server.base}/file is not the file expected (SHA-256 {SHA256}, expected {OTHER}): run the "
            f"same command again to fetch it anew, or place the right file at {tmp_path / 'file'} by hand"
        )
        assert os.listdir(tmp_path) == ["file.part"]
        get(len(CONTENT), SHA256)
        assert len(server.ranges) == 1
        assert only_file(tmp_path) == CONTENT

    def test_a_web_page_is_not_taken_for_the_file(self, get: Fetch, server: LocalServer, tmp_path: Path) -> None:
        server.always = Fault(headers={"Content-Type": "text/html; charset=utf-8"})
        with pytest.raises(UserError, match="sends a web page in place of the file"):
            get()
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/file", "archive.zip"])
    def test_only_http(self, tmp_path: Path, console: Console, url: str) -> None:
        with pytest.raises(UserError, match=r"not an http or https address\): place the file"):
            fetch_file(RemoteFile(url), tmp_path / "file", console=console)

    def test_an_address_that_is_none(self, tmp_path: Path, console: Console) -> None:
        with pytest.raises(UserError, match="not a valid address"):
            fetch_file(RemoteFile("http://127.0.0.1:port/file"), tmp_path / "file", console=console)

    def test_an_untrusted_certificate(self, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        error = ssl.SSLCertVerificationError(1, "failed")
        error.verify_message = "self-signed certificate"

        def refuse(*arguments: object, **options: object) -> None:
            raise urllib.error.URLError(error)

        monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
        with pytest.raises(UserError, match="its certificate is not trusted: self-signed certificate"):
            get()


class TestStatedChecksum:
    """The Hugging Face hub states a file's SHA-256 in the redirect to its storage."""

    @pytest.fixture
    def stated(self, server: LocalServer) -> Callable[[str], None]:
        def state(header: str) -> None:
            server.files["/resolve"] = b""
            redirect = Fault(status=302, headers={"Location": "/file", "X-Linked-Etag": header})
            server.faults = [redirect, None, redirect, None]

        return state

    @pytest.mark.parametrize("form", ['"{}"', "{}", 'W/"{}"'])
    def test_is_checked(self, get: Fetch, stated: Callable[[str], None], tmp_path: Path, form: str) -> None:
        stated(form.format(OTHER))
        with pytest.raises(UserError, match=f"SHA-256 {SHA256}, expected {OTHER}"):
            get(path="/resolve")
        stated(form.format(SHA256))
        get(path="/resolve")
        assert only_file(tmp_path) == CONTENT

    def test_is_checked_of_a_finished_part_too(self, get: Fetch, stated: Callable[[str], None], tmp_path: Path) -> None:
        part_path(tmp_path / "file").write_bytes(b"x" * len(CONTENT))
        stated(SHA256)
        get(path="/resolve")
        assert only_file(tmp_path) == CONTENT

    def test_resuming_goes_through_the_redirect(
        self, get: Fetch, server: LocalServer, stated: Callable[[str], None], tmp_path: Path
    ) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT[:5000])
        stated(SHA256)
        get(path="/resolve")
        assert server.ranges == ["bytes=5000-", "bytes=5000-"]
        assert only_file(tmp_path) == CONTENT

    def test_yields_to_a_given_one(self, get: Fetch, stated: Callable[[str], None], tmp_path: Path) -> None:
        stated(OTHER)
        get(None, SHA256, path="/resolve")
        assert only_file(tmp_path) == CONTENT

    def test_other_etags_are_no_checksums(self, get: Fetch, stated: Callable[[str], None], tmp_path: Path) -> None:
        stated('"9f2ab1c07e"')
        get(path="/resolve")
        assert only_file(tmp_path) == CONTENT


class TestDisk:
    def test_a_disk_too_small_is_found_before_the_download(
        self, get: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free_space(monkeypatch, MIB)
        with pytest.raises(UserError) as caught:
            get()
        assert str(caught.value).startswith(
            f"{tmp_path} has 1.0 MiB free, but 2.9 MiB are needed for the rest of file ("
        )
        assert os.listdir(tmp_path) == []

    def test_only_the_rest_is_needed(self, get: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        part_path(tmp_path / "file").write_bytes(CONTENT[: 2 * MIB])
        free_space(monkeypatch, MIB)
        get()
        assert only_file(tmp_path) == CONTENT

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (
                errno.ENOSPC,
                "the disk filled up while writing {part}: free some space and run the same command again; {kept}",
            ),
            (errno.EIO, "{part} cannot be written (Input/output error): {kept}"),
        ],
    )
    def test_writing_fails_and_the_part_is_kept(
        self, get: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
    ) -> None:
        part = part_path(tmp_path / "file")
        part.write_bytes(CONTENT[:5000])
        real = Path.open

        def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = real(path, mode, *arguments, **options)
            if mode == "ab":
                return _Full(file, code)
            return file

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(UserError) as caught:
            get()
        assert str(caught.value) == message.format(part=part, kept=f"{part} is kept, and the same command resumes")
        assert part.read_bytes() == CONTENT[:5000]

    def test_a_folder_that_may_not_be_written(
        self, get: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Path.open

        def refused(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode == "wb":
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", refused)
        with pytest.raises(
            UserError, match=r"file\.part cannot be written \(Permission denied\): choose another folder"
        ):
            get()


class _Full:
    """A file on a disk that is full."""

    def __init__(self, file: Any, code: int) -> None:
        self.file = file
        self.code = code

    def write(self, data: bytes) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
