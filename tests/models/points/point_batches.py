"""Small batches of point clouds for the tests of the point model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from influencerformer.models.points.point_model import PointMaskFormer

IN_CHANNELS = 4
NUM_CLASSES = 3


def cloud(seed: int, points: int = 60, size: float = 0.6) -> Tensor:
    """(N, 3) float64 points spread over a cube."""
    return torch.rand(points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def batch_of(*sizes: int, truth: bool = False, instances: int = 2) -> dict[str, Any]:
    """Scenes of the given numbers of points, in double precision."""
    g = torch.Generator().manual_seed(7)
    made: dict[str, Any] = {
        "coordinates": [cloud(i, n) for i, n in enumerate(sizes)],
        "features": [torch.randn(n, IN_CHANNELS, generator=g, dtype=torch.float64) for n in sizes],
    }
    if truth:
        made["instance_labels"] = [torch.randint(-1, instances + 1, (n,), generator=g) for n in sizes]
        made["class_labels"] = [torch.randint(NUM_CLASSES, (instances,), generator=g) for _ in sizes]
    return made


def small_model(seed: int = 0, num_queries: int = 5, **options: Any) -> PointMaskFormer:
    """Two levels, two decoder layers, double precision."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"channels": (8, 12), "dim": 16, "num_layers": 2, "num_heads": 2}
    return PointMaskFormer(IN_CHANNELS, NUM_CLASSES, num_queries, 0.1, **{**sizes, **options}).double()
