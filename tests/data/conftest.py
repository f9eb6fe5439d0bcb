"""Helpers for the data tests: shared data sets where present, small folders written on the fly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """The folder of a shared data set by name; skips where it is absent."""

    def find(name: str) -> Path:
        default = Path(__file__).resolve().parents[3] / "shared" / "data"
        folder = Path(os.environ.get("INFLUENCERFORMER_SHARED", default)) / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is absent (set INFLUENCERFORMER_SHARED to the folder of shared data sets)")
        return folder

    return find


@pytest.fixture
def label_map_root(tmp_path: Path) -> Path:
    """Two images: "a" with values 7 and 300, "b" without instances."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    generator = np.random.default_rng(0)
    labels = np.zeros((12, 10), np.uint16)
    labels[:4, :4], labels[6:, 5:] = 300, 7
    for name, values in (("a", labels), ("b", np.zeros((12, 10), np.uint16))):
        image = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(values).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("a\n")
    return tmp_path
