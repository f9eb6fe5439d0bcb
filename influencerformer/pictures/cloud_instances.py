"""A cloud with its true and predicted instances, which prediction finds which instance, and what is wrong where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Instances:
    """Instances of one cloud, true or predicted: at most one a point.

    Attributes:
        labels: (N,) integers: 0 none, 1..K instances, -1 ignored (in the truth only).
        classes: (K,) integers, class 0..C-1 of each instance.
        scores: (K,) floats of a prediction, None where there are none.

    Raises:
        ValueError: where shapes, types or ranges break the above.
    """

    labels: npt.NDArray[np.integer]
    classes: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "classes"):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
                raise ValueError(f"{name} must be a one-dimensional array of integers, got {_describe(value)}")
        if len(self.classes) and self.classes.min() < 0:
            raise ValueError("classes must not be negative")
        if len(self.labels) and not -1 <= self.labels.min() <= self.labels.max() <= len(self.classes):
            raise ValueError(
                f"labels must lie in -1..{len(self.classes)} (one class for each instance), got "
                f"{self.labels.min()}..{self.labels.max()}"
            )
        if self.scores is not None and np.shape(self.scores) != self.classes.shape:
            raise ValueError(f"scores must be {self.classes.shape} as classes are, got {_describe(self.scores)}")
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise ValueError("scores hold NaN or infinite values")

    @property
    def count(self) -> int:
        """K."""
        return len(self.classes)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of points of each instance, (K,)."""
        return np.bincount(self.labels[self.labels > 0], minlength=self.count + 1)[1:]


@dataclass(frozen=True)
class Cloud:
    """One room or scene and what is known of its instances.

    Attributes:
        name: shown to the reader.
        coordinates: (N, 3) floats, z up, any unit.
        colors: (N, 3) uint8, red, green, blue.
        truth: the true instances, None where unknown.
        predictions: what each model finds, by the model's title.

    Raises:
        ValueError: no points, other shapes or types, NaN or infinite coordinates; the message names the cloud.
    """

    name: str
    coordinates: npt.NDArray[np.floating]
    colors: npt.NDArray[np.uint8]
    truth: Instances | None = None
    predictions: Mapping[str, Instances] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            check_points(self.coordinates, self.colors)
        except ValueError as error:
            raise ValueError(f"cloud {self.name!r}: {error}") from None
        given = {"truth": self.truth, **{f"prediction {title!r}": found for title, found in self.predictions.items()}}
        for what, instances in given.items():
            if instances is not None and len(instances.labels) != len(self.coordinates):
                raise ValueError(
                    f"cloud {self.name!r}: {what} has {len(instances.labels)} labels for {len(self.coordinates)} points"
                )
        for title, found in self.predictions.items():
            if (found.labels < 0).any():
                raise ValueError(f"cloud {self.name!r}: prediction {title!r} has labels below 0, use 0 for no instance")


def check_points(coordinates: npt.NDArray[np.floating], colors: npt.NDArray[np.uint8]) -> None:
    """Raises ValueError unless these are (N, 3) finite floats and (N, 3) uint8 with at least one point."""
    if np.ndim(coordinates) != 2 or coordinates.shape[1] != 3 or coordinates.dtype.kind != "f":
        raise ValueError(f"coordinates must be (N, 3) floats, got {_describe(coordinates)}")
    if not len(coordinates):
        raise ValueError("there is no point to show")
    if np.shape(colors) != coordinates.shape or colors.dtype != np.uint8:
        raise ValueError(f"colors must be {coordinates.shape} uint8, got {_describe(colors)}")
    if not np.isfinite(coordinates).all():
        raise ValueError("coordinates hold NaN or infinite values")


@dataclass(frozen=True)
class Matches:
    """Which instance each of P predictions finds.

    Attributes:
        found: (P,) int64, 1..K the instance, 0 where it finds none.
        iou: (P,) float64, with that instance; where it finds none the highest with any instance of any class.
    """

    found: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]

    def finder(self, count: int) -> npt.NDArray[np.int64]:
        """For each of `count` true instances the prediction 1..P that finds it, 0 where none does: (K,)."""
        finder = np.zeros(count + 1, dtype=np.int64)
        finder[self.found] = np.arange(1, len(self.found) + 1)
        return finder[1:]


