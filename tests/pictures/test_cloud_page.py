"""The page as text: complete, self-contained, bounded in size, and deaf to hostile names."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from clouds import CLASSES, planted_cloud

from influencerformer.errors import UserError
from influencerformer.pictures import Cloud, Instances, cloud_page, write_cloud_page
from influencerformer.pictures.cloud_colours import ERROR_COLOURS, UNMATCHED_COLOUR, instance_colours
from influencerformer.pictures.cloud_instances import PointError

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">&{{ 7 * 7 }}"


class Page(HTMLParser):
    """All tags with their attributes, and the content of the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def read(cloud: dict[str, Any], name: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cloud[name]), dtype=dtype)


def test_page_holds_what_it_was_given() -> None:
    given = planted_cloud()
    data = Page(cloud_page([given], CLASSES, title="Two models")).data
    cloud = data["clouds"][0]
    assert data["classes"] == list(CLASSES)
    assert cloud["name"] == "planted"
    assert cloud["note"] == "planted: 3,125 points."

    quantised = read(cloud, "xyz", "<i2").reshape(-1, 3)
    middle = (given.coordinates.min(axis=0) + given.coordinates.max(axis=0)) / 2
    placed = quantised * cloud["scale"] + middle
    order = np.lexsort(np.round(placed, 3).T)
    expected = given.coordinates[np.lexsort(np.round(given.coordinates, 3).T)]
    assert np.abs(placed[order] - expected).max() < cloud["scale"]
    assert np.abs(quantised).max() == 32767

    truth, (first, second) = cloud["truth"], cloud["models"]
    labels = read(truth, "labels", "<u2")
    tile_of_point = np.floor(placed[:, 0])
    assert np.array_equal(labels, np.array([1, 2, 0, 65535, 3])[tile_of_point.astype(int)])
    assert truth["classes"] == [1, 2, 1]
    assert truth["points"] == [625, 625, 625]
    assert truth["ignores"]
    assert truth["colours"] == instance_colours(3).tolist()
    assert (first["title"], second["title"]) == ("First", "Second")
    assert first["found"] == [1, 0, 0, 0]
    assert first["iou"] == [1.0, 0.4512, 0.4, 0.0]
    assert first["scores"] == [0.9, 0.8, 0.7, 0.6]
    assert first["colours"][1] == [*UNMATCHED_COLOUR]
    assert second["found"] == [3, 0, 1]
    assert second["colours"][0] == instance_colours(3)[2].tolist()
    errors = read(first, "errors", "u1")
    assert np.array_equal(np.bincount(errors, minlength=7), first["counts"])
    assert first["counts"][PointError.CORRECT] == 625
    assert first["counts"][PointError.SPLIT] == 282 + 250
    assert first["counts"][PointError.FALSE] == 625
    assert second["counts"][PointError.WRONG_CLASS] == 625
    assert [kind["colour"] for kind in data["errors"]] == [[*ERROR_COLOURS[kind]] for kind in PointError]


