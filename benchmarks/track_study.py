"""Hungarian matching against the Influencer Loss on particle tracks, from 50 to 2000 particles an event.

    python benchmarks/track_study.py timing --out runs/track_study      # minutes
    python benchmarks/track_study.py training --out runs/track_study    # hours on a CPU; ends and resumes at any time
    python benchmarks/track_study.py report --out runs/track_study      # results.json, table.md and plots

`timing` measures the criterion's forward and backward pass on the labels of generated events, once with random
predictions as at the start of a run and once with predictions that are nearly right, and a whole training step of the
mask tracker. Every case runs in a process of its own, so that the peak of memory is its own; a case that is done is not
repeated. `training` trains both losses by `influencerformer compare` with the same weights, batches and steps; with
--own-claims a query may claim, or be matched with, the particle of the hit that it starts from alone. Each command ends
with the report.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.collate import collate_events
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.sample import NUM_HIT_FEATURES
from influencerformer.models.tracks.mask_tracker import LOSSES, MaskTracker
from influencerformer.training.compare import main as compare
from influencerformer.training.compare_stats import loss_title
from influencerformer.training.record import RunRecord, machine_string, peak_resident_bytes, write_json

CONFIG = Path(__file__).parents[1] / "configs/tracks/base.yaml"
PARTICLES = (50, 200, 500, 1000, 2000)
QUERIES_PER_PARTICLE = 1.2
HEADS = 2
"""Heads with masks: before and after one decoder layer."""
ORDER = ("hungarian", "influencer")
"""The baseline first."""
COLOURS = {"hungarian": "#0072b2", "influencer": "#d55e00"}
OWN_CLAIMS = ", own claims"
"""Ends the name of an arm whose queries are restricted."""


@dataclass(frozen=True)
class Budget:
    """What one training run gets; the same for both losses.

    Attributes:
        steps, batch_size: of the run.
        events, val_events: generated.
        window: of the encoder's attention.
    """

    steps: int
    batch_size: int
    events: int
    val_events: int
    window: int


BUDGETS = {
    50: Budget(1500, 4, 1000, 40, 64),
    200: Budget(1000, 2, 500, 20, 128),
    500: Budget(600, 1, 300, 10, 256),
    1000: Budget(400, 1, 200, 6, 512),
    2000: Budget(300, 1, 150, 4, 512),
}


@dataclass(frozen=True)
class Timing:
    """One case. Seconds are medians of this process's CPU time, bytes are above what was there before the call.

    Attributes:
        start, late: forward and backward of the criterion with random and with nearly right predictions.
        step: a whole training step of one event.
        memory, step_memory: most that the criterion, and the step, held beyond their inputs.
    """

    loss: str
    particles: int
    hits: int
    queries: int
    start: float
    late: float
    memory: int
    step: float
    step_memory: int
    repeats: int
    machine: str


def num_queries(particles: int) -> int:
    """Q for events of so many particles."""
    return math.ceil(QUERIES_PER_PARTICLE * particles)


def event_batch(particles: int) -> dict[str, Any]:
    """One generated event as a batch."""
    return collate_events([assemble_event("event", generate_event(0, particles))])


def predictions(labels: Tensor, particles: int, queries: int, late: bool) -> tuple[list[list[Tensor]], ...]:
    """Mask logits HEADS x 1 x (Q, N) and class logits HEADS x 1 x (Q, 2), random or nearly right, as leaves."""
    generator = torch.Generator().manual_seed(0)
    masks, classes = [], []
    for _ in range(HEADS):
        mask = torch.randn(queries, len(labels), generator=generator)
        score = torch.randn(queries, 2, generator=generator)
        if late:
            mask -= 4
            member = labels > 0
            mask[labels[member] - 1, member.nonzero()[:, 0]] += 8
            score[:, 0] += torch.where(torch.arange(queries) < particles, 3.0, -3.0)
        masks.append([mask.requires_grad_()])
        classes.append([score.requires_grad_()])
    return masks, classes


def timed(run: Callable[[], None], repeats: int) -> tuple[float, int]:
    """Median CPU seconds of some calls, and bytes by which the first one raised the peak of memory."""
    before = peak_resident_bytes()
    seconds = []
    memory = 0
    for index in range(repeats + 1):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
        if index == 0:
            memory = peak_resident_bytes() - before
    return statistics.median(seconds[1:]), memory


def measure(loss: str, particles: int, repeats: int) -> Timing:
    """Times one loss at one size, in this process."""
    batch = event_batch(particles)
    labels, class_labels = batch["instance_labels"][0], batch["class_labels"]
    queries = num_queries(particles)
    criterion = LOSSES[loss]()
    # Whatever is loaded or compiled at the first call is no part of the memory of the others.
    small = torch.ones(HEADS, 1, 2, 2, requires_grad=True)
    criterion(small, torch.tensor([[1, 0]]), small, torch.zeros(1, 1, dtype=torch.int64))["loss"].backward()

    def one(masks: Any, classes: Any) -> Callable[[], None]:
        def run() -> None:
            for tensor in [*(m[0] for m in masks), *(c[0] for c in classes)]:
                tensor.grad = None
            criterion(masks, [labels], classes, class_labels)["loss"].backward()

        return run

    start, memory = timed(one(*predictions(labels, len(class_labels[0]), queries, False)), repeats)
    late, _ = timed(one(*predictions(labels, len(class_labels[0]), queries, True)), repeats)
    torch.manual_seed(0)
    model: nn.Module = MaskTracker(
        NUM_HIT_FEATURES, queries, window=BUDGETS[particles].window, decoder_layers=HEADS - 1, loss=loss
    )

    def train() -> None:
        model.zero_grad()
        model(batch).loss.backward()

    step, step_memory = timed(train, max(1, repeats // 2))
    return Timing(
        loss, particles, len(labels), queries, start, late, memory, step, step_memory, repeats,
        machine_string(torch.device("cpu")),
    )  # fmt: skip


def time_all(out: Path, particles: Sequence[int], repeats: int) -> None:
    """Every case that is not there yet, each in a process of its own, the losses in turn."""
    for size in particles:
        for loss in ORDER:
            path = timing_file(out, loss, size)
            if path.is_file():
                print(f"{loss}, {size} particles: done before")
                continue
            print(f"{loss}, {size} particles ...", flush=True)
            command = [sys.executable, __file__, "case", "--out", str(out), "--particles", str(size)]
            subprocess.run([*command, "--loss", loss, "--repeats", str(repeats)], check=True)


def timing_file(out: Path, loss: str, particles: int) -> Path:
    """Where a case is kept."""
    return out / "timing" / f"{loss}_{particles}.json"


def train_all(out: Path, particles: Sequence[int], seeds: Sequence[int], steps: int | None, own_claims: bool) -> None:
    """Trainings of both losses at each size, or of own claims; finished ones are skipped, others resumed."""
    for size in particles:
        budget = BUDGETS[size]
        total = steps or budget.steps
        options = {
            "data.num_particles": size,
            "data.train_events": budget.events,
            "data.val_events": budget.val_events,
            "data.batch_size": budget.batch_size,
            "data.root": out / "generated",
            "model.num_queries": num_queries(size),
            "model.window": budget.window,
            "model.decoder_layers": HEADS - 1 if size >= 1000 else 2,
            "trainer.val_check_interval": max(1, total // 5),
        }
        if own_claims:
            options["model.own_claims"] = "true"
        folder = training_folder(out, size, own_claims)
        arguments = ["--config", str(CONFIG), "--out", str(folder), "--max-steps", str(total)]
        arguments += ["--seeds", *map(str, seeds), "--losses", *ORDER]
        code = compare([*arguments, "--set", *(f"{name}={value}" for name, value in options.items())])
        if code:
            sys.exit(code)


def training_folder(out: Path, particles: int, own_claims: bool) -> Path:
    """Where a size's trainings with both losses are kept."""
    return out / ("training_own_claims" if own_claims else "training") / str(particles)


