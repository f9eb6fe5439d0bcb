"""Crops, thinning and turns of point clouds: what stays, what moves, and what depends on the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from influencerformer.data.points.augment import (
    PointEvalTransform,
    PointTrainTransform,
    one_of_each_voxel,
    without_small_instances,
)
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError

STILL = {"rotate": False, "flip": False, "scale_jitter": (1.0, 1.0), "color_jitter": 0.0, "min_points": 0}


def cloud(count: int = 500, instances: int = 4, seed: int = 0) -> PointSample:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, instances + 1, (count,), generator=generator)
    labels[: instances + 1] = torch.arange(instances + 1)
    return PointSample(
        "room",
        torch.rand(count, 3, generator=generator) * 4,
        torch.randint(0, 256, (count, 3), generator=generator).to(torch.uint8),
        torch.arange(instances) % 3,
        labels,
        torch.randint(0, 7, (count,), generator=generator),
        3,
    )


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_for_keeps_the_room() -> None:
    sample = cloud()
    out = PointTrainTransform(voxel_size=None, **STILL)(sample, draw())
    for name in ("coordinates", "colors", "instance_labels", "class_labels"):
        assert torch.equal(getattr(out, name), getattr(sample, name))


def test_same_draw_same_result_and_another_draw_another() -> None:
    transform = PointTrainTransform(crop_size=2.0, max_points=100)
    one, two, other = (transform(cloud(), draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.coordinates, two.coordinates)
    assert torch.equal(one.colors, two.colors)
    assert one.coordinates.shape != other.coordinates.shape or not torch.equal(one.coordinates, other.coordinates)


def test_a_turn_keeps_heights_and_distances() -> None:
    sample = cloud()
    transform = PointTrainTransform(voxel_size=None, **{**STILL, "rotate": True, "flip": True})
    out = transform(sample, draw())
    assert not torch.allclose(out.coordinates, sample.coordinates)
    torch.testing.assert_close(out.coordinates[:, 2], sample.coordinates[:, 2])
    torch.testing.assert_close(
        torch.cdist(out.coordinates, out.coordinates[:5]),
        torch.cdist(sample.coordinates, sample.coordinates[:5]),
        atol=2e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize("seed", range(8))
def test_half_of_the_rooms_are_mirrored(seed: int) -> None:
    """The determinant of what was done tells a mirrored room from a turned one."""
    sample = cloud()
    out = PointTrainTransform(voxel_size=None, **{**STILL, "rotate": True, "flip": True})(sample, draw(seed))
    matrix = torch.linalg.lstsq(sample.coordinates, out.coordinates).solution
    mirrored = float(torch.rand(6, generator=draw(seed), dtype=torch.float64)[3]) < 0.5
    assert torch.linalg.det(matrix).item() == pytest.approx(-1 if mirrored else 1, abs=1e-3)


def test_scale_is_within_its_range() -> None:
    sample = cloud()
    transform = PointTrainTransform(voxel_size=None, **{**STILL, "scale_jitter": (0.5, 0.6)})
    factors = [float(transform(sample, draw(seed)).coordinates.norm() / sample.coordinates.norm()) for seed in range(9)]
    assert 0.5 <= min(factors) < max(factors) <= 0.6


def test_a_crop_is_a_column_and_its_instances_are_numbered_anew() -> None:
    sample = cloud(4000, 30)
    sample.instance_labels[:] = 1 + (sample.coordinates[:, 0] * 7.4).long().clamp(0, 29)
    out = PointTrainTransform(voxel_size=None, crop_size=1.0, **STILL)(sample, draw())
    extent = out.coordinates.amax(0) - out.coordinates.amin(0)
    assert bool((extent[:2] <= 1.0).all())
    assert extent[2] > 3
    assert sorted(out.instance_labels.unique().tolist()) == list(range(1, out.num_instances + 1))
    assert 0 < out.num_instances < 30


def test_classes_follow_their_instances() -> None:
    sample = cloud(300, 6)
    out = PointTrainTransform(voxel_size=None, crop_size=0.7, **STILL)(sample, draw(3))
    for point, label in zip(out.coordinates, out.instance_labels, strict=True):
        if label > 0:
            before = int((sample.coordinates - point).abs().sum(1).argmin())
            assert out.class_labels[label - 1] == sample.class_labels[sample.instance_labels[before] - 1]


def test_thinning_keeps_one_point_of_every_cell() -> None:
    points = cloud(2000).coordinates
    kept = points[one_of_each_voxel(points, 0.5)]

    def cells(x: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(c) for c in ((x - points.amin(0)) / 0.5).floor().long().tolist()}

    assert len(kept) == len(cells(kept)) == len(cells(points)) < 2000


def test_most_points_of_a_result() -> None:
    assert PointTrainTransform(voxel_size=None, max_points=17, **STILL)(cloud(), draw()).num_points == 17


def test_too_little_of_an_instance_is_ignored_not_background() -> None:
    labels = torch.tensor([1] * 5 + [2] * 2 + [0] * 3)
    sample = PointSample(
        "room", torch.rand(10, 3), torch.zeros(10, 3, dtype=torch.uint8), torch.tensor([4, 5]), labels, None, 0
    )
    out = without_small_instances(sample, 3)
    assert out.instance_labels.tolist() == [1] * 5 + [-1] * 2 + [0] * 3
    assert out.class_labels.tolist() == [4]


def test_evaluation_keeps_all_points_unless_told() -> None:
    sample = cloud(2000)
    assert PointEvalTransform()(sample) is sample
    thinned = PointEvalTransform(0.5)(sample)
    assert thinned.num_points == len(one_of_each_voxel(sample.coordinates, 0.5))


def test_an_empty_room_passes() -> None:
    nothing = torch.zeros(0, 3)
    empty = PointSample(
        "empty",
        nothing,
        nothing.to(torch.uint8),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
        None,
        0,
    )
    assert PointTrainTransform(crop_size=1.0)(empty, draw()).num_points == 0


@pytest.mark.parametrize(
    "options",
    [
        {"crop_size": 0.0},
        {"voxel_size": -1.0},
        {"max_points": 0},
        {"min_points": -1},
        {"scale_jitter": (1.2, 1.0)},
        {"color_jitter": 1.0},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PointTrainTransform(**options)
