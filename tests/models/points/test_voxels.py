"""Voxels of a cloud and majority labels, against naive loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.errors import UserError
from influencerformer.models.points.voxels import pack, token_labels, unique_rows, voxelize


def naive_voxels(coordinates: Tensor, size: float) -> list[tuple[int, ...]]:
    low = coordinates.double().amin(0)
    return [tuple(int(v) for v in ((point.double() - low) / size).floor()) for point in coordinates]


def test_voxelize_finds_the_voxels_of_a_naive_loop_in_lexicographic_order() -> None:
    coordinates = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 3
    voxels, of_point = voxelize(coordinates, 0.7)
    expected = naive_voxels(coordinates, 0.7)
    assert [tuple(v) for v in voxels.tolist()] == sorted(set(expected))
    assert [tuple(v) for v in voxels[of_point].tolist()] == expected


def test_voxels_of_points_computed_by_hand() -> None:
    coordinates = torch.tensor([[1.0, 2.0, 3.0], [1.09, 2.0, 3.0], [1.1, 2.0, 3.25], [1.0, 2.31, 3.0]])
    voxels, of_point = voxelize(coordinates, 0.1)
    assert voxels.tolist() == [[0, 0, 0], [0, 3, 0], [1, 0, 2]]
    assert of_point.tolist() == [0, 0, 2, 1]


def test_a_shift_of_the_cloud_leaves_its_voxels() -> None:
    coordinates = torch.randint(0, 50, (100, 3), generator=torch.Generator().manual_seed(1)) / 8 + 1 / 16
    voxels, of_point = voxelize(coordinates, 0.25)
    moved, moved_of_point = voxelize(coordinates + torch.tensor([-13.0, 0.5, 1000.0]), 0.25)
    assert torch.equal(voxels, moved)
    assert torch.equal(of_point, moved_of_point)


def test_a_single_point_is_one_voxel_at_the_origin() -> None:
    voxels, of_point = voxelize(torch.tensor([[5.0, -2.0, 0.1]]), 0.05)
    assert voxels.tolist() == [[0, 0, 0]]
    assert of_point.tolist() == [0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_coordinates_that_are_not_finite_are_refused(bad: float) -> None:
    coordinates = torch.zeros(4, 3)
    coordinates[2, 1] = bad
    with pytest.raises(UserError, match="coordinates hold NaN or infinite values: remove these points"):
        voxelize(coordinates, 0.1)


def test_a_stray_point_far_away_is_refused_not_wrapped() -> None:
    with pytest.raises(UserError, match="remove outliers or raise the voxel size"):
        voxelize(torch.tensor([[0.0, 0.0, 0.0], [1e30, 0.0, 0.0]]), 0.05)
    with pytest.raises(UserError, match="more than can be numbered"):
        voxelize(torch.tensor([[0.0, 0.0, 0.0], [1e6, 1e6, 1e6]]), 0.05)


@pytest.mark.parametrize("shape", [(0, 3), (4, 2), (4,)])
def test_coordinates_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"coordinates must be \(N, 3\) with N of 1 or more"):
        voxelize(torch.zeros(shape), 0.1)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_a_voxel_size_that_is_not_positive_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match="voxel_size must be positive"):
        voxelize(torch.zeros(2, 3), size)


def test_packed_numbers_keep_the_order_of_rows() -> None:
    rows = torch.tensor([[0, 0, 4], [0, 1, 0], [2, 0, 0], [2, 0, 1]])
    assert pack(rows, [3, 2, 5]).tolist() == [4, 5, 20, 21]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=40))
def test_unique_rows_are_those_of_a_set(rows: list[tuple[int, ...]]) -> None:
    distinct, place = unique_rows(torch.tensor(rows))
    assert [tuple(r) for r in distinct.tolist()] == sorted(set(rows))
    assert [tuple(r) for r in distinct[place].tolist()] == rows


def naive_labels(labels: list[int], tokens: list[int], count: int) -> list[int]:
    result = []
    for token in range(count):
        votes = [label for label, t in zip(labels, tokens, strict=True) if t == token and label >= 0]
        result.append(min(set(votes), key=lambda label: (-votes.count(label), label)) if votes else -1)
    return result


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5)), min_size=1, max_size=40))
def test_token_labels_are_the_majority_of_a_naive_count(pairs: list[tuple[int, int]]) -> None:
    labels, tokens = (list(column) for column in zip(*pairs, strict=True))
    found = token_labels(torch.tensor(labels), torch.tensor(tokens), 6, 3)
    assert found.tolist() == naive_labels(labels, tokens, 6)


def test_a_tie_goes_to_the_lower_label_and_ignored_points_do_not_vote() -> None:
    labels = torch.tensor([2, 1, -1, -1, -1, 2, -1, 0, 1])
    tokens = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3])
    assert token_labels(labels, tokens, 4, 2).tolist() == [1, -1, 2, 0]


def test_labels_beyond_the_instances_or_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"instance_labels must lie in -1..2 .* got 0..3"):
        token_labels(torch.tensor([0, 3]), torch.tensor([0, 1]), 2, 2)
    with pytest.raises(ValueError, match=r"instance_labels must lie in -1..2 .* got -2..1"):
        token_labels(torch.tensor([-2, 1]), torch.tensor([0, 1]), 2, 2)
    with pytest.raises(ValueError, match="3 instance_labels came with 2 points"):
        token_labels(torch.tensor([0, 1, 1]), torch.tensor([0, 1]), 2, 2)
