"""A run stops at a bad sample with one sentence, or leaves it out: the same way whatever the workers, and resumed."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from influencerformer.data.bad_samples import BAD_SAMPLES_FILE, BadDataError, CheckedDataset, Defect, Ledger, refuse
from influencerformer.data.coco import CocoDataset
from influencerformer.data.datamodule import InstanceDataModule
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.data.stream import Draw, StreamSampler, TrainDataset
from influencerformer.errors import UserError

COUNT = 24


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 images for training, of which s3 and s10 are broken, and 12 for validation, all sound."""
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for i in range(COUNT + 12):
        labels = np.zeros((16, 16), np.uint8)
        labels[:8, : 4 + i % 8] = 1
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "images" / f"s{i}.png")
        Image.fromarray(labels).save(root / "labels" / f"s{i}.png")
    (root / "train.txt").write_text("".join(f"s{i}\n" for i in range(COUNT)))
    (root / "val.txt").write_text("".join(f"s{i}\n" for i in range(COUNT, COUNT + 12)))
    for i in (3, 10):
        (root / "labels" / f"s{i}.png").write_bytes(b"")
    return root


def module(root: Path, **options: Any) -> InstanceDataModule:
    return InstanceDataModule("label_map", str(root), **{"crop_size": 16, "batch_size": 4, **options})


def names(data: InstanceDataModule, epochs: int = 2) -> list[list[str]]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found += [batch["names"] for batch in loader]
    return found


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_stops_with_one_sentence(root: Path, num_workers: int) -> None:
    with pytest.raises(UserError) as raised:
        names(module(root, num_workers=num_workers))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert f"{root}/labels/s" in sentence
    assert "cannot be read as an image (it is empty, 0 bytes): replace the file" in sentence
    assert f"`influencerformer check label_map:{root}` lists every defect" in sentence
    assert "--data.on_bad_sample skip leaves such samples out" in sentence


def test_the_next_sample_of_the_epoch_takes_the_place_of_a_bad_one(root: Path) -> None:
    data = module(root, on_bad_sample="skip")
    with pytest.warns(UserWarning, match="bad sample left out of train") as caught:
        found = names(data)
    assert sorted(str(w.message).split("labels/")[1].split(":")[0] for w in caught) == ["s10.png", "s3.png"]
    sampler = StreamSampler(TrainDataset(data.dataset("train"), data.train_transform, 0), 1, 0, 0, 4, lambda: None)
    expected = []
    for epoch in range(2):
        order = [f"s{draw.position}" for draw in sampler._one_epoch(epoch)]
        for place, name in enumerate(order):
            later = (order[(place + step) % COUNT] for step in range(COUNT))
            expected.append(next(n for n in later if n not in ("s3", "s10")) if name in ("s3", "s10") else name)
    assert [name for batch in found for name in batch] == expected


@pytest.mark.filterwarnings("ignore:bad sample")
def test_replacements_do_not_depend_on_workers(root: Path) -> None:
    alone, workers = (list(module(root, on_bad_sample="skip", num_workers=n).train_dataloader()) for n in (0, 2))
    for one, two in zip(alone, workers, strict=True):
        assert one["names"] == two["names"]
        assert torch.equal(one["pixel_values"], two["pixel_values"])


