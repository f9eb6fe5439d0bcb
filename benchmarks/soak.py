"""Trains many small steps and shows that memory stays flat.

python benchmarks/soak.py --steps 20000
python benchmarks/soak.py --steps 20000 --task points

Trains a tiny model by `fit`, with validations, checkpoints and logs, and reads the process's resident memory all along,
each time after the allocator gave back what is free (glibc keeps freed pieces between those in use, which grows for a
while and is no leak; --keep-free reads the memory as it is).
After a warm-up, memory is averaged over blocks of steps and a line is fitted through the blocks. Writes memory.csv and
memory.png to OUT, prints a table, and ends with code 1 if memory grows: if the line's slope is above LIMIT by more than
twice its standard error.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from influencerformer.training.cli import fit

WARM_UP = 0.2
"""Part of the run in which memory may still grow: pools fill, files are opened for the first time."""
BLOCKS = 20
SAMPLES = 400
CONFIGS = {
    "image": """\
task: image
data: {{format: scenes, root: {root}, scenes_train: 64, scenes_val: 4, scenes_size: 32, crop_size: 32, batch_size: 2}}
model: {{architecture: mask2former-tiny, num_queries: 8, learning_rate: 1.0e-4}}
""",
    "points": """\
task: points
data: {{format: rooms, root: {root}, rooms_train: 8, rooms_val: 2, rooms_width: [2.5, 2.7], rooms_density: 60.0,
        max_points: 1000, batch_size: 1}}
model: {{architecture: point-tiny, num_queries: 8, voxel_size: 0.2, learning_rate: 1.0e-4}}
""",
}
TRAINER = """\
trainer: {{max_steps: {steps}, max_epochs: -1, val_check_interval: {validate}, check_val_every_n_epoch: null,
           accelerator: cpu, num_sanity_val_steps: 0, enable_progress_bar: false, enable_model_summary: false}}
"""


class Line(NamedTuple):
    """A line through block means: bytes a step, and its standard error."""

    slope: float
    error: float


class Memory(Callback):
    """Reads the resident memory of this process while it trains.

    Attributes:
        samples: (step, seconds since the start, bytes).

    Args:
        every: steps between two readings.
        keep_free: leave the allocator alone.
    """

    def __init__(self, every: int, keep_free: bool) -> None:
        self.every = every
        self._give_back = None if keep_free else getattr(ctypes.CDLL(None), "malloc_trim", None)
        self.samples: list[tuple[int, float, int]] = []
        self._began = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step % self.every == 0:
            if self._give_back is not None:
                self._give_back(0)
            self.samples.append((step, time.monotonic() - self._began, resident_bytes()))
        if self.samples and step % max(1, trainer.max_steps // 20) == 0:
            print(f"step {step}: {self.samples[-1][2] / 2**20:.1f} MiB", flush=True)


def resident_bytes() -> int:
    """Memory of this process that lies in RAM; the peak so far where the system does not tell the present."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fit_line(steps: NDArray[np.float64], values: NDArray[np.float64]) -> Line:
    """Least squares through the means of BLOCKS blocks, as neighbouring readings are not independent."""
    x = np.array([block.mean() for block in np.array_split(steps, BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    rest = y - y.mean() - slope * (x - x.mean())
    return Line(float(slope), float(np.sqrt((rest**2).sum() / (BLOCKS - 2) / spread)))


def plot(path: Path, steps: NDArray[np.float64], values: NDArray[np.float64], line: Line) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(steps, values / 2**20, linewidth=0.8, label="resident memory")
    judged = steps > WARM_UP * steps[-1]
    middle = values[judged].mean() + line.slope * (steps[judged] - steps[judged].mean())
    label = f"{1000 * line.slope / 1024:+.2f} ± {1000 * line.error / 1024:.2f} KiB per 1000 steps"
    axes.plot(steps[judged], middle / 2**20, linewidth=1.5, label=label)
    axes.set(xlabel="optimiser step", ylabel="MiB", ylim=(0, 1.15 * values.max() / 2**20))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--task", choices=sorted(CONFIGS), default="image")
    parser.add_argument("--limit", type=float, default=512.0, help="bytes a step that memory may grow by (default 512)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--keep-free", action="store_true", help="count what the allocator holds but is free")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for memory.csv and memory.png")
    args = parser.parse_args()
    if args.steps < 10 * BLOCKS:
        parser.error(f"--steps must be at least {10 * BLOCKS}, or there is no line to fit")
    memory = Memory(max(1, args.steps // SAMPLES), args.keep_free)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / f"{args.task}.yaml"
        trainer = TRAINER.format(steps=args.steps, validate=max(1, args.steps // 10))
        config.write_text(CONFIGS[args.task].format(root=Path(folder) / "data") + trainer)
        options = [f"--config={config}", f"--out_dir={folder}/run", f"--data.num_workers={args.workers}"]
        fit([*options, "--save_every_minutes=1"], [memory])

    table = np.array(memory.samples, dtype=np.float64)
    steps, seconds, values = table.T
    judged = steps > WARM_UP * args.steps
    line = fit_line(steps[judged], values[judged])
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "memory.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "bytes"])
        writer.writerows(memory.samples)
    plot(args.out / "memory.png", steps, values, line)
    grows = line.slope - 2 * line.error > args.limit
    print(f"\n| steps {args.task} | {args.steps} in {seconds[-1]:.0f} s |\n|---|---|")
    for part in (0.0, WARM_UP, 0.4, 0.6, 0.8, 1.0):
        at = int(part * (len(values) - 1))
        print(f"| MiB at step {int(steps[at])} | {values[at] / 2**20:.1f} |")
    print(f"| slope after the first {WARM_UP:.0%}, bytes a step | {line.slope:.1f} ± {line.error:.1f} |")
    print(f"| limit, bytes a step | {args.limit:g} |\n| verdict | {'memory grows' if grows else 'flat'} |")
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
