"""Reduced OneFormer3D configs: files that inherit from the real ones and train in minutes on one core."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

from mmengine.config import Config

BASES = {"s3dis": "oneformer3d_1xb2_s3dis-area-5.py", "scannet": "oneformer3d_1xb4_scannet.py"}
CHANNELS = 16
# Metres; one of the real configs' transforms has the real voxel size in it, which is why it is left out here.
VOXEL = 0.1


def config_text(
    root: Path,
    dataset: str,
    options: dict[str, Any] | None,
    seed: int,
    epochs: int,
    validations: int,
    learning_rate: float,
    batch: int,
) -> str:
    """The text of one run's config. Both criteria's texts differ in the criterion's block and its import alone.

    Args:
        root: checkout of OneFormer3D.
        dataset: "s3dis" or "scannet".
        options: for InfluencerCriterion, merged into the original's keywords; None for the original criterion.
        seed: of weights, order and augmentation.
        epochs, validations: length of the run, and how many times it validates, the last at its end.
        learning_rate, batch: of AdamW, and rooms in a step.
    """
    base = root / "configs" / BASES[dataset]
    settings = _s3dis() if dataset == "s3dis" else _scannet(Config.fromfile(base, import_custom_modules=False))
    if options is not None:
        settings["custom_imports"] = {"imports": ["oneformer3d", "influencerformer"]}
        settings["model"]["criterion"] = {"inst_criterion": {"type": "InfluencerCriterion", **options}}
    loader = {"num_workers": 0, "persistent_workers": False}
    settings["train_dataloader"] = {**loader, "batch_size": batch, **settings.get("train_dataloader", {})}
    settings["val_dataloader"] = {**loader, **settings.get("val_dataloader", {})}
    settings["test_dataloader"] = settings["val_dataloader"]
    settings |= {
        "load_from": None,
        "randomness": {"seed": seed},
        "optim_wrapper": {"optimizer": {"lr": learning_rate}},
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 20},
            {"type": "PolyLR", "power": 0.9, "begin": 0, "end": epochs, "convert_to_iter_based": True},
        ],
        "train_cfg": {
            "_delete_": True,
            "type": "EpochBasedTrainLoop",
            "max_epochs": epochs,
            "val_interval": max(1, -(-epochs // validations)),
        },
        "default_hooks": {
            "checkpoint": {"_delete_": True, "type": "CheckpointHook", "interval": -1, "save_optimizer": False},
            "logger": {"interval": 4},
        },
        "log_processor": {"window_size": 4},
    }
    lines = [f"{name} = {pprint.pformat(value, width=110, sort_dicts=False)}" for name, value in settings.items()]
    return "\n".join([f"_base_ = [{str(base)!r}]", *lines]) + "\n"


def _model(layers: int, in_channels: int) -> dict[str, Any]:
    return {
        "num_channels": CHANNELS,
        "voxel_size": VOXEL,
        "min_spatial_shape": 32,
        "backbone": {"num_planes": [CHANNELS * (level + 1) for level in range(4)], "block_reps": 1},
        "decoder": {
            "num_layers": layers,
            "in_channels": in_channels,
            "d_model": 64,
            "num_heads": 4,
            "hidden_dim": 128,
        },
    }


def _s3dis() -> dict[str, Any]:
    model = _model(3, CHANNELS)
    model["decoder"]["num_instance_queries"] = 60
    model["test_cfg"] = {"topk_insts": 80, "npoint_thr": 30}
    return {"model": model}


def _scannet(base: Config) -> dict[str, Any]:
    model = _model(3, CHANNELS)
    model["test_cfg"] = {"topk_insts": 80, "npoint_thr": 30}
    pipeline = [step.to_dict() for step in base.train_pipeline if step["type"] != "ElasticTransfrom"]
    return {"model": model, "train_dataloader": {"dataset": {"pipeline": pipeline}}}
