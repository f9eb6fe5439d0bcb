"""Pixels in the order of their instances, for kernels that go through a row once."""

from __future__ import annotations

import numpy as np
import torch

from influencerformer.losses.targets import MaskTargets


class SortedPixels:
    """The partition of B images into segments: the background, then the K instances; ignored pixels come last.

    Attributes:
        labels: (B, N) uint32, the segment of each pixel; K + 1 where it is ignored.
        order: (B, N) uint32, pixels by segment, in their own order within one.
        starts: (B, K + 2) uint32, where each segment starts in ``order``, and where the ignored ones do.
    """

    def __init__(self, targets: MaskTargets) -> None:
        assert targets.labels is not None
        segments = targets.num_instances + 1
        labels = torch.where(targets.labels < 0, segments, targets.labels)
        batch = len(labels)
        counts = torch.zeros(batch, segments + 1, dtype=torch.int64)
        counts.scatter_add_(1, labels, torch.ones_like(labels))
        starts = np.zeros((batch, segments + 1), np.uint32)
        starts[:, 1:] = counts[:, :-1].cumsum(1).numpy()
        self.labels = labels.numpy().astype(np.uint32)
        # numbers of few bits are sorted by radix
        small = self.labels.astype(np.uint16) if segments < 2**16 else self.labels
        self.order = np.argsort(small, axis=1, kind="stable").astype(np.uint32)
        self.starts = starts
        self.num_segments = segments
