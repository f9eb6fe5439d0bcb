"""Folders of images and integer label maps: the usual form of microscopy data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influencerformer.data.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    examples,
    read_image,
    read_label_map,
    read_split,
    split_path,
)
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.errors import UserError


class LabelMapDataset(InstanceDataset):
    """Images with one integer label map each.

    The folder holds
      - images/NAME.png (or .jpg, .tif; grey, RGB, RGBA or 16 bit),
      - labels/NAME.png (or .tif; 8- or 16-bit integers, 0 background, one value an instance, gaps allowed),
      - one text file a split, a NAME a line (train.txt, val.txt),
      - classes.json, only where there are several classes: {NAME: {"label": class}}, the class being an index
        into `class_names` or one of them. Without it every instance has class 0.

    Args:
        root: the folder.
        split: name of the split ("train" reads train.txt) or the path of a .txt file.
        class_names: names of the classes, in the order of their indices.

    Raises:
        UserError: for a folder, file, split or class that is missing or unfit. What is cheap to know
            (presence, classes) is checked here for the whole split, the pixels when a sample is read.
    """

    def __init__(self, root: str | Path, split: str = "train", class_names: Sequence[str] = ("object",)) -> None:
        self.root = Path(root)
        self.class_names = list(class_names)
        if not self.class_names:
            raise UserError("class_names is empty: give at least one class name")
        for folder in (self.root, self.root / "images", self.root / "labels"):
            if not folder.is_dir():
                raise UserError(f"folder {folder} does not exist: expected ROOT/images and ROOT/labels")
        entries = read_split(split_path(self.root, split))
        self.names = [Path(e).stem if Path(e).suffix.lower() in IMAGE_SUFFIXES else e for e in entries]
        self._images = _find(self.root / "images", self.names, IMAGE_SUFFIXES)
        self._labels = _find(self.root / "labels", self.names, LABEL_SUFFIXES)
        self._classes = self._read_classes()

    def _read_classes(self) -> dict[str, dict[int, int]] | None:
        path = self.root / "classes.json"
        if not path.is_file():
            if len(self.class_names) > 1:
                raise UserError(
                    f"{len(self.class_names)} class names but no {path}: write {{name: {{label: class}}}} "
                    "there, or give one class name"
                )
            return None
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(table, dict):
            raise UserError(f"{path} must hold {{name: {{label: class}}}}, got a {type(table).__name__}")
        missing = [name for name in self.names if not isinstance(table.get(name), dict)]
        if missing:
            raise UserError(f"{path} has no {{label: class}} entry for {examples(missing)}")
        return {name: self._read_entry(table[name], name, path) for name in self.names}

    def _read_entry(self, entry: dict[str, Any], name: str, path: Path) -> dict[int, int]:
        return {_label_number(k, name, path): self._class_index(v, name, path) for k, v in entry.items()}

    def _class_index(self, value: Any, name: str, path: Path) -> int:
        if isinstance(value, str) and value in self.class_names:
            return self.class_names.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.class_names):
            return value
        raise UserError(
            f"{path}: class {value!r} of {name} is unknown: expected 0..{len(self.class_names) - 1} "
            f"or one of {', '.join(self.class_names)}"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image = read_image(self._images[name])
        labels = read_label_map(self._labels[name])
        if labels.shape != image.shape[1:]:
            raise UserError(
                f"{name}: the image is {image.shape[1]} x {image.shape[2]} but its label map "
                f"{labels.shape[0]} x {labels.shape[1]} (height x width): they must have the same size"
            )
        values, compact = torch.unique(labels, return_inverse=True)
        if int(values[0]) == 0:
            values = values[1:]
        else:
            compact = compact + 1
        return Sample(
            name=name,
            image=image,
            class_labels=self._class_labels(name, values),
            instance_labels=compact,
            instance_masks=None,
            ignore=None,
            image_id=index,
        )

    def _class_labels(self, name: str, values: Tensor) -> Tensor:
        if self._classes is None:
            return torch.zeros(len(values), dtype=torch.int64)
        classes = self._classes[name]
        missing = [v for v in values.tolist() if v not in classes]
        if missing:
            path = self.root / "classes.json"
            raise UserError(f"{path} gives no class for label {examples(missing)} of {name}")
        return torch.tensor([classes[v] for v in values.tolist()], dtype=torch.int64)


def _find(folder: Path, names: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """The file of each name in `folder`, read from one listing of it."""
    there: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in suffixes:
            there.setdefault(path.stem, []).append(path)
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"{folder} has no file ({', '.join(suffixes)}) for {len(missing)} of {len(names)} names of the "
            f"split: {examples(missing)}"
        )
    double = [name for name in names if len(there[name]) > 1]
    if double:
        raise UserError(f"{folder} has more than one file for {examples(double)}: keep one of each")
    return {name: there[name][0] for name in names}


def _label_number(key: str, name: str, path: Path) -> int:
    try:
        return int(key)
    except ValueError:
        raise UserError(f"{path}: label {key!r} of {name} is not a whole number") from None