def test_points_keep_their_colours_and_labels_together() -> None:
    given = planted_cloud()
    coloured = np.zeros((len(given.coordinates), 3), np.uint8)
    coloured[:, 0] = np.floor(given.coordinates[:, 0]) * 10
    cloud = Page(cloud_page([Cloud("c", given.coordinates, coloured, given.truth)], CLASSES)).data["clouds"][0]
    red = read(cloud, "rgb", "u1").reshape(-1, 3)[:, 0]
    labels = read(cloud["truth"], "labels", "<u2")
    assert np.array_equal(labels, np.array([1, 2, 0, 65535, 3])[red // 10])


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = cloud_page([planted_cloud()], CLASSES)
    page = Page(html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:")
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attrs.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\b", html)


def test_hostile_names_stay_text() -> None:
    given = planted_cloud()
    cloud = Cloud(HOSTILE, given.coordinates, given.colors, given.truth, {HOSTILE: given.predictions["First"]})
    html = cloud_page([cloud], [HOSTILE, HOSTILE, HOSTILE], title=HOSTILE, text=HOSTILE)
    page = Page(html)
    assert "<img" not in html
    assert [tag for tag, _ in page.tags if tag in ("img", "script")] == ["script", "script"]
    assert html.count("</script>") == 2
    assert page.data["clouds"][0]["name"] == HOSTILE
    assert page.data["classes"] == [HOSTILE] * 3
    assert page.data["clouds"][0]["models"][0]["title"] == HOSTILE
    assert "{{ 7 * 7 }}</h1>" in html


def test_large_clouds_are_thinned_and_the_page_says_so() -> None:
    generator = np.random.default_rng(0)
    count = 30_000
    labels = generator.integers(0, 4, count)
    instances = Instances(labels, np.zeros(3, np.int64), np.ones(3))
    big = Cloud(
        "big",
        generator.random((count, 3)),
        generator.integers(0, 256, (count, 3), dtype=np.uint8),
        instances,
        {"A": instances, "B": instances},
    )
    html = cloud_page([big], CLASSES, max_points=4000)
    empty = cloud_page([big], CLASSES, max_points=1)
    cloud = Page(html).data["clouds"][0]
    assert cloud["note"] == "big: 30,000 points, 4,000 of them shown, drawn at random; numbers are of all."
    assert len(read(cloud, "xyz", "<i2")) == 3 * 4000
    assert sum(cloud["truth"]["points"]) == (labels > 0).sum()
    assert sum(cloud["models"][0]["counts"]) == count
    assert len(html) - len(empty) < 4000 * 24
    assert html == cloud_page([big], CLASSES, max_points=4000)


def test_cloud_without_truth_or_predictions() -> None:
    given = planted_cloud()
    bare = Cloud("bare", given.coordinates, given.colors, None, {"First": given.predictions["First"]})
    cloud = Page(cloud_page([bare, Cloud("empty", given.coordinates, given.colors)], CLASSES)).data["clouds"]
    assert cloud[0]["truth"] is None
    assert cloud[0]["models"][0]["errors"] is None
    assert cloud[0]["models"][0]["colours"] == instance_colours(4).tolist()
    assert cloud[1]["models"] == []


def test_single_point() -> None:
    cloud = Cloud("dot", np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8))
    data = Page(cloud_page([cloud], CLASSES)).data["clouds"][0]
    assert read(data, "xyz", "<i2").tolist() == [0, 0, 0]
    assert data["radius"] > 0
    assert data["spacing"] > 0


def test_bad_input_is_refused() -> None:
    cloud = planted_cloud()
    with pytest.raises(ValueError, match="at least one cloud"):
        cloud_page([], CLASSES)
    with pytest.raises(ValueError, match="max_points must be 1 or more, got 0"):
        cloud_page([cloud], CLASSES, max_points=0)
    with pytest.raises(ValueError, match="cloud 'planted', truth: class 2 has no name, class_names has 2"):
        cloud_page([cloud], CLASSES[:2])
    many = Instances(np.zeros(len(cloud.coordinates), np.int64), np.zeros(70_000, np.int64))
    with pytest.raises(ValueError, match="cloud 'x', Mine: a page holds up to 65534 instances, got 70000"):
        cloud_page([Cloud("x", cloud.coordinates, cloud.colors, None, {"Mine": many})], CLASSES)


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_cloud_page(tmp_path / "new" / "page.html", [planted_cloud()], CLASSES, title="Räume")
    assert path.read_text(encoding="utf-8") == cloud_page([planted_cloud()], CLASSES, title="Räume")
    with (
        mock.patch.object(Path, "replace", side_effect=OSError(5, "Input/output error")),
        pytest.raises(UserError, match=r"page.html cannot be written \(Input/output error\)"),
    ):
        write_cloud_page(path, [planted_cloud("other")], CLASSES)
    assert "Räume" in path.read_text(encoding="utf-8")
    assert [other.name for other in path.parent.iterdir()] == ["page.html"]
