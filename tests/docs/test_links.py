"""Relative links and anchors of README.md and docs/ hold on the code host, where no tool looks at them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")


def prose(text: str) -> str:
    """The text without code."""
    return CODE.sub(lambda m: m[0] if "](" in m[0] else m[0].replace("[", "("), FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Of a page's headings, as code hosts make them: lower case, hyphens for spaces, repeats numbered."""
    found: dict[str, int] = {}
    result = set()
    for title in re.findall(r"^#{1,6} (.+?)\s*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        repeats = found.get(slug, 0)
        found[slug] = repeats + 1
        result.add(f"{slug}-{repeats}" if repeats else slug)
    return result


def dead_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of a page."""
    dead = []
    for target in LINK.findall(prose(page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        missing = not place.exists() or ROOT not in place.parents
        if missing or (anchor and place.suffix == ".md" and anchor not in anchors(place.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_links.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A title (x): `y`\n## Twice\n## Twice\n```\n# no title\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md#a-title-x-y) [b](other.md#twice-1) [c](#here) [d](https://example.org/x)\n"
        "[e](gone.md) [f](other.md#no-title) [g](#gone) ![h](gone.png) [i](../outside.md)\n"
        "```\n[j](in_code.md)\n```\n"
    )
    assert dead_links(page) == ["gone.md", "other.md#no-title", "#gone", "gone.png", "../outside.md"]
