"""The data set that every reader of rooms extends: rooms of a folder, read one by one, with a report of repairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from influencerformer.data.bad_samples import Defect, Take, refuse
from influencerformer.data.points.repairs import Repair
from influencerformer.data.points.sample import PointDataset, PointSample
from influencerformer.data.progress import progress
from influencerformer.errors import UserError


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

    per_sample: ClassVar[tuple[str, ...]] = ("names",)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> PointSample:
        return self.read(range(len(self))[index])[0]

    def read(self, index: int) -> tuple[PointSample, list[Repair]]:
        """Room `index` (0 or more) and what was repaired in it."""
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        return self.names[index]

    def examine(self, index: int) -> tuple[PointSample | None, list[Defect]]:
        try:
            sample, repairs = self.read(index)
        except Exception as error:  # a reader of broken files may raise anything
            return None, [self.defect(error, index)]
        return sample, [self.repaired(repair, self.names[index]) for repair in repairs]

    def repaired(self, repair: Repair, sample: str | None = None) -> Defect:
        """A repair as a defect that training goes on with."""
        line = "" if repair.line is None else f"line {repair.line}: "
        return Defect(str(self.root / repair.file), f"{line}{repair.what}", sample, stops=False)

    def folder_repairs(self) -> list[Repair]:
        """What was found amiss outside the rooms."""
        return []

    def prepare(self, take: Take | None = None) -> list[Repair]:
        """Reads every room once, with a progress bar: fills the cache if there is one, and finds unfit files.

        Args:
            take: is handed a defect for each room that cannot be read, in place of the error.

        Returns:
            All repairs, for :func:`influencerformer.data.points.repairs.repair_summary`.

        Raises:
            UserError: a room cannot be read.
        """
        repairs = self.folder_repairs()
        for index in progress(range(len(self)), "Reading rooms"):
            try:
                repairs += self.room_repairs(index)
            except Exception as error:  # a reader of broken files may raise anything
                sentence = " ".join(str(error).split())
                defect = self.defect(error, index)
                refuse([defect], sentence if isinstance(error, UserError) else str(defect), take)
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
