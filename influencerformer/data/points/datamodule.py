"""The Lightning data module of point clouds: from a few options to reproducible batches."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from influencerformer.data.bad_samples import BadDataError, OnBadSample, Take
from influencerformer.data.points.augment import PointEvalTransform, PointTrainTransform
from influencerformer.data.points.collate import collate_points
from influencerformer.data.points.formats import PointFormat, class_names, open_points
from influencerformer.data.points.repairs import repair_summary
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.room_files import generate_s3dis
from influencerformer.data.points.sample import PointDataset, PointSample
from influencerformer.data.stream import StreamDataModule
from influencerformer.errors import UserError

PARTS: tuple[Literal["train"], Literal["val"]] = ("train", "val")


class PointDataModule(StreamDataModule[PointSample, RoomDataset]):
    """Training and validation rooms from a folder.

    Training crops depend on `seed`, the epoch and the room alone: not on the loss, the number of workers or the
    global random state. Validation rooms come in their order, whole and with all points unless `eval_voxel_size`
    says otherwise.

    Args:
        format: rooms (generated, written in S3DIS's raw layout), s3dis (Stanford3dDataset_v1.2 or its aligned
            version), s3dis_mmdet3d (as mmdetection3d prepares it), pointcept (as Pointcept prepares S3DIS),
            scannet (scene folders) or scannet_prepared (as OneFormer3D prepares it).
        root: folder of the data; for rooms the folder they are written to.
        train_areas, val_areas: of S3DIS; 1, 2, 3, 4, 6 and 5 unless given.
        train_split, val_split: of ScanNet, files with a scene name a line, relative to ROOT; scannetv2_train.txt and
            scannetv2_val.txt unless given.
        cache: folder for S3DIS's rooms in binary form; inside ROOT unless given.
        crop_size, voxel_size, max_points, min_points, rotate, flip, scale_jitter, color_jitter: see
            `PointTrainTransform`.
        eval_voxel_size: thin validation rooms to one point a cell of this side in metres; None keeps all points.
        batch_size: rooms in a training step; validation takes one at a time.
        num_workers: processes that load data; 0 loads in the training process.
        seed: of order and augmentation.
        rooms_train, rooms_val: numbers of generated rooms.
        rooms_width, rooms_density, rooms_crowding: see `generate_room`.
        on_bad_sample: stop at a sample that cannot be used, or skip it: the next one takes its place in training, and
            it is left out of validation; each is named once, also in bad_samples.jsonl in the run's folder. A run
            stops all the same where more than a tenth of the samples cannot be used. See docs/bad_data.md.

    Raises:
        UserError: for options or data that do not fit, when the data are first needed.
    """

    format: PointFormat

    def __init__(
        self,
        format: PointFormat = "rooms",
        root: str = "generated",
        train_areas: list[int] | None = None,
        val_areas: list[int] | None = None,
        train_split: str | None = None,
        val_split: str | None = None,
        cache: str | None = None,
        crop_size: float | None = None,
        voxel_size: float | None = 0.05,
        max_points: int = 100_000,
        min_points: int = 10,
        rotate: bool = True,
        flip: bool = True,
        scale_jitter: tuple[float, float] = (0.9, 1.1),
        color_jitter: float = 0.2,
        eval_voxel_size: float | None = None,
        batch_size: int = 2,
        num_workers: int = 0,
        seed: int = 0,
        rooms_train: int = 48,
        rooms_val: int = 12,
        rooms_width: tuple[float, float] = (3.5, 6.0),
        rooms_density: float = 400.0,
        rooms_crowding: float = 1.0,
        on_bad_sample: OnBadSample = "stop",
    ) -> None:
        super().__init__(format, root, batch_size, num_workers, seed, on_bad_sample)
        self.areas: dict[str, Sequence[int] | None] = {"train": train_areas, "val": val_areas}
        self.splits = {"train": train_split, "val": val_split}
        self.cache = None if cache is None else Path(cache)
        self.train_transform = PointTrainTransform(
            crop_size=crop_size,
            voxel_size=voxel_size,
            max_points=max_points,
            min_points=min_points,
            rotate=rotate,
            flip=flip,
            scale_jitter=scale_jitter,
            color_jitter=color_jitter,
        )
        self.eval_transform = PointEvalTransform(eval_voxel_size)
        self.collate = collate_points
        self.rooms: dict[str, Any] = {
            "train": rooms_train,
            "val": rooms_val,
            "width": rooms_width,
            "density": rooms_density,
            "crowding": rooms_crowding,
        }

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0..C-1."""
        return class_names(self.format)

    def _open(self, part: Literal["train", "val"], take: Take | None) -> RoomDataset:
        root = self._generate() if self.format == "rooms" else self.root
        split = self.splits[part]
        return open_points(
            self.format,
            root,
            part,
            areas=self.areas[part],
            split_file=None if split is None else root / split,
            cache=self.cache,
            take=take,
        )

    def _generate(self) -> Path:
        """Rooms of other numbers or options have another folder."""
        digest = hashlib.sha256(json.dumps(self.rooms, sort_keys=True).encode()).hexdigest()[:8]
        folder = self.root / f"rooms_{self.rooms['train']}train_{self.rooms['val']}val_{digest}"
        return generate_s3dis(folder, **self.rooms)

    def prepare_data(self) -> None:
        """Reads every room that the run needs once, which fills the cache, and tells what was repaired."""
        training = self.trainer is None or self.trainer.state.fn == "fit"
        repairs = []
        for part in PARTS if training else PARTS[1:]:
            take = None if self.on_bad_sample == "stop" else self.ledger(part).take
            try:
                repairs += self.dataset(part).prepare(take)
            except BadDataError as error:
                raise UserError(f"{error}; {self.ledger(part).advice}") from None
        if repairs:
            print(repair_summary(repairs), file=sys.stderr)

    def eval_dataset(self) -> PointEvalDataset:
        """The validation rooms as the model sees them."""
        return PointEvalDataset(self.dataset("val"), self.eval_transform)


class PointEvalDataset(PointDataset):
    """Rooms after a `PointEvalTransform`, in their order."""

    def __init__(self, dataset: PointDataset, transform: PointEvalTransform) -> None:
        self.dataset = dataset
        self.transform = transform
        self.class_names = dataset.class_names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> PointSample:
        return self.transform(self.dataset[index])
