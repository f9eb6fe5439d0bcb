"""`predict`: files for each image, at the image's own size, and nothing skipped in silence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_api

from influencerformer.training.cli import FitCLI, main
from influencerformer.training.predict import Predictor, find_images, image_ids, output_names
from influencerformer.training.tasks import load_segmenter


@pytest.fixture(scope="session")
def checkpoint(train: Callable[..., FitCLI], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: they predict many instances, where a short training first unlearns all of them."""
    options = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--model.learning_rate=1e-12")
    return train(tmp_path_factory.mktemp("runs") / "untrained", *options).out_dir / "last.ckpt"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A scene of the training's kind, a wide grey 16-bit image, a tiny one, and a file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "scene.png")
    Image.fromarray(generator.integers(0, 4000, (40, 90), dtype=np.uint16)).save(folder / "grey.tif")
    Image.fromarray(generator.integers(0, 255, (5, 7, 3), dtype=np.uint8)).save(folder / "tiny.JPG")
    return folder


def test_writes_overlay_labels_and_results(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--images", str(images), "--out", str(out), "--score-threshold", "0.05"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--checkpoint", str(checkpoint), *options])
    assert ended.value.code == 0
    results = json.loads((out / "results.json").read_text())
    assert len(results) > 0
    for name, (width, height) in {"scene": (32, 32), "grey": (90, 40), "tiny": (7, 5)}.items():
        labels = Image.open(out / f"{name}_labels.png")
        assert labels.size == (width, height)
        assert labels.mode == "I;16"
        overlay = Image.open(out / f"{name}_overlay.png")
        assert (overlay.size, overlay.mode) == ((width, height), "RGB")
        mine = [result for result in results if Path(result["file_name"]).stem == name]
        assert int(np.asarray(labels).max()) <= len(mine)
        assert [r["score"] for r in mine] == sorted((r["score"] for r in mine), reverse=True)
        for result in mine:
            assert result["category_id"] in (1, 2, 3)
            assert result["score"] >= 0.05
            mask = rle_api.decode(result["segmentation"])
            assert mask.shape == (height, width)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y, w, h = result["bbox"]
            assert (x, y, x + w, y + h) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_unreadable_image_is_told_and_the_others_are_done(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    options = ["--images", str(images / "broken.png"), str(images / "scene.png"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--checkpoint", str(checkpoint), *options])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert "skipped: " in captured.err
    assert "broken.png" in captured.err
    assert "1 of 2 images segmented" in captured.out
    assert (tmp_path / "out/scene_labels.png").is_file()
    assert not (tmp_path / "out/broken_labels.png").exists()


def test_threshold_only_leaves_out_lower_scores(checkpoint: Path) -> None:
    segmenter = load_segmenter(checkpoint)
    image = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    everything = Predictor(segmenter, score_threshold=0.0)(image)
    threshold = float(everything.scores.median())
    some = Predictor(segmenter, score_threshold=threshold)(image)
    keep = everything.scores >= threshold
    assert 0 < len(some.scores) < len(everything.scores)
    assert torch.equal(some.scores, everything.scores[keep])
    assert torch.equal(some.masks, everything.masks[keep])
    assert torch.equal(some.labels, everything.labels[keep])


def test_large_images_are_shrunk_and_results_brought_back(checkpoint: Path) -> None:
    segmenter = load_segmenter(checkpoint)
    seen = []
    segmenter.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["pixel_values"].shape)), with_kwargs=True
    )
    image = torch.randint(0, 256, (3, 300, 100), dtype=torch.uint8)
    assert Predictor(segmenter, 0.0, max_size=64)(image).masks.shape[1:] == (300, 100)
    assert Predictor(segmenter, 0.0)(image).masks.shape[1:] == (300, 100)
    assert seen == [(1, 3, 64, 32), (1, 3, 320, 128)]


def test_files_folders_names_and_ids(tmp_path: Path) -> None:
    for name in ("b/0002.jpg", "b/0010.png", "a/0002.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "b", tmp_path / "a/0002.png", tmp_path / "b/0002.jpg"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/0002.jpg", "b/0010.png", "a/0002.png"]
    assert output_names(found) == ["0002_jpg", "0010", "0002_png"]
    assert len(set(output_names([Path("a/x.png"), Path("b/x.png"), Path("c/x.png")]))) == 3
    assert image_ids(found) == [1, 2, 3]
    assert image_ids(found[:2]) == [2, 10]
    assert image_ids([Path("a.png"), Path("7.png")]) == [1, 2]
