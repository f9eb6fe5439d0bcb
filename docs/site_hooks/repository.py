"""README.md as the home page, and the repository's files that pages link to as pages of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
HOME = "index.md"
SHOWN = "source"
"""Folder of the site for files outside of docs/."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml", ".md": "markdown"}


def outside_fences(text: str) -> Iterator[tuple[bool, str]]:
    """Pieces of a page in order, each with whether it is prose (True) or a fenced block of code."""
    start = 0
    for fence in FENCE.finditer(text):
        yield True, text[start : fence.start()]
        yield False, fence[0]
        start = fence.end()
    yield True, text[start:]


def site_target(target: str, folder: str) -> tuple[str, str | None]:
    """Where a link that works in the repository leads on the site.

    Args:
        target: of the link, relative to ``folder``.
        folder: the page's folder in the repository, "docs" for docs/loss.md and "" for README.md.

    Returns:
        The target relative to the page's place on the site, and, if it lies outside of docs/, the repository's file
        to be shown there.
    """
    if "://" in target or target.startswith(("mailto:", "/")):
        return target, None
    path = PurePosixPath(normpath(f"{folder}/{target}" if folder else target))
    here = PurePosixPath("/", *PurePosixPath(folder).parts[1:])
    if path.parts[0] == "docs":
        place, shown = PurePosixPath("/", *path.parts[1:]), None
    elif str(path) == "README.md":
        place, shown = PurePosixPath("/", HOME), None
    else:
        place, shown = PurePosixPath(f"/{SHOWN}/{path}.md"), str(path)
    return relpath(str(place), str(here)), shown


def for_site(text: str, folder: str) -> tuple[str, set[str]]:
    """A page with its links as :func:`site_target` has them, and the files of the repository that it links to."""
    shown: set[str] = set()

    def replaced(match: re.Match[str]) -> str:
        target, path = site_target(match[2], folder)
        if path is not None:
            shown.add(path)
        return match[1] + target + match[3]

    pieces = [LINK.sub(replaced, piece) if prose else piece for prose, piece in outside_fences(text)]
    return "".join(pieces), shown


def source_page(path: str, text: str) -> str:
    """A page that shows a file of the repository; search does not look into it."""
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    fence = "`" * 6
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _folder(file: File) -> str:
    return str(PurePosixPath("docs") / PurePosixPath(file.src_uri).parent)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """mkdocs: adds the home page and the files that pages link to."""
    root = Path(config.config_file_path).parent
    home, linked = for_site((root / "README.md").read_text(), "")
    files.append(File.generated(config, HOME, content=home))
    for file in files.documentation_pages():
        if file.src_uri != HOME:
            linked |= for_site(file.content_string, _folder(file))[1]
    for path in sorted(linked):
        if (root / path).is_file():  # a link to nothing is left for mkdocs to name
            content = source_page(path, (root / path).read_text())
            files.append(File.generated(config, f"{SHOWN}/{path}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs: links that leave docs/ lead to the pages added above."""
    file = page.file
    if file.src_uri == HOME or file.src_uri.startswith(f"{SHOWN}/"):
        return markdown
    return for_site(markdown, _folder(file))[0]
