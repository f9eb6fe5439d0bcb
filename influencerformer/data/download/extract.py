"""Unpacking of archives that nobody has looked into: nothing outside the folder, nothing half done."""

from __future__ import annotations

import functools
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import Progress, TaskID

from influencerformer.data.download.disk import byte_progress, cannot_write, in_words, make_folder, require_space
from influencerformer.errors import UserError

CHUNK = 1 << 20
MAX_MEMBERS = 1_000_000
MAX_HEADER = 4 * CHUNK
# What gzip, tarfile and zipfile are known to raise for broken input; a UserError is a ValueError and goes through.
DAMAGED = (
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def everything(name: str) -> bool:
    """Chooses every file of an archive."""
    return True


@contextmanager
def unpacked(
    archive: Path,
    folder: Path,
    *,
    expected_bytes: int,
    wanted: Callable[[str], bool] = everything,
    console: Console | None = None,
) -> Iterator[Path]:
    """Unpacks a .tar.gz or .zip file and gives the folder with its content for the duration of a `with` block.

    What is to stay is moved out of it in the block; the rest goes when the block is left, also after an error. Every
    checksum that the archive carries is checked on the way. Modes, owners and times are not restored.

    Args:
        archive: the file.
        folder: an existing folder on the disk where the content is to stay; the temporary folder is made in it (and
            one that a killed run left there is replaced).
        expected_bytes: about how much `wanted` gives; twice as much is refused. This much must be free on the disk, or
            for a .zip file what its directory says.
        wanted: chooses files by their path in the archive, with "/".
        console: takes progress; stderr by default.

    Raises:
        UserError: the archive is damaged or cut short; it is larger than expected or the disk too small; or a member,
            wanted or not, has an absolute path or "..", is a link or a device, or comes twice.
    """
    temporary = folder / f".{archive.name}.unpacking"
    try:
        archive.open("rb").close()
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror})") from error
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        make_folder(temporary)
        with byte_progress(console or Console(stderr=True)) as progress:
            task = progress.add_task(f"unpacking {archive.name}", total=archive.stat().st_size)
            _Unpacking(archive, temporary, expected_bytes, wanted, progress, task).run()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class _Member:
    """One entry of an archive: `open` gives a file's bytes; `odd` is what it is where it is neither file nor folder."""

    name: str
    size: int
    folder: bool
    odd: str | None
    open: Callable[[], IO[bytes]]


@dataclass
class _Unpacking:
    archive: Path
    into: Path
    expected: int
    wanted: Callable[[str], bool]
    progress: Progress
    task: TaskID

    def run(self) -> None:
        try:
            if zipfile.is_zipfile(self.archive):
                self._require(_zip_size(self.archive, self.wanted))
                self._write(_zip_members(self.archive, self._advance))
            else:
                self._require(self.expected)
                self._write(_tar_members(self.archive, self._advance))
        except UserError:
            raise
        except DAMAGED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.archive} is damaged or incomplete ({reason}): remove it and run the same command again"
            ) from error

    def _require(self, needed: int) -> None:
        self._bound(needed)
        require_space(self.into, needed, f"to unpack {self.archive.name}")

    def _bound(self, size: int) -> None:
        if size > 2 * self.expected:
            self._refuse(f"unpacks to more than {in_words(2 * self.expected)}, twice what was expected")

    def _advance(self, compressed: int) -> None:
        self.progress.update(self.task, completed=compressed)

    def _write(self, members: Iterator[_Member]) -> None:
        written = 0
        for count, member in enumerate(members, start=1):
            if count > MAX_MEMBERS:
                self._refuse(f"has more than {MAX_MEMBERS} members")
            path = self.into.joinpath(*self._parts(member))
            if member.folder or not self.wanted("/".join(path.relative_to(self.into).parts)):
                continue
            written += self._write_file(member, path, written)

    def _write_file(self, member: _Member, path: Path, before: int) -> int:
        """Bytes written: counted, whatever size the archive states."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError):
            self._refuse(f"holds {member.name!r} twice, or as a file and as a folder")
        except OSError as error:
            raise cannot_write(path, error, "nothing of it is kept") from error
        written = 0
        with file, member.open() as content:
            while chunk := content.read(CHUNK):
                written += len(chunk)
                self._bound(before + written)
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise cannot_write(path, error, "the archive is kept, what was unpacked is not") from error
        if written != member.size:
            raise EOFError(f"{member.name!r} ends early")
        return written

    def _parts(self, member: _Member) -> tuple[str, ...]:
        """The components of a member's path, when it is a file or folder that stays inside."""
        name = member.name
        windows = PureWindowsPath(name)
        parts = PurePosixPath(name).parts
        if not parts and member.folder:
            return ()
        if not parts or "\0" in name or "\\" in name or windows.drive or windows.root or ".." in parts:
            self._refuse(f"holds {name!r}, which does not lie inside the folder it is unpacked to")
        if member.odd is not None:
            self._refuse(f"holds {name!r}, which is {member.odd}, neither a file nor a folder")
        return parts

    def _refuse(self, reason: str) -> None:
        raise UserError(
            f"{self.archive} {reason}, and is not unpacked: get the archive from its official address, or unpack it by "
            "hand if you trust it"
        )


def _tar_members(archive: Path, advance: Callable[[int], None]) -> Iterator[_Member]:
    with archive.open("rb") as raw, gzip.open(raw, "rb") as stream:
        with tarfile.open(fileobj=cast(Any, _Forward(stream)), mode="r:") as tar:
            for info in tar:
                advance(raw.tell())
                yield _Member(
                    info.name, info.size, info.isdir(), _odd_tar(info), functools.partial(_content, tar, info)
                )
        # The end of the tar comes before the end of the gzip stream, where the checksum is.
        while stream.read(CHUNK):
            pass
        advance(raw.tell())


class _Forward:
    """A stream that goes forward only and gives no large piece: no header makes tarfile loop or fill the memory."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream = stream
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position < self.stream.tell():
            raise tarfile.ReadError("members overlap")
        return self.stream.seek(position)


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    assert content is not None  # only for regular files
    return content


def _odd_tar(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}"
    return None if info.isreg() or info.isdir() else "a device or pipe"


def _zip_size(archive: Path, wanted: Callable[[str], bool]) -> int:
    """What the wanted files have, by the archive's directory."""
    with zipfile.ZipFile(archive) as zip_file:
        return sum(info.file_size for info in zip_file.infolist() if wanted(info.filename))


def _zip_members(archive: Path, advance: Callable[[int], None]) -> Iterator[_Member]:
    compressed = 0
    with zipfile.ZipFile(archive) as zip_file:
        for info in zip_file.infolist():
            if info.flag_bits & 1:
                raise zipfile.BadZipFile(f"{info.filename!r} is encrypted")
            yield _Member(
                # zipfile itself cuts the name at a NUL and turns the platform's separator into "/".
                info.orig_filename,
                info.file_size,
                info.is_dir(),
                _odd_zip(info),
                functools.partial(zip_file.open, info),
            )
            compressed += info.compress_size
            advance(compressed)


def _odd_zip(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link"
    return None if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a device or pipe"
