"""A CSV log that survives resuming."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

METRICS_FILE = "metrics.csv"
SAVE_EVERY_SECONDS = 20.0


class MetricsFile(Logger):
    """Keeps everything that is logged in one `metrics.csv`, one row a step: the optimiser steps done by then.

    Lightning's CSVLogger deletes or splits the file when a run is resumed; this one goes on with it, and
    `forget_after` takes out the rows of steps that a resumed run makes again. The file is replaced as a
    whole, so a reader never sees half of it.

    Args:
        folder: where metrics.csv lies; rows already in it are kept.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS_FILE
        self._rows: list[dict[str, Any]] = []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self._rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
        self._saved_at = 0.0

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml has them all."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: v.item() if isinstance(v, Tensor) else v for name, v in metrics.items()}
        values.pop("epoch", None)
        step = len(self._rows) if step is None else int(step)
        if self._rows and int(self._rows[-1]["step"]) == step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": step, **values})
        if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
            self.save()

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps."""
        self._rows = [row for row in self._rows if int(row["step"]) <= step]

    @rank_zero_only
    def save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._rows:
            return
        columns = sorted(set().union(*self._rows) - {"step"})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows(self._rows)
        draft.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
