"""A small site built with the hooks: what is added, and what stops a strict build."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("mkdocs", reason="the site's tools are not installed: pip install -e '.[docs]'")

from mkdocs.commands.build import build  # noqa: E402
from mkdocs.config import load_config  # noqa: E402
from mkdocs.exceptions import Abort  # noqa: E402

CONFIG = """
site_name: small
theme: {name: mkdocs}
plugins: []
use_directory_urls: false
validation: {links: {not_found: warn, anchors: warn, unrecognized_links: warn}}
markdown_extensions: [pymdownx.superfences, pymdownx.arithmatex: {generic: true}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """README.md, one page and a source file."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "pkg").mkdir()
    (tmp_path / "README.md").write_text("# Small\n[page](docs/page.md#a-title), [code](pkg/code.py)\n")
    (tmp_path / "docs" / "page.md").write_text(
        "# Page\n## A title\n[code](../pkg/code.py), [home](../README.md), $x$\n"
    )
    (tmp_path / "pkg" / "code.py").write_text("answer = 42\n")
    return tmp_path


def built(project: Path) -> Path:
    (project / "mkdocs.yml").write_text(CONFIG)
    hooks = [str(ROOT / "docs" / "site_hooks" / name) for name in ("repository.py", "equations.py")]
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(load_config(str(project / "mkdocs.yml"), strict=True, hooks=hooks))
    return project / "site"


def test_readme_is_home_and_linked_sources_are_pages(project: Path) -> None:
    site = built(project)
    home, page = (site / "index.html").read_text(), (site / "page.html").read_text()
    assert 'href="page.html#a-title"' in home
    assert 'href="source/pkg/code.py.html"' in home
    assert 'href="source/pkg/code.py.html"' in page
    assert 'href="index.html"' in page
    assert "<math><mi>x</mi></math>" in page
    assert "42" in (site / "source" / "pkg" / "code.py.html").read_text()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "[x](docs/page.md#gone)"),
        ("README.md", "[x](docs/gone.md)"),
        ("docs/page.md", "[x](../pkg/gone.py)"),
        ("docs/page.md", "[x](#gone)"),
        ("docs/page.md", "![x](images/gone.png)"),
    ],
)
def test_dead_link_stops_the_build(project: Path, file: str, text: str) -> None:
    path = project / file
    path.write_text(f"{path.read_text()}\n{text}\n")
    with pytest.raises(Abort, match="strict"):
        built(project)


def test_equation_that_cannot_be_drawn_names_its_page(project: Path) -> None:
    path = project / "docs" / "page.md"
    path.write_text(path.read_text() + "\n$\\nonsense$\n")
    with pytest.raises(ValueError, match=r"page\.md: an equation cannot be drawn"):
        built(project)
