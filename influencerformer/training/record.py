"""What one training run leaves behind: its curves, its costs, and proof of what it was trained on.

`RunRecorder` is a Lightning callback that fills a `RunRecord` and keeps it as `record.json` in the run's
folder. The record travels inside the checkpoint too, so a resumed run goes on exactly where the checkpoint
was taken: points recorded after it are gone, as the steps that made them are.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import resource
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from influencerformer.data.files import read_json
from influencerformer.errors import UserError

RECORD_FILE = "record.json"
AP_VALUES = ("AP", "AP50")
VAL_LOSS_KEY = "val/loss"
LOSS_POINTS = 400
WRITE_EVERY_SECONDS = 5.0
CHECKSUM_ELEMENTS = 4096


@dataclass
class EvalPoint:
    """One evaluation. `seconds` is training time up to it, validation excluded.

    `ap`, `ap50` and `others` are the values that the record's `values` name, in that order, in percent (0..100):
    mask AP and AP50, or what takes their place in a task that is not judged by AP.
    """

    step: int
    seconds: float
    ap: float
    ap50: float
    val_loss: float | None = None
    others: list[float] = field(default_factory=list)


@dataclass
class LossPoint:
    """Means of the training loss and its parts over the steps since the last point; None: not finite."""

    step: int
    seconds: float
    loss: float | None
    parts: dict[str, float | None] = field(default_factory=dict)


@dataclass
class RunRecord:
    """A run as JSON. Seconds are wall-clock, memory is in bytes.

    seconds: sum of all training steps (forward, loss, backward, optimiser), without waiting for data,
        validation and checkpoints.
    timed_steps, timed_seconds, criterion_seconds: the same without the first step of each session, which
        pays for warm-up; criterion_seconds is of it the loss, forward and backward.
    memory_kind: "gpu" (peak allocated in training steps) or "process" (peak resident set, imports and
        validation included).
    init_checksum, batch_checksum: of the parameters at step 0 and of every batch so far; equal in two runs
        means: same start, same batches.
    resumed_at: the steps at which the run was resumed from a checkpoint.
    values: names of the values in evaluations, two or more; losses are judged by the first.
    """

    loss: str
    seed: int
    config_digest: str = ""
    steps: int = 0
    max_steps: int = 0
    seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0
    criterion_seconds: float = 0.0
    evaluations: list[EvalPoint] = field(default_factory=list)
    losses: list[LossPoint] = field(default_factory=list)
    peak_memory: int = 0
    memory_kind: str = "process"
    parameters: int = 0
    init_checksum: int = 0
    batch_checksum: int = 0
    resumed_at: list[int] = field(default_factory=list)
    finished: bool = False
    values: list[str] = field(default_factory=lambda: list(AP_VALUES))
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds of a training step; None before the second step."""
        return self.timed_seconds / self.timed_steps if self.timed_steps else None

    @property
    def criterion_step_seconds(self) -> float | None:
        """Mean seconds a step spent in the loss, forward and backward; None if unknown."""
        known = self.timed_steps and self.criterion_seconds
        return self.criterion_seconds / self.timed_steps if known else None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunRecord:
        """The inverse of `dataclasses.asdict`."""
        content = dict(data)
        content["evaluations"] = [EvalPoint(**p) for p in content.get("evaluations", [])]
        content["losses"] = [LossPoint(**p) for p in content.get("losses", [])]
        return cls(**content)

    def save(self, folder: Path) -> None:
        """Write record.json so that a reader, or a crash, never sees half a file."""
        write_json(folder / RECORD_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> RunRecord | None:
        """The record in a run's folder, None if there is none yet.

        Raises:
            UserError: the file is no record.
        """
        path = folder / RECORD_FILE
        if not path.is_file():
            return None
        content = read_json(path)
        try:
            return cls.from_dict(content)
        except (TypeError, ValueError, AttributeError) as error:
            what = " ".join(str(error).split())
            raise UserError(f"{path} is no record of a run ({what}): delete {folder} to train it anew") from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(data, indent=1, allow_nan=False))
    draft.replace(path)


