"""The Lightning data module of particle tracks: from a few options to reproducible batches."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from influencerformer.data.bad_samples import OnBadSample, Take
from influencerformer.data.stream import StreamDataModule
from influencerformer.data.tracks.augment import TrackTransform
from influencerformer.data.tracks.collate import collate_events
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.event_files import VERSION, write_events
from influencerformer.data.tracks.event_folder import EventFolder
from influencerformer.data.tracks.generate import OPTIONS
from influencerformer.data.tracks.sample import Event
from influencerformer.data.tracks.trackml import find_events
from influencerformer.errors import UserError

TrackFormat = Literal["generated", "trackml"]
Part = Literal["train", "val"]
_GENERATED = {"train": 400, "val": 40}


class TrackDataModule(StreamDataModule[Event, EventFolder]):
    """Training and validation events from a folder.

    Training events depend on `seed`, the epoch and the event alone: not on the loss, the number of workers or the
    global random state. Validation events come in their order, as they are.

    Args:
        format: generated (written as TrackML's files, then read like them) or trackml.
        root: folder of the data. For trackml it holds the events' files, or the folders train and val that do;
            for generated it is the folder that they are written to.
        num_particles: of each generated event, or the fewest and the most.
        train_events, val_events: how many generated events, 400 and 40 unless given. Of trackml's folders train and
            val the first so many, all unless given; of a single folder the first ones for training and the last ones
            for validation, which is a tenth of them unless given.
        cuts: which particles are of interest: min_pt, max_eta, min_hits; see `Cuts`.
        generator: options of `generate_event`: noise, efficiency, overlap, displaced, min_pt, max_eta.
        data_seed: of the generated events. Not `seed`: runs that differ in that train on the same events.
        rotate, reflect: augment by random turns about the beam line and mirror images.
        batch_size: events in a training step; validation takes one at a time.
        num_workers: processes that load data; 0 loads in the training process.
        seed: of order and augmentation.
        on_bad_sample: stop at an event that cannot be used, or skip it: the next one takes its place in training, and
            it is left out of validation; each is named once, also in bad_samples.jsonl in the run's folder. A run
            stops all the same where more than a tenth of the events cannot be used.

    Raises:
        UserError: for options or data that do not fit, when the data are first needed.
    """

    def __init__(
        self,
        format: TrackFormat = "generated",
        root: str = "generated",
        num_particles: int | tuple[int, int] = 50,
        train_events: int | None = None,
        val_events: int | None = None,
        cuts: Cuts | None = None,
        generator: dict[str, float] | None = None,
        data_seed: int = 0,
        rotate: bool = True,
        reflect: bool = True,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        on_bad_sample: OnBadSample = "stop",
    ) -> None:
        super().__init__(format, root, batch_size, num_workers, seed, on_bad_sample)
        if format not in get_args(TrackFormat):
            raise UserError(f"format must be generated or trackml, got {format!r}")
        for option, value, least in (
            ("data_seed", data_seed, 0),
            ("train_events", train_events, 1),
            ("val_events", val_events, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"{option} must be {least} or larger, got {value}")
        unknown = set(generator or {}) - set(OPTIONS)
        if unknown:
            raise UserError(f"generator has no option {min(unknown)}: it has {', '.join(OPTIONS)}")
        self.num_particles = num_particles
        self.events: dict[str, int | None] = {"train": train_events, "val": val_events}
        self.cuts = cuts or Cuts()
        self.generator = generator or {}
        self.data_seed = data_seed
        self.train_transform = TrackTransform(rotate, reflect)
        self.collate = collate_events

    @property
    def class_names(self) -> list[str]:
        """The one class: track."""
        return ["track"]

    def prepare_data(self) -> None:
        """Writes the generated events that are not there yet."""
        if self.format == "generated":
            training = self.trainer is None or self.trainer.state.fn == "fit"
            for part in get_args(Part):
                if training or part == "val":
                    self._generate(part)

    def eval_dataset(self) -> EventFolder:
        """The validation events."""
        return self.dataset("val")

    def _open(self, part: Part, take: Take | None) -> EventFolder:
        if self.format == "generated":
            return EventFolder(self._generate(part), cuts=self.cuts)
        folder = self.root / part
        if folder.is_dir():
            names, count = find_events(folder), self.events[part]
            if count is not None and count > len(names):
                raise UserError(f"{folder} holds {len(names)} events, fewer than {part}_events {count}")
            return EventFolder(folder, names[:count], self.cuts)
        names = find_events(self.root)
        return EventFolder(self.root, self._share(names, part), self.cuts)

    def _share(self, names: list[str], part: Part) -> list[str]:
        """The events of a single folder for training or for validation; none is in both."""
        val = self.events["val"] or max(len(names) // 10, 1)
        train = self.events["train"] or max(len(names) - val, 1)
        if (val if part == "val" else train + val) > len(names):
            raise UserError(
                f"{self.root} holds {len(names)} events, too few to train on {train} and validate on {val} others: "
                "set train_events and val_events"
            )
        return names[len(names) - val :] if part == "val" else names[:train]

    def _generate(self, part: Part) -> Path:
        """Events of other options, or of another version of the generator, have another folder."""
        count = self.events[part] or _GENERATED[part]
        options: dict[str, Any] = {
            "particles": self.num_particles,
            "seed": int(np.random.SeedSequence((self.data_seed, get_args(Part).index(part))).generate_state(1)[0]),
            **self.generator,
        }
        digest = hashlib.sha256(json.dumps([VERSION, options], sort_keys=True).encode()).hexdigest()[:8]
        return write_events(self.root / f"{part}_{count}events_{digest}", count, **options)
