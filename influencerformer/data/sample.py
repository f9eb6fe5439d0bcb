"""The one type every data set gives and every augmentation takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influencerformer.data.bad_samples import CheckedDataset


@dataclass
class Sample:
    """One image with its instances.

    The truth is either a label map (a partition of the pixels) or, where instances overlap, one mask an
    instance. Exactly one of `instance_labels` and `instance_masks` is set.

    Attributes:
        name: file stem, for messages and for output files.
        image: (3, H, W) uint8 RGB.
        class_labels: (K,) int64, class 0..C-1 of each instance.
        instance_labels: (H, W) int64: 0 background, 1..K instances (value k has class
            `class_labels[k - 1]`), -1 ignored.
        instance_masks: (K, H, W) bool.
        ignore: (H, W) bool, pixels that count neither as an instance nor as background (crowd, padding);
            only together with `instance_masks`.
        image_id: number of the image, unique within its data set.

    Raises:
        ValueError: where shapes, types or labels break the above; the message names the sample.
    """

    name: str
    image: Tensor
    class_labels: Tensor
    instance_labels: Tensor | None
    instance_masks: Tensor | None
    ignore: Tensor | None
    image_id: int

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3 or self.image.dtype != torch.uint8:
            self._fail("image", "(3, H, W) uint8", self.image)
        if self.class_labels.ndim != 1 or self.class_labels.dtype != torch.int64:
            self._fail("class_labels", "(K,) int64", self.class_labels)
        if self.num_instances and int(self.class_labels.min()) < 0:
            raise ValueError(f"sample {self.name!r}: class_labels must not be negative")
        if (self.instance_labels is None) == (self.instance_masks is None):
            raise ValueError(f"sample {self.name!r}: set exactly one of instance_labels and instance_masks")
        if self.instance_labels is not None:
            self._check_labels(self.instance_labels)
        if self.instance_masks is not None:
            expected = (self.num_instances, *self.size)
            if tuple(self.instance_masks.shape) != expected or self.instance_masks.dtype != torch.bool:
                self._fail("instance_masks", f"{expected} bool", self.instance_masks)
        if self.ignore is not None:
            if self.instance_masks is None:
                raise ValueError(
                    f"sample {self.name!r}: ignore goes with instance_masks; otherwise write -1 in the labels"
                )
            if tuple(self.ignore.shape) != self.size or self.ignore.dtype != torch.bool:
                self._fail("ignore", f"{self.size} bool", self.ignore)

    def _check_labels(self, labels: Tensor) -> None:
        if tuple(labels.shape) != self.size or labels.dtype != torch.int64:
            self._fail("instance_labels", f"{self.size} int64", labels)
        if labels.numel() and (int(labels.min()) < -1 or int(labels.max()) > self.num_instances):
            raise ValueError(
                f"sample {self.name!r}: instance_labels must lie in -1..{self.num_instances} (one class "
                f"label for each instance), got {int(labels.min())}..{int(labels.max())}"
            )

    def _fail(self, field: str, expected: str, got: Tensor) -> None:
        raise ValueError(
            f"sample {self.name!r}: {field} must be {expected}, "
            f"got {tuple(got.shape)} {str(got.dtype).removeprefix('torch.')}"
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def num_instances(self) -> int:
        """K."""
        return self.class_labels.shape[0]

    def masks(self) -> Tensor:
        """One mask an instance, (K, H, W) bool, whichever way the truth is kept."""
        if self.instance_masks is not None:
            return self.instance_masks
        assert self.instance_labels is not None
        numbers = torch.arange(1, self.num_instances + 1)
        return self.instance_labels[None] == numbers[:, None, None]

    def ignored(self) -> Tensor:
        """Ignored pixels, (H, W) bool, whichever way the truth is kept."""
        if self.instance_labels is not None:
            return self.instance_labels == -1
        return torch.zeros(self.size, dtype=torch.bool) if self.ignore is None else self.ignore


class InstanceDataset(CheckedDataset[Sample]):
    """A data set of samples: what readers give and transforms wrap.

    Attributes:
        class_names: names of the classes 0..C-1.
    """