class RunRecorder(pl.Callback):
    """Fills a RunRecord during `fit` and keeps it in the trainer's default_root_dir.

    Args:
        loss: name of the loss, for the record.
        seed: the seed of the run, for the record.
        config_digest: digest of the configuration the runs of a comparison share.
    """

    def __init__(self, loss: str = "", seed: int = 0, config_digest: str = "") -> None:
        self.record = RunRecord(loss=loss, seed=seed, config_digest=config_digest)
        self._restored = False
        self._start_of_step = 0.0
        self._next_checksum = 0
        self._first_step_of_session = True
        self._sums: dict[str, float] = {}
        self._count = 0
        self._last_write = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"record": asdict(self.record), "sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = RunRecord.from_dict(state_dict["record"])
        self._sums, self._count = dict(state_dict["sums"]), int(state_dict["count"])
        self._restored = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        record = self.record
        if trainer.global_step == 0:
            record.init_checksum = parameter_checksum(pl_module)
        elif self._restored:
            record.resumed_at.append(trainer.global_step)
        record.finished = False
        total = trainer.estimated_stepping_batches
        record.max_steps = int(total) if math.isfinite(total) else 0
        record.parameters = sum(p.numel() for p in pl_module.parameters())
        record.memory_kind = "gpu" if pl_module.device.type == "cuda" else "process"
        record.values = list(getattr(pl_module, "compared", AP_VALUES))
        record.machine = machine_string(pl_module.device)
        record.versions = package_versions()
        self._first_step_of_session = True
        self._forget_peak(pl_module)
        self._write(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._next_checksum = checksum(batch, self.record.batch_checksum)
        _synchronise(pl_module.device)
        self._start_of_step = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _synchronise(pl_module.device)
        seconds = time.perf_counter() - self._start_of_step
        record = self.record
        record.batch_checksum = self._next_checksum
        record.seconds += seconds
        new_step = trainer.global_step > record.steps
        record.steps = trainer.global_step
        if self._first_step_of_session:
            self._first_step_of_session = not new_step
        else:
            record.timed_steps += int(new_step)
            record.timed_seconds += seconds
            record.criterion_seconds += criterion_seconds(pl_module)
        self._note_peak(pl_module)

        self._count += 1
        values = {"loss": _loss_of(outputs) * trainer.accumulate_grad_batches, **loss_parts(pl_module)}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        interval = max(1, record.max_steps // LOSS_POINTS)
        if new_step and (record.steps % interval == 0 or record.steps == record.max_steps):
            means = {name: _finite(total / self._count) for name, total in self._sums.items()}
            loss = means.pop("loss")
            record.losses.append(LossPoint(record.steps, record.seconds, loss, means))
            self._sums, self._count = {}, 0
        if time.monotonic() - self._last_write > WRITE_EVERY_SECONDS:
            self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        values = [_metric(trainer, f"val/{name}") for name in self.record.values]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return
        ap, ap50, *others = known
        val_loss = _metric(trainer, VAL_LOSS_KEY)
        point = EvalPoint(self.record.steps, self.record.seconds, ap, ap50, val_loss, others)
        earlier = [p for p in self.record.evaluations if p.step < point.step]
        self.record.evaluations = [*earlier, point]
        self._forget_peak(pl_module)
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.finished = True
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.record.save(Path(trainer.default_root_dir))
        self._last_write = time.monotonic()

    def _note_peak(self, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device)
        else:
            peak = peak_resident_bytes()
        self.record.peak_memory = max(self.record.peak_memory, peak)

    @staticmethod
    def _forget_peak(pl_module: pl.LightningModule) -> None:
        """Start the GPU's peak anew, so that it is the peak of training steps, not of validation."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)


def criterion_seconds(pl_module: nn.Module) -> float:
    """Seconds of the last step in the criterion, as far as the module tells; 0 if it does not."""
    names = ("criterion_seconds", "criterion_backward_seconds")
    return sum(float(getattr(pl_module, name, 0.0)) for name in names)


def loss_parts(pl_module: nn.Module) -> dict[str, float]:
    """The named parts of the last loss, from the module's criterion (`.parts`), {} if it has none."""
    model = getattr(pl_module, "model", None)
    parts = getattr(getattr(model, "criterion", None), "parts", None) or {}
    return {name: float(value) for name, value in parts.items() if name != "loss" and _is_scalar(value)}


def checksum(value: Any, start: int = 0) -> int:
    """CRC-32 of a batch: nested dicts, lists and dataclasses of tensors and plain values.

    Large tensors are thinned to a few thousand evenly spaced elements: enough to tell two batches apart.
    """
    if isinstance(value, Tensor):
        flat = value.detach().flatten()
        flat = flat[:: max(1, flat.numel() // CHECKSUM_ELEMENTS)].cpu()
        return zlib.crc32(_bytes(flat), start)
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            start = checksum(value[key], zlib.crc32(str(key).encode(), start))
        return start
    if is_dataclass(value) and not isinstance(value, type):
        return checksum({one.name: getattr(value, one.name) for one in fields(value)}, start)
    if isinstance(value, list | tuple):
        for item in value:
            start = checksum(item, start)
        return start
    return zlib.crc32(repr(value).encode(), start)


def parameter_checksum(module: nn.Module) -> int:
    """CRC-32 of all parameters, by name."""
    total = 0
    for name, parameter in module.named_parameters():
        total = zlib.crc32(_bytes(parameter.detach().cpu()), zlib.crc32(name.encode(), total))
    return total


def peak_resident_bytes() -> int:
    """The largest resident set of this process so far.

    Linux's VmHWM is preferred: getrusage's value is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine_string(device: torch.device) -> str:
    """Processor, cores and threads, and the GPU where there is one; no host name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    text = f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) a run, {platform.system()}"
    return f"{torch.cuda.get_device_name(device)}; {text}" if device.type == "cuda" else text


def package_versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    versions = {"python": platform.python_version()}
    for name in ("influencerformer", "torch", "transformers", "lightning", "numpy", "faster-coco-eval"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor on the CPU, of any dtype (numpy knows no bfloat16)."""
    return np.ascontiguousarray(tensor.contiguous().flatten().view(torch.uint8).numpy()).tobytes()


def _loss_of(outputs: Any) -> float:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss) if loss is not None else math.nan


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _metric(trainer: pl.Trainer, key: str) -> float | None:
    """A logged value, None if it is absent or not defined."""
    return _finite(float(trainer.callback_metrics[key])) if key in trainer.callback_metrics else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _synchronise(device: torch.device) -> None:
    """Wait for the GPU, so that the clock sees the work and not its queueing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
