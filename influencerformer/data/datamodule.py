"""The Lightning data module: from a few options to reproducible batches."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from influencerformer.data.augment import EvalTransform, TrainTransform
from influencerformer.data.bad_samples import OnBadSample, Take
from influencerformer.data.coco import CocoDataset, ground_truth
from influencerformer.data.collate import collate
from influencerformer.data.files import split_path
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.data.scenes import SCENE_CLASSES, generate_scenes
from influencerformer.data.stream import StreamDataModule
from influencerformer.errors import UserError

Format = Literal["scenes", "label_map", "coco"]


class InstanceDataModule(StreamDataModule[Sample, InstanceDataset]):
    """Training and validation data from a folder.

    Training crops depend on `seed`, the epoch and the sample alone: not on the loss, the number of workers or
    the global random state. Validation images come in the order of their split, whole unless `eval_size` says
    otherwise.

    Args:
        format: "scenes" (drawn, see `generate_scenes`), "label_map" (see `LabelMapDataset`) or "coco".
        root: folder of the data; for scenes the folder they are written to.
        train_split, val_split: names of the splits ("train" reads ROOT/train.txt) or paths of .txt files.
            With scenes: train or val.
        annotations: COCO json relative to ROOT. With "{split}" in it, each split has its own json and
            no split file is read (annotations/instances_{split}.json).
        images: COCO image folder relative to ROOT; "{split}" is replaced too.
        class_names: of a label_map data set; the other formats know theirs.
        crop_size: height and width of training crops in pixels.
        eval_size: centre crop for validation in pixels; None for whole images.
        eval_max_size: shrink validation images to this longest side in pixels; None for no limit.
        scale: fixed factor on the size of all images.
        scale_jitter, flip, vertical_flip, rot90, min_area, color_jitter: see `TrainTransform`.
        batch_size: of training.
        eval_batch_size: of validation; above 1, images of different sizes are padded to the largest.
        num_workers: processes that load data; 0 loads in the training process.
        size_divisor: batches are padded to a multiple of this.
        seed: of order and augmentation.
        scenes_train, scenes_val, scenes_size: numbers of drawn scenes and their height and width in pixels.
        on_bad_sample: stop at a sample that cannot be used, or skip it: the next one takes its place in training, and
            it is left out of validation; each is named once, also in bad_samples.jsonl in the run's folder. A run
            stops all the same where more than a tenth of the samples cannot be used. See docs/bad_data.md.

    Raises:
        UserError: for options or data that do not fit, when the data are first needed.
    """

    def __init__(
        self,
        format: Format = "scenes",
        root: str = "generated",
        train_split: str = "train",
        val_split: str = "val",
        annotations: str = "annotations/instances_{split}.json",
        images: str = "images",
        class_names: list[str] | None = None,
        crop_size: int = 64,
        eval_size: int | None = None,
        eval_max_size: int | None = None,
        scale: float = 1.0,
        scale_jitter: tuple[float, float] = (0.8, 1.25),
        flip: bool = True,
        vertical_flip: bool = False,
        rot90: bool = False,
        min_area: int = 0,
        color_jitter: float = 0.0,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        size_divisor: int = 32,
        seed: int = 0,
        scenes_train: int = 2000,
        scenes_val: int = 200,
        scenes_size: int = 64,
        on_bad_sample: OnBadSample = "stop",
    ) -> None:
        super().__init__(format, root, batch_size, num_workers, seed, on_bad_sample)
        positive = {
            "eval_batch_size": eval_batch_size,
            "size_divisor": size_divisor,
        }
        for option, value in positive.items():
            if value < 1:
                raise UserError(f"{option} must be 1 or larger, got {value}")
        self.splits = {"train": train_split, "val": val_split}
        self.annotations = annotations
        self.images = images
        self._label_map_classes = ["object"] if class_names is None else list(class_names)
        if class_names is not None and format != "label_map":
            raise UserError(f"class_names goes with format label_map only: {format} data name their own classes")
        self.train_transform = TrainTransform(
            crop_size=crop_size,
            scale=scale,
            scale_jitter=scale_jitter,
            flip=flip,
            vertical_flip=vertical_flip,
            rot90=rot90,
            min_area=min_area,
            color_jitter=color_jitter,
        )
        self.eval_transform = EvalTransform(scale=scale, crop_size=eval_size, max_size=eval_max_size, min_area=min_area)
        self.collate = partial(collate, size_divisor=size_divisor)
        self.eval_batch_size = eval_batch_size
        self.size_divisor = size_divisor
        self.scenes = {"train": scenes_train, "val": scenes_val, "size": scenes_size}
        self._ground_truth: dict[str, Any] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0..C-1."""
        if self.format == "scenes":
            return list(SCENE_CLASSES)
        if self.format == "label_map":
            return self._label_map_classes
        return self.dataset("train").class_names

    def open_part(self, part: Literal["train", "val"], take: Take | None) -> InstanceDataset:
        return self._open(self.splits[part], take)

    def _open(self, split: str, take: Take | None) -> InstanceDataset:
        if self.format == "scenes":
            if split not in ("train", "val"):
                raise UserError(f"scenes have the splits train and val, got {split!r}")
            folder = generate_scenes(self.root, seed=0, **self.scenes)
            return CocoDataset(folder / f"instances_{split}.json", folder / "images", take=take)
        if self.format == "label_map":
            return LabelMapDataset(self.root, split, self._label_map_classes, take)
        if self.format != "coco":
            raise UserError(f"format must be scenes, label_map or coco, got {self.format!r}")
        annotations = self.root / self.annotations.replace("{split}", split)
        images = self.root / self.images.replace("{split}", split)
        split_file = None if "{split}" in self.annotations else split_path(self.root, split)
        return CocoDataset(annotations, images, split_file, take)

    def prepare_data(self) -> None:
        """Draw the scenes, if it is scenes and they are not there yet."""
        if self.format == "scenes":
            generate_scenes(self.root, seed=0, **self.scenes)

    def setup(self, stage: str | None = None) -> None:
        """Open the splits that `stage` (fit, validate, ...; None for all) needs: errors come early."""
        val = self.dataset("val")
        if stage in ("fit", None):
            train = self.dataset("train")
            if train.class_names != val.class_names:
                raise UserError(
                    f"training and validation data have different classes: {train.class_names} and {val.class_names}"
                )

    def ground_truth(self) -> dict[str, Any]:
        """COCO ground truth of the validation images as the model sees them (scaled and cropped)."""
        if self._ground_truth is None:
            val = self.dataset("val")
            unchanged = self.eval_transform == EvalTransform(min_area=self.eval_transform.min_area)
            try:
                self._ground_truth = ground_truth(val if unchanged else self.eval_dataset())
            except UserError as error:
                raise UserError(f"{error}; {self.ledger('val').advice}") from None
        return self._ground_truth

    def eval_dataset(self) -> EvalDataset:
        """The validation images as the model sees them."""
        return EvalDataset(self.dataset("val"), self.eval_transform)


class EvalDataset(InstanceDataset):
    """Samples after an `EvalTransform`, in their order."""

    def __init__(self, dataset: InstanceDataset, transform: EvalTransform) -> None:
        self.dataset = dataset
        self.transform = transform
        self.class_names = dataset.class_names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.dataset[index])
