"""`influencerformer check`: reads a whole data set and lists everything that is amiss in it."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from influencerformer.data.bad_samples import CheckedDataset, Defect, defect_of
from influencerformer.data.files import shown
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.progress import progress
from influencerformer.data.tracks.sample import Event
from influencerformer.data.whole import FORMATS, DataPart, parts_of_folder, parts_of_module
from influencerformer.errors import UserError
from influencerformer.pictures.atomic import replace_file
from influencerformer.training.config_files import resolve_config
from influencerformer.training.tasks import TASKS

PLAIN_WIDTH = 200
"""Letters in a line of the table where the output is no terminal."""


@dataclass
class Findings:
    """What a check found.

    Attributes:
        root: folder of the data.
        read: number of samples that can be used.
        lost: names of the others, by part.
        empty: number of samples without an instance.
        instances: of each class, by name.
        classes: names of all classes.
        defects: and the part that each was found in first, in the order of the data.
    """

    root: Path
    read: int = 0
    lost: set[tuple[str, str]] = field(default_factory=set)
    empty: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    defects: dict[Defect, str] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Number of defects that training stops at."""
        return sum(defect.stops for defect in self.defects)

    def add(self, part: str, defect: Defect) -> None:
        """Notes a defect; one that is in several parts counts once."""
        self.defects.setdefault(defect, part)
        if defect.stops and defect.sample is not None:
            self.lost.add((part, defect.sample))

    def summary(self) -> str:
        """One line: samples, instances, classes, defects."""
        total = self.read + len(self.lost)
        found = sum(self.instances.values())
        text = (
            f"{self.read} of {total} samples read ({self.empty} without an instance), {found} instances of "
            f"{len(self.instances)} of {len(self.classes)} classes; "
        )
        if not self.defects:
            return f"{text}no defects"
        return (
            f"{text}{len(self.defects)} defects: training stops at {self.errors} of them and goes on with "
            f"{len(self.defects) - self.errors}"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, for other programs."""
        return {
            "data": str(self.root),
            "samples": self.read + len(self.lost),
            "read": self.read,
            "without_instance": self.empty,
            "instances": {name: self.instances[name] for name in self.classes},
            "errors": self.errors,
            "warnings": len(self.defects) - self.errors,
            "defects": [
                {
                    "severity": "error" if defect.stops else "warning",
                    "part": part,
                    "sample": defect.sample,
                    "file": defect.file,
                    "what": defect.what,
                }
                for defect, part in self.defects.items()
            ],
        }


def check(root: Path, parts: Sequence[DataPart]) -> Findings:
    """Reads every sample of every part.

    Args:
        root: folder of the data, for messages.
        parts: of `parts_of_folder` or `parts_of_module`.
    """
    findings = Findings(root)
    for part in parts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what readers warn of is a defect here
                dataset = part.open(lambda defect, name=part.name: findings.add(name, defect))  # type: ignore[misc]
        except UserError as error:
            findings.add(part.name, _of_part(error, root))
            continue
        _read_part(part.name, dataset, findings)
    return findings


def _of_part(error: UserError, root: Path) -> Defect:
    """The defect of a part that cannot be opened; its file is the first word of the sentence that is one."""
    words = [word.rstrip(":,") for word in str(error).split()]
    return defect_of(error, [word for word in words if word.startswith(str(root))][:1] or [root], None)


def _read_part(name: str, dataset: CheckedDataset[Any], findings: Findings) -> None:
    findings.classes += [c for c in dataset.class_names if c not in findings.classes]
    if isinstance(dataset, RoomDataset):
        for repair in dataset.folder_repairs():
            findings.add(name, dataset.repaired(repair))
    for index in progress(range(len(dataset)), f"Reading {name}"):
        sample, defects = dataset.examine(index)
        for defect in defects:
            findings.add(name, defect)
        if sample is None:
            continue
        findings.read += 1
        labels = [0] * sample.num_particles if isinstance(sample, Event) else sample.class_labels.tolist()
        findings.empty += not labels
        findings.instances.update(_class_name(dataset.class_names, label) for label in labels)


def _class_name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def print_findings(findings: Findings, console: Console) -> None:
    """The table of defects, where there are any, and the summary."""
    if findings.defects:
        table = Table(title=Text(f"Defects in {shown(str(findings.root))}"), title_justify="left")
        for heading in ("Training", "Part", "File", "What"):
            table.add_column(heading, overflow="fold")
        for defect, part in findings.defects.items():
            path = Path(defect.file)
            file = path.relative_to(findings.root) if path.is_relative_to(findings.root) else path
            word = Text("stops", "bold red") if defect.stops else Text("goes on", "yellow")
            table.add_row(word, Text(part), Text(_printable(str(file))), Text(_printable(defect.what)))
        console.print(table)
    console.print(Text(findings.summary()), soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def make_parser() -> argparse.ArgumentParser:
    """The options of `influencerformer check`."""
    parser = argparse.ArgumentParser(
        prog="influencerformer check",
        description="Read a whole data set and list every defect with its file. Exit code 0: none; 1: some; 2: the "
        "options cannot be used.",
        epilog="Further options such as --data.class_names '[cell, debris]' are those of `influencerformer fit`.",
    )
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help=f"FORMAT:FOLDER, or a folder with --format or --config; FORMAT is one of {', '.join(FORMATS)}",
    )
    parser.add_argument("--format", choices=list(FORMATS), help="format of the data in the folder")
    parser.add_argument(
        "--config", type=Path, action="append", help="configuration of `fit` whose data are read (repeatable)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found to this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 without a defect, 1 with some.

    Raises:
        UserError: the options cannot be used.
    """
    args, options = make_parser().parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    root, parts = _find(args, options)
    findings = check(root, parts)
    console = Console()
    print_findings(findings, console if console.is_terminal else Console(width=PLAIN_WIDTH))
    if args.json is not None:
        text = json.dumps(findings.as_json(), indent=1)
        replace_file(args.json, lambda draft: draft.write_text(text, encoding="utf-8"))
    return 1 if findings.defects else 0


def _find(args: argparse.Namespace, options: Sequence[str]) -> tuple[Path, list[DataPart]]:
    """The data that the options mean: those of a configuration, or all in a folder."""
    format, folder = _split_data(args.data, args.format)
    if not args.config:
        if format is None or folder is None:
            formats = ", ".join(FORMATS)
            raise UserError(
                f"say what to check: FORMAT:FOLDER, a folder with --format, or --config FILE (formats: {formats})"
            )
        if not options:
            return folder, parts_of_folder(format, folder)
    config: dict[str, Any] = {}
    for path in args.config or []:
        content = resolve_config(path)
        data = content.get("data") or {}
        if not isinstance(data, dict):
            raise UserError(f"{path} must hold the options of data as YAML keys, got {type(data).__name__}")
        config = {**config, **content, "data": {**config.get("data", {}), **data}}
    more = [] if format is None else [f"--data.format={format}"]
    more += [] if folder is None else [f"--data.root={folder}"]
    task = FORMATS.get(str(format or config.get("data", {}).get("format")), str(config.get("task", "image")))
    if task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TASKS[task].data, "data")
    try:
        given = parser.parse_object({"data": config.get("data", {})})
        module = parser.instantiate_classes(parser.parse_args([*options, *more], namespace=given)).data
    except ArgumentError as error:
        raise UserError(f"the data options do not fit: {' '.join(str(error).split())}") from None
    return Path(module.root), parts_of_module(module)


def _split_data(data: str | None, format: str | None) -> tuple[str | None, Path | None]:
    if data is None:
        return format, None
    prefix, colon, folder = data.partition(":")
    if colon and prefix in FORMATS:
        if format not in (None, prefix):
            raise UserError(f"DATA says {prefix}, --format says {format}: give one")
        return prefix, Path(folder)
    if colon and not Path(data).exists():
        raise UserError(f"format {prefix!r} is unknown: expected one of {', '.join(FORMATS)}")
    return format, Path(data)
