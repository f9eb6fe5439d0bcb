"""Odd arguments of every command: an exit code and at most one sentence of the command's own, never a trace."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fuzz_cases import cases, no_hang
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.training import compare
from influencerformer.training.cli import main
from influencerformer.training.module import InstanceSegmenter
from influencerformer.training.point_module import PointSegmenter

ODD = (
    *("-1", "0", "1", "3", "0.5", "-0.25", "1e3", "1e400", "nan", "inf", "2147483648", "99999999999999999999"),
    *("null", "true", "no", "[]", "[1, 2]", "[1.5, 0.5]", "[a, b]", "{}", "{a: 1}", "{1: [2]}", "[", "{", "'", "&a *a"),
    *(
        "",
        " ",
        "\u2028",
        "ä",
        "x" * 300,
        "--",
        "-",
        "=",
        "..",
        "/dev/null",
        "/absent/folder",
        "a\nb",
        "\udcff",
        "%s{0}",
    ),
    *("!!python/object/apply:os.system [x]", "cuda", "cpu", "coco", "label_map", "train.txt", "https://example.org/a"),
)
# What asks for more work, processes or memory than a test may spend, where it is as odd as this.
COSTLY = {"data.scenes_train", "data.scenes_val", "data.scenes_size", "data.num_workers", "trainer.devices"}
COSTLY |= {"data.rooms_train", "data.rooms_val", "data.rooms_density", "data.rooms_width", "trainer.num_nodes"}
TRAINER = ("max_steps", "max_epochs", "precision", "accelerator", "devices", "strategy", "val_check_interval")
TRAINER += ("gradient_clip_val", "accumulate_grad_batches", "log_every_n_steps", "limit_train_batches", "max_time")
CONFIG = """\
data:
  format: label_map
  root: {root}
  crop_size: 16
  batch_size: 2
model:
  architecture: mask2former-tiny
  num_queries: 3
trainer:
  accelerator: cpu
  max_steps: 2
  num_sanity_val_steps: 0
"""
POINTS = """\
task: points
data:
  root: {root}
  rooms_train: 2
  rooms_val: 1
  rooms_width: [2.5, 2.6]
  rooms_density: 8.0
model:
  num_queries: 3
trainer:
  accelerator: cpu
  max_steps: 2
"""


def options_of(section: str, of: type) -> list[str]:
    return [f"{section}.{name}" for name in inspect.signature(of).parameters if f"{section}.{name}" not in COSTLY]


IMAGE_OPTIONS = ["seed_everything", "out_dir", "config", "task", *(f"trainer.{name}" for name in TRAINER)]
POINT_OPTIONS = [*options_of("data", PointDataModule), *options_of("model", PointSegmenter)]
IMAGE_OPTIONS += [*options_of("data", InstanceDataModule), *options_of("model", InstanceSegmenter)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data, configurations and a checkpoint, which is also the working directory."""
    folder = tmp_path_factory.mktemp("place")
    data = folder / "data"
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    labels = np.zeros((16, 16), np.uint8)
    labels[:8, :8] = 1
    for name in "abc":
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(data / "images" / f"{name}.png")
        Image.fromarray(labels).save(data / "labels" / f"{name}.png")
    (data / "train.txt").write_text("a\nb\n")
    (data / "val.txt").write_text("c\n")
    (folder / "image.yaml").write_text(CONFIG.format(root=data))
    (folder / "points.yaml").write_text(POINTS.format(root=folder / "rooms"))
    model = InstanceSegmenter(num_queries=3)
    checkpoint = {"task": "image", "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    checkpoint |= {"categories": model.categories, "image_options": model.image_options}
    checkpoint |= {"pytorch-lightning_version": pl.__version__}
    torch.save(checkpoint, folder / "best.ckpt")
    (folder / "broken.ckpt").write_bytes((folder / "best.ckpt").read_bytes()[:1000])
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(pl.Trainer, "fit", _one_batch)
        patch.setattr(pl.Trainer, "validate", lambda self, model, data, **_: _one_batch(self, model, data) or [{}])
        patch.setattr(compare, "run_jobs", lambda *_: {})
        patch.setattr(compare, "finish", lambda *_: 0)
        yield folder
    os.chdir(before)


def _one_batch(trainer: pl.Trainer, model: Any, datamodule: Any, **_: object) -> None:
    """What a run does before its first step."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    next(iter(datamodule.train_dataloader()))
    next(iter(datamodule.val_dataloader()))


def ends_well(arguments: list[str]) -> None:
    """Runs a command; its exit code and what it says on the error stream must be right."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        no_hang(),
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments)
    err.seek(0)
    said = err.read()
    code = ended.value.code or 0
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    if code == 2:
        command = arguments[0].encode(errors="backslashreplace").decode()
        assert said.splitlines()[-1].startswith(" ".join(f"influencerformer {command}:".split())), said
    for run in ("o", "runs", "0", "1", "3"):
        shutil.rmtree(run, ignore_errors=True)


