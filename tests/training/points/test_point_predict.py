"""`predict` on point clouds: a labelled PLY and a page for each, and nothing skipped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from influencerformer.training.cli import FitCLI, main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def checkpoint(finished_points: FitCLI) -> Path:
    return finished_points.out_dir / "last.ckpt"


def test_validation_rooms_with_their_truth(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("--checkpoint", checkpoint, "--out", out, "--rooms", 1, "--score-threshold", 0) == 0
    results = json.loads((out / "results.json").read_text())
    assert len(results) == 1
    points = PlyData.read(str(out / results[0]["ply"]))["vertex"].data
    assert {"x", "y", "z", "red", "green", "blue", "instance", "semantic", "score"} <= set(points.dtype.names)
    counts = np.bincount(points["instance"], minlength=len(results[0]["instances"]) + 1)[1:]
    assert [entry["points"] for entry in results[0]["instances"]] == counts.tolist()
    page = (out / results[0]["page"]).read_text()
    assert "Truth" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_files_without_a_truth(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    generator = np.random.default_rng(0)
    np.savetxt(clouds / "room 1.txt", generator.uniform(0, 3, (300, 3)))
    np.save(clouds / "room_1.npy", np.column_stack([generator.uniform(0, 3, (300, 3)), np.full((300, 3), 99)]))
    (clouds / "broken.ply").write_text("no cloud")
    assert run("--checkpoint", checkpoint, "--points", clouds, "--out", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "2 of 3 clouds segmented" in captured.out
    assert "broken.ply" in captured.err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [entry["ply"] for entry in results] == ["room_1.ply", "room_1_2.ply"]
    assert len(PlyData.read(str(tmp_path / "out/room_1.ply"))["vertex"].data) == 300


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--images", __file__], "--images does not go with"),
        (["--max-size", "9"], "--max-size does not go with"),
        (["--points", "absent.ply"], "absent.ply does not exist"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--score-threshold", "2"], "score-threshold"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    checkpoint: Path, tmp_path: Path, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", checkpoint, "--out", tmp_path / "out", *arguments) == 2
    assert word in capsys.readouterr().err
