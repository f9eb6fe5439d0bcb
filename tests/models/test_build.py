"""Models by name and by checkpoint, without any network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import KINDS, images, tiny_model
from transformers import AutoBackbone, AutoConfig

from influencerformer.errors import UserError
from influencerformer.models import build, build_model, use_influencer_loss
from influencerformer.models.build import mask2former_config


def test_tiny() -> None:
    model = build_model("mask2former-tiny", num_classes=4, num_queries=7)
    assert sum(p.numel() for p in model.parameters()) < 1e6
    output = model.eval()(images())
    assert output.class_queries_logits.shape == (2, 7, 5)
    assert output.masks_queries_logits.shape == (2, 7, 16, 16)


@pytest.mark.parametrize(
    ("name", "backbone", "stages"),
    [("mask2former-swin-t", "swin", [96, 192, 384, 768]), ("mask2former-r50", "resnet", [256, 512, 1024, 2048])],
)
def test_published_sizes(name: str, backbone: str, stages: list[int]) -> None:
    config = mask2former_config(name, num_classes=80, num_queries=100)
    assert config.backbone_config.model_type == backbone
    assert (config.num_labels, config.num_queries, config.hidden_dim, config.decoder_layers) == (80, 100, 256, 10)
    with torch.device("meta"):
        assert AutoBackbone.from_config(config.backbone_config).channels == stages


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_folder(kind: str, tmp_path: Path) -> None:
    stock = tiny_model(kind)
    stock.save_pretrained(tmp_path)
    queries = 5
    model = build_model(str(tmp_path), num_classes=3, num_queries=queries).eval()
    assert type(model) is type(stock)
    found, expected = model(images()), stock.eval()(images())
    torch.testing.assert_close(found.masks_queries_logits, expected.masks_queries_logits)
    torch.testing.assert_close(found.class_queries_logits, expected.class_queries_logits)
    use_influencer_loss(model)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_with_other_classes_and_queries(kind: str, tmp_path: Path) -> None:
    stock = tiny_model(kind)
    stock.save_pretrained(tmp_path)
    model = build_model(str(tmp_path), num_classes=1, num_queries=9).eval()
    assert model(images()).class_queries_logits.shape == (2, 9, 2)
    kept = dict(model.named_parameters())
    same = [name for name, p in stock.named_parameters() if kept[name].shape == p.shape]
    assert len(same) > 0.9 * len(kept)
    assert all(torch.equal(kept[name], p) for name, p in stock.named_parameters() if name in same)


@pytest.mark.parametrize("name", ["mask2former-huge", "tiny", ""])
def test_unknown_name(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}'.*mask2former-tiny, mask2former-swin-t, mask2former-r50"):
        build_model(name, num_classes=1)


def test_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nor a checkpoint of transformers that loads"):
        build_model(str(tmp_path), num_classes=1)


def test_checkpoint_of_another_kind(tmp_path: Path) -> None:
    AutoConfig.for_model("resnet").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nor a checkpoint of transformers that loads"):
        build_model(str(tmp_path), num_classes=1)


def test_no_pretrained_backbone_for_the_tiny_model() -> None:
    with pytest.raises(UserError, match="no pretrained backbone for 'mask2former-tiny': set pretrained to false"):
        build_model("mask2former-tiny", num_classes=1, pretrained=True)


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published name with the tiny size, to be quick."""
    monkeypatch.setattr(build, "mask2former_config", lambda _, *sizes: mask2former_config("mask2former-tiny", *sizes))


@pytest.mark.usefixtures("small_published")
def test_pretrained_backbone_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(AutoBackbone, "from_pretrained", offline)
    with pytest.raises(UserError, match=r"microsoft/resnet-50 could not be fetched .*set pretrained to false"):
        build_model("mask2former-r50", num_classes=1, pretrained=True)


@pytest.mark.usefixtures("small_published")
def test_pretrained_backbone_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = copy.deepcopy(build_model("mask2former-r50", num_classes=1).model.pixel_level_module.encoder)
    for p in backbone.parameters():
        torch.nn.init.constant_(p, 0.5)
    monkeypatch.setattr(AutoBackbone, "from_pretrained", lambda *_, **__: backbone)
    loaded = build_model("mask2former-r50", num_classes=1, pretrained=True)
    assert all((p == 0.5).all() for p in loaded.model.pixel_level_module.encoder.parameters())
