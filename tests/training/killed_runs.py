"""Runs of `fit` in processes that can be killed, and what they tell of every batch."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from influencerformer.training.cli import fit

BATCHES = "batches.txt"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [__name__, "influencerformer.models.build", "torch.utils.tensorboard", "faster_coco_eval", "torch._dynamo"]
)


class Tell(Callback):
    """Writes a line for each training batch: its number, samples, loss, temperature and learning rate."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"]).hex() if "loss" in outputs else "left out"
        values = batch.get("pixel_values", batch.get("coordinates"))
        content = sum(float(value.double().sum()) for value in values).hex()
        temperature = pl_module.model.criterion.loss.temperature
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        with self.path.open("a") as file:
            file.write(f"{number} {'+'.join(batch['names'])} {content} {loss} {temperature} {rate}\n")


def _run(arguments: list[str], out_dir: Path) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as where `fit` is a command on Linux
    log = (out_dir.parent / f"{out_dir.name}.log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    fit([*arguments, f"--out_dir={out_dir}", "--resume"], [Tell(out_dir / BATCHES)])


def start(arguments: Sequence[str], out_dir: Path) -> BaseProcess:
    """`fit` in a process of its own, which goes on where the last one in that folder was."""
    out_dir.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))
    process = _CONTEXT.Process(target=_run, args=(list(arguments), out_dir))
    process.start()
    sys.path.pop(0)
    return process


def finish(arguments: Sequence[str], out_dir: Path) -> None:
    """Runs to the end."""
    process = start(arguments, out_dir)
    process.join()
    assert process.exitcode == 0, (out_dir.parent / f"{out_dir.name}.log").read_text()[-3000:]


def kill(arguments: Sequence[str], out_dir: Path, after: int, rng: random.Random, number: int = signal.SIGKILL) -> int:
    """Ends a run by a signal at a random moment after it made some batches; returns its exit code."""
    before = len(lines(out_dir))
    process = start(arguments, out_dir)
    while len(lines(out_dir)) < before + after and process.is_alive():
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.15))
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, number)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def lines(out_dir: Path) -> list[str]:
    """What the runs in a folder told of their batches; a line that a kill cut off is left out."""
    path = out_dir / BATCHES
    return [one for one in path.read_text().splitlines(keepends=True) if one.endswith("\n")] if path.is_file() else []
