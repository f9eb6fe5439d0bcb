"""Times that another load on the machine disturbs little, and the most memory that a step holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]
LONG = 20.0
"""Seconds of repeats after which three of them are enough."""


def seconds(device: str, threads: int, run: Run) -> float:
    """CPU seconds of this process where one thread works, which counts no other process; else wall seconds."""
    clock = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def alternating(
    runs: Mapping[str, Run], repeats: int, device: str, threads: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of each run; they take turns, so that a busy machine slows all of them. The first turn warms up.

    Args:
        say: is told what is run next.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            if len(times[name]) >= 3 and sum(times[name]) > LONG:
                continue
            say(f"{name}, {f'turn {repeat} of {repeats}' if repeat else 'warm-up'}")
            taken = seconds(device, threads, run)
            if repeat:
                times[name].append(taken)
    return times


def peak_bytes(device: str, run: Run) -> int:
    """Most memory that a run holds beyond what was there before it, on a CPU by the profile of PyTorch's allocator."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    assert profile.profiler is not None
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
