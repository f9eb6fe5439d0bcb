"""Every page that the package writes: it loads nothing from elsewhere, and no name changes what it is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clouds import planted_cloud

import influencerformer
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.pictures import write_cloud_page
from influencerformer.training.compare_setup import make_setup
from influencerformer.training.record import EvalPoint, LossPoint, RunRecord
from influencerformer.training.report import write_report
from influencerformer.training.report_images import ImageRow, panel
from influencerformer.training.track_predict import write_page

HARMLESS = "name"
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "line\u2028separator\u2029paragraph",
    "<!--<script>",
    "]]>&lt;b&gt;&amp;&#60;b>",
    "javascript:alert(1)//https://example.org/x.png",
    "url(https://example.org) @import 'x'",
    "lone \udcff surrogate",
    "nul \0 bell \x07 escape \x1b[2J",
]
ADDRESSES = (
    "src",
    "srcset",
    "href",
    "xlink:href",
    "action",
    "formaction",
    "data",
    "poster",
    "background",
    "ping",
    "manifest",
)
LOADERS = {"iframe", "frame", "object", "embed", "base", "applet", "portal", "form"}
REACHES_OUT = re.compile(
    r"\bfetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\b|\.src\s*=|new\s+Worker"
    r"|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\s*\(|new\s+Function"
)


class Page(HTMLParser):
    """The tags of a page in their order, and the texts of its styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: dict[str, list[str]] = {"style": [], "script": []}
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        self.inside = tag if tag in self.texts else ""
        if self.inside and dict(attrs).get("type") == "application/json":
            self.inside = ""  # data that nothing runs

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside].append(data)

    def reaches(self) -> list[str]:
        """Everything by which the page would load something or run what is not its own."""
        found = []
        for tag, attrs in self.tags:
            if tag in LOADERS or (tag == "meta" and ("http-equiv", "refresh") in attrs):
                found.append(tag)
            for name, value in attrs:
                value = value or ""
                if name in ADDRESSES and not re.match(r"data:(image/png;base64)?,", value):
                    found.append(f"{tag} {name}={value}")
                if name.startswith("on") or (name == "style" and "url(" in value):
                    found.append(f"{tag} {name}={value}")
        found += re.findall(r"url\(\s*['\"]?(?!data:)[^)]*|@import.*", " ".join(self.texts["style"]))
        return found + REACHES_OUT.findall(" ".join(self.texts["script"]))


def cloud_page_with(name: str, folder: Path) -> Path:
    cloud = planted_cloud()
    cloud = replace(cloud, name=name, predictions={name: cloud.predictions["First"]})
    return write_cloud_page(folder / "page.html", [cloud], [name, f"{name} 2", f"{name} 3"], title=name, text=name)


def report_with(name: str, folder: Path) -> Path:
    config = folder / "base.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_names": [name], name: name}}), encoding="utf-8")
    setup = make_setup(
        [config], ["hungarian", "influencer"], [0], [f"data.root={json.dumps(name)}"], 20, 1, f"compare {name}"
    )
    setup = replace(setup, configs=(name,))
    record = RunRecord(
        loss="hungarian",
        seed=0,
        steps=20,
        max_steps=20,
        seconds=8.0,
        timed_steps=19,
        timed_seconds=7.6,
        criterion_seconds=1.9,
        evaluations=[EvalPoint(10, 4.0, 10, 20), EvalPoint(20, 8.0, 20, 40)],
        losses=[LossPoint(10, 4.0, 3.0)],
        peak_memory=2**29,
        finished=True,
        parameters=5,
        machine=name,
        versions={name: name},
    )
    png = panel(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4), bool), np.zeros((0, 3), np.uint8))
    rows = [ImageRow(name, (("Image", png), ("Truth", png)))]
    return write_report(folder, setup, [record], {("influencer", 0): name}, rows)


def track_page_with(name: str, folder: Path) -> Path:
    picture = {"text": name, "source": "data:image/png;base64,AAAA"}
    write_page(folder / "tracks.html", [(name, 3, 1, f"{name}.csv")], TrackMetrics(), [picture])
    return folder / "tracks.html"


PAGES: dict[str, Callable[[str, Path], Path]] = {
    "pictures/cloud_page.html": cloud_page_with,
    "training/report.html": report_with,
    "training/track_page.html": track_page_with,
}
"""What writes a page with a name in every place that takes one, by the page's template."""


def test_every_template_of_the_package_is_tested_here() -> None:
    folder = Path(influencerformer.__file__).parent
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")} == set(PAGES)


@pytest.mark.parametrize("template", PAGES)
def test_names_stay_text_and_nothing_is_loaded(template: str, tmp_path: Path) -> None:
    plain = Page(PAGES[template](HARMLESS, tmp_path).read_text(encoding="utf-8"))
    assert plain.reaches() == []
    for name in HOSTILE:
        html = PAGES[template](name, tmp_path).read_text(encoding="utf-8")
        page = Page(html)
        assert page.reaches() == [], name
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags], name
        assert [[key for key, _ in attrs] for _, attrs in page.tags] == [
            [key for key, _ in attrs] for _, attrs in plain.tags
        ], name
        assert page.texts == plain.texts, name
        assert name.startswith("{") or "49" not in html.partition("<h1>")[2].partition("</h1>")[0]


@pytest.mark.parametrize("template", sorted(PAGES))
def test_the_browser_is_told_to_load_nothing(template: str, tmp_path: Path) -> None:
    page = Page(PAGES[template](HARMLESS, tmp_path).read_text(encoding="utf-8"))
    metas: list[dict[str, Any]] = [dict(attrs) for tag, attrs in page.tags if tag == "meta"]
    (policy,) = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


@pytest.mark.parametrize(
    "html",
    [
        '<img src="https://example.org/a.png">',
        '<img src="//example.org/a.png">',
        '<a href="https://example.org">',
        '<link rel="stylesheet" href="a.css">',
        "<style>body { background: url(a.png) }</style>",
        "<style>@import 'a.css';</style>",
        "<script>fetch('a')</script>",
        "<script>new Image().src = 'a'</script>",
        '<iframe srcdoc=""></iframe>',
        '<p onclick="x()">',
        '<meta http-equiv="refresh" content="0">',
        '<p style="background: url(a.png)">',
    ],
)
def test_the_test_sees_what_it_looks_for(html: str) -> None:
    assert Page(html).reaches()
