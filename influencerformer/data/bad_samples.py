"""What is amiss in data, and what a run does about it: it stops with one sentence, or goes on with the next sample."""

from __future__ import annotations

import atexit
import copy
import json
import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from influencerformer.errors import UserError

OnBadSample = Literal["stop", "skip"]
MOST_BAD = 0.1
"""The largest share of a data set's samples that a run leaves out before it stops all the same."""
BAD_SAMPLES_FILE = "bad_samples.jsonl"
"""What a run keeps the samples in that it left out: a JSON object a line with part, sample, file and what."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Defect:
    """One thing amiss in a data set.

    Attributes:
        file: path of the file (or folder) that it is in.
        what: what is wrong with it, where possible what was expected and what to do.
        sample: name of the sample that it spoils, None where it belongs to no single one.
        stops: whether training stops at it; where not, the reader mends it or leaves it out.
    """

    file: str
    what: str
    sample: str | None = None
    stops: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


Take = Callable[[Defect], None]
"""Is handed each defect that a reader finds while it opens a data set, in place of an error at the first."""


class BadDataError(UserError):
    """A data set cannot be used for what is in its files, not for how it was asked for."""


def refuse(defects: Sequence[Defect], sentence: str, take: Take | None) -> None:
    """Hands the defects to `take`; without one, raises a BadDataError with `sentence` where there are any."""
    if defects and take is None:
        raise BadDataError(sentence)
    for defect in defects:
        assert take is not None
        take(defect)


def defect_of(error: Exception, files: Sequence[Path | str], sample: str | None) -> Defect:
    """The defect that an exception tells of.

    Args:
        error: what reading raised; a UserError's sentence is taken as it is, others are named with their type.
        files: those that it may be in: the one that the sentence names is taken, or else the first.
        sample: name of the sample.
    """
    what = " ".join(str(error).split())
    if not isinstance(error, UserError):
        what = f"cannot be used ({f'{type(error).__name__}: {what}'.rstrip(': ')})"
    named = {str(file): what.find(str(file)) for file in files if str(file) in what}
    first = [file for file, place in named.items() if place == min(named.values())]
    file = max(first, key=len) if first else str(files[0]) if files else sample or "data"
    what = what.removeprefix(file).lstrip(": ").replace(file, Path(file).name)
    return Defect(file, what, sample)


class CheckedDataset(Dataset[Item]):
    """What readers add to a map-style data set, so that its samples can be named, examined and left out.

    Attributes:
        class_names: names of the classes 0..C-1.
        per_sample: names of the attributes that are lists with one entry a sample.
    """

    class_names: list[str]
    per_sample: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Item:
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        """The name of a sample, without reading it."""
        return f"sample {index}"

    def files_of(self, index: int) -> Sequence[Path]:
        """The files that a sample is read from, the most telling one first."""
        return []

    def examine(self, index: int) -> tuple[Item | None, list[Defect]]:
        """A sample, None where it cannot be used, and everything that is amiss in it."""
        try:
            return self[index], []
        except Exception as error:  # a reader of broken files may raise anything
            return None, [self.defect(error, index)]

    def defect(self, error: Exception, index: int) -> Defect:
        """What an exception that reading sample `index` raised tells of."""
        return defect_of(error, self.files_of(index), self.name_of(index))

    def keep(self, indices: Sequence[int]) -> Any:
        """The data set with these of its samples alone, in this order."""
        if not self.per_sample:
            raise TypeError(f"{type(self).__name__} names no per_sample attributes: its samples cannot be chosen")
        chosen = copy.copy(self)
        for field in self.per_sample:
            values = getattr(self, field)
            setattr(chosen, field, [values[index] for index in indices])
        return chosen


class Ledger:
    """The bad samples of one part of a run's data, kept in the training process.

    Args:
        part: train or val, for messages.
        on_bad: stop at the first bad sample, or skip it: leave it out and name it once.
        command: the command that lists all defects, for messages.

    Attributes:
        total: number of samples, the bad ones among them.
        bad: what was left out, by name.
    """

    def __init__(self, part: str, on_bad: OnBadSample, command: str) -> None:
        self.part = part
        self.on_bad = on_bad
        self.command = command
        self.total = 0
        self.bad: dict[str, Defect] = {}
        self._file: Path | None = None

    def keep_in(self, file: Path) -> None:
        """Writes what was and will be left out to a file, a JSON object a line."""
        if file != self._file:
            self._file = file
            for defect in self.bad.values():
                self._write(defect)

    def take(self, defect: Defect) -> None:
        """Stops at a defect, or notes it.

        Raises:
            UserError: on_bad is stop, or more than MOST_BAD of `total` samples are bad.
        """
        if not defect.stops:
            return
        if self.on_bad == "stop":
            raise UserError(f"{defect}; {self.advice}")
        name = defect.sample or str(defect)
        if name in self.bad:
            return
        self.bad[name] = defect
        warnings.warn(f"bad sample left out of {self.part}: {defect}", stacklevel=2)
        self._write(defect)
        self.check_share()

    @property
    def advice(self) -> str:
        """What to do about a bad sample."""
        return f"`{self.command}` lists every defect, --data.on_bad_sample skip leaves such samples out"

    def check_share(self) -> None:
        """Raises a UserError where more than MOST_BAD of the samples are bad."""
        count = sum(defect.sample is not None for defect in self.bad.values())
        if count > MOST_BAD * self.total > 0:
            last = list(self.bad.values())[-1]
            raise UserError(
                f"{count} of {self.total} samples of {self.part} cannot be used, more than the {MOST_BAD:.0%} that "
                f"on_bad_sample skip leaves out (the last one is {last}); `{self.command}` lists every defect"
            )

    def _write(self, defect: Defect) -> None:
        """Adds a line, unless an earlier part of the run wrote it."""
        if self._file is None:
            return
        entry = {"part": self.part, "sample": defect.sample, "file": defect.file, "what": defect.what}
        line = json.dumps(entry)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+", encoding="utf-8") as file:
                file.seek(0)
                if line not in file.read().splitlines():
                    file.write(f"{line}\n")
        except OSError as error:
            raise UserError(f"{self._file} cannot be written ({error.strerror})") from error


class Fetched(NamedTuple):
    """What a worker hands over in place of one sample, or of a batch of them: `content` is None where there is none."""

    content: Any
    bad: tuple[Defect, ...]


class Guarded(Dataset[Fetched]):
    """Samples of a data set, and defects in the place of exceptions: a worker's exception would arrive as a trace.

    Args:
        source: the data set that `candidates` index.
        fetch: makes an item of a key and an index into `source`.
        candidates: the indices to try for a key, best first.
        tries: the most indices that are tried.
    """

    def __init__(
        self,
        source: Dataset[Any],
        fetch: Callable[[Any, int], Any],
        candidates: Callable[[Any], Iterable[int]],
        tries: int = 1,
    ) -> None:
        self.source = source
        self.fetch = fetch
        self.candidates = candidates
        self.tries = tries

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def _defect(self, error: Exception, index: int) -> Defect:
        if isinstance(self.source, CheckedDataset):
            return self.source.defect(error, index)
        return defect_of(error, [], f"sample {index}")

    def __getitem__(self, key: Any) -> Fetched:
        bad: list[Defect] = []
        for index in self.candidates(key):
            try:
                return Fetched(self.fetch(key, index), tuple(bad))
            except Exception as error:  # a reader of broken files may raise anything
                bad.append(self._defect(error, index))
            if len(bad) == self.tries:
                break
        return Fetched(None, tuple(bad))


class GuardedCollate(Generic[Item]):
    """Makes a batch of what `Guarded` gives.

    Args:
        collate: makes a batch of samples.
    """

    def __init__(self, collate: Callable[[list[Item]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, fetched: Sequence[Fetched]) -> Fetched:
        bad = tuple(defect for one in fetched for defect in one.bad)
        if any(one.content is None for one in fetched):
            return Fetched(None, bad)
        return Fetched(self.collate([one.content for one in fetched]), bad)


class GuardedLoader(DataLoader[Any]):
    """Batches; what is amiss in them is told to a ledger in the process that iterates.

    Args:
        dataset: a `Guarded` one, whose `collate_fn` is a `GuardedCollate`.
        ledger: takes the defects.
        options: of DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], ledger: Ledger, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.ledger = ledger
        # Workers pass over the signal by which Python ends them when it exits: they are to be told before.
        atexit.register(_stop_workers, weakref.ref(self))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            try:
                for defect in batch.bad:
                    self.ledger.take(defect)
                if batch.content is None:
                    raise UserError(f"{batch.bad[-1]}; `{self.ledger.command}` lists every defect")
            except UserError:
                self.stop_workers()
                raise
            yield batch.content

    def stop_workers(self) -> None:
        """Ends the processes that load data, if there are any."""
        workers, self._iterator = self._iterator, None
        if isinstance(workers, _MultiProcessingDataLoaderIter):
            workers._shutdown_workers()


def _stop_workers(loader: weakref.ref[GuardedLoader]) -> None:
    alive = loader()
    if alive is not None:
        alive.stop_workers()


def most_tries(total: int) -> int:
    """How many bad samples in a row are replaced: one more than `Ledger` allows of `total`."""
    return math.floor(MOST_BAD * total) + 1
