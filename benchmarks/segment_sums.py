"""Where a scatter over labels overtakes the matrix product in the loss's segment sums: the choice of DENSE_LIMIT.

    python benchmarks/segment_sums.py [--device cpu] [--threads 1] [--repeats 5]

Forward and backward of all sums over one decoder layer of one image; the two forms alternate in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from influencerformer.losses import membership
from influencerformer.losses.mask_sums import mask_sums
from influencerformer.losses.targets import make_targets

CASES = ((100, 10, 16384), (100, 50, 16384), (300, 150, 16384), (500, 400, 10000), (1000, 800, 20000))
"""(Q, K, N)."""


def seconds(limit: int, queries: int, instances: int, pixels: int, device: str) -> float:
    membership.DENSE_LIMIT = limit
    labels = torch.randint(instances + 1, (1, pixels), device=device)
    classes = torch.zeros(1, instances, dtype=torch.long, device=device)
    logits = torch.randn(1, queries, pixels, device=device, requires_grad=True)
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    targets = make_targets(pixels, 1, torch.float32, labels, None, classes)
    sums = mask_sums(logits, membership.Membership(targets), targets.valid.float(), split_softplus=False)
    torch.stack([s.square().mean() for s in sums]).sum().backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| Q | K | N | product, ms | scatter, ms | scatter / product |")
    print("|---|---|---|---|---|---|")
    for queries, instances, pixels in CASES:
        times: dict[int, list[float]] = {0: [], 10**9: []}
        for _ in range(arguments.repeats):
            for limit, taken in times.items():
                taken.append(seconds(limit, queries, instances, pixels, arguments.device))
        product, scatter = (1000 * statistics.median(times[limit]) for limit in (10**9, 0))
        row = f"| {queries} | {instances} | {pixels} | {product:.0f} | {scatter:.0f} | {scatter / product:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
