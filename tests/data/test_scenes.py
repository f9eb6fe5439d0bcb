from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from influencerformer.data import generated_folder, scenes
from influencerformer.data.coco import CocoDataset
from influencerformer.data.scenes import SCENE_CLASSES, draw_scene, generate_scenes
from influencerformer.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_read_is_what_was_drawn(tmp_path: Path) -> None:
    folder = generate_scenes(tmp_path, train=6, val=3, size=40, seed=5)
    for number, split in enumerate(("train", "val")):
        data = CocoDataset(folder / f"instances_{split}.json", folder / "images")
        assert tuple(data.class_names) == SCENE_CLASSES
        for index in range(len(data)):
            image, labels, classes = draw_scene(np.random.default_rng((5, number, index)), 40)
            sample = data[index]
            assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
            assert sample.instance_labels is not None
            assert np.array_equal(sample.instance_labels.numpy(), labels)
            assert sample.class_labels.tolist() == classes


def test_areas_and_boxes_in_the_file(tmp_path: Path) -> None:
    folder = generate_scenes(tmp_path, train=5, val=1, size=32)
    data = CocoDataset(folder / "instances_train.json", folder / "images")
    written = json.loads((folder / "instances_train.json").read_text())["annotations"]
    masks = [mask for i in range(len(data)) for mask in data[i].masks()]
    assert len(masks) == len(written)
    for entry, mask in zip(written, masks, strict=True):
        left, top, width, height = entry["bbox"]
        assert entry["area"] == int(mask.sum()) == int(mask[top : top + height, left : left + width].sum())


def test_scenes_have_what_they_promise() -> None:
    counts, classes = [], []
    for seed in range(60):
        image, labels, of = draw_scene(np.random.default_rng(seed), 48, max_instances=7)
        assert image.shape == (48, 48, 3)
        assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, len(of) + 1))
        counts.append(len(of))
        classes += of
    assert min(counts) == 1
    assert max(counts) == 7
    assert min(np.bincount(classes, minlength=3)) > 40


def test_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    arguments = {"train": 3, "val": 2, "size": 24, "seed": 1}
    first = generate_scenes(tmp_path / "a", **arguments)
    assert contents(first) == contents(generate_scenes(tmp_path / "b", **arguments))
    other = generate_scenes(tmp_path / "a", **(arguments | {"seed": 2}))
    assert other != first
    assert contents(other)["images/train_000000.png"] != contents(first)["images/train_000000.png"]


def test_present_scenes_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = generate_scenes(tmp_path, train=2, val=1, size=24)
    monkeypatch.setattr(scenes, "draw_scene", None)
    assert generate_scenes(tmp_path, train=2, val=1, size=24) == folder
    (folder / "scenes.json").write_text("{}")
    with pytest.raises(UserError, match="does not hold the scenes asked for"):
        generate_scenes(tmp_path, train=2, val=1, size=24)


def test_a_killed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(scenes, "_write_split", killed)
        with pytest.raises(KeyboardInterrupt):
            generate_scenes(tmp_path, train=2, val=1, size=24)
    assert list(tmp_path.iterdir()) == []
    assert (generate_scenes(tmp_path, train=2, val=1, size=24) / "instances_val.json").is_file()


def test_losing_the_race_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = generate_scenes(tmp_path / "other", train=2, val=1, size=24)

    def someone_was_faster(source: Path, target: Path) -> None:
        shutil.move(other, target)
        raise OSError("the folder is not empty")

    monkeypatch.setattr(generated_folder, "os", SimpleNamespace(rename=someone_was_faster))
    folder = generate_scenes(tmp_path / "mine", train=2, val=1, size=24)
    assert (folder / "scenes.json").is_file()
    assert list((tmp_path / "mine").iterdir()) == [folder]


def test_arguments_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size=8"):
        generate_scenes(tmp_path, train=2, val=1, size=8)
