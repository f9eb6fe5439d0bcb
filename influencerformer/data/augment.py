"""Augmentation of samples for training, and the fixed transform for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.data.collate import IMAGENET_MEAN
from influencerformer.data.sample import Sample
from influencerformer.errors import UserError

# The value that normalisation turns into zero: padding then looks the same whoever pads.
_PADDING_COLOUR = tuple(round(255 * m) for m in IMAGENET_MEAN)


@dataclass(frozen=True)
class TrainTransform:
    """Random crop of a fixed size after a random flip, rotation, scale and colour change.

    Instances that the crop leaves out are dropped and the rest renumbered 1..K, with `class_labels` in step.

    Attributes:
        crop_size: height and width of the result in pixels; a smaller image is padded at the bottom and right
            with ignored pixels.
        scale: fixed factor on the image size, applied to every image (0.5 works at half resolution).
        scale_jitter: range of a random factor on top of it, drawn log-uniformly.
        flip: mirror left-right with probability 1/2.
        vertical_flip: mirror top-bottom with probability 1/2.
        rot90: rotate by a random multiple of 90 degrees.
        min_area: an instance that the crop cuts down to fewer pixels than this becomes ignored pixels: too
            little is left to recognise it, yet it is not background.
        color_jitter: brightness, contrast and saturation are each changed by a random factor in
            1 - color_jitter .. 1 + color_jitter; 0 leaves colours alone.
    """

    crop_size: int
    scale: float = 1.0
    scale_jitter: tuple[float, float] = (0.8, 1.25)
    flip: bool = True
    vertical_flip: bool = False
    rot90: bool = False
    min_area: int = 0
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale_jitter
        _require(self.crop_size > 0, "crop_size", "positive", self.crop_size)
        _require(self.scale > 0, "scale", "positive", self.scale)
        _require(0 < low <= high, "scale_jitter", "a range 0 < low <= high", self.scale_jitter)
        _require(self.min_area >= 0, "min_area", "0 or larger", self.min_area)
        _require(0 <= self.color_jitter < 1, "color_jitter", "in 0..1, 1 excluded", self.color_jitter)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draw one training sample; the same generator state gives the same result."""
        # All numbers are drawn, used or not: what one option does never shifts the others' draws.
        u = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
        low, high = self.scale_jitter
        factor = self.scale * math.exp(math.log(low) + u[0] * (math.log(high) - math.log(low)))
        # Cropping before resizing costs the crop's size, not the image's.
        window = max(1, round(self.crop_size / factor))
        height, width = min(window, sample.size[0]), min(window, sample.size[1])
        top = int(u[1] * (sample.size[0] - height + 1))
        left = int(u[2] * (sample.size[1] - width + 1))
        out_height = min(self.crop_size, max(1, round(height * factor)))
        out_width = min(self.crop_size, max(1, round(width * factor)))
        if height == window:
            out_height = self.crop_size
        if width == window:
            out_width = self.crop_size

        sample = _crop(sample, top, left, height, width, (out_height, out_width), self.min_area)
        if self.flip and u[3] < 0.5:
            sample = _map(sample, lambda x: x.flip(-1))
        if self.vertical_flip and u[4] < 0.5:
            sample = _map(sample, lambda x: x.flip(-2))
        if self.rot90:
            turns = int(u[5] * 4)
            sample = _map(sample, lambda x: torch.rot90(x, turns, (-2, -1)))
        if self.color_jitter > 0:
            factors = [1 + self.color_jitter * (2 * v - 1) for v in u[6:9]]
            sample = replace(sample, image=_change_colors(sample.image, *factors))
        return _pad(sample, self.crop_size)


@dataclass(frozen=True)
class EvalTransform:
    """The fixed transform of evaluation: resize, then crop the centre; by default the image as it is.

    Attributes:
        scale: fixed factor on the image size, as in training.
        crop_size: cut out the centre if the image is larger than this many pixels in height or width; None
            keeps the whole image.
        max_size: shrink the image so that its longer side has at most this many pixels; None does not.
        min_area: as in `TrainTransform`, for instances that the crop cuts.
    """

    scale: float = 1.0
    crop_size: int | None = None
    max_size: int | None = None
    min_area: int = 0

    def __post_init__(self) -> None:
        _require(self.scale > 0, "scale", "positive", self.scale)
        _require(self.crop_size is None or self.crop_size > 0, "crop_size", "positive", self.crop_size)
        _require(self.max_size is None or self.max_size > 0, "max_size", "positive", self.max_size)
        _require(self.min_area >= 0, "min_area", "0 or larger", self.min_area)

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample.size
        factor = self.scale
        if self.max_size is not None:
            factor = min(factor, self.max_size / max(height, width))
        size = max(1, round(height * factor)), max(1, round(width * factor))
        sample = _crop(sample, 0, 0, height, width, size, 0)
        if self.crop_size is None:
            return sample
        height, width = min(size[0], self.crop_size), min(size[1], self.crop_size)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return _crop(sample, top, left, height, width, (height, width), self.min_area)


