"""A run on two small rooms that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from influencerformer.training.cli import FitCLI, fit

CONFIG = """\
task: points
data:
  format: rooms
  root: {root}
  rooms_train: 4
  rooms_val: 2
  rooms_width: [2.5, 2.7]
  rooms_density: 60.0
  max_points: 1500
  batch_size: 2
model:
  architecture: point-tiny
  num_queries: 12
  voxel_size: 0.2
  learning_rate: 1.0e-3
"""


@pytest.fixture(scope="session")
def rooms_config(tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., str]) -> Path:
    """rooms/base.yaml: 4 steps of two rooms, validation after every second."""
    folder = tmp_path_factory.mktemp("point_configs") / "rooms"
    folder.mkdir()
    (folder / "base.yaml").write_text(CONFIG.format(root=tmp_path_factory.mktemp("rooms")) + quiet_trainer(2, 4))
    return folder / "base.yaml"


@pytest.fixture(scope="session")
def finished_points(rooms_config: Path, tmp_path_factory: pytest.TempPathFactory) -> FitCLI:
    """A run of 4 steps, never interrupted."""
    out = tmp_path_factory.mktemp("point_runs") / "finished"
    return fit(["--config", str(rooms_config), "--out_dir", str(out)])
