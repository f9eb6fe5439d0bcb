"""A folder of events as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from influencerformer.data.bad_samples import CheckedDataset
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.sample import Event
from influencerformer.data.tracks.trackml import find_events, read_event

KEPT_HITS = 5_000_000
"""Events are kept in memory up to this many hits, about 0.5 GB, and read anew beyond."""


class EventFolder(CheckedDataset[Event]):
    """Events in TrackML's files, read and checked when they are first needed.

    Args:
        root: the folder.
        names: of its events, in order; all, sorted, unless given.
        cuts: which particles are of interest; those of `Cuts()` unless given.
        need_truth: whether every event must have its truth.

    Raises:
        UserError: the folder is missing or has no events; on indexing, for files that cannot be used.
    """

    per_sample = ("names",)

    def __init__(
        self,
        root: str | Path,
        names: Sequence[str] | None = None,
        cuts: Cuts | None = None,
        *,
        need_truth: bool = True,
    ) -> None:
        self.root = Path(root)
        self.class_names = ["track"]
        self.names = find_events(self.root) if names is None else list(names)
        self.cuts = cuts or Cuts()
        self.need_truth = need_truth
        self._kept: dict[str, Event] = {}
        self._kept_hits = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Event:
        name = self.names[index]
        if name in self._kept:
            return self._kept[name]
        event = read_event(self.root, name, self.cuts, need_truth=self.need_truth)
        if self._kept_hits + len(event) <= KEPT_HITS:
            self._kept[name] = event
            self._kept_hits += len(event)
        return event

    def name_of(self, index: int) -> str:
        return self.names[index]

    def files_of(self, index: int) -> list[Path]:
        return [
            path
            for kind in ("hits", "truth", "particles", "cells")
            for end in ("", ".gz")
            if (path := self.root / f"{self.names[index]}-{kind}.csv{end}").exists()
        ]
