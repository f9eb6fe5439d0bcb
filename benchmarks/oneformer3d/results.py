"""Collects the runs of a rooms study: results.json, table.md and curves.png."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from influencerformer.errors import UserError

METRICS = ("all_ap", "all_ap_50%", "all_ap_25%", "miou", "pq")


@dataclass(frozen=True)
class Trained:
    """One finished run.

    Attributes:
        arm, seed: which one.
        validations: a row a validation: `epoch` and `METRICS`.
        losses: a row every few iterations: `iter` and what the criterion logged.
        class_ap: AP of each class that the validation rooms have, at the last epoch.
        seconds_per_iteration: median after the first epoch, loading of data included.
        seconds: of the whole run.
    """

    arm: str
    seed: int
    validations: list[dict[str, float]]
    losses: list[dict[str, float]]
    class_ap: dict[str, float]
    seconds_per_iteration: float
    seconds: float


def read_run(folder: Path) -> Trained:
    """A finished run from its folder; UserError if its record is not there or has no validation."""
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    records = sorted(folder.glob("work/*/vis_data/scalars.json"))
    lines = records[-1].read_text(encoding="utf-8").splitlines() if records else []
    rows = [json.loads(line) for line in lines if line.strip()]
    validations = [{"epoch": row["step"], **{m: row[m] for m in METRICS}} for row in rows if "all_ap" in row]
    train = [row for row in rows if "loss" in row]
    if not validations or not train:
        raise UserError(f"{folder} has no record of a validation: delete the folder and run the study again")
    losses = [
        {name: value for name, value in row.items() if "loss" in name or name in ("iter", "epoch", "grad_norm")}
        | {"iter": row["step"]}
        for row in train
    ]
    later = [row["time"] for row in train if row["epoch"] > 1] or [row["time"] for row in train]
    return Trained(
        arm=done["arm"],
        seed=done["seed"],
        validations=validations,
        losses=losses,
        class_ap=_class_ap((folder / "log.txt").read_text(encoding="utf-8", errors="replace")),
        seconds_per_iteration=statistics.median(later),
        seconds=done["seconds"],
    )


def _class_ap(log: str) -> dict[str, float]:
    """AP of each class from the last table of instance segmentation in the log."""
    table = log[log.rfind("| AP_0.25 |") :]
    rows = re.findall(r"^\|\s*(\S+)\s*\|\s*[\d.na]+\s*\|\s*[\d.na]+\s*\|\s*([\d.na]+)\s*\|", table, re.MULTILINE)
    return {name: float(value) for name, value in rows if name != "Overall" and value != "nan"}


def write(out: Path, dataset: str, baseline: str) -> str:
    """Writes the three files over all finished runs under `out`; returns the table.

    Args:
        out: the study's folder.
        dataset: for the headings.
        baseline: the arm that the others are compared with, seed by seed.
    """
    runs = [read_run(done.parent) for done in sorted(out.glob("*/done.json"))]
    if not runs:
        return "no finished run"
    runs.sort(key=lambda run: (run.arm != baseline, run.arm, run.seed))
    content = {"dataset": dataset, "baseline": baseline, "runs": [asdict(run) for run in runs]}
    (out / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    table = _table(runs, dataset, baseline)
    (out / "table.md").write_text(table, encoding="utf-8")
    _plot(runs, dataset, out / "curves.png")
    return table


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _table(runs: list[Trained], dataset: str, baseline: str) -> str:
    arms: dict[str, dict[int, Trained]] = {}
    for run in runs:
        arms.setdefault(run.arm, {})[run.seed] = run
    lines = [f"# Generated rooms as {dataset}: the real OneFormer3D, reduced", ""]
    lines += [f"Mean ± standard deviation over seeds; differences to {baseline} are by seed. No epoch is picked.", ""]
    lines += ["| epoch | arm | seeds | AP | AP50 | AP25 | mIoU | PQ | AP difference | wins |", "|" + "---|" * 10]
    epochs = sorted({int(row["epoch"]) for run in runs for row in run.validations})
    for epoch in epochs:
        for arm, by_seed in arms.items():
            rows = {s: row for s, r in by_seed.items() for row in r.validations if row["epoch"] == epoch}
            if not rows:
                continue
            cells = [_spread([row[m] for row in rows.values()]) for m in METRICS]
            base = arms.get(baseline, {})
            other = {s: row["all_ap"] for s, r in base.items() for row in r.validations if row["epoch"] == epoch}
            gains = [rows[s]["all_ap"] - other[s] for s in rows if s in other]
            paired = ["", ""]
            if arm != baseline and gains:
                paired = [_spread(gains), f"{sum(g > 0 for g in gains)} of {len(gains)}"]
            lines.append(f"| {' | '.join([str(epoch), arm, str(len(rows)), *cells, *paired])} |")
    names = list(dict.fromkeys(name for run in runs for name in run.class_ap))
    lines += ["", "AP of each class at the last epoch, mean over seeds:", ""]
    lines += [f"| arm | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for arm, by_seed in arms.items():
        means = [statistics.mean([r.class_ap.get(name, 0.0) for r in by_seed.values()]) for name in names]
        lines.append(f"| {arm} | {' | '.join(f'{value:.3f}' for value in means)} |")
    lines += ["", "| arm | seconds an iteration | seconds a run |", "|---|---|---|"]
    for arm, by_seed in arms.items():
        iteration = statistics.median([r.seconds_per_iteration for r in by_seed.values()])
        lines.append(f"| {arm} | {iteration:.3f} | {statistics.median([r.seconds for r in by_seed.values()]):.0f} |")
    return "\n".join(lines) + "\n"


def _plot(runs: list[Trained], dataset: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for index, arm in enumerate(dict.fromkeys(run.arm for run in runs)):
        mine = [run for run in runs if run.arm == arm]
        for run in mine:
            epochs = [row["epoch"] for row in run.validations]
            axes.plot(epochs, [row["all_ap"] for row in run.validations], color=f"C{index}", linewidth=0.8, alpha=0.5)
        shared = sorted(set.intersection(*({row["epoch"] for row in run.validations} for run in mine)))
        mean = [
            statistics.mean(row["all_ap"] for run in mine for row in run.validations if row["epoch"] == epoch)
            for epoch in shared
        ]
        axes.plot(shared, mean, color=f"C{index}", linewidth=2.5, marker="o", label=f"{arm} ({len(mine)} seeds)")
    axes.set(xlabel="epoch", ylabel="AP on held-out rooms", title=f"OneFormer3D, reduced, on rooms as {dataset}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
