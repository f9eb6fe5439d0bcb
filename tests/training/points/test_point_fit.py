"""`fit` and `validate` on point clouds, by the same command as on images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from influencerformer.errors import UserError
from influencerformer.training.checkpoints import read_checkpoint
from influencerformer.training.cli import FitCLI, fit, main, validate
from influencerformer.training.point_module import PointSegmenter
from influencerformer.training.tasks import load_segmenter, named_task

FILES = ("last.ckpt", "best.ckpt", "metrics.csv", "config.yaml")


def test_a_run_leaves_its_files_and_metrics(finished_points: FitCLI) -> None:
    for name in FILES:
        assert (finished_points.out_dir / name).is_file()
    metrics = finished_points.trainer.callback_metrics
    assert {"val/AP", "val/AP50", "val/AP25", "val/loss", "train/loss", "train/claim_mask"} <= metrics.keys()
    assert all(torch.isfinite(value) for name, value in metrics.items() if "loss" in name)


def test_the_checkpoint_knows_its_task_and_classes(finished_points: FitCLI) -> None:
    checkpoint = finished_points.out_dir / "last.ckpt"
    assert read_checkpoint(checkpoint)["task"] == "points"
    segmenter = load_segmenter(checkpoint)
    assert isinstance(segmenter, PointSegmenter)
    assert [category["name"] for category in segmenter.categories][:3] == ["ceiling", "floor", "wall"]
    for name, value in finished_points.model.state_dict().items():
        assert torch.equal(segmenter.state_dict()[name], value)


class InterruptAt(Callback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    step: int, finished_points: FitCLI, rooms_config: Path, tmp_path: Path
) -> None:
    options = ["--config", str(rooms_config), "--out_dir", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt):
        fit(options, [InterruptAt(step)])
    resumed = fit([*options, "--resume"])
    assert resumed.trainer.global_step == 4
    for name, value in finished_points.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_both_losses_start_from_the_same_weights(rooms_config: Path, tmp_path: Path) -> None:
    weights = []
    for loss in ("influencer", "hungarian"):
        run = fit(
            [
                f"--config={rooms_config}",
                f"--out_dir={tmp_path / loss}",
                f"--model.loss={loss}",
                "--trainer.max_steps=1",
                "--model.learning_rate=1e-12",
                "--trainer.limit_val_batches=0",
            ]
        )
        weights.append(dict(run.model.named_parameters()))
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=0)


def test_validate_repeats_the_last_validation(finished_points: FitCLI) -> None:
    found = validate(["--checkpoint", str(finished_points.out_dir / "last.ckpt")])
    assert found["val/AP"] == pytest.approx(float(finished_points.trainer.callback_metrics["val/AP"]))
    assert "val/AP25" in found


def test_help_for_points_names_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--task", "points", "--help"])
    out = capsys.readouterr().out
    assert "--data.voxel_size" in out
    assert "--model.voxel_size" in out
    assert "--data.scenes_size" not in out


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="image, points, tracks, got 'video'"):
        named_task(["--task", "video"])


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--model.loss=stock", "influencer or hungarian"),
        ("--model.architecture=point-huge", "point-huge"),
        ("--model.loss_options={bogus: 1}", "bogus"),
        ("--data.crop_size=-1", "crop_size"),
        ("--data.format=las", "format"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    rooms_config: Path, tmp_path: Path, option: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(rooms_config), "--out_dir", str(tmp_path / "run"), option])
    assert ended.value.code == 2
    assert word in capsys.readouterr().err
