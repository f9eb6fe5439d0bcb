"""Runs that are killed at any moment and resumed: bit for bit those that never were."""

from __future__ import annotations

import csv
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from killed_runs import finish, kill, lines

ROOMS = """\
task: points
data:
  format: rooms
  root: {root}
  rooms_train: 4
  rooms_val: 1
  rooms_width: [2.5, 2.7]
  rooms_density: 60.0
  max_points: 1500
  batch_size: 1
model:
  architecture: point-tiny
  num_queries: 12
  voxel_size: 0.2
  learning_rate: 1.0e-3
"""
SHARED = ("--save_every_minutes=0", "--model.loss_options={num_points: 60}", "--data.num_workers=2")
"""Random cells, so that the state of the generators counts; accumulation that does not divide an epoch's batches."""


@pytest.fixture(scope="module")
def arguments(
    tiny_config: Path, tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., str]
) -> dict[str, list[str]]:
    rooms = tmp_path_factory.mktemp("killed") / "rooms.yaml"
    rooms.write_text(ROOMS.format(root=tmp_path_factory.mktemp("rooms")) + quiet_trainer(3))
    images = [f"--config={tiny_config}", "--data.batch_size=2", "--trainer.accumulate_grad_batches=3"]
    points = [f"--config={rooms}", "--trainer.accumulate_grad_batches=3"]
    return {
        "image": [*images, "--trainer.max_steps=4", *SHARED],
        "points": [*points, "--trainer.max_steps=3", *SHARED],
    }


def rows(out_dir: Path) -> list[dict[str, str]]:
    with (out_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", ["image", "points"])
def test_a_killed_run_goes_on_as_if_it_never_was(task: str, arguments: dict[str, list[str]], tmp_path: Path) -> None:
    rng = random.Random(f"{task} 1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(arguments[task], whole)
    assert kill(arguments[task], killed, rng.randrange(3, 6), rng) == -signal.SIGKILL
    finish(arguments[task], killed)
    assert set(lines(killed)) == set(lines(whole))
    assert rows(killed) == rows(whole)
    states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, killed)]
    assert states[0]["global_step"] == states[1]["global_step"]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name
    assert not list(killed.glob("*.tmp"))
