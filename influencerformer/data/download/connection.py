"""One HTTP request for a file from some byte on, and which of its failures may pass."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import IO, Any, NoReturn

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransientError(Exception):
    """A failure that may pass: the request is worth repeating.

    Attributes:
        wait: seconds that the server asks to wait, 0 where it does not say.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class PermanentError(Exception):
    """A failure that stays however often the request is repeated."""


class RangeRefusedError(Exception):
    """The server has no bytes from there on (HTTP 416).

    Attributes:
        total: bytes of the whole file, None where the server does not say.
        sha256: as in :class:`Reply`.
    """

    def __init__(self, total: int | None, sha256: str | None) -> None:
        super().__init__("no bytes from there on")
        self.total = total
        self.sha256 = sha256


@dataclass
class Reply:
    """A server's answer, body not read yet.

    Attributes:
        body: the bytes of the file from `start` on.
        start: 0 where the server does not support Range.
        total: bytes of the whole file, None where the server does not say.
        sha256: what the server says the file's SHA-256 is. The Hugging Face hub does, in the header X-Linked-Etag
            of its redirect to the storage; None elsewhere.
    """

    body: http.client.HTTPResponse
    start: int
    total: int | None
    sha256: str | None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the SHA-256 that one of them states."""

    sha256: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        stated = re.fullmatch(r'(?:W/)?"?([0-9a-fA-F]{64})"?', headers.get("X-Linked-Etag", "").strip())
        if stated:
            self.sha256 = stated[1].lower()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def request(url: str, start: int, timeout: float) -> Reply:
    """Asks for the bytes of a file from `start` on.

    Args:
        url: http or https; proxies are taken from the environment as usual.
        start: first byte; a server without Range support sends the file from 0, see `Reply.start`.
        timeout: seconds without a byte after which the connection counts as dead.

    Raises:
        TransientError: no connection, or the server is busy or broken at the moment.
        PermanentError: the server refuses, has no such file, sends a web page, or cannot be trusted.
        RangeRefusedError: the file has no byte `start`.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise PermanentError("not an http or https address")
    headers = {"User-Agent": "influencerformer", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        _raise_for_status(error, start, redirects.sha256)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise PermanentError(f"its certificate is not trusted: {error.reason.verify_message}") from error
        raise TransientError(_words(error.reason)) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise PermanentError(f"not a valid address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(_words(error)) from error
    return _read_headers(response, url, start, timeout, redirects.sha256)


def read(body: http.client.HTTPResponse, size: int) -> bytes:
    """Up to `size` bytes of a reply, as they come in; empty at its end.

    Raises:
        TransientError: the connection broke.
    """
    try:
        return body.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(_words(error)) from error


def _raise_for_status(error: urllib.error.HTTPError, start: int, sha256: str | None) -> NoReturn:
    reason = f"HTTP {error.code} {error.reason}".rstrip()
    if error.code == 416 and start:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        raise RangeRefusedError(int(total[1]) if total else None, sha256) from error
    if error.code in TRANSIENT_STATUS:
        wait = error.headers.get("Retry-After", "")
        raise TransientError(reason, float(wait) if wait.isdecimal() else 0.0) from error
    raise PermanentError(reason) from error


def _read_headers(
    response: http.client.HTTPResponse, url: str, start: int, timeout: float, sha256: str | None
) -> Reply:
    if response.headers.get_content_type() == "text/html" and "Content-Type" in response.headers:
        response.close()
        raise PermanentError("the server sends a web page in place of the file")
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not span or int(span[1]) != start:
            # Not the bytes that were asked for: without a Range there is nothing to misread.
            response.close()
            if not start:
                raise PermanentError("the server sends a part of the file where all of it was asked for")
            return request(url, 0, timeout)
        return Reply(response, start, None if span[2] == "*" else int(span[2]), sha256)
    length = response.headers.get("Content-Length", "")
    return Reply(response, 0, int(length) if length.isdecimal() else None, sha256)


def _words(error: Any) -> str:
    """A network error in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return " ".join(str(error).split()) or type(error).__name__
