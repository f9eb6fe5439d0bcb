"""The report: complete, self-contained, and honest about what is missing."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.utils import ModelOutput

from influencerformer.data.sample import Sample
from influencerformer.training.compare_setup import Setup, make_setup
from influencerformer.training.record import EvalPoint, LossPoint, RunRecord
from influencerformer.training.report import data_uri, markdown_table, write_report
from influencerformer.training.report_examples import evenly
from influencerformer.training.report_images import (
    UNMATCHED_COLOUR,
    ImageRow,
    best_predictions,
    image_row,
    match,
    panel,
)
from influencerformer.training.report_plots import DARK, LIGHT, curve_figures, mean_line

TINY_PNG = panel(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4), bool), np.zeros((0, 3), np.uint8))


def run(loss: str, seed: int, final: float, **changes: object) -> RunRecord:
    record = RunRecord(
        loss=loss,
        seed=seed,
        steps=20,
        max_steps=20,
        seconds=8.0,
        timed_steps=19,
        timed_seconds=7.6,
        criterion_seconds=1.9,
        evaluations=[EvalPoint(10, 4.0, final / 2, final), EvalPoint(20, 8.0, final, 2 * final)],
        losses=[LossPoint(10, 4.0, 3.0), LossPoint(20, 8.0, None)],
        peak_memory=2**29,
        finished=True,
        parameters=1234567,
        machine="Abacus 3000",
        versions={"torch": "9.9"},
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    config = tmp_path / "base.yaml"
    config.write_text("data:\n  root: <b>data</b>\n")
    return make_setup(
        [config], ["hungarian", "influencer"], [0, 1], ["data.scale=0.5"], 20, 1, "influencerformer compare --x"
    )


@pytest.fixture
def records() -> list[RunRecord]:
    return [
        run("hungarian", 0, 20),
        run("influencer", 0, 25),
        run("hungarian", 1, 30),
        run("influencer", 1, 28),
    ]


class Elements(HTMLParser):
    """All tags with their attributes, and the balance of opened and closed ones."""

    VOID = ("meta", "img", "source", "link", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(
    tmp_path: Path,
    setup: Setup,
    records: list[RunRecord],
    failures: dict[tuple[str, int], str] | None = None,
    images: list[ImageRow] | None = None,
) -> str:
    path = write_report(tmp_path, setup, records, failures or {}, images)
    return path.read_text(encoding="utf-8")


def test_report_has_all_pieces(tmp_path: Path, setup: Setup, records: list[RunRecord]) -> None:
    row = ImageRow("cell_7", (("Image", TINY_PNG), ("Truth", TINY_PNG), ("Influencer Loss", TINY_PNG)))
    html = report(tmp_path, setup, records, images=[row])
    for piece in (
        "Over 2 seeds the Influencer Loss ends 1.5 AP above Hungarian matching",
        "ahead in 1 of 2",
        "&lt;b&gt;data&lt;/b&gt;",
        "influencerformer compare --x",
        "data.scale=0.5",
        "Abacus 3000",
        "torch 9.9",
        "1,234,567",
        "cell_7",
        "seed 1, Influencer Loss",
        setup.digest,
        "same initial weights and batches",
    ):
        assert piece in html, piece
    assert "<b>data" not in html
    assert "|" in (tmp_path / "table.md").read_text()
    assert Image.open(tmp_path / "images.png").width > 3 * Image.open(io.BytesIO(TINY_PNG)).width
    assert [RunRecord.from_dict(r) for r in json.loads((tmp_path / "records.json").read_text())] == records
    for stem in ("ap_per_step", "ap_per_second", "ap50_per_step", "training_loss"):
        assert Image.open(tmp_path / f"{stem}.png").format == "PNG"


def test_report_needs_no_other_file_and_no_network(tmp_path: Path, setup: Setup, records: list[RunRecord]) -> None:
    html = report(tmp_path, setup, records, images=[ImageRow("a", (("Image", TINY_PNG),))])
    elements = Elements(html)
    assert not elements.open
    images = [attrs for tag, attrs in elements.tags if tag in ("img", "source")]
    assert len(images) == 2 * 4 + 1
    for attrs in images:
        address = attrs.get("src") or attrs.get("srcset") or ""
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements.tags}
    assert not re.search(r"(https?:)?//\w|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))


def test_report_says_what_is_missing(tmp_path: Path, setup: Setup, records: list[RunRecord]) -> None:
    records[0].batch_checksum = 5
    records[1].resumed_at = [10]
    records[3] = run("influencer", 1, 28, finished=False)
    records[2].evaluations = records[2].evaluations[:1]
    html = report(tmp_path, setup, records, {("influencer", 1): "ValueError: <broken>"})
    assert "3 of 4 runs have finished, 1 failed" in html
    assert "The runs of seed 0 did not have the same batches (resumed runs: seed 0)." in html
    assert "ValueError: &lt;broken&gt;" in html
    assert "last evaluation was at step 10 of 20" in html
    assert "One seed is an example" in html
    assert "same initial weights and batches" not in html


def test_report_without_any_run(tmp_path: Path, setup: Setup) -> None:
    html = report(tmp_path, setup, [])
    assert "nothing to compare" in html
    assert "0 of 4 runs have finished" in html


def test_report_of_a_defeat_says_so(tmp_path: Path, setup: Setup) -> None:
    html = report(tmp_path, setup, [run("hungarian", 0, 20), run("influencer", 0, 15)])
    assert "the Influencer Loss ends 5.0 AP below Hungarian matching: 15.0 against 20.0" in html
    assert "does not reach the baseline&#39;s final AP" in html


def test_markdown_table_has_one_column_a_loss(setup: Setup) -> None:
    lines = markdown_table([("A", *"123456789x"), ("B", *"abcdefghij")]).splitlines()
    assert lines[:3] == ["| | A | B |", "|---|---|---|", "| Seeds | 1 | a |"]
    assert len({line.count("|") for line in lines}) == 1


def test_curves_exist_in_both_themes_and_skip_what_has_no_data(records: list[RunRecord]) -> None:
    light, dark = (curve_figures(records, ["hungarian", "influencer"], theme) for theme in (LIGHT, DARK))
    assert light.keys() == dark.keys()
    corner = [
        Image.open(io.BytesIO(figures["ap_per_step"])).convert("RGB").getpixel((0, 0)) for figures in (light, dark)
    ]
    assert corner == [(255, 255, 255), (20, 23, 28)]
    for record in records:
        record.evaluations = []
    assert curve_figures(records, ["hungarian", "influencer"], LIGHT).keys() == {"training_loss"}


def test_mean_line_covers_what_all_have() -> None:
    assert mean_line([([1, 2, 3], [10, 20, 30]), ([1, 4], [20, 40])]) == ([1, 3], [15, 30])
    assert mean_line([]) == ([], [])


@pytest.mark.parametrize(("count", "wanted"), [(100, 6), (6, 6), (3, 6), (7, 6), (1, 6), (0, 6)])
def test_images_are_spread_evenly(count: int, wanted: int) -> None:
    indices = evenly(count, wanted)
    assert len(indices) == len(set(indices)) == min(count, wanted)
    assert all(0 <= index < count for index in indices)
    gaps = np.diff(indices)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_each_instance_is_found_once_and_by_its_class() -> None:
    truth = np.zeros((2, 4, 4), bool)
    truth[0, :2], truth[1, 2:] = True, True
    masks = np.stack([truth[1], truth[1], truth[0], truth[0]])
    masks[2, 0] = False  # half of it: IoU 0.5
    labels, truth_labels = np.array([1, 1, 0, 1]), np.array([0, 1])
    assert match(masks, labels, truth, truth_labels).tolist() == [1, -1, 0, -1]
    assert match(masks[:0], labels[:0], truth, truth_labels).tolist() == []
    assert match(masks, labels, truth[:0], truth_labels[:0]).tolist() == [-1] * 4


class Predicts(nn.Module):
    """Two classes; says the given masks (Q, 8, 8) with the given class logits (Q, 3)."""

    def __init__(self, masks: torch.Tensor, classes: torch.Tensor) -> None:
        super().__init__()
        self.masks, self.classes = masks, classes

    def forward(self, batch: dict[str, torch.Tensor]) -> ModelOutput:
        assert batch["pixel_values"].shape[-2:] == (32, 32)
        return ModelOutput(class_queries_logits=self.classes[None], masks_queries_logits=self.masks[None])


@pytest.fixture
def sample() -> Sample:
    """Two instances on a 32 x 32 image: the upper half of class 0, the lower of class 1."""
    labels = torch.ones(32, 32, dtype=torch.int64)
    labels[16:] = 2
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    return Sample("two", image, torch.tensor([0, 1]), labels, None, None, 0)


def test_predictions_are_the_best_ones_without_repetitions(sample: Sample) -> None:
    upper = torch.full((8, 8), -9.0)
    upper[:4] = 9.0
    classes = torch.tensor([[9.0, 0, 0], [5.0, 0, 0], [0, 3.0, 0], [0, 1.0, 4.0]])
    model = Predicts(torch.stack([upper, upper, -upper, -upper]), classes)
    masks, labels = best_predictions(model, sample, 32)
    assert labels.tolist() == [0, 1]
    assert (masks == sample.masks().numpy()).mean() > 0.95


def test_image_row_shows_truth_and_every_loss(sample: Sample) -> None:
    upper = torch.full((8, 8), -9.0)
    upper[:4] = 9.0
    good = Predicts(torch.stack([upper, -upper]), torch.tensor([[9.0, 0, 0], [0, 9.0, 0]]))
    wrong = Predicts(torch.stack([upper, -upper]), torch.tensor([[0, 9.0, 0], [0, 8.0, 0]]))
    row = image_row(sample, {"hungarian": wrong, "influencer": good}, 32)
    assert row.name == "two, instances: 2, found: Hungarian matching 1, Influencer Loss 2"
    assert [title for title, _ in row.panels] == ["Image", "Truth", "Hungarian matching", "Influencer Loss"]
    image, truth, bad, same = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for _, png in row.panels
    )
    assert image.shape == (320, 320, 3)
    assert (image == 100).all()
    assert np.abs(truth - same)[20:140].max() <= 4
    upper_half = bad[40:120, 40:280]
    expected = 0.55 * 100 + 0.45 * np.array(UNMATCHED_COLOUR)
    assert np.abs(upper_half - expected).max() <= 4


def test_large_images_are_shrunk() -> None:
    png = panel(np.zeros((400, 800, 3), np.uint8), np.zeros((0, 400, 800), bool), np.zeros((0, 3), np.uint8))
    assert Image.open(io.BytesIO(png)).size == (320, 160)


def test_data_uri() -> None:
    assert data_uri(b"\x89PNG") == "data:image/png;base64,iVBORw=="
