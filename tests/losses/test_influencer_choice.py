from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencerformer.losses.embedding import condense
from influencerformer.losses.influencer_choice import choose_influencers


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_of_duplicates_the_one_with_most_followers_is_chosen() -> None:
    followers = column(0.0, 0.1, 0.2, 5.0, 5.1)
    influencers = column(-0.25, 0.1, 5.0)
    # Within 0.3 they have 1, 3 and 2 followers; the first has none left once the second is chosen.
    assert choose_influencers(followers, influencers, 0.3).tolist() == [1, 2]


def test_followers_that_are_left_get_an_influencer_of_their_own() -> None:
    followers = column(0.0, 0.1, 0.2, 0.4)
    # The second reaches three followers, the third the last two: of them one is left to it.
    assert choose_influencers(followers, column(9.0, 0.1, 0.3), 0.15).tolist() == [1, 2]


def test_at_the_optimum_it_changes_nothing_for_condense() -> None:
    followers = column(0.0, 0.0, 5.0, 5.0)
    influencers = column(0.0, 40.0, 5.0, 80.0)
    chosen = choose_influencers(followers, influencers, 0.5)
    assert condense(followers, influencers[chosen], 0.5).tolist() == condense(followers, influencers, 0.5).tolist()


def test_makes_one_instance_of_smooth_influencers_where_condense_alone_makes_many() -> None:
    followers = torch.linspace(0, 0.2, 20)[:, None]
    chosen = choose_influencers(followers, followers, 0.3)
    assert condense(followers, followers, 0.3).max() == 20
    assert condense(followers, followers[chosen], 0.3).unique().tolist() == [1]


def test_too_few_followers_are_no_instance() -> None:
    followers = column(0.0, 0.1, 5.0)
    assert choose_influencers(followers, followers, 0.3, min_followers=2).tolist() == [0]
    assert choose_influencers(followers, followers, 0.3, min_followers=3).tolist() == []


def test_far_from_the_origin_it_chooses_the_same() -> None:
    followers = column(0.0, 0.25, 1.0, 1.25)
    assert choose_influencers(followers + 4096, followers + 4096, 0.5).tolist() == [0, 2]


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 30), st.integers(1, 3))
def test_every_follower_in_reach_is_taken_and_no_choice_is_idle(seed: int, n: int, m: int, least: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    followers, influencers = (torch.rand(k, 2, generator=generator, dtype=torch.float64) for k in (n, m))
    near = (influencers[:, None] - followers).norm(dim=-1) < 0.3
    chosen = choose_influencers(followers, influencers, 0.3, least).tolist()
    free = torch.ones(n, dtype=torch.bool)
    counts = []
    for index in chosen:
        counts.append(int((near[index] & free).sum()))
        assert counts[-1] == int((near & free).sum(1).max())
        free &= ~near[index]
    assert counts == sorted(counts, reverse=True)
    assert min(counts, default=least) >= least
    assert int((near & free).sum(1).max() if m else 0) < least


@pytest.mark.parametrize(
    ("shapes", "radius", "least", "message"),
    [
        (((3,), (3, 2)), 1.0, 1, r"must be \(N, D\) and \(M, D\), got \(3,\) and \(3, 2\)"),
        (((3, 1), (3, 2)), 1.0, 1, r"got \(3, 1\) and \(3, 2\)"),
        (((3, 2), (3, 2)), 0.0, 1, "radius must be positive and min_followers 1 or more, got 0.0 and 1"),
        (((3, 2), (3, 2)), float("nan"), 1, "got nan and 1"),
        (((3, 2), (3, 2)), 1.0, 0, "got 1.0 and 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    shapes: tuple[tuple[int, ...], ...], radius: float, least: int, message: str
) -> None:
    followers, influencers = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        choose_influencers(followers, influencers, radius, least)
