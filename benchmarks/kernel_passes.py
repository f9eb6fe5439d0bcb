"""Where the time of the compiled sums goes: nanoseconds a logit of each pass over the mask matrix.

    python benchmarks/kernel_passes.py [--repeats 15]

Beside the passes stand a copy of the logits and torch.sigmoid, which no sum of sigmoids can be without: what is above
them is the price of exactness by instance. One thread; medians of CPU time, all in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from influencerformer.losses.condensation import condensation
from influencerformer.losses.cpu import sums_kernels
from influencerformer.losses.cpu.sorted_pixels import SortedPixels
from influencerformer.losses.membership import Segments
from influencerformer.losses.targets import MaskTargets, make_targets

SHAPES = (
    ("S3DIS: Q 400, K 40, N 3000, no order", 400, 40, 3000, False),
    ("dense: Q 300, K 150, N 16384, blobs", 300, 150, 16384, True),
    ("tracking: Q 2000, K 1500, N 20000, no order", 2000, 1500, 20000, False),
)


def truth(instances: int, pixels: int, coherent: bool) -> MaskTargets:
    """Labels in no order, or in squares of an image."""
    if coherent:
        side = int(pixels**0.5)
        blocks = torch.arange(side) // max(1, round(side / (instances + 1) ** 0.5))
        labels = (blocks[:, None] * (int(blocks.max()) + 1) + blocks).flatten() % (instances + 1)
    else:
        labels = torch.randint(instances + 1, (pixels,))
    classes = torch.zeros(1, instances, dtype=torch.long)
    return make_targets(pixels, 1, torch.float32, labels[None], None, classes)


def passes(logits: Tensor, targets: MaskTargets) -> dict[str, Callable[[], object]]:
    """By name what is timed, on one image of (Q, N) logits."""
    queries = len(logits)
    sorted_pixels, active = SortedPixels(targets), np.ones(queries, np.bool_)
    segments, runs = sorted_pixels.num_segments, sorted_pixels.runs[0]
    shapes = ((queries, segments), (queries, segments), (queries, 0), (queries,), (queries,))
    sums = [np.zeros(shape, np.float32) for shape in shapes]
    place, values, weights = torch.empty_like(logits), logits.numpy(), (1.0, 1.0, False)
    leaf = logits.clone().requires_grad_()

    def condensed() -> None:
        terms = condensation(leaf[None], Segments(targets))
        torch.autograd.grad(terms.attraction.sum() + terms.repulsion.sum(), leaf)

    return {
        "copy": lambda: place.copy_(logits),
        "torch.sigmoid": lambda: torch.sigmoid(logits, out=place),
        "sums, forward": lambda: sums_kernels.forward(
            0,
            queries,
            values,
            sorted_pixels.order[0],
            sorted_pixels.starts[0],
            runs.starts,
            runs.places,
            active,
            *weights,
            *sums,
        ),
        "sums, backward": lambda: sums_kernels.backward(
            0, queries, values, sorted_pixels.labels[0], active, *weights, *sums, place.numpy()
        ),
        "condensation, both": condensed,
    }


def nanoseconds(run: Callable[[], object], numbers: int, repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return 1e9 * statistics.median(taken) / numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    header = False
    for name, queries, instances, pixels, coherent in SHAPES:
        logits = torch.randn(queries, pixels)
        runs = passes(logits, truth(instances, pixels, coherent))
        if not header:
            print(f"| ns a logit | {' | '.join(runs)} |\n|---|{'---|' * len(runs)}")
            header = True
        found = [nanoseconds(run, logits.numel(), arguments.repeats) for run in runs.values()]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main()
