"""Windows of neighbours in azimuth: against a naive search around the circle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencerformer.models.tracks.windows import azimuth_windows


def naive_keys(order: list[int], place: int, width: int, shift: int) -> set[int]:
    """The hits that the hit at a place of the circle attends to."""
    if len(order) <= 2 * width:
        return set(order)
    first = (place - shift) % len(order) // width * width + shift
    return {order[at % len(order)] for at in range(first - width // 2, first + width + width // 2)}


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.sampled_from([2, 4, 6]),
    st.integers(0, 7),
    st.integers(0, 1000),
)
def test_each_hit_is_a_member_once_and_sees_its_neighbours(sizes: list[int], width: int, shift: int, seed: int) -> None:
    phi = (2 * torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed)) - 1) * math.pi
    windows = azimuth_windows(phi, sizes, width, shift)
    assert torch.equal(windows.members.flatten()[windows.slots], torch.arange(sum(sizes)))
    start = 0
    for size in sizes:
        order = (start + phi[start : start + size].argsort()).tolist()
        for place, hit in enumerate(order):
            row = int(windows.slots[hit]) // width
            keys = windows.keys[row][windows.is_key[row]].tolist()
            assert len(keys) == len(set(keys))
            assert set(keys) == naive_keys(order, place, width, shift)
        start += size


def test_neighbours_across_the_cut_at_pi_are_seen() -> None:
    phi = torch.tensor([-3.1, 3.1, -2.9, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    windows = azimuth_windows(phi, [10], 2)
    row = int(windows.slots[0]) // 2
    assert 1 in windows.keys[row].tolist()


def test_a_whole_event_is_seen_where_it_fits() -> None:
    windows = azimuth_windows(torch.linspace(-3, 3, 7), [7], 4, 2)
    assert windows.is_key.sum(1).tolist() == [7, 7]


@pytest.mark.parametrize("width", [0, 3, -2])
def test_a_width_that_cannot_be_halved_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"even and positive, got {width}"):
        azimuth_windows(torch.zeros(3), [3], width)


def test_sizes_must_cover_the_hits() -> None:
    with pytest.raises(ValueError, match="add up to 2 hits, phi has 3"):
        azimuth_windows(torch.zeros(3), [2], 2)
