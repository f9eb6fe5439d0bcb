"""Folders of images and integer label maps: the usual form of microscopy data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influencerformer.data.bad_samples import Defect, Take, defect_of, refuse
from influencerformer.data.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    examples,
    read_image,
    read_json,
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
        take: is handed each defect of a sample that is found here, in place of an error; the sample is left out.

    Raises:
        UserError: for a folder, file, split or class that is missing or unfit. What is cheap to know
            (presence, classes) is checked here for the whole split, the pixels when a sample is read.
    """

    per_sample = ("names",)

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        class_names: Sequence[str] = ("object",),
        take: Take | None = None,
    ) -> None:
        self.root = Path(root)
        self.class_names = list(class_names)
        if not self.class_names:
            raise UserError("class_names is empty: give at least one class name")
        for folder in (self.root, self.root / "images", self.root / "labels"):
            if not folder.is_dir():
                raise UserError(f"folder {folder} does not exist: expected ROOT/images and ROOT/labels")
        entries = read_split(split_path(self.root, split))
        self.names = [Path(e).stem if Path(e).suffix.lower() in IMAGE_SUFFIXES else e for e in entries]
        self._images = _find(self.root / "images", self.names, IMAGE_SUFFIXES, take)
        self._labels = _find(self.root / "labels", self.names, LABEL_SUFFIXES, take)
        self.names = [name for name in self.names if name in self._images and name in self._labels]
        self._classes = self._read_classes(take)
        if self._classes is not None:
            self.names = [name for name in self.names if name in self._classes]

    @property
    def _class_file(self) -> Path:
        return self.root / "classes.json"

    def _read_classes(self, take: Take | None) -> dict[str, dict[int, int]] | None:
        path = self._class_file
        if not path.is_file():
            if len(self.class_names) > 1:
                raise UserError(
                    f"{len(self.class_names)} class names but no {path}: write {{name: {{label: class}}}} "
                    "there, or give one class name"
                )
            return None
        table = read_json(path)
        if not isinstance(table, dict):
            raise UserError(f"{path} must hold {{name: {{label: class}}}}, got a {type(table).__name__}")
        missing = [name for name in self.names if not isinstance(table.get(name), dict)]
        defects = [Defect(str(path), f"no {{label: class}} entry for {name}", name) for name in missing]
        refuse(defects, f"{path} has no {{label: class}} entry for {examples(missing)}", take)
        classes = {}
        for name in self.names:
            if name in missing:
                continue
            try:
                classes[name] = self._read_entry(table[name], name, path)
            except UserError as error:
                refuse([defect_of(error, [path], name)], str(error), take)
        return classes

    def _read_entry(self, entry: dict[str, Any], name: str, path: Path) -> dict[int, int]:
        return {_label_number(k, name, path): self._class_index(v, name, path) for k, v in entry.items()}

    def _class_index(self, value: Any, name: str, path: Path) -> int:
        if isinstance(value, str) and value in self.class_names:
            return self.class_names.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.class_names):
            return value
        raise UserError(
            f"{path}: class {repr(value)[:50]} of {name} is unknown: expected 0..{len(self.class_names) - 1} "
            f"or one of {', '.join(self.class_names)}"
        )

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def files_of(self, index: int) -> list[Path]:
        return [self._labels[self.names[index]], self._images[self.names[index]], self._class_file]

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

    def examine(self, index: int) -> tuple[Sample | None, list[Defect]]:
        """Where there is no sample, image and label map are read one by one: both may be broken."""
        sample, first = super().examine(index)
        if sample is not None:
            return sample, []
        defects: list[Defect] = []
        name = self.names[index]
        for read, path in ((read_image, self._images[name]), (read_label_map, self._labels[name])):
            try:
                read(path)
            except UserError as error:
                defects.append(defect_of(error, [path], name))
        return None, defects or first

    def _class_labels(self, name: str, values: Tensor) -> Tensor:
        if self._classes is None:
            return torch.zeros(len(values), dtype=torch.int64)
        classes = self._classes[name]
        missing = [v for v in values.tolist() if v not in classes]
        if missing:
            raise UserError(f"{self._class_file} gives no class for label {examples(missing)} of {name}")
        return torch.tensor([classes[v] for v in values.tolist()], dtype=torch.int64)


def _find(folder: Path, names: Sequence[str], suffixes: Sequence[str], take: Take | None) -> dict[str, Path]:
    """The file of each name in `folder`, read from one listing of it."""
    there: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in suffixes:
            there.setdefault(path.stem, []).append(path)
    kinds = ", ".join(suffixes)
    missing = [name for name in names if name not in there]
    refuse(
        [Defect(str(folder / name), f"no such file ending in {kinds}", name) for name in missing],
        f"{folder} has no file ({kinds}) for {len(missing)} of {len(names)} names of the split: {examples(missing)}",
        take,
    )
    double = [name for name in names if len(there.get(name, ())) > 1]
    refuse(
        [Defect(str(there[n][0]), f"{there[n][1].name} is there too: keep one of them", n) for n in double],
        f"{folder} has more than one file for {examples(double)}: keep one of each",
        take,
    )
    return {name: there[name][0] for name in names if len(there.get(name, ())) == 1}


def _label_number(key: str, name: str, path: Path) -> int:
    try:
        return int(key)
    except ValueError:
        raise UserError(f"{path}: label {key!r} of {name} is not a whole number") from None
