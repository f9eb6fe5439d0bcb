"""Augmentation of point clouds for training, and the fixed transform for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError


@dataclass(frozen=True)
class PointTrainTransform:
    """A random crop, thinned to one point a voxel, turned about the vertical, mirrored, scaled and recoloured.

    Instances that the crop leaves out are dropped and the rest renumbered 1..K, with `class_labels` in step.

    Attributes:
        crop_size: side in metres of an upright square column around a random point; None keeps the whole room.
        voxel_size: side in metres of the cells of which one random point stays; None keeps all points.
        max_points: most points of a result, the others are left out at random.
        min_points: an instance that is left with fewer points becomes ignored: too little is left to recognise
            it, yet it is not background.
        rotate: turn about the vertical by a random angle.
        flip: mirror left-right with probability 1/2.
        scale_jitter: range of a random factor on all lengths, drawn log-uniformly.
        color_jitter: brightness and contrast are each changed by a random factor in 1 - color_jitter ..
            1 + color_jitter; 0 leaves colours alone.
    """

    crop_size: float | None = None
    voxel_size: float | None = 0.05
    max_points: int = 100_000
    min_points: int = 10
    rotate: bool = True
    flip: bool = True
    scale_jitter: tuple[float, float] = (0.9, 1.1)
    color_jitter: float = 0.2

    def __post_init__(self) -> None:
        low, high = self.scale_jitter
        _require(self.crop_size is None or self.crop_size > 0, "crop_size", "positive", self.crop_size)
        _require(self.voxel_size is None or self.voxel_size > 0, "voxel_size", "positive", self.voxel_size)
        _require(self.max_points > 0, "max_points", "positive", self.max_points)
        _require(self.min_points >= 0, "min_points", "0 or larger", self.min_points)
        _require(0 < low <= high, "scale_jitter", "a range 0 < low <= high", self.scale_jitter)
        _require(0 <= self.color_jitter < 1, "color_jitter", "in 0..1, 1 excluded", self.color_jitter)

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """Draw one training sample; the same generator state gives the same result."""
        # All numbers are drawn, used or not: what one option does never shifts the others' draws.
        u = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(sample.num_points, generator=generator)
        if self.crop_size is not None and sample.num_points:
            centre = sample.coordinates[min(int(u[0] * sample.num_points), sample.num_points - 1), :2]
            inside = ((sample.coordinates[:, :2] - centre).abs() <= self.crop_size / 2).all(1)
            order = order[inside[order]]
        if self.voxel_size is not None:
            order = order[one_of_each_voxel(sample.coordinates[order], self.voxel_size)]
        sample = without_small_instances(sample.select(order[: self.max_points].sort()[0]), self.min_points)
        low, high = self.scale_jitter
        factor = math.exp(math.log(low) + u[1] * (math.log(high) - math.log(low)))
        angle = 2 * math.pi * u[2] if self.rotate else 0.0
        mirror = -1.0 if self.flip and u[3] < 0.5 else 1.0
        turn = torch.tensor(
            [
                [mirror * math.cos(angle), mirror * math.sin(angle), 0.0],
                [-math.sin(angle), math.cos(angle), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        colors = sample.colors
        if self.color_jitter > 0:
            brightness, contrast = (1 + self.color_jitter * (2 * v - 1) for v in u[4:6])
            values = colors.float() * brightness
            mean = values.mean(0, keepdim=True) if len(values) else values
            colors = ((values - mean) * contrast + mean).round().clamp(0, 255).to(torch.uint8)
        return replace(sample, coordinates=(sample.coordinates @ turn) * factor, colors=colors)


@dataclass(frozen=True)
class PointEvalTransform:
    """The fixed transform of evaluation; by default the room as it is.

    Attributes:
        voxel_size: side in metres of the cells of which the first point stays; None keeps all points, as the
            protocols of S3DIS and ScanNet do.
    """

    voxel_size: float | None = None

    def __post_init__(self) -> None:
        _require(self.voxel_size is None or self.voxel_size > 0, "voxel_size", "positive", self.voxel_size)

    def __call__(self, sample: PointSample) -> PointSample:
        """The sample that the model is measured on."""
        if self.voxel_size is None:
            return sample
        return sample.select(one_of_each_voxel(sample.coordinates, self.voxel_size).sort()[0])


def one_of_each_voxel(coordinates: Tensor, voxel_size: float) -> Tensor:
    """(V,) indices of the first of (N, 3) points in each occupied cell of a grid."""
    if not len(coordinates):
        return torch.zeros(0, dtype=torch.int64)
    cell = ((coordinates - coordinates.amin(0)) / voxel_size).floor().to(torch.int64)
    sizes = cell.amax(0) + 1
    key = (cell[:, 0] * sizes[1] + cell[:, 1]) * sizes[2] + cell[:, 2]
    values, inverse = key.unique(return_inverse=True)
    first = torch.full((len(values),), len(key))
    return first.scatter_reduce(0, inverse, torch.arange(len(key)), "amin")


def without_small_instances(sample: PointSample, min_points: int) -> PointSample:
    """The sample with instances of fewer points made ignored."""
    sizes = torch.bincount(sample.instance_labels.clamp(min=0), minlength=sample.num_instances + 1)
    sizes[0] = min_points
    if bool((sizes >= min_points).all()):
        return sample
    labels = sample.instance_labels
    small = (sizes < min_points)[labels.clamp(min=0)] & (labels > 0)
    marked = replace(sample, instance_labels=torch.where(small, -1, labels))
    return marked.select(torch.arange(sample.num_points))


def _require(holds: bool, option: str, expected: str, got: object) -> None:
    if not holds:
        raise UserError(f"{option} must be {expected}, got {got}")
