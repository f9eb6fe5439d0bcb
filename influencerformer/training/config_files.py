"""Configuration files that start from another one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from influencerformer.errors import UserError

BASE_KEY = "base"
DATA_KEY = "data"
CONFIG_FILE = "config.yaml"
"""What a run keeps its options as, in its folder."""


def read_config(path: Path) -> dict[str, Any]:
    """The contents of one YAML file, without what it starts from.

    Raises:
        UserError: the file is missing or no YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold options as YAML keys, got {type(content).__name__}")
    return content


def with_bases(path: Path, _after: tuple[Path, ...] = ()) -> list[Path]:
    """A configuration file and all it starts from by its key `base`, the most basic first.

    `base` is a path relative to the file that holds it. What a later file says replaces what an earlier says.

    Raises:
        UserError: a file is missing, no YAML mapping, or starts from itself.
    """
    if path.resolve() in _after:
        raise UserError(f"{path} starts from itself: take the key {BASE_KEY} out of one of {_after[-1]} and {path}")
    base = read_config(path).get(BASE_KEY)
    if base is None:
        return [path]
    return [*with_bases(path.parent / str(base), (*_after, path.resolve())), path]


def resolve_config(path: Path) -> dict[str, Any]:
    """The contents of a configuration file with everything it starts from, mappings merged key by key."""
    merged: dict[str, Any] = {}
    for file in with_bases(path):
        content = read_config(file)
        content.pop(BASE_KEY, None)
        merged = _merge(merged, content)
    return merged


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def expand_configs(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in which each `--config FILE` is preceded by those the file starts from."""
    expanded: list[str] = []
    pending = False
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if pending:
            expanded += _options(argument)
            pending = False
        elif argument in ("--config", "-c"):
            pending = True
        elif name == "--config" and has_value:
            expanded += _options(value)
        else:
            expanded.append(argument)
    return [*expanded, "--config"] if pending else expanded


def _options(path: str) -> list[str]:
    return [f"--config={file}" for file in with_bases(Path(path))]


def named_configs(arguments: Sequence[str]) -> list[Path]:
    """The files given by `--config`, in order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", type=Path, nargs="?", default=[])
    return [path for path in parser.parse_known_args(list(arguments))[0].config if path is not None]


def build_data(module: type[Any], options: Mapping[str, Any]) -> Any:
    """A data module from the options of a configuration's key `data`, converted and checked as `fit` does.

    Raises:
        UserError: options that the module does not have, or values that do not fit.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, DATA_KEY)
    try:
        config = parser.parse_object({DATA_KEY: dict(options)})
    except jsonargparse.ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from None
    return getattr(parser.instantiate_classes(config), DATA_KEY)


def data_of_run(module: type[Any], checkpoint: Path, config: Path | None, instead: str) -> Any:
    """The data module of the run that a checkpoint is of, by the configuration beside it or another one.

    Args:
        module: the class of the data module.
        checkpoint: a file in the run's folder.
        config: another configuration.
        instead: what to name in place of a configuration, for the message.

    Raises:
        UserError: there is no configuration, or its data are none of this module.
    """
    path = config or checkpoint.parent / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"there is no {path} that says which data the model was trained on: name {instead}, or the configuration "
            "by --config"
        )
    try:
        return build_data(module, resolve_config(path).get(DATA_KEY) or {})
    except UserError as error:
        raise UserError(f"{path}: its data cannot be used: {error}") from None
