"""Which parameters learn how fast, and how the learning rate runs: Mask2Former's recipe."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

Schedule = Literal["constant", "cosine", "multistep"]
BACKBONE_NAMES = ("backbone.", "pixel_level_module.encoder.")
MILESTONES = (0.9, 0.95)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, backbone_lr_multiplier: float
) -> list[dict[str, Any]]:
    """AdamW groups: backbone or not, decayed or not.

    Weight decay acts on the weights of linear layers, convolutions and attention only: not on biases,
    normalisation layers, embeddings, position tables or other one-dimensional parameters.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        no_decay = isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            in_backbone = any(part in f"{module_name}.{name}" for part in BACKBONE_NAMES)
            decayed = parameter.ndim > 1 and name.endswith("weight") and not no_decay
            group = groups.setdefault(
                (in_backbone, decayed),
                {
                    "params": [],
                    "lr": learning_rate * (backbone_lr_multiplier if in_backbone else 1.0),
                    "weight_decay": weight_decay if decayed else 0.0,
                    "name": ("backbone" if in_backbone else "head") + ("" if decayed else "-no-decay"),
                },
            )
            group["params"].append(parameter)
    return list(groups.values())


def learning_rate_factor(step: int, total_steps: float, warmup_steps: int, schedule: Schedule) -> float:
    """The factor on the learning rate at optimiser step `step` (0 first) of `total_steps`.

    After a linear warm-up: constant; cosine to 0 at the end; or multistep, times 0.1 at 90 % and again at
    95 % of the steps, which is Mask2Former's published schedule on COCO.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "multistep":
        return 0.1 ** sum(step >= round(milestone * total_steps) for milestone in MILESTONES)
    done = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
    return 0.5 * (1.0 + math.cos(math.pi * done))


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        fraction: of the run that is done, 0 to 1.
        total_steps: its length in optimiser steps.
    """

    fraction: float
    total_steps: int


def follow_new_length(trainer: Trainer, before: Progress) -> None:
    """Sets the learning rate of the next step by the length that a resumed run now has, and says what changes."""
    rates = []
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        groups, step = scheduler.optimizer.param_groups, scheduler.last_epoch
        for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            rates.append((group["lr"], base * factor(step)))
            group["lr"] = rates[-1][1]
    old, new = max(rates)
    rank_zero_info(
        f"this run was planned for {before.total_steps} steps and now has {trainer.estimated_stepping_batches}: after "
        f"step {trainer.global_step} the learning rate follows the new length ({old:.3g} becomes {new:.3g}); the "
        "temperature of the loss never rises again: it stays until the new length has come as far"
    )
