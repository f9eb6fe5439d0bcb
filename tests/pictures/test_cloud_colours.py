"""Colours follow what a prediction finds."""

from __future__ import annotations

import numpy as np
from clouds import planted_cloud

from influencerformer.pictures.cloud_colours import (
    IGNORED_COLOUR,
    NO_INSTANCE_COLOUR,
    UNMATCHED_COLOUR,
    error_palette,
    instance_colours,
    prediction_palette,
    truth_palette,
)
from influencerformer.pictures.cloud_instances import Instances, PointError, match_instances


def test_truth_has_a_colour_each_background_and_ignored_are_grey() -> None:
    truth = Instances(np.array([0, 1, 2, -1]), np.array([0, 0]))
    colours = truth_palette(truth)[truth.labels]
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[*NO_INSTANCE_COLOUR], *instance_colours(2).tolist(), [*IGNORED_COLOUR]]


def test_prediction_has_the_colour_of_the_instance_it_finds() -> None:
    cloud = planted_cloud()
    assert cloud.truth is not None
    own = instance_colours(3).tolist()
    first, second = cloud.predictions["First"], cloud.predictions["Second"]
    none = [*UNMATCHED_COLOUR]
    palette = prediction_palette(first, cloud.truth, match_instances(first, cloud.truth))
    assert palette[1:5].tolist() == [own[0], none, none, none]
    palette = prediction_palette(second, cloud.truth, match_instances(second, cloud.truth))
    assert palette.tolist() == [[*NO_INSTANCE_COLOUR], own[2], none, own[0], [*IGNORED_COLOUR]]


def test_prediction_without_truth_has_colours_of_its_own() -> None:
    found = planted_cloud().predictions["First"]
    assert np.array_equal(prediction_palette(found, None, None)[1:-1], instance_colours(4))


def test_errors_have_different_colours() -> None:
    assert len({tuple(colour) for colour in error_palette().tolist()}) == len(PointError)
