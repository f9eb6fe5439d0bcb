"""Events check themselves; features and batches are made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from influencerformer.data.tracks.collate import collate_events
from influencerformer.data.tracks.sample import HIT_FEATURES, NUM_HIT_FEATURES, Event, Particles, features

PARTICLES = Particles(
    ids=torch.tensor([70, 80]),
    pt=torch.tensor([1.0, 2.0]),
    eta=torch.tensor([0.0, 1.0]),
    phi=torch.tensor([0.5, -0.5]),
    vertex=torch.zeros(2, 3),
    charge=torch.tensor([1, -1]),
    num_hits=torch.tensor([2, 1]),
)
EVENT = Event(
    name="e",
    positions=torch.tensor([[30.0, 40.0, 50.0], [0.0, -1000.0, 0.0], [32.0, 0.0, -1.0], [32.0, 1.0, 2.0], [0.0, 0, 9]]),
    layers=torch.tensor([7, 42, 7, 7, 11]),
    cells=torch.tensor([[1.0, 0.1], [2.0, 0.9], [0.0, 0.0], [3.0, 0.4], [1.0, 1.0]]),
    particle_labels=torch.tensor([1, 1, 2, 0, 0]),
    particle_ids=torch.tensor([70, 70, 80, 0, 90]),
    weights=torch.tensor([0.5, 0.25, 0.25, 0.0, 0.0]),
    hit_ids=torch.tensor([1, 2, 4, 8, 9]),
    particles=PARTICLES,
)


def test_features_are_what_their_names_say() -> None:
    found = features(EVENT)
    assert tuple(found.shape) == (5, NUM_HIT_FEATURES)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    first = dict(zip(HIT_FEATURES, found[0].tolist(), strict=True))
    assert first == pytest.approx(
        {
            "x": 0.03,
            "y": 0.04,
            "z": 0.05,
            "r": 0.05,
            "cos_phi": 0.6,
            "sin_phi": 0.8,
            "eta": math.asinh(1) / 2,
            "u": 30 * 30 / 2500,
            "v": 30 * 40 / 2500,
            "log_cells": math.log(2),
            "log_charge": math.log(2),
        }
    )


def test_features_without_cells_leave_the_last_two_at_zero() -> None:
    found, whole = features(replace(EVENT, cells=None)), features(EVENT)
    assert torch.equal(found[:, :-2], whole[:, :-2])
    assert not found[:, -2:].any()


def test_circles_through_the_origin_are_straight_in_the_conformal_map() -> None:
    angle = torch.linspace(0.2, 2.0, 9)
    circle = torch.stack([500 - 500 * angle.cos(), 500 * angle.sin(), torch.zeros(9)], 1)
    none = torch.zeros(9, dtype=torch.int64)
    event = Event("c", circle, none, None, none, none, torch.zeros(9), torch.arange(9))
    u, v = features(event)[:, [HIT_FEATURES.index("u"), HIT_FEATURES.index("v")]].T
    # Through the origin with its centre at (500, 0): u = 30 / 1000 everywhere.
    assert u.tolist() == pytest.approx([0.03] * 9, abs=1e-6)
    assert float(v.std()) > 0.01


def test_a_batch_holds_one_entry_an_event() -> None:
    other = replace(EVENT, name="f")
    batch = collate_events([EVENT, other])
    assert batch["names"] == ["e", "f"]
    assert torch.equal(batch["features"][0], features(EVENT))
    assert torch.equal(batch["positions"][1], EVENT.positions)
    assert batch["instance_labels"][0].tolist() == [1, 1, 2, 0, 0]
    assert batch["class_labels"][0].tolist() == [0, 0]
    assert batch["class_labels"][0].dtype == torch.int64
    assert batch["events"] == [EVENT, other]
    with pytest.raises(ValueError, match="at least one event"):
        collate_events([])


def test_the_detector_of_a_hit_is_its_volume_and_layer() -> None:
    assert EVENT.detector.tolist() == [[8, 2], [18, 2], [8, 2], [8, 2], [9, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": torch.zeros(5, 2)}, r"event 'e': positions must be \(5, 3\) float32, got \(5, 2\) float32"),
        ({"layers": torch.zeros(5)}, r"event 'e': layers must be \(5,\) int64, got \(5,\) float32"),
        ({"layers": torch.tensor([0, 0, 0, 0, 48])}, r"event 'e': layers must lie in 0\.\.47"),
        ({"layers": torch.tensor([0, 0, 0, 0, -1])}, r"event 'e': layers must lie in 0\.\.47"),
        ({"cells": torch.zeros(5)}, r"event 'e': cells must be \(5, 2\) float32"),
        ({"cells": torch.full((5, 2), math.nan)}, "event 'e': cells hold NaN or infinite values"),
        ({"positions": torch.full((5, 3), math.inf)}, "event 'e': positions hold NaN or infinite values"),
        ({"weights": torch.tensor([0, 0, 0, 0, -1.0])}, "event 'e': weights must not be negative"),
        ({"hit_ids": torch.tensor([1, 2, 2, 3, 4])}, "event 'e': hit_ids must be unique"),
        ({"particle_labels": torch.tensor([1, 1, 3, 0, 0])}, r"particle_labels must lie in 0\.\.2 .* got 0\.\.3"),
        ({"particle_labels": torch.tensor([1, 1, -1, 0, 0])}, r"particle_labels must lie in 0\.\.2 .* got -1\.\.1"),
        ({"particle_labels": torch.tensor([1, 2, 2, 0, 0])}, "do not have particles.num_hits hits"),
        ({"particle_ids": torch.tensor([70, 80, 80, 0, 90])}, "do not name the same particles"),
        ({"particle_ids": torch.tensor([70, 70, 80, 80, 90])}, "do not name the same particles"),
        ({"has_truth": False}, "event 'e': without truth there are no particles"),
    ],
)
def test_events_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(EVENT, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.tensor([70, 70])}, "particles: ids must be unique and not 0"),
        ({"ids": torch.tensor([70, 0])}, "particles: ids must be unique and not 0"),
        ({"num_hits": torch.tensor([2, 0])}, "particles: num_hits must be 1 or more"),
        ({"pt": torch.zeros(3)}, r"particles: pt must be \(2,\) float32, got \(3,\) float32"),
        ({"vertex": torch.zeros(2)}, r"particles: vertex must be \(2, 3\) float32"),
        ({"charge": torch.zeros(2)}, r"particles: charge must be \(2,\) int64, got \(2,\) float32"),
    ],
)
def test_particles_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARTICLES, **changes)