class Recorder(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[list[str], Tensor]] = []
        self.validated: list[str] = []

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        self.seen.append((batch["names"], batch["pixel_values"]))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.validated += batch["names"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root: Path, folder: Path, steps: int, checkpoint: Path | None = None, **options: Any) -> Recorder:
    model = Recorder()
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=options.pop("limit_val_batches", 0),
    )
    trainer.fit(model, datamodule=module(root, on_bad_sample="skip", **options), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "end.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_draws_the_same_replacements_and_names_nothing_twice(root: Path, tmp_path: Path) -> None:
    whole = fit(root, tmp_path / "whole", 10)
    fit(root, tmp_path / "half", 4)
    lines = (tmp_path / "half" / BAD_SAMPLES_FILE).read_text().splitlines()
    resumed = fit(root, tmp_path / "half", 10, tmp_path / "half" / "end.ckpt")
    for (a, x), (b, y) in zip(whole.seen[4:], resumed.seen, strict=True):
        assert a == b
        assert torch.equal(x, y)
    after = (tmp_path / "half" / BAD_SAMPLES_FILE).read_text().splitlines()
    assert after[: len(lines)] == lines
    assert sorted(json.loads(line)["sample"] for line in after) == ["s10", "s3"]
    entry = json.loads(after[0])
    assert entry["part"] == "train"
    assert entry["file"] == str(root / "labels" / f"{entry['sample']}.png")
    assert "0 bytes" in entry["what"]


@pytest.mark.filterwarnings("ignore")
def test_validation_says_how_many_it_evaluates(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in (3, 10):
        (root / "labels" / f"s{i}.png").write_bytes((root / "labels" / "s0.png").read_bytes())
    (root / "images" / "s25.png").write_text("broken")
    with pytest.raises(UserError, match=r"s25.png: cannot be read as an image .* lists every defect"):
        list(module(root).val_dataloader())
    said: list[str] = []
    monkeypatch.setattr("influencerformer.data.stream.rank_zero_info", said.append)
    model = fit(root, tmp_path / "run", 6, limit_val_batches=1.0)
    assert said == ["validation: 11 of 12 samples can be used and are evaluated"]
    assert model.validated == [f"s{i}" for i in range(COUNT, COUNT + 12) if i != 25]
    data = module(root, on_bad_sample="skip")
    assert [image["file_name"] for image in data.ground_truth()["images"]] == model.validated
    (line,) = (tmp_path / "run" / BAD_SAMPLES_FILE).read_text().splitlines()
    assert (json.loads(line)["part"], json.loads(line)["sample"]) == ("val", "s25")


@pytest.mark.filterwarnings("ignore")
def test_more_than_a_tenth_stops_the_run(root: Path) -> None:
    (root / "labels" / "s0.png").write_bytes(b"")
    expected = r"3 of 24 samples of train cannot be used, more than the 10% .* `influencerformer check label_map:"
    with pytest.raises(UserError, match=expected):
        names(module(root, on_bad_sample="skip"))
    for i in (24, 30):
        (root / "images" / f"s{i}.png").unlink()
    with pytest.raises(UserError, match=r"2 of 12 samples of val cannot be used"):
        module(root, on_bad_sample="skip").dataset("val")


@pytest.mark.filterwarnings("ignore")
def test_what_is_amiss_on_opening_is_left_out_too(root: Path) -> None:
    (root / "labels" / "s3.png").unlink()
    with pytest.raises(UserError, match=r"has no file .* names of the split: s3; `influencerformer check"):
        module(root).dataset("train")
    data = module(root, on_bad_sample="skip")
    assert len(data.dataset("train")) == COUNT - 1
    assert data.ledger("train").total == COUNT
    assert not {name for batch in names(data) for name in batch} & {"s3", "s10"}


@pytest.mark.filterwarnings("ignore")
def test_any_exception_of_a_reader_is_a_bad_sample(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LabelMapDataset, index: int) -> None:
        if index == 5:
            raise ZeroDivisionError("by\nzero")
        return original(self, index)

    for i in (3, 10):
        (root / "labels" / f"s{i}.png").write_bytes((root / "labels" / "s0.png").read_bytes())
    original = LabelMapDataset.__getitem__
    monkeypatch.setattr(LabelMapDataset, "__getitem__", broken)
    with pytest.raises(UserError, match=r"labels/s5.png: cannot be used \(ZeroDivisionError: by zero\); `influ"):
        names(module(root, num_workers=1))
    assert "s5" not in {name for batch in names(module(root, on_bad_sample="skip")) for name in batch}


def test_coco_leaves_out_images_whose_truth_is_broken(tmp_path: Path) -> None:
    square = [[1, 1, 6, 1, 6, 6, 1, 6]]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": square} for i in range(12)]
    annotations[4]["segmentation"] = {"size": [9, 9], "counts": [0, 81]}
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(12)]
    for i in range(12):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    taken: list[Defect] = []
    data = CocoDataset(tmp_path / "a.json", tmp_path, take=taken.append)
    assert [data[i].image_id for i in range(len(data))] == [i for i in range(12) if i != 4]
    assert [(defect.sample, defect.stops) for defect in taken] == [("4.png", True)]
    some = data.keep([0, 5])
    assert [some[i].image_id for i in range(len(some))] == [0, 6]
    assert some[1].num_instances == 1


def test_a_link_out_of_the_image_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "real" / "2.png")
    (tmp_path / "images" / "1.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "sub").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "inside.png").symlink_to("2.png")

    def load(folder: str, name: str) -> CocoDataset:
        images = [{"id": 1, "file_name": name, "height": 8, "width": 8}]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return CocoDataset(tmp_path / "a.json", tmp_path / folder)

    for name in ("1.png", "sub/2.png"):
        with pytest.raises(BadDataError, match=r"are links out of .*images, which are not followed"):
            load("images", name)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "sub/../../secret.png", "..\\secret.png"):
        with pytest.raises(BadDataError, match="the file name of image 1 leaves its folder"):
            load("images", name)
    # The folder itself may be a link, and a link may stay inside.
    assert load("linked", "2.png")[0].image_id == 1
    assert load("linked", "inside.png")[0].image_id == 1


