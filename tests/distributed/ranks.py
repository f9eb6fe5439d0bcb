"""What two processes do together, started by torchrun: every criterion, then `fit`. Results: rank0.pt and rank1.pt.

torchrun --nproc_per_node 2 ranks.py CONFIG FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn

sys.path.insert(0, str(Path(__file__).parent))

from rank_cases import COUNTS, IMAGES, KINDS, TERMS, gradients

from influencerformer.training.cli import FitCLI, fit

LOSS_OPTIONS = {"masks": "{class_weight: 0.0, temperature: 0.1}", "all": "{temperature: 0.1}"}
FINAL_STEP, SPOILT_STEP, TERMINATED_STEP = 4, 1, 2


class Gradients(Callback):
    """Keeps the gradient of the first optimiser step; layers that look at a whole batch are left out of it."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if not self.first:
            self.first = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}


class Spoil(Callback):
    """Images of NaN in one process, before a step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.names: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == SPOILT_STEP and trainer.global_rank == self.rank:
            batch["pixel_values"].fill_(float("nan"))
            self.names = list(batch["names"])


class TerminateAt(Callback):
    """SIGTERM to one process in the middle of a step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if trainer.global_step == TERMINATED_STEP and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


def one_step(config: str, folder: Path, terms: str, *options: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient of a step on four images, whoever has them, and what is logged."""
    seen = Gradients()
    cli = fit(
        [
            f"--config={config}",
            f"--out_dir={folder}",
            f"--model.loss_options={LOSS_OPTIONS[terms]}",
            "--trainer.max_steps=1",
            "--trainer.val_check_interval=1",
            "--model.learning_rate=1e-12",
            *options,
        ],
        (seen,),
    )
    return seen.first, {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def _whole_run(config: str, folder: Path, *callbacks: Callback, resume: bool = False) -> FitCLI:
    options = [f"--config={config}", f"--out_dir={folder}", f"--trainer.max_steps={FINAL_STEP}", *DISTRIBUTED]
    return fit([*options, "--resume"] if resume else options, callbacks)


DISTRIBUTED = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2")


def main(config: str, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    own = range(rank * IMAGES // size, (rank + 1) * IMAGES // size)
    found: dict[str, Any] = {
        "criteria": {
            (kind, terms, case): gradients(kind, terms, counts, own)
            for kind, terms, (case, counts) in product(KINDS, TERMS, COUNTS.items())
        },
        "fit": {terms: one_step(config, folder / terms, terms, *DISTRIBUTED) for terms in TERMS},
    }
    spoil = Spoil(1)
    whole = _whole_run(config, folder / "whole", spoil)
    found["skipped"] = (whole.model.skipped.total, whole.model.skipped.summary(), spoil.names)
    found["whole"] = whole.model.state_dict()
    try:
        _whole_run(config, folder / "ended", Spoil(1), TerminateAt(1))
    except SystemExit as error:
        found["code"] = error.code
    found["ended_at"] = torch.load(folder / "ended" / "last.ckpt", weights_only=True)["global_step"]
    distributed.barrier()
    found["resumed"] = _whole_run(config, folder / "ended", resume=True).model.state_dict()
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
