"""One headless Chromium for all tests that open a page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import PROGRAMS, Browser, find_chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser without a page; skips where none is installed or it does not start."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"no {' or '.join(PROGRAMS)} is installed, so no page can be opened")
    try:
        browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    except TimeoutError as error:
        pytest.skip(f"{program} does not start: {error}")
    yield browser
    browser.close()
