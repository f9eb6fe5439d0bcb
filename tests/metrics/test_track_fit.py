"""Momentum and direction from hits."""

from __future__ import annotations

import numpy as np
import pytest

from influencerformer.data.tracks.helix import Helices
from influencerformer.metrics.track_fit import fit_tracks


def test_exact_helices_give_their_momentum_and_direction() -> None:
    pt, slope = np.array([0.5, 1.0, 10.0, 2.0]), np.array([0.3, -2.0, 0.0, 5.0])
    helices = Helices(
        np.tile([0.0, 0.0, 20.0], (4, 1)),
        np.array([0.1, 1.0, 2.0, -3.0]),
        slope,
        pt * np.hypot(1, slope),
        np.array([1.0, -1.0, 1.0, -1.0]),
        2.0,
    )
    places = [helices.moved(np.full(4, length)).position for length in np.linspace(32, 600, 9)]
    positions, track = np.concatenate(places), np.tile(np.arange(4), 9)
    found, eta = fit_tracks(positions, track, 4)
    assert found == pytest.approx(pt, rel=1e-3)
    assert eta == pytest.approx(np.arcsinh(slope), abs=0.03)
    order = np.random.default_rng(0).permutation(len(track))
    again, _ = fit_tracks(positions[order], track[order], 4)
    assert again == pytest.approx(found, rel=1e-6)


def test_half_the_field_is_half_the_momentum() -> None:
    angle = np.linspace(0, 1, 5)
    circle = np.stack([1000 * np.sin(angle), 1000 - 1000 * np.cos(angle), angle], 1)
    strong, weak = (fit_tracks(circle, np.zeros(5, int), 1, field)[0][0] for field in (2.0, 1.0))
    assert strong == pytest.approx(0.3 * 2, rel=1e-3)
    assert weak == pytest.approx(strong / 2)


def test_what_has_no_circle_is_straight() -> None:
    line = np.array([[30.0, 30, 30], [60, 60, 60], [90, 90, 90]])
    two = np.array([[30.0, 0, 40], [60, 1, 80]])
    one = np.array([[30.0, 0, 40]])
    positions = np.concatenate([line, two, one])
    pt, eta = fit_tracks(positions, np.array([0, 0, 0, 1, 1, 2]), 4)
    assert pt[:3].tolist() == [1000.0] * 3
    assert eta[0] == pytest.approx(np.arcsinh(1 / np.sqrt(2)))
    assert eta[1] == pytest.approx(np.arcsinh(4 / 3), abs=0.01)
    assert eta[2] == pytest.approx(np.arcsinh(4 / 3))
    assert np.isfinite(pt).all()
    assert np.isfinite(eta).all()
    # Hits at one radius: the direction from the origin.
    ring = np.array([[30.0, 0, 10], [0, 30, 10], [-30, 0, 10]])
    assert fit_tracks(ring, np.zeros(3, int), 1)[1][0] == pytest.approx(np.arcsinh(1 / 3))
