"""Pixels in the order of their instances, for kernels that go through a row once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencerformer.losses.targets import BACKGROUND, IGNORED, MaskTargets

SHORTEST_RUN = 8
"""Mean length of runs from which going by them is faster than pixel by pixel."""


class SortedPixels:
    """B images cut into segments: the background, then the K instances; ignored pixels come last.

    Where instances overlap, a segment is what a combination of them covers, and ``incidence`` says which.

    Attributes:
        labels: (B, N) uint32, the segment of each pixel; S where it is ignored.
        order: (B, N) uint32, pixels by segment, in their own order within one.
        starts: (B, S + 1) uint32, where each segment starts in ``order``, and where the ignored ones do.
        incidence: (B, S, K + 1) float32, 1 where a segment is part of an instance (or the background, column 0);
            None where segments are the instances themselves.
        runs: of each image the runs of equal labels, if they are long.
    """

    def __init__(self, targets: MaskTargets) -> None:
        self.incidence: Tensor | None = None
        if targets.labels is not None:
            labels, segments = targets.labels, targets.num_instances + 1
        else:
            labels, self.incidence = _combinations(targets)
            segments = self.incidence.shape[1]
        labels = torch.where(labels == IGNORED, segments, labels)
        counts = torch.zeros(len(labels), segments + 1, dtype=torch.int64)
        counts.scatter_add_(1, labels, torch.ones_like(labels))
        self.starts = np.zeros((len(labels), segments + 1), np.uint32)
        self.starts[:, 1:] = counts[:, :-1].cumsum(1).numpy()
        self.labels = labels.numpy().astype(np.uint32)
        # numbers of few bits are sorted by radix
        small = self.labels.astype(np.uint16) if segments < 2**16 else self.labels
        self.order = np.argsort(small, axis=1, kind="stable").astype(np.uint32)
        self.num_segments = segments
        self.runs = [_runs(*image) for image in zip(self.labels, self.order, strict=True)]

    def fold(self, sums: Tensor) -> Tensor:
        """(B, Q, S) sums over segments to (B, Q, K + 1) sums over the background and the instances."""
        return sums if self.incidence is None else sums @ self.incidence


class Runs(NamedTuple):
    """Neighbouring pixels of one segment; none where most pixels have another neighbour.

    Attributes:
        starts: (R + 1,) uint32, the first pixel of each run, and the number of pixels.
        places: (R,) uint32, where each run starts in ``order``.
    """

    starts: np.ndarray
    places: np.ndarray


def _runs(labels: np.ndarray, order: np.ndarray) -> Runs:
    pixels = len(labels)
    first = np.ones(pixels, np.bool_)
    np.not_equal(labels[1:], labels[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    if len(starts) * SHORTEST_RUN > pixels:
        return Runs(np.empty(0, np.uint32), np.empty(0, np.uint32))
    place = np.empty(pixels, np.uint32)
    place[order] = np.arange(pixels, dtype=np.uint32)
    return Runs(np.append(starts, pixels).astype(np.uint32), place[starts])


def _combinations(targets: MaskTargets) -> tuple[Tensor, Tensor]:
    """(B, N) segments of overlapping masks, -1 ignored, and their incidence (B, S, K + 1)."""
    assert targets.masks is not None
    batch, instances, pixels = targets.masks.shape
    # a pixel's code is the sum of its instances' random numbers: equal for equal combinations, else different
    keys = np.random.default_rng(0).integers(1, 2**63, instances, dtype=np.int64)
    labels = torch.full((batch, pixels), IGNORED)
    found = []
    for image, masks, valid in zip(labels, targets.masks, targets.valid, strict=True):
        codes = np.zeros(pixels, np.int64)
        for key, mask in zip(keys, masks.numpy(), strict=True):
            codes += key * mask
        codes[~valid.numpy()] = BACKGROUND
        _, first, inverse = np.unique(np.append(0, codes), return_index=True, return_inverse=True)
        # the background comes first, whether there is any or not
        rank = np.argsort(np.argsort(first != 0, kind="stable"))
        image[valid] = torch.from_numpy(rank[inverse[1:]])[valid]
        members = masks[:, torch.from_numpy(first[np.argsort(rank)][1:] - 1)].T
        found.append(torch.cat([torch.zeros(1, instances, dtype=torch.bool), members]))
    incidence = torch.zeros(batch, max(len(members) for members in found), instances + 1)
    incidence[:, 0, 0] = 1
    for place, members in zip(incidence, found, strict=True):
        place[: len(members), 1:] = members
    return labels, incidence
