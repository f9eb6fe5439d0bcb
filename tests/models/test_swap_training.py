"""Models train with the swapped criterion, by hand and by transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import KINDS, criterion_of, images, label_maps, masks_of, tiny_model
from torch import Tensor

from influencerformer.models import set_progress, use_hungarian_loss, use_influencer_loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swap", [use_influencer_loss, use_hungarian_loss])
@pytest.mark.parametrize("num_points", [None, 60])
def test_steps_lower_the_loss(kind: str, swap: Any, num_points: int | None) -> None:
    model = swap(tiny_model(kind), num_points=num_points).train()
    set_progress(model, 1.0)  # one temperature, so that losses compare
    maps, classes = label_maps()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(pixel_values=images(), mask_labels=maps, class_labels=classes).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_temperature_falls_over_the_steps() -> None:
    model = use_influencer_loss(tiny_model("mask2former"), total_steps=10).train()
    maps, classes = label_maps()
    found = []
    for _ in range(8):
        found.append(criterion_of(model).loss.temperature)
        model(pixel_values=images(), mask_labels=maps, class_labels=classes)
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.02)


class Scenes(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The two images of the batch, as a data set."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        maps, classes = label_maps()
        masks = masks_of(maps, classes)
        return {"pixel_values": images()[index], "mask_labels": masks[index], "class_labels": classes[index]}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


def test_transformers_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate: pip install accelerate")
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
        save_steps=2,
        disable_tqdm=True,
    )
    model = use_influencer_loss(tiny_model("mask2former"), total_steps=2)
    before = model.class_predictor.weight.detach().clone()
    Trainer(model=model, args=arguments, train_dataset=Scenes(), data_collator=collate).train()
    assert not torch.equal(model.class_predictor.weight, before)
    assert criterion_of(model).loss.temperature == pytest.approx(0.02)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
