"""`fit`, `validate` and `predict` on particle tracks, by the same commands as on images."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from influencerformer.data.tracks.datamodule import TrackDataModule
from influencerformer.errors import UserError
from influencerformer.metrics.tracks import TrackMetrics
from influencerformer.training.checkpoints import read_checkpoint
from influencerformer.training.cli import FitCLI, fit, main, validate
from influencerformer.training.config_files import build_data
from influencerformer.training.record import RunRecorder
from influencerformer.training.tasks import load_segmenter
from influencerformer.training.track_module import TrackSegmenter
from influencerformer.training.track_predict import TrackPredictor, validation_events

CONFIG = """\
task: tracks
data:
  format: generated
  root: {root}
  num_particles: 6
  train_events: 4
  val_events: 2
  cuts:
    min_hits: 4
  batch_size: 2
model:
  width: 16
  layers: 1
  heads: 2
  window: 16
  num_queries: 12
  decoder_layers: 1
  embedding_dim: 3
"""
VALUES = {"val/efficiency", "val/fake_rate", "val/duplicate_rate", "val/purity", "val/trackml_score", "val/loss"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., str]) -> Path:
    path = tmp_path_factory.mktemp("tracks") / "base.yaml"
    path.write_text(CONFIG.format(root=tmp_path_factory.mktemp("generated")) + quiet_trainer(2, 4))
    return path


@pytest.fixture(scope="module")
def condensation(config: Path, tmp_path_factory: pytest.TempPathFactory) -> FitCLI:
    out = tmp_path_factory.mktemp("track_runs") / "condensation"
    return fit(["--config", str(config), "--model.architecture=condensation", f"--out_dir={out}"], [RunRecorder()])


@pytest.fixture(scope="module")
def mask(config: Path, tmp_path_factory: pytest.TempPathFactory) -> FitCLI:
    out = tmp_path_factory.mktemp("track_runs") / "mask"
    return fit(["--config", str(config), "--model.architecture=mask", f"--out_dir={out}"])


@pytest.fixture(params=["condensation", "mask"])
def run(request: pytest.FixtureRequest) -> FitCLI:
    return request.getfixturevalue(request.param)


def predict(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_run_leaves_its_files_and_values(run: FitCLI) -> None:
    for name in ("last.ckpt", "best.ckpt", "metrics.csv", "config.yaml"):
        assert (run.out_dir / name).is_file()
    metrics = run.trainer.callback_metrics
    assert VALUES | {"train/loss"} <= metrics.keys()
    assert "val/AP" not in metrics


def test_the_best_checkpoint_is_that_of_the_efficiency(run: FitCLI) -> None:
    best = [c for c in run.trainer.checkpoint_callbacks if getattr(c, "monitor", None)]
    assert [c.monitor for c in best] == ["val/efficiency"]  # type: ignore[attr-defined]


def test_a_checkpoint_gives_the_model_back_with_its_radius(run: FitCLI) -> None:
    checkpoint = run.out_dir / "last.ckpt"
    assert read_checkpoint(checkpoint)["task"] == "tracks"
    segmenter = load_segmenter(checkpoint)
    assert isinstance(segmenter, TrackSegmenter)
    assert segmenter.state_dict().keys() == run.model.state_dict().keys()
    for name, value in run.model.state_dict().items():
        assert torch.equal(segmenter.state_dict()[name], value)


def test_validate_repeats_the_last_validation_at_the_radius_of_the_checkpoint(run: FitCLI) -> None:
    found = validate(["--checkpoint", str(run.out_dir / "last.ckpt")])
    assert found.keys() == VALUES
    for name in VALUES:
        assert found[name] == pytest.approx(float(run.trainer.callback_metrics[name]), abs=1e-4)


def test_the_radius_is_the_best_on_the_validation_events(condensation: FitCLI) -> None:
    segmenter = load_segmenter(condensation.out_dir / "last.ckpt")
    assert isinstance(segmenter, TrackSegmenter)
    chosen, found = float(segmenter.model.radius), {}  # type: ignore[arg-type]
    for radius in segmenter.model.radii:  # type: ignore[union-attr]
        segmenter.model.radius.fill_(radius)  # type: ignore[operator, union-attr]
        metrics = TrackMetrics()
        for event in validation_events(condensation.out_dir / "last.ckpt", None):
            metrics.update(event.name, TrackPredictor(segmenter)(event), event)
        values = metrics.compute()
        total = values["efficiency"] + values["precision"]
        found[radius] = 2 * values["efficiency"] * values["precision"] / total if total else 0.0
    best = next(value for radius, value in found.items() if radius == pytest.approx(chosen))
    assert best == max(found.values())


def test_the_record_has_the_values_of_tracks(condensation: FitCLI) -> None:
    callbacks = condensation.trainer.callbacks  # type: ignore[attr-defined]
    record = next(c.record for c in callbacks if isinstance(c, RunRecorder))
    assert record.values == ["efficiency", "fake_rate", "duplicate_rate", "purity", "trackml_score"]
    last, metrics = record.evaluations[-1], condensation.trainer.callback_metrics
    found = [last.ap, last.ap50, *last.others]
    assert found == pytest.approx([float(metrics[f"val/{name}"]) for name in record.values])
    assert record.batch_checksum


def test_validation_events_are_those_of_the_configuration(condensation: FitCLI, config: Path, tmp_path: Path) -> None:
    events = validation_events(condensation.out_dir / "last.ckpt", None)
    assert len(events) == 2
    assert events.cuts.min_hits == 4
    assert [e.name for e in validation_events(tmp_path / "elsewhere.ckpt", config)] == [e.name for e in events]


def test_predicted_files_are_the_tracks_of_each_hit(condensation: FitCLI, tmp_path: Path) -> None:
    checkpoint, out = condensation.out_dir / "best.ckpt", tmp_path / "out"
    assert predict("--checkpoint", checkpoint, "--out", out, "--max-events", 1) == 0
    event = validation_events(checkpoint, None)[0]
    segmenter = load_segmenter(checkpoint)
    assert isinstance(segmenter, TrackSegmenter)
    expected = torch.stack([event.hit_ids, TrackPredictor(segmenter)(event)], 1)
    lines = (out / f"{event.name}.csv").read_text().splitlines()
    assert lines[0] == "hit_id,track_id"
    assert np.array_equal(np.loadtxt(lines[1:], delimiter=",", dtype=int), expected.numpy())
    page = (out / "tracks.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "efficiency" in page
    assert "://" not in page, "pages load nothing from elsewhere"


def test_events_without_truth_and_broken_ones(mask: FitCLI, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = validation_events(mask.out_dir / "last.ckpt", None)
    folder = tmp_path / "events"
    folder.mkdir()
    for kind in ("hits", "cells"):
        for name in known.names:
            shutil.copy(known.root / f"{name}-{kind}.csv", folder)
    broken = folder / f"{known.names[1]}-hits.csv"
    broken.write_text(broken.read_text().replace("hit_id", "hits", 1))
    assert predict("--checkpoint", mask.out_dir / "last.ckpt", "--events", folder, "--out", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "1 of 2 events done" in captured.out
    assert str(broken) in captured.err
    page = (tmp_path / "out/tracks.html").read_text()
    assert "without a truth" in page
    assert page.count("data:image/png;base64,") == 1


def test_predictions_do_not_look_at_the_truth(run: FitCLI) -> None:
    event = validation_events(run.out_dir / "last.ckpt", None)[0]
    segmenter = load_segmenter(run.out_dir / "last.ckpt")
    assert isinstance(segmenter, TrackSegmenter)
    zeros = torch.zeros_like(event.particle_labels)
    blind = dataclasses.replace(
        event,
        particle_labels=zeros,
        particle_ids=zeros,
        weights=torch.zeros_like(event.weights),
        particles=type(event.particles).none(),
        has_truth=False,
    )
    predictor = TrackPredictor(segmenter)
    assert torch.equal(predictor(event), predictor(blind))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.architecture=graph", "architecture"),
        ("--model.loss=stock", "loss must be"),
        ("--model.loss=hungarian", "loss must be influencer for a condensation network, got hungarian"),
        ("--model.heads=3", "width must be a multiple of model.heads, got 16 and 3"),
        ("--model.window=7", "window must be even and positive, got 7"),
        ("--model.num_queries=0", "num_queries must be 1 or more, got 0"),
        ("--model.loss_options={bogus: 1}", "bogus"),
        ("--data.num_particles=0", "particles of 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    config: Path, tmp_path: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(config), "--out_dir", str(tmp_path / "run"), option])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", __file__], "--images does not go with"),
        (["--score-threshold", "0.2"], "--score-threshold does not go with"),
        (["--max-events", "0"], "--max-events must be 1 or more, got 0"),
        (["--events", "absent"], "absent"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_predict_names_what_does_not_fit(
    mask: FitCLI, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--checkpoint", mask.out_dir / "last.ckpt", "--out", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err


def test_data_are_built_from_options_as_fit_does(tmp_path: Path) -> None:
    data = build_data(TrackDataModule, {"num_particles": [3, 5], "cuts": {"min_pt": 0.7}, "root": str(tmp_path)})
    assert data.num_particles == (3, 5)
    assert data.cuts.min_pt == 0.7
    with pytest.raises(UserError, match="bogus"):
        build_data(TrackDataModule, {"bogus": 1})