def match_instances(prediction: Instances, truth: Instances, iou_threshold: float = MATCH_IOU) -> Matches:
    """Each prediction, best score first (else in order), finds the free instance of its class it covers best.

    IoU is counted without the points that the truth ignores. Below `iou_threshold` it finds none.
    """
    shared = overlaps(prediction, truth)
    union = shared.sum(axis=1)[:, None] + truth.sizes()[None] - shared[:, 1:]
    iou = shared[:, 1:] / np.maximum(union, 1)
    found = np.zeros(prediction.count, dtype=np.int64)
    highest = iou.max(axis=1, initial=0.0)
    if not truth.count:
        return Matches(found, highest)
    free = np.where(prediction.classes[:, None] == truth.classes[None], iou, 0.0)
    ranks = np.zeros(prediction.count) if prediction.scores is None else -prediction.scores
    for index in np.argsort(ranks, kind="stable"):
        best = int(free[index].argmax())
        if free[index, best] >= iou_threshold:
            found[index], highest[index] = best + 1, iou[index, best]
            free[:, best] = 0.0
    return Matches(found, highest)


def overlaps(prediction: Instances, truth: Instances) -> npt.NDArray[np.int64]:
    """Points that each prediction shares with no instance (column 0) and each instance: (P, 1 + K).

    Points that the truth ignores are left out.
    """
    counted = (truth.labels >= 0) & (prediction.labels > 0)
    width = truth.count + 1
    pairs = (prediction.labels[counted].astype(np.int64) - 1) * width + truth.labels[counted]
    return np.bincount(pairs, minlength=prediction.count * width).reshape(prediction.count, width)


class PointError(IntEnum):
    """What a prediction makes of a point."""

    IGNORED = 0
    BACKGROUND = 1
    CORRECT = 2
    MISSED = 3
    SPLIT = 4
    WRONG_CLASS = 5
    FALSE = 6


ERROR_TEXTS = {
    PointError.IGNORED: ("Ignored", "the truth leaves it out"),
    PointError.BACKGROUND: ("Background", "no instance, and none predicted"),
    PointError.CORRECT: ("Correct", "in the prediction that finds its instance"),
    PointError.MISSED: ("Missed", "of an instance that no prediction finds, or left out by the one that does"),
    PointError.SPLIT: (
        "Split",
        "in a piece of its instance: a prediction that lies mostly in it, but does not find it",
    ),
    PointError.WRONG_CLASS: ("Wrong class", "in a prediction of another class that lies mostly in its instance"),
    PointError.FALSE: ("False", "predicted where there is background, or by the finder of another instance"),
}


def point_errors(prediction: Instances, truth: Instances, matches: Matches) -> npt.NDArray[np.uint8]:
    """The `PointError` of every point, (N,) uint8.

    A piece is a prediction that finds no instance and has more than half of its points in one. A point of an
    instance is correct in the prediction that finds it; else split or wrong class in a piece of its instance; else
    missed if no prediction finds the instance or none is there; else false.
    """
    shared = overlaps(prediction, truth)
    home = np.zeros(prediction.count + 1, dtype=np.int64)
    mostly = shared.max(axis=1, initial=0) * 2 > shared.sum(axis=1)
    home[1:] = np.where((matches.found == 0) & mostly, shared.argmax(axis=1), 0)
    found = np.concatenate(([0], matches.found))
    finder = np.concatenate(([0], matches.finder(truth.count)))
    truth_class = np.concatenate(([-1], truth.classes))
    same_class = np.concatenate(([False], prediction.classes == truth_class[home[1:]]))

    p = np.maximum(prediction.labels, 0)
    t = np.maximum(truth.labels, 0)
    predicted, member = p > 0, t > 0
    piece = member & (home[p] == t)
    kinds = [
        (truth.labels < 0, PointError.IGNORED),
        (~member & ~predicted, PointError.BACKGROUND),
        (~member, PointError.FALSE),
        (found[p] == t, PointError.CORRECT),
        (piece & same_class[p], PointError.SPLIT),
        (piece, PointError.WRONG_CLASS),
        (~predicted | (finder[t] == 0), PointError.MISSED),
    ]
    return np.select([where for where, _ in kinds], [np.uint8(kind) for _, kind in kinds], np.uint8(PointError.FALSE))


def _describe(value: object) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
