"""Shapes of the comparison, and tensors of a shape: predictions of all heads, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

IMAGE_SCALE = 4
"""An image's side in cells of the masks' grid, as in Mask2Former."""


@dataclass(frozen=True)
class Shape:
    """One comparison.

    Attributes:
        title: for the table.
        queries: Q of each image (scene, event) of the batch.
        pixels: N, cells of the masks' grid, points or hits.
        instances: K of each image.
        classes: C, without no-object.
        heads: L, decoder layers that are trained.
        image: N is a square grid and the truth blobs in an image of four times its side; else labels in random order.
        sampled: pixels that the sampling criteria read, of an image shape.
        background: part of the points that is of no instance.
        oneformer3d: predictions and weights as OneFormer3D has them, with objectness or with claims of queries
            restricted to the instance that they lie in.
    """

    title: str
    queries: tuple[int, ...]
    pixels: int
    instances: int
    classes: int
    heads: int
    image: bool = False
    sampled: int = 12544
    background: float = 0.1
    oneformer3d: str | None = None

    @property
    def logits_bytes(self) -> int:
        """Size of the mask logits of all heads, in float32."""
        return 4 * self.heads * sum(self.queries) * self.pixels


SHAPES = {
    "tiny": Shape("tiny: 8 images of 128 px", (64,) * 8, 32**2, 8, 1, 4, image=True, sampled=512),
    "coco": Shape("COCO", (100, 100), 160**2, 20, 80, 10, image=True),
    "dense": Shape("dense", (300, 300), 128**2, 150, 80, 10, image=True),
    "s3dis": Shape("S3DIS, 3k points", (400, 400), 3000, 40, 13, 4, background=0.02, oneformer3d="objectness"),
    "s3dis-30k": Shape("S3DIS, 30k points", (400, 400), 30000, 40, 13, 4, background=0.02, oneformer3d="objectness"),
    "scannet": Shape("ScanNet", (520, 640, 730, 836), 1000, 30, 18, 7, background=0.4, oneformer3d="restricted"),
    "tracking": Shape("tracking", (2000,), 20000, 1500, 1, 1),
}


class Problem:
    """Random predictions and truth of a shape.

    A gradient is dropped as soon as it is there, as the network behind it would use it up.

    Attributes:
        masks: L mask logits (B, Q, h, w) of an image shape, else L lists of B tensors (Q_i, N).
        classes: L class logits (B, Q, C + 1), or L lists of B tensors (Q_i, C + 1).
        scores: L lists of B tensors (Q_i, 1), or None.
        labels: B label maps (h, w) or (N,).
        class_labels: B tensors (K,).
        query_masks: B tensors (K, Q_i) bool, or None.
    """

    def __init__(self, shape: Shape, device: str) -> None:
        self.shape = shape
        self.device = device
        side, batch = isqrt(shape.pixels), len(shape.queries)
        self.masks: list[Any]
        self.classes: list[Any]
        if shape.image:
            q = shape.queries[0]
            self.masks = [self._leaf(batch, q, side, side) for _ in range(shape.heads)]
            self.classes = [self._leaf(batch, q, shape.classes + 1) for _ in range(shape.heads)]
            self.labels = [blobs(side, shape.instances).to(device) for _ in range(batch)]
        else:
            self.masks = [[self._leaf(q, shape.pixels) for q in shape.queries] for _ in range(shape.heads)]
            self.classes = [[self._leaf(q, shape.classes + 1) for q in shape.queries] for _ in range(shape.heads)]
            self.labels = [shuffled(shape.pixels, shape.instances, shape.background).to(device) for _ in range(batch)]
        self.class_labels = [torch.randint(shape.classes, (shape.instances,)).to(device) for _ in range(batch)]
        self.scores: list[list[Tensor]] | None = None
        self.query_masks: list[Tensor] | None = None
        if shape.oneformer3d == "objectness":
            self.scores = [[self._leaf(q, 1) for q in shape.queries] for _ in range(shape.heads)]
        if shape.oneformer3d == "restricted":
            points = [torch.randperm(shape.pixels, device=device)[:q] for q in shape.queries]
            self.query_masks = [self.instance_masks(i)[:, p] for i, p in enumerate(points)]

    def _leaf(self, *shape: int) -> Tensor:
        tensor = torch.randn(*shape, device=self.device).requires_grad_()
        tensor.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
        return tensor

    def instance_masks(self, image: int) -> Tensor:
        """(K, ...) bool, the truth of an image as masks on the grid of the logits."""
        values = torch.arange(1, self.shape.instances + 1, device=self.device)
        labels = self.labels[image]
        return labels == values.view(-1, *[1] * labels.ndim)

    def image_labels(self) -> list[Tensor]:
        """B label maps (H, W) of the images, whose side is four times that of the grid."""
        return [m.repeat_interleave(IMAGE_SCALE, 0).repeat_interleave(IMAGE_SCALE, 1) for m in self.labels]

    def leaves(self) -> list[Tensor]:
        """The mask logits of all heads and images."""
        return [leaf for layer in self.masks for leaf in (layer if isinstance(layer, list) else [layer])]


def blobs(side: int, instances: int) -> Tensor:
    """(side, side) int64 label map: cells nearest to random centres, a third of which are background."""
    centres = torch.randperm(side**2)[: min(side**2, instances + instances // 2 + 1)]
    labels = torch.where(torch.arange(len(centres)) < instances, torch.arange(1, len(centres) + 1), 0)
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    return labels[torch.cdist(cells, cells[centres]).argmin(1)].view(side, side)


def shuffled(pixels: int, instances: int, background: float) -> Tensor:
    """(N,) int64 labels in random order, every instance with a pixel."""
    labels = torch.randint(1, instances + 1, (pixels,))
    labels[torch.rand(pixels) < background] = 0
    labels[:instances] = torch.arange(1, instances + 1)
    return labels[torch.randperm(pixels)]