def _require(holds: bool, option: str, expected: str, got: object) -> None:
    if not holds:
        raise UserError(f"{option} must be {expected}, got {got}")


def _map(sample: Sample, move: Callable[[Tensor], Tensor]) -> Sample:
    """Apply the same rearrangement of pixels to the image and to the truth."""
    return replace(
        sample,
        image=move(sample.image),
        instance_labels=None if sample.instance_labels is None else move(sample.instance_labels),
        instance_masks=None if sample.instance_masks is None else move(sample.instance_masks),
        ignore=None if sample.ignore is None else move(sample.ignore),
    )


def _crop(sample: Sample, top: int, left: int, height: int, width: int, size: tuple[int, int], min_area: int) -> Sample:
    """Cut out a window, resize it, and drop the instances that have no pixel in the result."""
    window = slice(top, top + height), slice(left, left + width)
    image = _resize_image(sample.image[:, window[0], window[1]], size)
    if sample.instance_labels is not None:
        labels = sample.instance_labels[window]
        inside = _areas(labels, sample.num_instances)
        cut = inside < _areas(sample.instance_labels, sample.num_instances)
        labels = _resize_nearest(labels, size)
        areas = _areas(labels, sample.num_instances)
        kept, sliver = _sort_out(areas, cut, min_area)
        # Position 0 is the value -1, position 1 background, the rest the instances' new numbers.
        table = torch.zeros(sample.num_instances + 2, dtype=torch.int64)
        table[0] = -1
        table[2:][sliver] = -1
        table[2:][kept] = torch.arange(1, int(kept.sum()) + 1)
        return replace(sample, image=image, instance_labels=table[labels + 1], class_labels=sample.class_labels[kept])
    assert sample.instance_masks is not None
    masks = sample.instance_masks[:, window[0], window[1]]
    cut = masks.sum((1, 2)) < sample.instance_masks.sum((1, 2))
    masks = _resize_nearest(masks, size)
    kept, sliver = _sort_out(masks.sum((1, 2)), cut, min_area)
    ignore = None if sample.ignore is None else _resize_nearest(sample.ignore[window], size)
    if bool(sliver.any()):
        slivers = masks[sliver].any(0) & ~masks[kept].any(0)
        ignore = slivers if ignore is None else ignore | slivers
    return replace(
        sample, image=image, instance_masks=masks[kept], class_labels=sample.class_labels[kept], ignore=ignore
    )


def _areas(labels: Tensor, num_instances: int) -> Tensor:
    """Pixels of each instance, (K,)."""
    return torch.bincount(labels.flatten() + 1, minlength=num_instances + 2)[2:]


def _sort_out(areas: Tensor, cut: Tensor, min_area: int) -> tuple[Tensor, Tensor]:
    """Which instances stay, and which of the others leave a sliver."""
    sliver = (areas > 0) & cut & (areas < min_area)
    return (areas > 0) & ~sliver, sliver


def _resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[1:]) == size:
        return image.contiguous()
    # In float: the uint8 kernel fails on images one pixel wide.
    values = image[None].to(torch.float32)
    values = F.interpolate(values, size=size, mode="bilinear", antialias=True, align_corners=False)
    return values[0].round_().clamp_(0, 255).to(torch.uint8)


def _resize_nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) of any type to (..., *size), each pixel from the nearest source pixel's centre."""
    height, width = values.shape[-2:]
    if (height, width) == size:
        return values.contiguous()
    rows = ((torch.arange(size[0]) + 0.5) * (height / size[0])).long().clamp_(max=height - 1)
    columns = ((torch.arange(size[1]) + 0.5) * (width / size[1])).long().clamp_(max=width - 1)
    return values[..., rows, :][..., columns]


def _change_colors(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    values = image.to(torch.float32) * brightness
    mean = values.mean()
    values = mean + (values - mean) * contrast
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = (values * weights).sum(0, keepdim=True)
    values = grey + (values - grey) * saturation
    return values.round().clamp(0, 255).to(torch.uint8)


def _pad(sample: Sample, size: int) -> Sample:
    """Extend to (size, size) at the bottom and right; the new pixels are ignored."""
    height, width = sample.size
    if (height, width) == (size, size):
        return sample
    padding = (0, size - width, 0, size - height)
    image = torch.tensor(_PADDING_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, size, size)
    image[:, :height, :width] = sample.image
    if sample.instance_labels is not None:
        return replace(sample, image=image, instance_labels=F.pad(sample.instance_labels, padding, value=-1))
    assert sample.instance_masks is not None
    masks = F.pad(sample.instance_masks, padding, value=False)
    return replace(sample, image=image, instance_masks=masks, ignore=F.pad(sample.ignored(), padding, value=True))
