"""`influencerformer compare` on particle tracks: losses are judged by the efficiency."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from influencerformer.training import report
from influencerformer.training.cli import fit
from influencerformer.training.compare import Job
from influencerformer.training.compare import main as compare
from influencerformer.training.compare_stats import headline, summarise, table_header, table_rows
from influencerformer.training.record import EvalPoint, RunRecord, RunRecorder
from influencerformer.training.report import REPORT_FILE
from influencerformer.training.report_plots import LIGHT, curve_figures, curve_texts

VALUES = ["efficiency", "fake_rate", "duplicate_rate"]
CONFIG = """\
task: tracks
data:
  format: generated
  root: {root}
  num_particles: [4, 6]
  train_events: 2
  val_events: 1
  batch_size: 1
model:
  architecture: mask
  width: 16
  layers: 1
  heads: 2
  window: 16
  num_queries: 12
  decoder_layers: 1
"""


def run(loss: str, final: list[float]) -> RunRecord:
    evaluations = [EvalPoint(10, 5.0, final[0] / 2, 9.0, None, [7.0]), EvalPoint(20, 10.0, *final[:2], None, final[2:])]
    return RunRecord(loss, 0, steps=20, max_steps=20, evaluations=evaluations, values=VALUES, finished=True)


@pytest.fixture
def records() -> list[RunRecord]:
    return [run("hungarian", [80.0, 4.0, 3.0]), run("influencer", [90.0, 2.0, 1.0])]


def test_the_table_shows_all_values_of_the_task(records: list[RunRecord]) -> None:
    comparison = summarise(records, ["hungarian", "influencer"])
    header = table_header(comparison.values)
    assert header[2:8] == (
        "Efficiency",
        "Fake rate",
        "Duplicate rate",
        "Δ efficiency (paired)",
        "Seeds ahead",
        "Steps to baseline's efficiency",
    )
    rows = table_rows(comparison, [("influencer", 1)])
    assert rows[1][:6] == ("Influencer Loss", "1 (1 failed)", "90.0", "2.0", "1.0", "+10.0")
    assert {len(row) for row in rows} == {len(header)}
    empty = table_rows(summarise(records[:1], ["hungarian", "influencer"]))
    assert len(empty[1]) == len(header)


def test_the_headline_speaks_of_efficiency(records: list[RunRecord]) -> None:
    assert headline(summarise(records, ["hungarian", "influencer"])) == [
        "With the one seed trained, the Influencer Loss ends 10.0 points of efficiency above Hungarian matching: 90.0 "
        "against 80.0; it reaches the baseline's final efficiency after 89 % of the steps and 89 % of the training "
        "time."
    ]


def test_every_value_has_a_curve_with_its_text(records: list[RunRecord]) -> None:
    figures = curve_figures(records, ["hungarian", "influencer"], LIGHT)
    assert list(figures) == [
        "efficiency_per_step",
        "efficiency_per_second",
        "fake_rate_per_step",
        "duplicate_rate_per_step",
    ]
    assert figures.keys() <= curve_texts(VALUES).keys()
    assert curve_texts(VALUES)["fake_rate_per_step"] == "Fake rate, % against training steps"


class InThisProcess:
    """Does the runs of a comparison one after the other."""

    def __call__(self, job: Job) -> str | None:
        fit(job.options, [RunRecorder(job.loss, job.seed, job.digest)])
        return None

    def stop(self) -> None:
        raise AssertionError("no run is in progress")


def test_compare_on_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_trainer: Callable[..., str]) -> None:
    monkeypatch.setattr(report, "curve_figures", lambda *_: {"efficiency_per_step": b"PNG"})
    config, out = tmp_path / "base.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(root=tmp_path / "generated") + quiet_trainer(1))
    assert compare(["--config", str(config), "--out", str(out), "--max-steps", "2"], InThisProcess()) == 0
    records = [RunRecord.from_dict(record) for record in json.loads((out / "records.json").read_text())]
    assert [record.loss for record in records] == ["hungarian", "influencer"]
    assert records[0].init_checksum == records[1].init_checksum
    assert records[0].batch_checksum == records[1].batch_checksum
    assert records[0].values[0] == "efficiency"
    assert "| Efficiency | " in (out / "table.md").read_text()
    html = (out / REPORT_FILE).read_text()
    assert "1 of 1 validation events" in html
    assert html.count('alt="Hungarian matching, event') == 1
