"""A whole room of a million points through the point model: a training step, and a prediction.

    python benchmarks/large_room.py [--points 1000000] [--models point-tiny point-base] [--threads 1]

One generated room at S3DIS's density, at voxels of 5 cm, with the Influencer Loss. Each model runs in a process of its
own. Seconds are the process's CPU time of the second step; memory is how far the process's peak rose above what it was
with the room in memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from influencerformer.data.points.collate import collate_points
from influencerformer.data.points.rooms import generate_room
from influencerformer.data.points.sample import PointSample
from influencerformer.models.points.criterion import use_point_loss
from influencerformer.models.points.point_model import build_point_model
from influencerformer.models.points.voxels import voxelize
from influencerformer.training.record import machine_string, peak_resident_bytes

VOXEL_SIZE = 0.05
NUM_CLASSES = 13
NUM_QUERIES = 100
POINTS_OF_A_SQUARE_METRE = 5000


def room(num_points: int) -> PointSample:
    """A room cut to as many points, drawn at random."""
    side = max(3.0, (num_points / POINTS_OF_A_SQUARE_METRE / 3) ** 0.5)
    made = generate_room(0, width=(side, side + 0.5), density=2 * POINTS_OF_A_SQUARE_METRE)
    if len(made.points) < num_points:
        raise RuntimeError(f"the room has {len(made.points)} points only")
    kept = np.random.default_rng(0).permutation(len(made.points))[:num_points]
    numbers, labels = np.unique(made.instance[kept], return_inverse=True)
    classes = np.zeros(len(numbers), np.int64)
    classes[labels] = made.semantic[kept]
    points, colors = torch.from_numpy(made.points[kept]), torch.from_numpy(made.colors[kept])
    return PointSample("room", points, colors, torch.from_numpy(classes), torch.from_numpy(labels + 1), None, 0)


def measure(name: str, num_points: int, threads: int, results: Any) -> None:
    """Puts (voxels, instances, step seconds, step bytes, prediction seconds, machine) into ``results``."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sample = room(num_points)
    model = use_point_loss(build_point_model(name, NUM_CLASSES, NUM_QUERIES, voxel_size=VOXEL_SIZE), "influencer")
    batch, few = collate_points([sample]), collate_points([room(20_000)])

    def train(some: Any) -> None:
        model(some).loss.backward()
        model.zero_grad()

    @torch.inference_mode()
    def predict(some: Any) -> None:
        model.eval()(some)

    for first in (train, predict):  # what libraries allocate or compile once is not the model's
        first(few)
    model.train()
    before = peak_resident_bytes()
    train(batch)
    memory = peak_resident_bytes() - before
    step, prediction = seconds(lambda: train(batch)), seconds(lambda: predict(batch))
    voxels = len(voxelize(sample.coordinates, VOXEL_SIZE)[0])
    results.put((voxels, sample.num_instances, step, memory, prediction, machine_string(torch.device("cpu"))))


def seconds(run: Callable[[], None]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--models", nargs="+", default=["point-tiny", "point-base"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    machine = ""
    print("| model | points | voxels | instances | step (s) | its memory (GiB) | prediction (s) |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.models:
        results = context.Queue()
        child = context.Process(target=measure, args=(name, arguments.points, arguments.threads, results))
        child.start()
        while child.is_alive() and results.empty():
            child.join(1)
        if results.empty():
            raise SystemExit(f"{name} ended without a result, exit code {child.exitcode}")
        voxels, instances, step, memory, prediction, machine = results.get()
        child.join()
        print(
            f"| {name} | {arguments.points} | {voxels} | {instances} | {step:.1f} | {memory / 2**30:.2f} "
            f"| {prediction:.1f} |",
            flush=True,
        )
    print(f"\n{machine}")


if __name__ == "__main__":
    main()