def finished_trainings(out: Path) -> dict[int, dict[str, list[RunRecord]]]:
    """Finished runs by size and arm, where there are any."""
    found: dict[int, dict[str, list[RunRecord]]] = {}
    for size, own_claims, loss in itertools.product(PARTICLES, (False, True), ORDER):
        path = training_folder(out, size, own_claims) / "records.json"
        if path.is_file():
            records = [RunRecord.from_dict(record) for record in json.loads(path.read_text())]
            runs = [run for run in records if run.loss == loss and run.finished and run.evaluations]
            if runs:
                found.setdefault(size, {})[loss + OWN_CLAIMS * own_claims] = runs
    return found


def arm_title(arm: str) -> str:
    """For tables and plots."""
    return loss_title(arm.removesuffix(OWN_CLAIMS)) + OWN_CLAIMS * arm.endswith(OWN_CLAIMS)


def report(out: Path) -> None:
    """results.json, table.md and plots of all that has been measured."""
    timings = [
        Timing(**json.loads(path.read_text()))
        for size in PARTICLES
        for loss in ORDER
        if (path := timing_file(out, loss, size)).is_file()
    ]
    trainings = finished_trainings(out)
    write_json(
        out / "results.json",
        {
            "timing": [asdict(timing) for timing in timings],
            "training": {
                size: {arm: [asdict(run) for run in runs] for arm, runs in arms.items()}
                for size, arms in trainings.items()
            },
        },
    )
    text = "\n".join([*timing_table(timings), "", *training_table(trainings)])
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(out / "timing.png", timings)
    plot_training(out / "training.png", trainings)
    print(text)
    print(f"\n{out / 'results.json'}, {out / 'table.md'} and plots")


