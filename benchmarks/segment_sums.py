"""Where a scatter over labels overtakes the matrix product in the loss's segment sums: the choice of DENSE_LIMIT.

    python benchmarks/segment_sums.py [--device cpu] [--threads 1] [--repeats 5]

Forward and backward of all sums over one decoder layer of one image; the two forms alternate in one run. The choice is
made on accelerators and, on a CPU, for float64 and where numba is not installed: else compiled kernels do the sums. So
on a CPU this measures float64.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from loss_speed.measure import seconds

from influencerformer.losses import membership
from influencerformer.losses.mask_sums import mask_sums
from influencerformer.losses.targets import make_targets

CASES = ((100, 10, 16384), (100, 50, 16384), (300, 150, 16384), (500, 400, 10000), (1000, 800, 20000))
"""(Q, K, N)."""


def taken(limit: int, case: tuple[int, int, int], device: str, threads: int) -> float:
    """Seconds with this DENSE_LIMIT."""
    membership.DENSE_LIMIT = limit
    queries, instances, pixels = case
    dtype = torch.float64 if device == "cpu" else torch.float32
    labels = torch.randint(instances + 1, (1, pixels), device=device)
    classes = torch.zeros(1, instances, dtype=torch.long, device=device)
    logits = torch.randn(1, queries, pixels, dtype=dtype, device=device, requires_grad=True)
    segments = membership.Segments(make_targets(pixels, 1, dtype, labels, None, classes))
    segments.membership  # noqa: B018 - made once for all layers, so not timed

    def run() -> None:
        sums = mask_sums(logits, segments, split_softplus=False)
        torch.stack([s.square().mean() for s in sums if s.numel()]).sum().backward()

    return seconds(device, threads, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns, after one to warm up")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| Q | K | N | product, ms | scatter, ms | scatter / product |\n|---|---|---|---|---|---|")
    for case in CASES:
        times: dict[int, list[float]] = {10**9: [], 0: []}
        for repeat in range(args.repeats + 1):
            for limit, found in times.items():
                one = taken(limit, case, args.device, args.threads)
                if repeat:
                    found.append(one)
        product, scatter = (statistics.median(found) * 1e3 for found in times.values())
        print(f"| {' | '.join(map(str, case))} | {product:.0f} | {scatter:.0f} | {scatter / product:.2f} |", flush=True)


if __name__ == "__main__":
    main()
