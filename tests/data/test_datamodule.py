from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from influencerformer.data.augment import TrainTransform
from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.data.stream import StreamSampler, TrainDataset
from influencerformer.errors import UserError


def scenes(root: Path, **options: Any) -> InstanceDataModule:
    small: dict[str, Any] = {"scenes_train": 10, "scenes_val": 3, "scenes_size": 32, "batch_size": 4}
    return InstanceDataModule("scenes", str(root), **(small | {"crop_size": 24} | options))


def crops(module: InstanceDataModule, epochs: int = 2) -> list[tuple[list[str], Tensor]]:
    loader = module.train_dataloader()
    result = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        result += [(batch["names"], batch["pixel_values"]) for batch in loader]
    return result


def same(a: list[tuple[list[str], Tensor]], b: list[tuple[list[str], Tensor]]) -> bool:
    return len(a) == len(b) and all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))


def test_crops_depend_on_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = crops(scenes(tmp_path))
    torch.manual_seed(1)
    assert same(first, crops(scenes(tmp_path)))
    assert not same(first, crops(scenes(tmp_path, seed=1)))
    assert len(first) == 4
    # Another epoch is another order and other crops.
    assert not same(first[:2], first[2:])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_crops_do_not_depend_on_workers(tmp_path: Path, num_workers: int) -> None:
    assert same(crops(scenes(tmp_path)), crops(scenes(tmp_path, num_workers=num_workers)))


class Recorder(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[list[str], Tensor]] = []

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        self.seen.append((batch["names"], batch["pixel_values"]))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, max_steps: int, checkpoint: Path | None = None, num_workers: int = 0) -> Recorder:
    """Train and keep a checkpoint of every step, and one of the end."""
    model = Recorder()
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=scenes(folder, num_workers=num_workers), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "end.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_the_same_crops(tmp_path: Path, num_workers: int) -> None:
    """An epoch has two batches: the run is taken up between two epochs and within one."""
    whole = fit(tmp_path / "whole", 7, num_workers=num_workers)
    assert same(whole.seen, crops(scenes(tmp_path), 4)[:7])
    for step in (2, 3):
        resumed = fit(tmp_path / "resumed", 7, tmp_path / "whole" / "steps" / f"step={step}.ckpt", num_workers)
        assert same(whole.seen[step:], resumed.seen)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [2, 3])
def test_a_finished_run_is_lengthened(tmp_path: Path, stop: int) -> None:
    fit(tmp_path / "short", stop)
    assert same(fit(tmp_path / "long", 6, tmp_path / "short" / "end.ckpt").seen, crops(scenes(tmp_path), 3)[stop:])


def test_validation_is_whole_and_in_order(tmp_path: Path) -> None:
    module = scenes(tmp_path)
    batches = list(module.val_dataloader())
    assert [b["image_ids"] for b in batches] == [[1], [2], [3]]
    assert all(b["sizes"] == [(32, 32)] for b in batches)
    assert module.num_classes == 3


def test_ground_truth_is_what_the_model_sees(tmp_path: Path) -> None:
    module = scenes(tmp_path, scale=2.0, eval_size=40)
    truth = module.ground_truth()
    assert all((i["height"], i["width"]) == (40, 40) for i in truth["images"])
    shown = [batch["class_labels"][0] for batch in module.val_dataloader()]
    assert [a["category_id"] - 1 for a in truth["annotations"]] == torch.cat(shown).tolist()
    # Untouched COCO data keep their own annotations.
    assert scenes(tmp_path).ground_truth()["images"][0]["file_name"] == "val_000000.png"


def test_one_incomplete_batch_is_kept(tmp_path: Path) -> None:
    assert [len(names) for names, _ in crops(scenes(tmp_path, batch_size=16), 1)] == [10]
    assert [len(names) for names, _ in crops(scenes(tmp_path, batch_size=4), 1)] == [4, 4]


def test_label_maps_and_coco(label_map_root: Path, tmp_path: Path) -> None:
    module = InstanceDataModule("label_map", str(label_map_root), class_names=["cell"], crop_size=8, batch_size=2)
    module.setup("fit")
    assert module.class_names == ["cell"]
    assert next(iter(module.train_dataloader()))["pixel_values"].shape == (2, 3, 32, 32)

    folder = scenes(tmp_path).dataset("train").path.parent  # type: ignore[attr-defined]
    module = InstanceDataModule("coco", str(folder), annotations="instances_{split}.json")
    module.setup("fit")
    assert (len(module.dataset("train")), len(module.dataset("val"))) == (10, 3)
    (folder / "few.txt").write_text("train_000003\n7\n")
    module = InstanceDataModule("coco", str(folder), "few", "few.txt", annotations="instances_train.json")
    module.setup("validate")
    assert [module.dataset("val")[i].name for i in range(2)] == ["train_000003", "train_000006"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or larger"),
        ({"num_workers": -1}, "num_workers must be 0 or larger"),
        ({"crop_size": -3}, "crop_size must be positive"),
        ({"class_names": ["a"]}, "class_names goes with format label_map only"),
        ({"val_split": "test"}, "scenes have the splits train and val, got 'test'"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scenes(tmp_path, **options).setup()


def test_shared_nuclei_and_coco(shared_data: Callable[[str], Path]) -> None:
    nuclei = InstanceDataModule(
        "label_map", str(shared_data("nuclei_dsb2018")), scale=0.5, crop_size=96, rot90=True, min_area=4
    )
    batch = next(iter(nuclei.train_dataloader()))
    assert batch["pixel_values"].shape == (16, 3, 96, 96)
    assert all(m.shape == (96, 96) for m in batch["mask_labels"])
    coco = InstanceDataModule("coco", str(shared_data("coco_subset")), annotations="instances.json", crop_size=128)
    assert coco.num_classes == 80
    batch = next(iter(coco.train_dataloader()))
    for labels, classes in zip(batch["mask_labels"], batch["class_labels"], strict=True):
        assert labels.shape[-2:] == (128, 128)
        assert (labels.ndim == 3 and len(labels) == len(classes)) or int(labels.max()) == len(classes)


def test_devices_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    data = TrainDataset(scenes(tmp_path).dataset("train"), TrainTransform(8), seed=0)
    ranks = [list(StreamSampler(data, 2, rank, 0, 2, lambda: None)) for rank in range(2)]
    assert [len(draws) for draws in ranks] == [4, 4]
    assert len({draw.position for draws in ranks for draw in draws}) == 8
