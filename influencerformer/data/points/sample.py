"""The one type every point-cloud reader gives and every augmentation takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influencerformer.data.bad_samples import CheckedDataset


@dataclass
class PointSample:
    """One room or scene with its instances; the truth is kept as in :class:`influencerformer.data.sample.Sample`.

    Attributes:
        name: of the room, for messages and for output files.
        coordinates: (N, 3) float32, metres, z up.
        colors: (N, 3) uint8, red, green, blue.
        class_labels: (K,) int64, class 0..C-1 of each instance.
        instance_labels: (N,) int64: 0 background, 1..K instances (value k has class `class_labels[k - 1]`),
            -1 ignored.
        superpoints: (N,) int64, 0..S-1 without a gap, or None.
        sample_id: number of the room, unique within its data set.

    Raises:
        ValueError: where shapes, types or labels break the above; the message names the sample.
    """

    name: str
    coordinates: Tensor
    colors: Tensor
    class_labels: Tensor
    instance_labels: Tensor
    superpoints: Tensor | None
    sample_id: int

    def __post_init__(self) -> None:
        count = self.num_points
        self._check("coordinates", self.coordinates, (count, 3), torch.float32)
        self._check("colors", self.colors, (count, 3), torch.uint8)
        self._check("class_labels", self.class_labels, (self.num_instances,), torch.int64)
        self._check("instance_labels", self.instance_labels, (count,), torch.int64)
        if self.superpoints is not None:
            self._check("superpoints", self.superpoints, (count,), torch.int64)
            if count and int(self.superpoints.min()) < 0:
                raise ValueError(f"sample {self.name!r}: superpoints must not be negative")
        if self.num_instances and int(self.class_labels.min()) < 0:
            raise ValueError(f"sample {self.name!r}: class_labels must not be negative")
        if count and not -1 <= int(self.instance_labels.min()) <= int(self.instance_labels.max()) <= self.num_instances:
            raise ValueError(
                f"sample {self.name!r}: instance_labels must lie in -1..{self.num_instances} (one class label for "
                f"each instance), got {int(self.instance_labels.min())}..{int(self.instance_labels.max())}"
            )
        if not bool(self.coordinates.isfinite().all()):
            raise ValueError(f"sample {self.name!r}: coordinates hold NaN or infinite values")

    def _check(self, field: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if tuple(value.shape) != shape or value.dtype != dtype:
            kind = str(dtype).removeprefix("torch.")
            got = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            raise ValueError(f"sample {self.name!r}: {field} must be {shape} {kind}, got {got}")

    @property
    def num_points(self) -> int:
        """N."""
        return self.coordinates.shape[0]

    @property
    def num_instances(self) -> int:
        """K."""
        return self.class_labels.shape[0]

    def select(self, points: Tensor) -> PointSample:
        """The sample at some of its points, an index or a mask (N,); instances without a point are dropped.

        Instances and superpoints are numbered anew without gaps, in their order.
        """
        labels, classes = compact_labels(self.instance_labels[points], self.class_labels)
        superpoints = None if self.superpoints is None else self.superpoints[points].unique(return_inverse=True)[1]
        return PointSample(
            self.name,
            self.coordinates[points],
            self.colors[points],
            classes,
            labels,
            superpoints,
            self.sample_id,
        )


def compact_labels(labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) labels and (K,) classes without the instances that no point has; -1 and 0 stay."""
    present = torch.zeros(len(classes) + 1, dtype=torch.bool)
    present[labels.clamp(min=0)] = True
    present[0] = False
    number = torch.where(present, present.cumsum(0), 0)
    return torch.where(labels < 0, labels, number[labels.clamp(min=0)]), classes[present[1:]]


class PointDataset(CheckedDataset[PointSample]):
    """A data set of point samples: what readers give and transforms wrap.

    Attributes:
        class_names: names of the classes 0..C-1.
    """
