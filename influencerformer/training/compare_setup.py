"""What all runs of a comparison share, kept as `compare.json` in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from influencerformer.data.files import read_json
from influencerformer.errors import UserError
from influencerformer.training.config_files import resolve_config
from influencerformer.training.record import write_json

SETUP_FILE = "compare.json"
OWN_OPTIONS = {"seed_everything", "data.seed", "model.loss", "out_dir", "resume", "config"}


@dataclass(frozen=True)
class Setup:
    """The configuration of a comparison.

    configs: paths of the configuration files, in the order `fit` gets them.
    contents: their contents with all they start from; these, `overrides` and `max_steps` decide `digest`.
    overrides: further `key=value` options for `fit`.
    jobs: the most runs that were side by side.
    command: the command that made the comparison, as it was typed.
    """

    configs: tuple[str, ...]
    contents: tuple[Any, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    max_steps: int | None
    jobs: int
    command: str

    @property
    def title(self) -> str:
        return " vs ".join(self.losses)

    @property
    def digest(self) -> str:
        """Hash of what every run must share; losses and seeds may grow."""
        return hashlib.sha256(json.dumps(self._shared(), sort_keys=True).encode()).hexdigest()[:12]

    def _shared(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for content in self.contents:
            merged.update(_flatten(content))
        for override in self.overrides:
            key, _, value = override.partition("=")
            merged[key] = yaml.safe_load(value)
        if self.max_steps is not None:
            merged["trainer.max_steps"] = self.max_steps
        return merged

    def fit_options(self, loss: str, seed: int, folder: Path) -> list[str]:
        """The options that make `fit` one run of the comparison; a seed settles weights and batches."""
        options = [f"--config={path}" for path in self.configs]
        options += [f"--{override}" for override in self.overrides]
        if self.max_steps is not None:
            options.append(f"--trainer.max_steps={self.max_steps}")
        options += [f"--seed_everything={seed}", f"--model.loss={loss}"]
        return [*options, f"--out_dir={folder}", "--resume"]

    def store(self, out: Path) -> Setup:
        """Write compare.json, or check that the one there is of the same configuration.

        Losses and seeds of earlier calls are kept, so that a comparison can grow; returns the whole.

        Raises:
            UserError: `out` holds a comparison with another configuration.
        """
        if not (out / SETUP_FILE).is_file():
            write_json(out / SETUP_FILE, asdict(self))
            return self
        earlier = open_setup(out)
        if earlier.digest != self.digest:
            raise UserError(
                f"{out} holds a comparison with another configuration "
                f"({', '.join(_differences(earlier._shared(), self._shared()))}): "
                "choose another --out, or delete that folder"
            )
        whole = replace(
            self,
            losses=tuple(dict.fromkeys([*self.losses, *earlier.losses])),
            seeds=tuple(sorted({*self.seeds, *earlier.seeds})),
            jobs=max(self.jobs, earlier.jobs),
        )
        write_json(out / SETUP_FILE, asdict(whole))
        return whole


def run_folder(out: Path, loss: str, seed: int) -> Path:
    """Where a run keeps its record, log and checkpoints."""
    return out / loss / f"seed{seed}"


def make_setup(
    configs: Sequence[Path],
    losses: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    max_steps: int | None,
    jobs: int,
    command: str,
) -> Setup:
    """Read and check the options of `compare`.

    Raises:
        UserError: a file cannot be read, a value is repeated, or an override is no key=value or sets what
            `compare` sets itself.
    """
    if not configs:
        raise UserError("--config is missing: name the configuration of `fit` that all runs share")
    for name, values in (("--losses", losses), ("--seeds", seeds)):
        if len(set(values)) != len(values):
            raise UserError(f"{name} holds a value twice: {' '.join(map(str, values))}")
    for override in overrides:
        if "=" not in override:
            raise UserError(f"--set takes key=value pairs such as data.batch_size=8, got {override!r}")
        try:
            yaml.safe_load(override.partition("=")[2])
        except yaml.YAMLError as error:
            what = " ".join(str(error).split())
            raise UserError(f"--set {override!r} has no value of YAML: {what}") from None
        if override.partition("=")[0].removeprefix("--") in OWN_OPTIONS:
            raise UserError(f"--set cannot take {override}: compare sets that for each run itself")
    return Setup(
        configs=tuple(map(str, configs)),
        contents=tuple(resolve_config(path) for path in configs),
        losses=tuple(losses),
        seeds=tuple(seeds),
        overrides=tuple(override.removeprefix("--") for override in overrides),
        max_steps=max_steps,
        jobs=jobs,
        command=command,
    )


def open_setup(out: Path) -> Setup:
    """The setup of the comparison in `out`.

    Raises:
        UserError: there is none.
    """
    path = out / SETUP_FILE
    if not path.is_file():
        raise UserError(f"{out} holds no comparison ({SETUP_FILE} is missing): run `compare` there first")
    data = read_json(path)
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        setup = Setup(**fields)
        setup._shared()  # contents must be mappings and options text
    except (TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"{path} does not describe a comparison ({what}): choose another --out") from None
    return setup


def _flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    return dict(_items(content, prefix))


def _items(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _items(value, f"{name}.")
        else:
            yield name, value


def _differences(before: dict[str, Any], after: dict[str, Any], most: int = 3) -> list[str]:
    keys = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    said = [f"{k}: there {before.get(k, 'unset')}, now {after.get(k, 'unset')}" for k in keys[:most]]
    return said + ([f"{len(keys) - most} more"] if len(keys) > most else [])
