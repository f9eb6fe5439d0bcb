"""Labels and colours of prepared data in the form of a sample, with what does not fit mended or named."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from influencerformer.data.files import examples
from influencerformer.data.points.repairs import Repair
from influencerformer.errors import UserError

FARTHEST = 1e6
"""Metres; larger coordinates are none of a building, and 32 bits could not tell its points apart."""

Labels = npt.NDArray[np.int64]


def number_instances(
    instance: npt.NDArray[Any], classes: npt.NDArray[Any], inside: npt.NDArray[np.bool_]
) -> tuple[Labels, Labels, list[int]]:
    """Instances numbered without gaps, one class each.

    An instance number that occurs with several classes becomes one instance for each of them, as ScanNet's
    evaluation counts them (its truth is class x 1000 + instance).

    Args:
        instance: (N,) integers, an instance's number.
        classes: (N,) integers, the class of each point.
        inside: (N,) which points belong to an instance.

    Returns:
        (N,) int64 1..K, 0 where not inside; (K,) int64 class of each; and the numbers that occurred with several
        classes.
    """
    labels = np.zeros(len(instance), dtype=np.int64)
    names, owner = np.unique(instance[inside], return_inverse=True)
    width = int(classes[inside].max(initial=0)) + 1
    pairs, numbers = np.unique(owner * width + classes[inside], return_inverse=True)
    labels[inside] = numbers + 1
    of_pair = pairs // width
    split = names[np.unique(of_pair[1:][of_pair[1:] == of_pair[:-1]])]
    return labels, pairs % width, split.tolist()


def instance_repairs(classes: Labels, split: list[int], file: str) -> list[Repair]:
    """Repairs that say which instance numbers were split by class, and that a room has no instance."""
    repairs: list[Repair] = []
    if split:
        what = f"{examples(split)} of several classes, split by class"
        repairs.append(Repair(file, None, f"instance {what}" if len(split) == 1 else f"instances {what}"))
    if not len(classes):
        repairs.append(Repair(file, None, "read without an instance: it has none"))
    return repairs


def whole_colors(colors: npt.NDArray[Any], file: str) -> tuple[npt.NDArray[np.uint8], list[Repair]]:
    """Colours of a room as bytes.

    Fractions that all lie in 0..1 are multiplied by 255, others rounded; what lies outside 0..255 is clipped.

    Args:
        colors: (N, 3) numbers.
        file: the room's file or folder in repairs and messages.

    Raises:
        UserError: colours are no finite numbers.
    """
    with np.errstate(invalid="ignore"):
        whole = colors.astype(np.uint8)
    if (whole == colors).all():
        return whole, []
    values = colors.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{file}: colours hold NaN or infinite values, expected 0 to 255")
    repairs: list[Repair] = []
    fractions = (values != values.round()).any(axis=1)
    if fractions.any() and values.min() >= 0 and values.max() <= 1:
        values *= 255
        repairs.append(Repair(file, None, "colours from 0 to 1 multiplied by 255"))
    elif fractions.any():
        repairs.append(Repair(file, None, f"colours with fractions rounded: {fractions.sum()} points"))
    outside = ((values < 0) | (values > 255)).any(axis=1)
    if outside.any():
        span = f"{values.min():g} to {values.max():g}"
        repairs.append(Repair(file, None, f"colours clipped to 0..255: {outside.sum()} points, from {span}"))
    return values.round().clip(0, 255).astype(np.uint8), repairs


def check_points(coordinates: npt.NDArray[Any], file: object) -> None:
    """Raises a UserError where there is no point, or coordinates (N, 3) are NaN, infinite or beyond FARTHEST."""
    if not len(coordinates):
        raise UserError(f"{file} holds no point: prepare it anew or take the room out")
    bad = ~np.isfinite(coordinates).all(axis=1)
    if bad.any():
        raise UserError(f"{file}: {bad.sum()} of {len(bad)} points have NaN or infinite coordinates: prepare it anew")
    farthest = np.abs(coordinates).max()
    if not farthest < FARTHEST:
        raise UserError(
            f"{file} has coordinates up to {farthest:g}, beyond {FARTHEST:.0f} m: give metres, and move the points "
            "near the origin"
        )


def check_range(values: npt.NDArray[Any], low: int, high: int, file: object, what: str) -> None:
    """Raises a UserError where integers lie outside low..high."""
    if len(values) and not low <= values.min() <= values.max() <= high:
        raise UserError(f"{file} holds {what} from {values.min()} to {values.max()}, expected {low} to {high}")
