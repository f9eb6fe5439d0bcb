"""From options to batches of rooms: the same ones whatever the workers, and one sentence for what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.data.points.rooms import ROOM_CLASSES
from influencerformer.errors import UserError

SMALL: dict[str, Any] = {
    "rooms_train": 5,
    "rooms_val": 2,
    "rooms_width": (2.5, 2.6),
    "rooms_density": 30.0,
    "max_points": 400,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


def data(root: Path, **options: Any) -> PointDataModule:
    return PointDataModule(root=str(root), **{**SMALL, **options})


def test_generated_rooms_are_trained_on_and_validated_whole(root: Path) -> None:
    module = data(root)
    module.prepare_data()
    module.setup("fit")
    assert module.class_names == list(ROOM_CLASSES)
    assert module.num_classes == 13
    batches = list(module.train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert len(batch["names"]) == 2
        assert all(len(points) <= 400 for points in batch["coordinates"])
    rooms = list(module.val_dataloader())
    assert [len(batch["names"]) for batch in rooms] == [1, 1]
    assert [len(batch["coordinates"][0]) for batch in rooms] == [module.dataset("val")[i].num_points for i in range(2)]


def test_the_same_seed_gives_the_same_batches_whatever_the_workers(root: Path) -> None:
    one, two, other = (
        next(iter(data(root, seed=seed, num_workers=workers).train_dataloader()))
        for seed, workers in ((1, 0), (1, 1), (2, 0))
    )
    assert one["names"] == two["names"]
    assert all(torch.equal(a, b) for a, b in zip(one["features"], two["features"], strict=True))
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one["features"], other["features"], strict=True)
    )


def test_other_rooms_have_another_folder(root: Path) -> None:
    data(root).prepare_data()
    data(root, rooms_density=25.0).prepare_data()
    folders = [folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    assert len(folders) == 2


def test_thinner_validation(root: Path) -> None:
    whole, thin = (next(iter(data(root, eval_voxel_size=size).val_dataloader())) for size in (None, 0.3))
    assert len(thin["coordinates"][0]) < len(whole["coordinates"][0])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"num_workers": -1}, "num_workers"),
        ({"voxel_size": 0.0}, "voxel_size"),
    ],
)
def test_options_out_of_range_are_named(root: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        data(root, **options)


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        PointDataModule("s3dis", root=str(tmp_path / "nowhere")).setup("fit")