def timing_table(timings: Sequence[Timing]) -> list[str]:
    """Lines of Markdown."""
    if not timings:
        return ["No timing yet."]
    lines = [
        "| Particles | Hits | Queries | Loss | Criterion, start (s) | Criterion, late (s) | Criterion (MiB) "
        "| Step (s) | Step (MiB) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for t in timings:
        lines.append(
            f"| {t.particles} | {t.hits} | {t.queries} | {loss_title(t.loss)} | {t.start:.3f} | {t.late:.3f} "
            f"| {t.memory / 2**20:.0f} | {t.step:.2f} | {t.step_memory / 2**20:.0f} |"
        )
    machines = "; ".join(dict.fromkeys(t.machine for t in timings))
    return [*lines, "", f"Medians of CPU time; forward and backward of {HEADS} heads of one event. {machines}."]


def training_table(trainings: dict[int, dict[str, list[RunRecord]]]) -> list[str]:
    """Lines of Markdown."""
    if not trainings:
        return ["No training yet."]
    lines = [
        "| Particles | Loss | Seeds | Steps | Efficiency (%) | Fake rate (%) | Duplicate rate (%) | Step (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, arms in trainings.items():
        for arm, runs in arms.items():
            final = [run.evaluations[-1] for run in runs]
            values = ([p.ap for p in final], [p.ap50 for p in final], [p.others[0] for p in final])
            steps = [run.step_seconds for run in runs if run.step_seconds]
            lines.append(
                f"| {size} | {arm_title(arm)} | {len(runs)} | {runs[0].steps} | "
                + " | ".join(map(spread, values))
                + f" | {statistics.fmean(steps):.2f} |"
            )
    return [
        *lines,
        "",
        "Means over seeds ± sample standard deviation, on validation events; no value was chosen by it.",
    ]


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    text = f"{statistics.fmean(values):.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def plot(path: Path, timings: Sequence[Timing]) -> None:
    """Times and memory of the criterion against the number of particles."""
    if not timings:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for loss in ORDER:
        cases = [t for t in timings if t.loss == loss]
        x = [t.particles for t in cases]
        left.plot(x, [t.start for t in cases], color=COLOURS[loss], marker="o", label=f"{loss_title(loss)}, start")
        late = f"{loss_title(loss)}, late"
        left.plot(x, [t.late for t in cases], color=COLOURS[loss], marker="s", linestyle="--", label=late)
        right.plot(x, [t.memory / 2**20 for t in cases], color=COLOURS[loss], marker="o", label=loss_title(loss))
    for axes, label in ((left, "criterion, forward and backward (s)"), (right, "memory of the criterion (MiB)")):
        axes.set(xscale="log", yscale="log", xlabel="particles an event", ylabel=label)
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def plot_training(path: Path, trainings: dict[int, dict[str, list[RunRecord]]]) -> None:
    """Final efficiency and fake rate against the number of particles, every seed a mark."""
    if not trainings:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for place, (suffix, loss) in enumerate(itertools.product(("", OWN_CLAIMS), ORDER)):
        arm = loss + suffix
        final = [(size, run.evaluations[-1]) for size, arms in trainings.items() for run in arms.get(arm, [])]
        x = [size * 1.04 ** (place - 1.5) for size, _ in final]
        for axes, y in zip(panels, ([p.ap for _, p in final], [p.ap50 for _, p in final]), strict=True):
            axes.plot(x, y, "s" if suffix else "o", color=COLOURS[loss], alpha=0.8, label=arm_title(arm))
    for axes, label in zip(panels, ("efficiency (%)", "fake rate (%)"), strict=True):
        axes.set(xscale="log", xlabel="particles an event", ylabel=label)
        axes.set_xticks(list(trainings), [str(size) for size in trainings])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(color="#d8dee4", linewidth=0.6)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "part", choices=("timing", "training", "report", "case"), help="what to do (case: one of timing)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/track_study"), help="folder of the results")
    parser.add_argument(
        "--particles", type=int, nargs="+", choices=PARTICLES, default=PARTICLES, help="sizes of events"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed calls, after one to warm up")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--steps", type=int, help="steps of every training (default: by size)")
    parser.add_argument("--own-claims", action="store_true", help="trainings with restricted queries")
    parser.add_argument("--loss", choices=ORDER, help="of a case")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "case":
        timing = measure(args.loss, args.particles[0], args.repeats)
        write_json(timing_file(args.out, args.loss, args.particles[0]), asdict(timing))
        return
    if args.part == "timing":
        time_all(args.out, args.particles, args.repeats)
    elif args.part == "training":
        train_all(args.out, args.particles, args.seeds, args.steps, args.own_claims)
    report(args.out)


if __name__ == "__main__":
    main()
