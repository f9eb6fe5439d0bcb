"""Rates in bins and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from influencerformer.metrics.track_rates import BinnedRate, wilson


def test_a_bin_holds_its_lower_edge_and_the_last_one_both() -> None:
    values = np.array([0.0, 0.99, 1.0, 2.0, 2.01, -0.1])
    rate = BinnedRate.of(values, np.array([True, False, True, True, True, True]), np.array([0.0, 1.0, 2.0]))
    assert rate.total.tolist() == [2, 2]
    assert rate.passed.tolist() == [1, 2]
    assert rate.rate.tolist() == [0.5, 1.0]


def test_an_empty_bin_has_no_rate_and_says_nothing() -> None:
    rate = BinnedRate.of(np.array([0.5]), np.array([True]), np.array([0.0, 1.0, 2.0]))
    assert np.isnan(rate.rate).tolist() == [False, True]
    low, high = rate.interval
    assert (low[1], high[1]) == (0.0, 1.0)


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [[0.0, 1.0]]])
def test_edges_must_ascend(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="edges must be two or more ascending numbers"):
        BinnedRate.of(np.zeros(0), np.zeros(0, dtype=bool), np.array(edges))


def test_wilsons_interval_solves_its_equation() -> None:
    """Its ends are the proportions p whose own error reaches to what was seen: |p' - p| = z sqrt(p (1 - p) / n)."""
    passed, total = np.array([1, 5, 9, 50]), np.array([10, 10, 10, 80])
    for z in (1.0, 1.96):
        for end in wilson(passed, total, z):
            assert np.abs(passed / total - end) == pytest.approx(z * np.sqrt(end * (1 - end) / total))


def test_wilsons_interval_stays_in_bounds_and_is_not_empty_at_the_ends() -> None:
    low, high = wilson(np.array([0, 10]), np.array([10, 10]))
    assert low.tolist() == [0.0, pytest.approx(1 - 1 / 11)]
    assert high.tolist() == [pytest.approx(1 / 11), 1.0]
    # Published: 95 % interval of 81 of 263 (Newcombe 1998, table I) is 0.2553 to 0.3662.
    low, high = wilson(np.array([81]), np.array([263]), 1.959964)
    assert (low[0], high[0]) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
