"""An HTTP server on 127.0.0.1 with Range support, which misbehaves on request."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: HTTP status in place of an answer.
        headers: further ones, also without another fault.
        drop_after: bytes of the body after which the connection is closed.
        ignore_range: the file is sent from its start.
        range_start: first byte that the reply claims to send, whatever was asked for.
        missing: bytes by which the body falls short of its stated length.
        no_length: the length is not stated.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    ignore_range: bool = False
    range_start: int | None = None
    missing: int = 0
    no_length: bool = False


class LocalServer:
    """Serves `files` (path to bytes) in a thread.

    Attributes:
        faults: one for each request to come, None where all goes well; then `always`.
        ranges: the Range header of every request so far, None where it had none.
        headers: all headers of every request so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault | None] = []
        self.always: Fault | None = None
        self.ranges: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.ranges.append(self.headers.get("Range"))
                server.headers.append(dict(self.headers))
                fault = (server.faults.pop(0) if server.faults else server.always) or Fault()
                content = server.files.get(self.path)
                if fault.status is not None or content is None:
                    self._empty(fault.status or 404, fault.headers)
                else:
                    self._file(content, fault)

            def _empty(self, status: int, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _file(self, content: bytes, fault: Fault) -> None:
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked and not fault.ignore_range else 0
                if start >= len(content) and asked and not fault.ignore_range:
                    self._empty(416, {"Content-Range": f"bytes */{len(content)}"})
                    return
                self.send_response(206 if asked and not fault.ignore_range else 200)
                if asked and not fault.ignore_range:
                    stated = start if fault.range_start is None else fault.range_start
                    self.send_header("Content-Range", f"bytes {stated}-{len(content) - 1}/{len(content)}")
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                body = content[start:]
                if not fault.no_length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                body = body[: len(body) - fault.missing]
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body if fault.drop_after is None else body[: fault.drop_after])

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
