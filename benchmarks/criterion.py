"""Forward and backward of the criteria against transformers' own Mask2FormerLoss, on the same tensors, in one run.

    python benchmarks/criterion.py [--device cpu] [--threads 1] [--repeats 5]

Times alternate between the criteria, so that a busy machine slows all of them; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

from influencerformer.models import use_hungarian_loss, use_influencer_loss
from influencerformer.models.build import mask2former_config


@dataclass(frozen=True)
class Case:
    """Shapes of one comparison; num_points is what all criteria sample."""

    name: str
    batch: int
    layers: int
    queries: int
    instances: int
    size: int
    num_points: int
    classes: int = 80


CASES = (
    Case("tiny, 128 px", batch=8, layers=4, queries=64, instances=8, size=128, num_points=1024, classes=1),
    Case("COCO-like, 512 px", batch=2, layers=10, queries=100, instances=10, size=512, num_points=12544),
    Case("crowded, 512 px", batch=1, layers=4, queries=300, instances=150, size=512, num_points=12544),
)


def truth(case: Case, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Label maps of random rectangles, each instance visible, and its classes."""
    maps, classes = [], []
    for _ in range(case.batch):
        label_map = torch.zeros(case.size, case.size, dtype=torch.long)
        side = max(4, case.size // 8)
        for k in range(1, case.instances + 1):
            y, x = torch.randint(case.size - side, (2,)).tolist()
            label_map[y : y + side, x : x + side] = k
        found = label_map.unique()
        found = found[found > 0]
        lookup = torch.zeros(case.instances + 1, dtype=torch.long)
        lookup[found] = torch.arange(1, len(found) + 1)
        maps.append(lookup[label_map].to(device))
        classes.append(torch.randint(case.classes, (len(found),)).to(device))
    return maps, classes


def measure(step: Callable[[], Tensor], leaves: Sequence[Tensor], device: str) -> float:
    for leaf in leaves:
        leaf.grad = None
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step().backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run(case: Case, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of forward and backward of each criterion."""
    torch.manual_seed(0)
    config = mask2former_config("mask2former-tiny", case.classes, case.queries)
    config.train_num_points = case.num_points
    models = {
        name: Mask2FormerForUniversalSegmentation(config).to(device) for name in ("stock", "hungarian", "influencer")
    }
    use_hungarian_loss(models["hungarian"], num_points=case.num_points)
    use_influencer_loss(models["influencer"], num_points=case.num_points)
    grid = case.size // 4
    masks = [torch.randn(case.batch, case.queries, grid, grid, device=device) for _ in range(case.layers)]
    logits = [torch.randn(case.batch, case.queries, case.classes + 1, device=device) for _ in range(case.layers)]
    leaves = [leaf.requires_grad_() for leaf in (*masks, *logits)]
    maps, classes = truth(case, device)
    mask_labels = [
        (label_map == torch.arange(1, len(c) + 1, device=device)[:, None, None]).float()
        for label_map, c in zip(maps, classes, strict=True)
    ]

    def step_of(name: str) -> Callable[[], Tensor]:
        model, labels = models[name], mask_labels if name == "stock" else maps

        def step() -> Tensor:
            auxiliary = [
                {"masks_queries_logits": m, "class_queries_logits": c}
                for m, c in zip(masks[:-1], logits[:-1], strict=True)
            ]
            parts = model.get_loss_dict(masks[-1], logits[-1], labels, classes, auxiliary)
            return model.get_loss(parts)

        return step

    steps = {name: step_of(name) for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            taken = measure(step, leaves, device)
            if repeat:
                seconds[name].append(taken)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| case | transformers, ms | Hungarian (ours), ms | Influencer, ms | Influencer / transformers |")
    print("|---|---|---|---|---|")
    for case in CASES:
        found = run(case, arguments.device, arguments.repeats)
        milliseconds = {name: 1000 * value for name, value in found.items()}
        print(
            f"| {case.name} | {milliseconds['stock']:.0f} | {milliseconds['hungarian']:.0f} "
            f"| {milliseconds['influencer']:.0f} | {found['influencer'] / found['stock']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