@pytest.mark.filterwarnings("ignore")
def test_bad_rooms(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "rooms_train": 11,
        "rooms_val": 1,
        "rooms_width": (2.5, 2.6),
        "rooms_density": 8.0,
        "rooms_crowding": 0.0,
    }
    data = PointDataModule(root=str(tmp_path), **options)
    bad = Path(data.dataset("train").root) / "Area_1" / "room_4" / "Annotations"
    for file in bad.glob("*.txt"):
        file.write_text("")
    with pytest.raises(UserError, match=r"room_4/Annotations holds no point.*; `influencerformer check rooms:"):
        PointDataModule(root=str(tmp_path), **options).prepare_data()
    with pytest.raises(UserError, match=r"room_4/Annotations: holds no point.*; `influencerformer check rooms:"):
        list(PointDataModule(root=str(tmp_path), **options).train_dataloader())
    data = PointDataModule(root=str(tmp_path), on_bad_sample="skip", **options)
    data.prepare_data()
    assert list(data.ledger("train").bad) == ["Area_1_room_4"]
    seen = {name for batch in data.train_dataloader() for name in batch["names"]}
    assert "Area_1_room_4" not in seen
    assert len(seen) == 10 or len(seen) == 9  # one draw of eleven is left out, the bad one is replaced


def test_no_process_is_left_behind_an_error(root: Path) -> None:
    """Workers ignore the signal that Python sends them when it exits: it would wait for them for ever."""
    loader = module(root, num_workers=1).train_dataloader()
    with pytest.raises(UserError, match="0 bytes"):
        list(loader)
    assert loader._iterator is None
    assert not multiprocessing.active_children()
    loader = module(root, num_workers=1, train_split="val.txt").train_dataloader()
    iterator = iter(loader)
    next(iterator)
    assert len(multiprocessing.active_children()) == 1
    loader.stop_workers()
    assert not multiprocessing.active_children()


def test_candidates_go_once_round_the_epoch(root: Path) -> None:
    data = module(root)
    dataset = TrainDataset(data.dataset("train"), data.train_transform, 3)
    sampler = StreamSampler(dataset, 1, 0, 3, 1, lambda: None)
    order = [draw.position for draw in sampler._one_epoch(5)]
    place = order.index(7)
    assert list(dataset.candidates(Draw(5, 7))) == order[place:] + order[:place]


def test_ledger_and_refuse() -> None:
    ledger = Ledger("train", "skip", "influencerformer check x")
    ledger.total = 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.take(Defect("f", "mended", "a", stops=False))
    assert not ledger.bad
    with pytest.warns(UserWarning, match="bad sample left out of train: f: broken"):
        ledger.take(Defect("f", "broken", "a"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.take(Defect("f", "broken", "a"))
    with pytest.warns(UserWarning, match="bad sample"), pytest.raises(UserError, match="2 of 10 samples of train"):
        ledger.take(Defect("g", "broken", "b"))
    refuse([], "nothing", None)
    with pytest.raises(BadDataError, match="all of it"):
        refuse([Defect("f", "broken")], "all of it", None)


def test_what_a_worker_hands_over_is_pickled() -> None:
    defect = Defect("f", "broken", "a")
    assert pickle.loads(pickle.dumps(defect)) == defect


def test_samples_of_a_data_set_that_names_no_lists_cannot_be_chosen() -> None:
    with pytest.raises(TypeError, match="names no per_sample attributes"):
        CheckedDataset[int]().keep([0])


@pytest.mark.parametrize("make", [InstanceDataModule, PointDataModule])
def test_unknown_option(make: Callable[..., object]) -> None:
    with pytest.raises(UserError, match="on_bad_sample must be stop or skip, got 'ignore'"):
        make(on_bad_sample="ignore")
