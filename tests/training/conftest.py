"""A configuration small enough to train in a second, and one run of it that several tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from influencerformer.training.cli import FitCLI, fit

CONFIG = """\
data:
  format: scenes
  root: {root}
  scenes_train: 16
  scenes_val: 3
  scenes_size: 32
  crop_size: 32
  batch_size: 4
  eval_batch_size: 2
model:
  architecture: mask2former-tiny
  num_queries: 6
  learning_rate: 1.0e-3
  schedule: cosine
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., str]) -> Path:
    """tiny/influencer.yaml on top of tiny/base.yaml: 6 steps, 4 an epoch, validation after every third."""
    folder = tmp_path_factory.mktemp("configs") / "tiny"
    folder.mkdir()
    (folder / "base.yaml").write_text(CONFIG.format(root=tmp_path_factory.mktemp("scenes")) + quiet_trainer(3, 6))
    (folder / "influencer.yaml").write_text("base: base.yaml\nmodel:\n  loss: influencer\n")
    return folder / "influencer.yaml"


@pytest.fixture(scope="session")
def train(tiny_config: Path) -> Callable[..., FitCLI]:
    """train(out_dir, *options, callbacks=...) runs `fit` with the tiny configuration."""

    def run(out_dir: Path, *options: str, callbacks: tuple = ()) -> FitCLI:
        return fit(["--config", str(tiny_config), "--out_dir", str(out_dir), *options], callbacks)

    return run


@pytest.fixture(scope="session")
def finished(train: Callable[..., FitCLI], tmp_path_factory: pytest.TempPathFactory) -> FitCLI:
    """A run of 6 steps, never interrupted."""
    return train(tmp_path_factory.mktemp("runs") / "finished")
