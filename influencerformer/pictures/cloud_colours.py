"""The colours of points: true instances, predictions by what they find, errors."""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

from influencerformer.pictures.cloud_instances import Instances, Matches, PointError

GOLDEN_RATIO = 0.6180339887498949
UNMATCHED_COLOUR = (108, 110, 116)
NO_INSTANCE_COLOUR = (220, 222, 226)
IGNORED_COLOUR = (164, 166, 172)
ERROR_COLOURS = {
    PointError.IGNORED: IGNORED_COLOUR,
    PointError.BACKGROUND: NO_INSTANCE_COLOUR,
    PointError.CORRECT: (112, 193, 108),
    PointError.MISSED: (38, 98, 217),
    PointError.SPLIT: (250, 200, 60),
    PointError.WRONG_CLASS: (165, 85, 200),
    PointError.FALSE: (214, 40, 40),
}


def instance_colours(count: int) -> npt.NDArray[np.uint8]:
    """`count` distinct bright colours, the same ones at every call: (count, 3) uint8 RGB.

    Hues advance by the golden ratio, which keeps any run of neighbours far apart; saturation and value
    alternate so that even hundreds of instances stay distinguishable.
    """
    return np.array([instance_colour(index) for index in range(count)], dtype=np.uint8).reshape(count, 3)


def instance_colour(index: int) -> list[int]:
    """Red, green and blue of instance `index`, 0 the first; see `instance_colours`."""
    hue = (0.02 + index * GOLDEN_RATIO) % 1.0
    saturation = (0.95, 0.65, 0.8)[index % 3]
    value = (1.0, 0.85)[index // 3 % 2]
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value)]


def truth_palette(truth: Instances) -> npt.NDArray[np.uint8]:
    """The colour of each label 0..K, and of -1 in the last place: (K + 2, 3) uint8, to be indexed by labels."""
    return _palette(instance_colours(truth.count))


def prediction_palette(
    prediction: Instances, truth: Instances | None, matches: Matches | None
) -> npt.NDArray[np.uint8]:
    """As `truth_palette` for a prediction: it has the colour of the instance it finds, dark grey if it finds none.

    Without a truth to match, each has a colour of its own.
    """
    if truth is None or matches is None:
        return truth_palette(prediction)
    found = np.concatenate((np.array([UNMATCHED_COLOUR], dtype=np.uint8), instance_colours(truth.count)))
    return _palette(found[matches.found])


def error_palette() -> npt.NDArray[np.uint8]:
    """The colour of each `PointError`, (7, 3) uint8."""
    return np.array([ERROR_COLOURS[kind] for kind in PointError], dtype=np.uint8)


def _palette(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    ends = np.array([NO_INSTANCE_COLOUR, IGNORED_COLOUR], dtype=np.uint8)
    return np.concatenate((ends[:1], colours, ends[1:]))
