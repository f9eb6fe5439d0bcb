"""Download of one file over HTTP: resumed where it stopped, checked, and in place only when it is whole."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from influencerformer.data.download.connection import (
    PermanentError,
    RangeRefusedError,
    Reply,
    TransientError,
    read,
    request,
)
from influencerformer.data.download.disk import byte_progress, cannot_write, in_words, make_folder, require_space, say
from influencerformer.errors import UserError

CHUNK = 1 << 20
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server and what is known of it beforehand.

    Attributes:
        url: http or https address.
        size: bytes, or None where it is not known exactly.
        sha256: in hexadecimal, or None where it is not known.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


def part_path(target: Path) -> Path:
    """Where the bytes of an unfinished download of `target` lie."""
    return target.with_name(f"{target.name}.part")


def fetch_file(
    remote: RemoteFile,
    target: Path,
    *,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 30.0,
    console: Console | None = None,
) -> bool:
    """Downloads a file, or goes on with an unfinished download of it.

    The bytes go to `target` + ".part", which is renamed to `target` when its size and SHA-256 are right; so whatever
    stops a download, `target` is whole where it exists, and the next call asks for the missing bytes only (HTTP
    Range; from a server without it the file is fetched from its start). Size and SHA-256 are checked against `remote`,
    else against what the server states, if it does.

    Args:
        remote: the file.
        target: where it belongs; its folder is made where it is missing.
        attempts: failures in a row that end the download; a failure after at least 1 MiB counts as the first.
        pause: seconds before the second attempt, doubled for each further one, or as the server asks; at most 60.
        timeout: seconds without a byte after which a connection counts as dead.
        console: takes progress and messages; stderr by default.

    Returns:
        False where `target` was there already (with the right size and SHA-256, as far as `remote` gives them).

    Raises:
        UserError: the file cannot be had, is another one than expected, or does not fit on the disk. Each message
            says where to place the file by hand.
    """
    console = console or Console(stderr=True)
    if target.exists():
        _check_present(target, remote, console)
        return False
    make_folder(target.parent)
    part = part_path(target)
    while True:
        before = _size(part)
        with byte_progress(console) as progress:
            task = progress.add_task(target.name, total=remote.size, completed=before)
            download = _Download(remote, target, timeout, progress, task)
            download.run(attempts, pause)
        problem = _mismatch(part, remote.size, download.sha256, console)
        if problem is None:
            part.replace(target)
            return True
        if not download.received and before:
            # A finished download of an earlier run that was refused then, and is refused with today's numbers too.
            say(console, f"{part.name}: {problem}; fetching it anew")
            part.unlink()
            continue
        raise UserError(
            f"what came from {remote.url} is not the file expected ({problem}): run the same command again to fetch it "
            f"anew, or place the right file at {target} by hand"
        )


class _Download:
    """Fills a .part file.

    Attributes:
        sha256: what the file's SHA-256 should be, where anybody says.
        received: whether any byte came from the server.
    """

    def __init__(self, remote: RemoteFile, target: Path, timeout: float, progress: Progress, task: TaskID) -> None:
        self.remote = remote
        self.target = target
        self.part = part_path(target)
        self.timeout = timeout
        self.progress = progress
        self.task = task
        self.sha256 = remote.sha256
        self.received = False
        self.total = remote.size

    def run(self, attempts: int, pause: float) -> None:
        failures = 0
        while True:
            before = _size(self.part)
            try:
                if self._attempt(before):
                    return
            except PermanentError as error:
                raise UserError(
                    f"{self.remote.url} cannot be downloaded ({error}): place the file at {self.target} by hand and "
                    "run the same command again"
                ) from error
            except TransientError as error:
                failures = 1 if _size(self.part) - before >= CHUNK else failures + 1
                if failures >= attempts:
                    raise UserError(self._gave_up(attempts, error)) from error
                wait = min(max(pause * 2 ** (failures - 1), error.wait), LONGEST_PAUSE)
                say(self.progress.console, f"{self.target.name}: {error}; trying again in {wait:.0f} s")
                time.sleep(wait)

    def _gave_up(self, attempts: int, error: TransientError) -> str:
        have = _size(self.part)
        kept = f" and goes on after {in_words(have)}" if have else ""
        return (
            f"{self.remote.url} cannot be downloaded ({error}; {attempts} attempts): check the network and run the "
            f"same command again, which resumes{kept}, or place the file at {self.target} by hand"
        )

    def _attempt(self, have: int) -> bool:
        """One request; True where the .part file is whole after it."""
        if self.remote.size is not None and have == self.remote.size:
            return True
        if self.remote.size is not None and have > self.remote.size:
            self._discard("is longer than the file")
            have = 0
        try:
            reply = request(self.remote.url, have, self.timeout)
        except RangeRefusedError as refused:
            self.sha256 = self.sha256 or refused.sha256
            if refused.total == have:
                return True
            self._discard("does not fit the file on the server")
            return False
        with reply.body:
            self._prepare(reply, have)
            return self._receive(reply)

    def _prepare(self, reply: Reply, have: int) -> None:
        self.sha256 = self.sha256 or reply.sha256
        if self.remote.size is not None and reply.total not in (None, self.remote.size):
            raise PermanentError(f"it has {reply.total} bytes there, {self.remote.size} were expected")
        if have and not reply.start:
            say(self.progress.console, f"{self.target.name}: the server cannot resume; starting anew")
        self.total = reply.total if reply.total is not None else self.remote.size
        if self.total is not None:
            require_space(
                self.target.parent, self.total - reply.start, f"for the rest of {self.target.name} ({self.remote.url})"
            )
        self.progress.update(self.task, total=self.total, completed=reply.start)

    def _receive(self, reply: Reply) -> bool:
        have = reply.start
        kept = f"{self.part} is kept, and the same command resumes"
        try:
            file = self.part.open("ab" if reply.start else "wb")
        except OSError as error:
            raise cannot_write(self.part, error, "choose another folder") from error
        with file:
            # Not past the end, where a server that keeps the connection open would let us wait.
            while chunk := read(reply.body, CHUNK if self.total is None else min(CHUNK, self.total - have)):
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise cannot_write(self.part, error, kept) from error
                self.received = True
                have += len(chunk)
                self.progress.update(self.task, completed=have)
        if self.total is not None and have < self.total:
            raise TransientError(f"the connection ended after {in_words(have)} of {in_words(self.total)}")
        return True

    def _discard(self, reason: str) -> None:
        say(self.progress.console, f"{self.part.name} {reason}; starting anew")
        self.part.unlink()


def _check_present(target: Path, remote: RemoteFile, console: Console) -> None:
    if not target.is_file():
        raise UserError(f"{target} is not a file: move it away and run the same command again")
    problem = _mismatch(target, remote.size, remote.sha256, console)
    if problem is not None:
        raise UserError(
            f"{target} is not the file at {remote.url} ({problem}): move it away and run the same command again"
        )


def _mismatch(path: Path, size: int | None, sha256: str | None, console: Console) -> str | None:
    """What is wrong with a file, or None."""
    actual_size = _size(path)
    if size is not None and actual_size != size:
        return f"{actual_size} bytes, expected {size}"
    if sha256 is None:
        return None
    actual = _sha256(path, console)
    return None if actual == sha256.lower() else f"SHA-256 {actual}, expected {sha256.lower()}"


def _sha256(path: Path, console: Console) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, byte_progress(console) as progress:
        task = progress.add_task(f"checking {path.name}", total=_size(path))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress.advance(task, len(chunk))
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
