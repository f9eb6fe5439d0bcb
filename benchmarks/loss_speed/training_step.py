"""A whole training step of the tiny Mask2Former of configs/scenes/base.yaml: forward, criterion, backward, AdamW."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from loss_speed.contenders import BASELINE, OURS, TRANSFORMERS

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "scenes" / "base.yaml"
TITLE = "training step of a tiny Mask2Former"


def training_steps(device: str) -> dict[str, Callable[[], None]]:
    """A step on one batch of drawn scenes with our criterion, our baseline, and transformers' own as it stands."""
    from influencerformer.data.datamodule import InstanceDataModule
    from influencerformer.models import build_model, use_hungarian_loss, use_influencer_loss
    from influencerformer.training.optimization import parameter_groups

    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    options = config["model"]
    with tempfile.TemporaryDirectory() as root:
        few = {"scenes_train": config["data"]["batch_size"], "scenes_val": 1, "root": root}
        data = InstanceDataModule(**{**config["data"], **few})
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        classes = data.num_classes
    inputs: dict[str, Any] = {name: batch[name].to(device) for name in ("pixel_values", "pixel_mask")}
    inputs["class_labels"] = [labels.to(device) for labels in batch["class_labels"]]
    maps = [labels.to(device) for labels in batch["mask_labels"]]
    full = [_masks(labels, len(c)) for labels, c in zip(maps, inputs["class_labels"], strict=True)]
    steps = {}
    swaps: dict[str, tuple[Callable[[Any], Any], list[Tensor]]] = {
        OURS: (use_influencer_loss, maps),
        BASELINE: (use_hungarian_loss, maps),
        TRANSFORMERS: (lambda model: model, full),
    }
    for name, (swap, truth) in swaps.items():
        torch.manual_seed(config["seed_everything"])
        model = build_model(options["architecture"], num_classes=classes, num_queries=options["num_queries"])
        model = swap(model).to(device).train()
        groups = parameter_groups(
            model, options["learning_rate"], options["weight_decay"], options["backbone_lr_multiplier"]
        )
        optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"])
        clip = config["trainer"]["gradient_clip_val"]
        steps[name] = partial(_step, model, optimizer, clip, {**inputs, "mask_labels": truth})
    return steps


def _masks(labels: Tensor, count: int) -> Tensor:
    """(K, H, W) float32, as transformers' own criterion takes them."""
    if labels.ndim == 3:
        return (labels > 0).float()
    return (labels == torch.arange(1, count + 1, device=labels.device)[:, None, None]).float()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, clip: float, inputs: dict[str, Any]) -> None:
    optimizer.zero_grad()
    model(**inputs).loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