@st.composite
def with_options(draw: st.DrawFn, names: list[str], most: int = 3) -> list[str]:
    """Up to `most` options with odd values, some of them said twice, cut short or without a value."""
    arguments = []
    for _ in range(draw(st.integers(1, most))):
        name, value = draw(st.sampled_from(names)), draw(st.sampled_from(ODD))
        form = draw(st.sampled_from(["two", "two", "one", "bare", "cut"]))
        if form == "two":
            arguments += [f"--{name}", value]
        elif form == "one":
            arguments.append(f"--{name}={value}")
        else:
            arguments.append(f"--{name}" if form == "bare" else f"--{name[:-1]}")
    return arguments


@cases(6, 1200)
@given(options=with_options(IMAGE_OPTIONS))
def test_fit(place: Path, options: list[str]) -> None:
    ends_well(["fit", "--config", "image.yaml", "--out_dir", "o", *options])


@cases(4, 600)
@given(options=with_options(POINT_OPTIONS))
def test_fit_of_points(place: Path, options: list[str]) -> None:
    ends_well(["fit", "--config", "points.yaml", "--out_dir", "o", *options])


@cases(4, 400)
@given(options=with_options(["checkpoint", *IMAGE_OPTIONS]))
def test_validate(place: Path, options: list[str]) -> None:
    ends_well(["validate", "--checkpoint", "best.ckpt", "--config", "image.yaml", *options])


PREDICT = ["checkpoint", "images", "points", "out", "score-threshold", "max-size", "device", "config", "rooms"]


@cases(12, 800)
@given(options=with_options(PREDICT), checkpoint=st.sampled_from(["best.ckpt", "broken.ckpt", "image.yaml"]))
def test_predict(place: Path, options: list[str], checkpoint: str) -> None:
    ends_well(["predict", "--checkpoint", checkpoint, "--images", "data/images", "--out", "o", *options])


COMPARE = ["config", "out", "seeds", "losses", "jobs", "max-steps", "set", "report-only"]


@cases(25, 1500)
@given(options=with_options(COMPARE, 4))
def test_compare(place: Path, options: list[str]) -> None:
    ends_well(["compare", "--config", "image.yaml", "--out", "o", *options])


CHECK = ["format", "config", "json", *options_of("data", InstanceDataModule)]


@cases(25, 1500)
@given(
    options=with_options(CHECK),
    data=st.sampled_from(
        ["label_map:data", "data", "coco:data", "s3dis:data", "scenes:.", "x:y", "", ":", "trackml:.."]
    ),
)
def test_check(place: Path, options: list[str], data: str) -> None:
    few = ["--data.scenes_train=2", "--data.scenes_val=1", "--data.scenes_size=16"] if data.startswith("scenes") else []
    ends_well(["check", data, *options, *few])


@cases(12, 300)
@given(arguments=st.lists(st.sampled_from([*ODD, "--help", "fit", "check", "--version", "help"]), max_size=3))
def test_commands(place: Path, arguments: list[str]) -> None:
    if arguments[:1] not in (["fit"], ["check"]) or arguments[1:2] not in ([], ["--help"]):
        ends_well(arguments or ["--help"])
