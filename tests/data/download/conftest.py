"""Fixtures of the download tests: a local server, and a console whose text can be read."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from local_server import LocalServer
from rich.console import Console


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    local = LocalServer()
    yield local
    local.close()


@pytest.fixture
def console() -> Console:
    """Writes to memory: `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=100)
