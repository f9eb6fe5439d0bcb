"""Small random events for the tests of track models."""

from __future__ import annotations

from typing import Any

import torch

NUM_FEATURES = 5


def batch_of(*sizes: int, particles: int = 3, truth: bool = False, seed: int = 0) -> dict[str, Any]:
    """Random hits; with the truth, labels 0..particles."""
    generator = torch.Generator().manual_seed(seed)
    batch: dict[str, Any] = {
        "names": [f"event{i}" for i in range(len(sizes))],
        "features": [torch.randn(size, NUM_FEATURES, generator=generator) for size in sizes],
        "positions": [500 * torch.randn(size, 3, generator=generator) for size in sizes],
    }
    if truth:
        batch["instance_labels"] = [torch.arange(size) % (particles + 1) for size in sizes]
        batch["class_labels"] = [torch.zeros(particles, dtype=torch.int64) for _ in sizes]
    return batch


def events_of(batch: dict[str, Any], index: int) -> dict[str, Any]:
    """The batch of one of its events."""
    return {name: [values[index]] for name, values in batch.items()}


def permuted(batch: dict[str, Any], orders: list[torch.Tensor]) -> dict[str, Any]:
    """The batch with the hits of each event in another order."""
    per_hit = ("features", "positions", "instance_labels")
    return {
        name: [value[order] for value, order in zip(values, orders, strict=True)] if name in per_hit else values
        for name, values in batch.items()
    }
