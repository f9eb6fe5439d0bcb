"""Tiny transformers models of each kind, built without any network, and a batch for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DetrConfig,
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    PreTrainedModel,
    ResNetConfig,
)

NUM_CLASSES = 3
NUM_QUERIES = 5
SIZE = 64
KINDS = ["mask2former", "maskformer", "eomt"]


def _backbone() -> ResNetConfig:
    sizes: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return ResNetConfig(layer_type="basic", **sizes)


def tiny_model(kind: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    if kind == "mask2former":
        return Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(
                **{
                    "backbone_config": _backbone(),
                    "num_labels": NUM_CLASSES,
                    "num_queries": NUM_QUERIES,
                    "feature_size": 32,
                    "mask_feature_size": 32,
                    "hidden_dim": 32,
                    "encoder_feedforward_dim": 32,
                    "dim_feedforward": 32,
                    "encoder_layers": 1,
                    "decoder_layers": 3,
                    "num_attention_heads": 2,
                    **options,
                }
            )
        )
    if kind == "maskformer":
        decoder = DetrConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=3,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_queries=NUM_QUERIES,
            backbone_config=_backbone(),
        )
        return MaskFormerForInstanceSegmentation(
            MaskFormerConfig(
                **{
                    "backbone_config": _backbone(),
                    "decoder_config": decoder,
                    "num_labels": NUM_CLASSES,
                    "fpn_feature_size": 32,
                    "mask_feature_size": 32,
                    **options,
                }
            )
        )
    return EomtForUniversalSegmentation(
        EomtConfig(
            **{
                "hidden_size": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": SIZE,
                "patch_size": 16,
                "num_blocks": 2,
                "num_upscale_blocks": 1,
                "num_queries": NUM_QUERIES,
                "num_register_tokens": 1,
                "num_labels": NUM_CLASSES,
                **options,
            }
        )
    )


def images(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def label_maps() -> tuple[list[Tensor], list[Tensor]]:
    """Three instances, one of them in two parts and some ignored pixels; and one instance."""
    first, second = (torch.zeros(SIZE, SIZE, dtype=torch.long) for _ in range(2))
    first[4:28, 4:28], first[36:60, 4:28], first[8:40, 40:60], first[50:60, 40:60] = 1, 2, 3, 3
    first[:, -3:] = -1
    second[16:48, 16:48] = 1
    return [first, second], [torch.tensor([2, 0, 2]), torch.tensor([1])]


def masks_of(maps: list[Tensor], classes: list[Tensor], dtype: torch.dtype = torch.int8) -> list[Tensor]:
    """The same truth as (K, H, W) masks, -1 where ignored."""
    return [
        (m == torch.arange(1, len(c) + 1)[:, None, None]).to(dtype).masked_fill(m < 0, -1)
        for m, c in zip(maps, classes, strict=True)
    ]


def criterion_of(model: nn.Module) -> Any:
    return model.criterion
