"""Time and memory of the training losses, forward and backward, against what else there is: one command, one table.

    python benchmarks/loss_speed.py [--shapes coco dense ...] [--repeats 5] [--threads 1] [--device cpu] [--out DIR]

All contenders of a shape see the same tensors in one run and take turns, so that a busy machine slows all of them; the
table has medians, and the least and most. On one thread the time is that of the process on the CPU. Memory is the peak
of PyTorch's allocator above what the predictions and the truth take (numpy, numba and scipy hold matrices of Q x K
beside it, ours and rivals' alike); a gradient is dropped as soon as it is there, as the network would use it up. "One
copy" is the time to copy the mask logits of all heads into memory that is held already.

Contenders: the Influencer Loss; HungarianMaskLoss; transformers' Mask2FormerLoss; the form that the field writes, with
K x N masks, matrix products and a matching a layer and image (loss_speed/dense_hungarian.py), by each matcher that is
installed; on the shapes of S3DIS and ScanNet OneFormer3D's own InstanceCriterion, where ONEFORMER3D_ROOT is its clone.
On ScanNet a query may claim the instance that it lies in alone, except for the two Hungarian forms, which have no such
restriction. The shape "step" is a whole training step of a tiny Mask2Former.

DIR gets results.json, table.md and loss_speed.png after every shape; a later run adds its shapes to them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loss_speed.contenders import contenders
from loss_speed.measure import alternating, peak_bytes
from loss_speed.report import COLUMNS, draw, table
from loss_speed.shapes import SHAPES, Problem, Shape
from loss_speed.sweeps import SWEEPS, exponents, swept
from loss_speed.training_step import TITLE, training_steps
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

COPY = "one copy of the logits"
STEP = "step"
Say = Callable[[str], None]


def row(seconds: list[float], **more: Any) -> dict[str, Any]:
    """One contender's figures."""
    return {"median_s": statistics.median(seconds), "seconds": seconds, **more}


def measured(shape: Shape, args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """All contenders of a shape, and the copy."""
    torch.manual_seed(0)
    say("drawing predictions and truth")
    problem = Problem(shape, args.device)
    runs, absent = contenders(problem)
    leaves = [leaf.detach() for leaf in problem.leaves()]
    copies = [torch.empty_like(leaf) for leaf in leaves]

    def copy() -> None:
        for source, target in zip(leaves, copies, strict=True):
            target.copy_(source)

    times = alternating({**runs, COPY: copy}, args.repeats, args.device, args.threads, say)
    rows = {}
    for name, run in runs.items():
        say(f"{name}, memory")
        rows[name] = row(times[name], peak_bytes=peak_bytes(args.device, run))
    return {
        "title": shape.title,
        "logits_bytes": shape.logits_bytes,
        "floor": row(times[COPY]),
        "rows": rows,
        "absent": absent,
    }


def measured_step(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """The whole training step."""
    say("building models")
    runs = training_steps(args.device)
    times = alternating(runs, args.repeats, args.device, args.threads, say)
    rows = {name: row(times[name], peak_bytes=peak_bytes(args.device, run)) for name, run in runs.items()}
    return {"title": TITLE, "rows": rows, "absent": {}}


def measured_sweep(variable: str, args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Ours and the dense form at every value of one variable."""
    medians: dict[str, dict[str, float]] = {name: {} for name in COLUMNS}
    for value in SWEEPS[variable]:
        torch.manual_seed(0)
        runs, _ = contenders(Problem(swept(variable, value), args.device), COLUMNS)
        times = alternating(
            runs,
            args.repeats,
            args.device,
            args.threads,
            lambda what, value=value: say(f"{variable} = {value}: {what}"),
        )
        for name, found in times.items():
            medians[name][str(value)] = statistics.median(found)
    return {"median_s": medians, "exponents": exponents(medians)}


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """What figures must share to stand in one table."""
    device = platform.machine() if args.device == "cpu" else torch.cuda.get_device_name()
    return {"torch": torch.__version__, "device": device, "threads": args.threads}


def load(out: Path, current: dict[str, Any]) -> dict[str, Any]:
    """The results of earlier runs into the same folder."""
    path = out / "results.json"
    if not path.exists():
        return {"environment": current, "shapes": {}, "sweeps": {}}
    results = json.loads(path.read_text(encoding="utf-8"))
    if results["environment"] != current:
        sys.exit(f"{path} holds figures of {results['environment']}, this is {current}: give another --out")
    return results


def write(results: dict[str, Any], out: Path) -> None:
    """results.json, table.md and loss_speed.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "table.md").write_text(table(results), encoding="utf-8")
    draw(results, out / "loss_speed.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SHAPES, STEP]
    parser.add_argument("--shapes", nargs="+", choices=known, default=known, metavar="SHAPE", help=", ".join(known))
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each contender, after one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/loss_speed"), help="folder of the results")
    parser.add_argument("--no-sweeps", action="store_true", help="leave out the sweeps over K, Q and N")
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: PyTorch sees no GPU here")
    torch.set_num_threads(args.threads)
    results = load(args.out, environment(args))
    jobs: list[tuple[str, str, Callable[[Say], dict[str, Any]]]] = []
    for name in args.shapes:
        measure = partial(measured_step, args) if name == STEP else partial(measured, SHAPES[name], args)
        jobs.append(("shapes", name, measure))
    if not args.no_sweeps:
        jobs += [("sweeps", variable, partial(measured_sweep, variable, args)) for variable in SWEEPS]
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        for kind, name, job in jobs:
            task = progress.add_task(name)
            if not console.is_terminal:
                console.print(f"measuring {name}")
            results[kind][name] = job(
                lambda what, task=task, name=name: progress.update(task, description=f"{name}: {what}")
            )
            progress.update(task, description=f"{name}: done", total=1, completed=1)
            results["shapes"] = {name: results["shapes"][name] for name in known if name in results["shapes"]}
            write(results, args.out)
    print(table(results))
    print(f"{args.out}/results.json, table.md and loss_speed.png are written")


if __name__ == "__main__":
    main()
