"""Forward and backward of InfluencerCriterion against OneFormer3D's own InstanceCriterion with its matcher.

    ONEFORMER3D_ROOT=../oneformer3d python benchmarks/oneformer3d/criterion.py [--threads 1] [--repeats 7]

Both see the same tensors in one run. Times alternate between the criteria, so that a busy machine slows both; the ratio
is of medians. A gradient is dropped as soon as it is there, as the network behind it would use it up. Memory is the
peak above what the predictions and the truth take, on a CPU by the allocator's profile.

The truth is random labels over the points; on ScanNet, where walls and floors are no instances, two fifths of the
superpoints belong to none (a second row: nearly all belong to one).
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influencerformer.models import InfluencerCriterion

COSTS = [
    {"type": "QueryClassificationCost", "weight": 0.5},
    {"type": "MaskBCECost", "weight": 1.0},
    {"type": "MaskDiceCost", "weight": 1.0},
]


@dataclass(frozen=True)
class Case:
    """Shapes of one comparison; a scene each for the entries of ``queries``."""

    name: str
    queries: tuple[int, ...]
    points: int
    instances: int
    classes: int
    heads: int
    matcher: str
    objectness: bool
    background: float = 0.0


CASES = (
    Case("S3DIS", (400, 400), 3000, 40, 13, 4, "HungarianMatcher", True),
    Case("S3DIS, 30k points", (400, 400), 30000, 40, 13, 4, "HungarianMatcher", True),
    Case("ScanNet", (520, 640, 730, 836), 1000, 30, 18, 7, "SparseMatcher", False, background=0.4),
    Case("ScanNet, few in none", (520, 640, 730, 836), 1000, 30, 18, 7, "SparseMatcher", False),
)


class Scene:
    """The truth of a scene, as OneFormer3D's wrappers hand it on."""

    def __init__(self, **fields: Tensor) -> None:
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.labels_3d)

    def get(self, name: str) -> Tensor | None:
        return getattr(self, name, None)


def load_original(root: Path) -> Any:
    """OneFormer3D's module of criteria, without the rest of its package."""
    if not (root / "oneformer3d" / "instance_criterion.py").is_file():
        sys.exit(f"no OneFormer3D at {root}: clone filaPro/oneformer3d and set ONEFORMER3D_ROOT to its folder")
    package = types.ModuleType("oneformer3d")
    package.__path__ = [str(root / "oneformer3d")]
    sys.modules["oneformer3d"] = package
    # the registry would import all models of mmdet3d, and with them mmcv's compiled parts
    importlib.import_module("mmdet3d.registry").TASK_UTILS._imported = True
    return importlib.import_module("oneformer3d.instance_criterion")


def scenes(case: Case, device: str) -> tuple[dict[str, Any], list[Any]]:
    """Predictions of all heads, and the truth."""

    def leaf(*shape: int) -> Tensor:
        tensor = torch.randn(*shape, device=device).requires_grad_()
        tensor.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
        return tensor

    heads = [
        {
            "cls_preds": [leaf(q, case.classes + 1) for q in case.queries],
            "masks": [leaf(q, case.points) for q in case.queries],
            "scores": [leaf(q, 1) if case.objectness else None for q in case.queries],
        }
        for _ in range(case.heads)
    ]
    truth = []
    for q in case.queries:
        labels = torch.randint(case.instances + 1, (case.points,), device=device)
        labels *= torch.rand(case.points, device=device) >= case.background
        masks = labels == torch.arange(1, case.instances + 1, device=device)[:, None]
        fields = {"sp_masks": masks, "labels_3d": torch.randint(case.classes, (case.instances,), device=device)}
        if case.matcher == "SparseMatcher":
            fields["query_masks"] = masks[:, torch.randperm(case.points, device=device)[:q]]
        truth.append(Scene(**fields))
    return {**heads[-1], "aux_outputs": heads[:-1]}, truth


def criteria(case: Case, module: Any) -> dict[str, Callable[[Any, Any], dict[str, Tensor]]]:
    """Both, with the weights of OneFormer3D's configurations."""
    weights: dict[str, Any] = {
        "loss_weight": [0.5, 1.0, 1.0, 0.5],
        "num_classes": case.classes,
        "non_object_weight": 0.05 if case.objectness else 0.1,
        "iter_matcher": True,
    }
    matcher = {"type": case.matcher, "costs": COSTS}
    if case.matcher == "SparseMatcher":
        matcher["topk"] = 1
    original = module.InstanceCriterion(matcher=matcher, fix_dice_loss_weight=True, fix_mean_loss=True, **weights)
    return {"InstanceCriterion": original, "InfluencerCriterion": InfluencerCriterion(**weights)}


def step(criterion: Callable[[Any, Any], dict[str, Tensor]], pred: Any, truth: Any) -> None:
    criterion(pred, truth)["inst_loss"].backward()


def seconds(device: str, run: Callable[[], None]) -> float:
    """CPU seconds of this process, which another one beside it does not count in; on an accelerator wall seconds."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(device: str, run: Callable[[], None]) -> int:
    """Most memory that a step holds beyond what was there before it."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each criterion, after one to warm up")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    module = load_original(Path(os.environ.get("ONEFORMER3D_ROOT", "../oneformer3d")))
    print(f"torch {torch.__version__}, {args.device}, {args.threads} thread(s), medians of {args.repeats}\n")
    print("| shape | InstanceCriterion, ms | InfluencerCriterion, ms | speed-up | MiB | MiB | memory ratio |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        torch.manual_seed(0)
        pred, truth = scenes(case, args.device)
        runs = {name: partial(step, c, pred, truth) for name, c in criteria(case, module).items()}
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, run in runs.items():
                times[name].append(seconds(args.device, run))
        slow, fast = (statistics.median(t) for t in times.values())
        large, small = (peak_bytes(args.device, run) / 2**20 for run in runs.values())
        spread = ", ".join(f"{min(t) * 1e3:.0f}-{max(t) * 1e3:.0f}" for t in times.values())
        print(
            f"| {case.name} ({spread}) | {slow * 1e3:.0f} | {fast * 1e3:.0f} | {slow / fast:.2f} "
            f"| {large:.0f} | {small:.0f} | {small / large:.2f} |"
        )


if __name__ == "__main__":
    main()
