"""The data set that every reader of rooms extends: rooms of a folder, read one by one, with a report of repairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from influencerformer.data.points.repairs import Repair
from influencerformer.data.points.sample import PointDataset, PointSample


class RoomDataset(PointDataset):
    """Rooms or scenes of a folder, each read when it is asked for.

    Attributes:
        root: the data set's folder.
        class_names: names of the classes 0..C-1.
        names: of the rooms, in order.
    """

    def __init__(self, root: Path, class_names: Sequence[str], names: Sequence[str]) -> None:
        self.root = root
        self.class_names = list(class_names)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> PointSample:
        return self.read(range(len(self))[index])[0]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        """Room `index` (0 or more) and what was repaired in it."""
        raise NotImplementedError

    def folder_repairs(self) -> list[Repair]:
        """What was found amiss outside the rooms."""
        return []

    def prepare(self) -> list[Repair]:
        """Reads every room once, with a progress bar: fills the cache if there is one, and finds unfit files.

        Returns:
            All repairs, for :func:`influencerformer.data.points.repairs.repair_summary`.

        Raises:
            UserError: a room cannot be read.
        """
        repairs = self.folder_repairs()
        for index in progress(range(len(self)), "Reading rooms"):
            repairs += self.room_repairs(index)
        return repairs

    def room_repairs(self, index: int) -> list[Repair]:
        """What was repaired in room `index`."""
        return self.read(index)[1]

    def sample(
        self,
        index: int,
        coordinates: npt.NDArray[Any],
        colors: npt.NDArray[np.uint8],
        classes: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        superpoints: npt.NDArray[Any] | None = None,
    ) -> PointSample:
        """The arrays of room `index` as a sample."""
        return PointSample(
            name=self.names[index],
            coordinates=torch.from_numpy(np.ascontiguousarray(coordinates, dtype=np.float32)),
            colors=torch.from_numpy(np.ascontiguousarray(colors)),
            class_labels=torch.from_numpy(classes.astype(np.int64)),
            instance_labels=torch.from_numpy(labels.astype(np.int64)),
            superpoints=None if superpoints is None else torch.from_numpy(superpoints.astype(np.int64)),
            sample_id=index,
        )


def progress(items: Sequence[Any], description: str) -> Iterable[Any]:
    """The items with a progress bar on the error stream where that is a terminal."""
    console = Console(stderr=True)
    return track(items, description, console=console, disable=not console.is_terminal)
