"""The examples run end to end, on all layouts they name, and say in one sentence what they cannot use."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from influencerformer.data.points.formats import open_points
from influencerformer.data.points.sample import PointSample
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.data.scenes import generate_scenes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY_ROOMS = ["--steps", "2", "--rooms", "2", "--points", "300", "--loss-points", "150"]
TINY_IMAGES = ["--steps", "2", "--batch", "2", "--size", "32", "--test-images", "3", "--loss-pixels", "100"]


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def tools() -> ModuleType:
    return importlib.import_module("embedding_tools")


@pytest.fixture
def rooms_example() -> ModuleType:
    return importlib.import_module("toy_pointcloud")


@pytest.fixture
def images_example() -> ModuleType:
    return importlib.import_module("toy_image")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms") / "s3dis"
    open_points("rooms", root, rooms={"train": 2, "val": 1, "density": 20})
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_scenes(tmp_path_factory.mktemp("scenes"), train=6, val=4, size=32)


def check_run(result: dict[str, float], picture: Path, printed: str, held_out: str) -> None:
    assert result["instances"] > 0
    assert 0 <= result["efficiency"] <= 1
    assert 0 <= result["AP"] <= 1
    assert held_out in printed
    assert "efficiency" in printed
    assert picture.name in printed
    with Image.open(picture) as image:
        assert min(image.size) > 200


@pytest.mark.parametrize("neighbours", ["0", "4"])
def test_generated_rooms_end_to_end(
    neighbours: str, rooms_example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rooms_example.main([*TINY_ROOMS, "--neighbours", neighbours, "--out", str(tmp_path)])
    check_run(result, tmp_path / "rooms.png", capsys.readouterr().out, "1 held-out rooms")


def test_drawn_scenes_end_to_end(
    images_example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_few: Callable[..., Path] = lambda root, train, val, size, seed: generate_scenes(root, 6, 4, size, seed)  # noqa: E731
    monkeypatch.setattr(images_example, "generate_scenes", draw_few)
    result = images_example.main([*TINY_IMAGES, "--out", str(tmp_path)])
    check_run(result, tmp_path / "images.png", capsys.readouterr().out, "3 held-out images")


def test_the_same_seed_gives_the_same_figures(rooms_example: ModuleType, rooms: Path, tmp_path: Path) -> None:
    arguments = [*TINY_ROOMS, "--data", str(rooms), "--out", str(tmp_path)]
    assert repr(rooms_example.main(arguments)) == repr(rooms_example.main(arguments))


def test_radius_is_chosen_on_training_rooms_alone(
    rooms_example: ModuleType, tools: ModuleType, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[int, str] = {}
    seen: list[str] = []
    embed, best_radius = rooms_example.embed, tools.best_radius

    def embed_and_note(*arguments: Any) -> Any:
        result = embed(*arguments)
        names.update({id(followers): room.name for room, followers, _ in result})
        return result

    def note_and_choose(embedded: Any, min_points: int) -> Any:
        seen.extend(names[id(followers)] for followers, _, _ in embedded)
        return best_radius(embedded, min_points)

    monkeypatch.setattr(rooms_example, "embed", embed_and_note)
    monkeypatch.setattr(tools, "best_radius", note_and_choose)
    rooms_example.main([*TINY_ROOMS, "--data", str(rooms), "--out", str(tmp_path)])
    assert sorted(seen) == ["Area_1_room_1", "Area_1_room_2"]
    assert "Area_5_room_1" in names.values()


def test_pointcept_rooms_are_detected(rooms_example: ModuleType, rooms: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for room in open_points("s3dis", rooms, part):
            area, name = room.name[:6], room.name[7:]
            folder = tmp_path / area / name
            folder.mkdir(parents=True)
            segment = room.class_labels[room.instance_labels - 1]
            arrays = {"coord": room.coordinates, "color": room.colors, "segment": segment}
            for stem, values in {**arrays, "instance": room.instance_labels}.items():
                np.save(folder / f"{stem}.npy", values.numpy())
    options = rooms_example.parse(["--data", str(tmp_path)])
    training, held_out = rooms_example.open_rooms(options)
    assert type(training).__name__ == "PointceptDataset"
    assert (training.names, held_out.names) == (["Area_1_room_1", "Area_1_room_2"], ["Area_5_room_1"])


def coco_layout(kind: str, scenes: Path, root: Path) -> list[list[str]]:
    """Copies scenes in another layout; returns the images of training and of the test."""
    contents = {part: json.loads((scenes / f"instances_{part}.json").read_text()) for part in ("train", "val")}
    names = [[image["file_name"] for image in contents[part]["images"]] for part in ("train", "val")]
    (root / "annotations").mkdir(parents=True)
    if kind == "one file":
        for field in ("images", "annotations"):
            for entry in contents["val"][field]:
                entry["id"] += 1000
                entry.update({"image_id": entry["image_id"] + 1000} if "image_id" in entry else {})
            contents["train"][field] += contents["val"][field]
        (root / "instances.json").write_text(json.dumps(contents["train"]))
        shutil.copytree(scenes / "images", root / "images")
        for part, chosen in zip(("train", "val"), names, strict=True):
            (root / f"{part}.txt").write_text("\n".join(chosen))
        return names
    parts = ("train", "val") if kind == "coco" else ("train",)
    for part in parts:
        # Alone, the training scenes stand in for val2017.
        year = f"{part}2017" if kind == "coco" else "val2017"
        shutil.copytree(scenes / "images", root / year)
        shutil.copy(scenes / f"instances_{part}.json", root / "annotations" / f"instances_{year}.json")
    return names if kind == "coco" else [names[0][:4], names[0][4:]]


@pytest.mark.parametrize("kind", ["one file", "coco", "val2017 alone"])
def test_layouts_of_coco_are_detected(kind: str, images_example: ModuleType, scenes: Path, tmp_path: Path) -> None:
    expected = coco_layout(kind, scenes, tmp_path / "data")
    parts = images_example.open_images(images_example.parse(["--data", str(tmp_path / "data")]))
    assert [[Path(source[i].name).stem + ".png" for i in chosen] for source, chosen in parts] == expected


@pytest.mark.parametrize(
    ("example", "arguments", "message"),
    [
        ("toy_pointcloud", ["--data", "nowhere"], "there is no S3DIS in nowhere: give a folder with Area_1"),
        ("toy_image", ["--data", "nowhere"], "there is no data set in COCO form in nowhere: give a folder"),
        ("toy_pointcloud", ["--download"], "--download needs a folder: name it with --data"),
        ("toy_image", ["--download"], "--download needs a folder: name it with --data"),
        ("toy_pointcloud", ["--steps", "0"], "--steps must be 1 or more, got 0"),
        ("toy_pointcloud", ["--neighbours", "-1"], "--neighbours must be 0 or more, got -1"),
        ("toy_image", ["--out", str(Path(__file__) / "out")], "cannot be made"),
        ("toy_image", ["--size", "40"], "--size must be a multiple of 16, got 40"),
    ],
)
def test_what_cannot_be_used_is_said_with_code_2(
    example: str, arguments: list[str], message: str, tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(example)
    with pytest.raises(SystemExit) as stop, tools.one_sentence_errors(example):
        module.main(arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"{example}:") or "error:" in last
    assert message in last


def test_find_instances_numbers_what_is_large_enough_and_scores_what_is_tight(tools: ModuleType) -> None:
    followers = torch.tensor([[0.0], [0.0], [0.0], [5.0], [5.4], [9.0]])
    labels, scores = tools.find_instances(followers, followers, radius=0.5, min_points=2)
    assert labels.tolist() == [1, 1, 1, 2, 2, 0]
    # The second pair lies 0.2 from its middle: 1 - 0.2 / 0.5.
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.6]))
    nothing, none = tools.find_instances(followers, followers, radius=0.5, min_points=4)
    assert nothing.tolist() == [0] * 6
    assert none.tolist() == []


def test_best_radius_is_that_of_whole_and_separate_instances(tools: ModuleType) -> None:
    # Followers of an instance are up to 0.65 from its one influencer in the middle, and 1.5 from the next instance's.
    middle = torch.arange(3.0) * 1.5
    followers = (middle[:, None] + torch.tensor([-0.65, 0.0, 0.65])).reshape(-1, 1)
    influencers = (middle[:, None] + torch.tensor([50.0, 0.0, 90.0])).reshape(-1, 1)
    labels = torch.arange(1, 4).repeat_interleave(3)
    assert tools.best_radius([(followers, influencers, labels)], min_points=1) in (0.7, 0.8)


def test_small_instances_are_ignored_by_what_is_seen_of_them(tools: ModuleType) -> None:
    labels = torch.tensor([0, 1, 1, 2, 2, 2, -1])
    assert tools.ignore_small(labels, labels[1::2], 2).tolist() == [0, -1, -1, 2, 2, 2, -1]
    assert tools.ignore_small(labels, labels, 3).tolist() == [0, -1, -1, 2, 2, 2, -1]


class Overlapping(InstanceDataset):
    """One image of 32 x 32 with a large square, a smaller one in it, a speck, and an ignored corner."""

    class_names: list[str] = ["a", "b"]  # noqa: RUF012

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        masks = torch.zeros(3, 32, 32, dtype=torch.bool)
        masks[0, 8:12, 8:12] = True
        masks[1, 4:20, 4:20] = True
        masks[2, 30, 30] = True
        ignore = torch.zeros(32, 32, dtype=torch.bool)
        ignore[:4, :4] = True
        return Sample("x", torch.zeros(3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0]), None, masks, ignore, 7)


def test_small_images_give_overlaps_to_the_smaller_and_ignore_specks(tools: ModuleType) -> None:
    sample = tools.SmallImages(Overlapping(), range(1), size=32, stride=2, min_pixels=4)[0]
    assert sample.num_instances == 2
    assert sample.image_id == 7
    labels = sample.instance_labels
    assert labels[0, 0] == -1
    assert labels[30, 30] == -1
    assert labels[25, 5] == 0
    assert [int((labels == k).sum()) for k in (1, 2)] == [16 * 16 - 16, 16]
    assert labels[9, 9] == 2


def test_context_is_the_largest_value_of_the_nearest_points(rooms_example: ModuleType) -> None:
    torch.manual_seed(0)
    model = rooms_example.Embedder(neighbours=3, width=4)
    h, x = torch.randn(20, 4), torch.randn(20, 3)
    for level in (0, 1):
        some = range(20 // 4**level)
        context = model.context(h, x, level)
        for i in range(20):
            nearest = sorted(some, key=lambda j: float((x[j] - x[i]).norm()))[:3]
            values = [model.values[level](h[j]) + model.offsets[level](x[j] - x[i]) for j in nearest]
            torch.testing.assert_close(context[i], torch.stack(values).amax(0))


def test_augmented_rooms_keep_distances_and_heights(rooms_example: ModuleType) -> None:
    x = torch.randn(10, 3)
    turned, _ = rooms_example.augment(x, torch.zeros(10, 3))
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(x, x))
    assert torch.equal(turned[:, 2], x[:, 2])


def test_thinned_rooms_ignore_what_is_left_of_small_instances(rooms_example: ModuleType) -> None:
    labels = torch.tensor([1] * 8 + [2])
    colors = torch.zeros(9, 3, dtype=torch.uint8)
    room = PointSample("r", torch.zeros(9, 3), colors, torch.zeros(2, dtype=torch.int64), labels, None, 0)
    thinned = rooms_example.thin(room, 9, min_points=2)
    assert sorted(thinned.instance_labels.tolist()) == [-1] + [1] * 8
    assert rooms_example.thin(room, 5, min_points=1).num_points == 5
