"""Mask2Former models by name: a tiny one for a CPU, and the published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModelForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    ResNetConfig,
    SwinConfig,
)

from influencerformer.errors import UserError

STAGES = ["stage1", "stage2", "stage3", "stage4"]
PUBLISHED_BACKBONES = {
    "mask2former-swin-t": "microsoft/swin-tiny-patch4-window7-224",
    "mask2former-r50": "microsoft/resnet-50",
}


def _tiny_resnet() -> ResNetConfig:
    sizes: dict[str, Any] = {
        "embedding_size": 32,
        "hidden_sizes": [32, 48, 64, 96],
        "depths": [1, 1, 1, 1],
        "out_features": STAGES,
    }
    return ResNetConfig(layer_type="basic", **sizes)


def _backbone_config(name: str) -> PreTrainedConfig:
    if name == "mask2former-tiny":
        return _tiny_resnet()
    stages: dict[str, Any] = {"out_features": STAGES}
    if name == "mask2former-swin-t":
        return SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, drop_path_rate=0.3, **stages
        )
    return ResNetConfig(**stages)


def mask2former_config(name: str, num_classes: int, num_queries: int) -> Mask2FormerConfig:
    """The configuration of ``mask2former-tiny``, ``mask2former-swin-t`` or ``mask2former-r50``.

    The tiny one has about 0.6 M parameters: a four-stage residual backbone, one deformable encoder layer and four
    predictions (three decoder layers and the head before them). The others are Mask2Former's published sizes.
    """
    size: dict[str, Any] = {"num_labels": num_classes}
    if name == "mask2former-tiny":
        size |= {
            "feature_size": 64,
            "mask_feature_size": 64,
            "hidden_dim": 64,
            "encoder_feedforward_dim": 256,
            "dim_feedforward": 256,
            "encoder_layers": 1,
            "decoder_layers": 4,
            "num_attention_heads": 4,
            "train_num_points": 2048,
        }
    return Mask2FormerConfig(backbone_config=_backbone_config(name), num_queries=num_queries, **size)


def _load_backbone(model: Mask2FormerForUniversalSegmentation, name: str) -> None:
    source = PUBLISHED_BACKBONES[name]
    try:
        pretrained = AutoBackbone.from_pretrained(source, out_features=STAGES)
    except Exception as error:  # the hub's own errors differ between its versions
        raise UserError(
            f"the pretrained backbone {source} could not be fetched or found in the cache: connect once, "
            "or set pretrained to false to train from scratch"
        ) from error
    model.model.pixel_level_module.encoder.load_state_dict(pretrained.state_dict())


def _from_checkpoint(name: str, num_classes: int, num_queries: int) -> nn.Module:
    try:
        config = AutoConfig.from_pretrained(name)
        config.num_labels = num_classes
        # MaskFormer keeps its queries in the decoder's own configuration
        getattr(config, "decoder_config", config).num_queries = num_queries
        return AutoModelForUniversalSegmentation.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    except Exception as error:  # the hub's own errors differ between its versions
        known = ", ".join(["mask2former-tiny", *PUBLISHED_BACKBONES])
        raise UserError(
            f"'{name}' is neither one of {known} nor a checkpoint of transformers that loads ({error})"
        ) from error


def build_model(name: str, num_classes: int, num_queries: int = 100, pretrained: bool = False) -> nn.Module:
    """A transformers model for instance segmentation, freshly initialised or loaded.

    Args:
        name: ``mask2former-tiny``, ``mask2former-swin-t``, ``mask2former-r50``, or a checkpoint: a folder, or the name
            of a hub repository of any universal segmentation model of transformers (Mask2Former, MaskFormer, EoMT).
        num_classes: C, without no-object.
        num_queries: Q; a checkpoint with another Q gets fresh queries.
        pretrained: load the published ImageNet backbone (named sizes only; needs the network once).

    Raises:
        UserError: an unknown name, or a backbone or checkpoint that cannot be had.
    """
    if name != "mask2former-tiny" and name not in PUBLISHED_BACKBONES:
        if "/" not in name and not Path(name).exists():
            known = ", ".join(["mask2former-tiny", *PUBLISHED_BACKBONES])
            raise UserError(f"unknown architecture '{name}': expected {known}, a checkpoint folder or a hub name")
        return _from_checkpoint(name, num_classes, num_queries)
    if pretrained and name not in PUBLISHED_BACKBONES:
        raise UserError(f"there is no pretrained backbone for '{name}': set pretrained to false")
    model = Mask2FormerForUniversalSegmentation(mask2former_config(name, num_classes, num_queries))
    if pretrained:
        _load_backbone(model, name)
    return model
