"""One start of two processes that several tests look at."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rank_cases import Ranks

CONFIG = """\
data:
  format: scenes
  root: {root}
  scenes_train: 16
  scenes_val: 3
  scenes_size: 32
  crop_size: 32
  batch_size: 4
  eval_batch_size: 1
model:
  architecture: mask2former-tiny
  num_queries: 10
  learning_rate: 1.0e-3
"""


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., str]) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(root=tmp_path_factory.mktemp("scenes")) + quiet_trainer(3))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    script = Path(__file__).with_name("ranks.py")
    done = subprocess.run(
        [*launcher, "--master_addr=127.0.0.1", str(script), str(config), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    return Ranks(config, folder, found, done.stdout)
