"""Trains the real OneFormer3D, reduced, on generated rooms with either criterion, and compares them by seed.

    ONEFORMER3D_ROOT=PATH/TO/oneformer3d python benchmarks/oneformer3d/rooms_study.py --dataset s3dis --out DIR
        [--criteria oneformer3d influencerformer] [--seeds 0 1 2 3 4] [--jobs 2]
        [--criterion-options '{"bg_weight": 1.0}'] [--label NAME]

Needs what OneFormer3D needs, but neither CUDA nor a compiler (scripts/oneformer3d_cpu.py), and this package
installed beside it. A run takes 3 to 4 minutes on one core. The rooms are written once; the runs differ in the
criterion's block of the config and in the seed alone. Runs that are finished are not repeated, so the command can
be given again with more seeds, or with another --criterion-options and a --label to keep both.

DIR gets results.json, table.md and curves.png, over all finished runs in it, and a folder a run with its config,
log and checkpoint. Validation rooms have other seeds than training rooms; no epoch is picked. Choose options on
rooms and seeds that the final figures do not use: --first-val-room 200000 --seeds 10 with another DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import layouts
import reduced
import results

from influencerformer.errors import UserError

LAUNCHER = Path(__file__).resolve().parents[2] / "scripts" / "oneformer3d_cpu.py"
BASELINE = "oneformer3d"
# Rooms of a study: small and crowded, about 8000 occupied voxels of 10 cm and 25 instances each.
ROOMS = {"width": (3.2, 4.4), "density": 300.0, "crowding": 1.5}
FIRST_VAL_SEED = 100_000
# Both chosen on the original criterion.
LEARNING_RATES = {"s3dis": 2e-3, "scannet": 3e-3}
EPOCHS = {"s3dis": 32, "scannet": 40}


@dataclass(frozen=True)
class Run:
    """One training: the name of its arm, its seed, its folder and the text of its config."""

    arm: str
    seed: int
    folder: Path
    text: str

    def finished(self) -> bool:
        """Whether it is done; UserError if the folder holds a run with another config."""
        if not (self.folder / "done.json").is_file():
            return False
        if (self.folder / "config.py").read_text(encoding="utf-8") != self.text:
            raise UserError(
                f"{self.folder} holds a run with other settings: choose another --out, or another --label for the "
                "criterion's options"
            )
        return True


def find_oneformer3d() -> Path:
    """The checkout that ONEFORMER3D_ROOT names; UserError if that is not one."""
    named = os.environ.get("ONEFORMER3D_ROOT")
    if not named:
        raise UserError("Set ONEFORMER3D_ROOT to a checkout of https://github.com/filaPro/oneformer3d.")
    root = Path(named).resolve()
    if not (root / "tools" / "train.py").is_file() or not (root / "oneformer3d" / "__init__.py").is_file():
        raise UserError(f"ONEFORMER3D_ROOT is {root}, which holds no checkout of OneFormer3D.")
    return root


def write_rooms(out: Path, dataset: str, train: int, val: int, first_val: int) -> Path:
    """Writes the rooms where the real config looks for them; returns the folder to train in."""
    folder = out / "rooms"
    train_seeds, val_seeds = range(train), range(first_val, first_val + val)
    data = folder / "data" / dataset
    if dataset == "s3dis":
        areas = {area: train_seeds[i::5] for i, area in enumerate((1, 2, 3, 4, 6))}
        layouts.write_s3dis(data, {**areas, 5: val_seeds}, **ROOMS)
    else:
        layouts.write_scannet(data, train_seeds, val_seeds, **ROOMS)
    return folder


def execute(run: Run, root: Path, directory: Path) -> str:
    """Trains one run in a process of its own and says in a line how it went."""
    name = f"{run.arm} seed {run.seed}"
    if run.finished():
        return f"{name}: finished before"
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    # The trainer writes its own copy of the config, with the base's settings in it, into the work folder.
    config, log = run.folder / "config.py", run.folder / "log.txt"
    config.write_text(run.text, encoding="utf-8")
    command = [sys.executable, str(LAUNCHER), str(root / "tools" / "train.py"), str(config)]
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(
            [*command, "--work-dir", str(run.folder / "work")],
            cwd=directory,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    seconds = time.perf_counter() - start
    if code != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"{name}: FAILED with code {code} ({' '.join(last)[:200]}); see {log}"
    (run.folder / "done.json").write_text(json.dumps({"arm": run.arm, "seed": run.seed, "seconds": seconds}))
    final = results.read_run(run.folder).validations[-1]
    return f"{name}: all_ap {final['all_ap']:.4f}, all_ap_50% {final['all_ap_50%']:.4f}, {seconds:.0f} s"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options; the docstring above says what they mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(reduced.BASES), required=True)
    parser.add_argument("--criteria", nargs="+", choices=(BASELINE, "influencerformer"), default=[BASELINE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once; each uses one core")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help=f"by default {EPOCHS}")
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--train-rooms", type=int, default=24)
    parser.add_argument("--val-rooms", type=int, default=12)
    parser.add_argument("--first-val-room", type=int, default=FIRST_VAL_SEED, help="another for choosing options")
    parser.add_argument("--learning-rate", type=float, help=f"by default {LEARNING_RATES}")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--criterion-options", default="{}", help="JSON, for InfluencerCriterion")
    parser.add_argument("--label", default="influencerformer", help="name of the arm with those options")
    args = parser.parse_args(argv)
    args.epochs = EPOCHS[args.dataset] if args.epochs is None else args.epochs
    args.learning_rate = LEARNING_RATES[args.dataset] if args.learning_rate is None else args.learning_rate
    try:
        args.criterion_options = json.loads(args.criterion_options)
    except json.JSONDecodeError as error:
        raise UserError(f"--criterion-options is not JSON: {error}.") from error
    if not isinstance(args.criterion_options, dict):
        raise UserError('--criterion-options needs a JSON object such as {"bg_weight": 1.0}.')
    counts = (args.jobs, args.epochs, args.validations, args.val_rooms, args.batch)
    if min(counts) < 1 or args.train_rooms < 5 or min(args.seeds) < 0 or args.first_val_room < args.train_rooms:
        raise UserError(
            "Counts need to be 1 or more, --train-rooms 5 or more, seeds 0 or more, and --first-val-room at least "
            "--train-rooms: rooms are numbered, and those of training come first."
        )
    if not args.learning_rate > 0:
        raise UserError(f"--learning-rate needs to be above 0, got {args.learning_rate}.")
    if args.label == BASELINE or not args.label.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UserError(f"--label needs letters, digits, dots, - and _, and not {BASELINE!r}, got {args.label!r}.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study; 1 if a training failed."""
    args = parse(argv)
    root, out = find_oneformer3d(), args.out.resolve()
    runs = []
    for seed in args.seeds:
        for criterion in dict.fromkeys(args.criteria):
            arm = BASELINE if criterion == BASELINE else args.label
            options = None if criterion == BASELINE else args.criterion_options
            text = reduced.config_text(
                root, args.dataset, options, seed, args.epochs, args.validations, args.learning_rate, args.batch
            )
            runs.append(Run(arm, seed, out / f"{arm}_seed{seed}", text))
    waiting = sum(not run.finished() for run in runs)
    print(f"{len(runs)} runs, {waiting} to train, {args.jobs} at once", flush=True)
    directory = write_rooms(out, args.dataset, args.train_rooms, args.val_rooms, args.first_val_room)
    failed = False
    with ThreadPoolExecutor(args.jobs) as pool:
        for line in pool.map(lambda run: execute(run, root, directory), runs):
            print(line, flush=True)
            failed |= "FAILED" in line
    print(results.write(out, args.dataset, BASELINE))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
