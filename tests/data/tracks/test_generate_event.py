"""Generated events: the same on every machine, with the physics that they promise."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import pytest

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.detector import LAYERS, NUM_LAYERS, TECHNOLOGY, layer_ids
from influencerformer.data.tracks.event_files import csv_text
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.helix import Helices
from influencerformer.data.tracks.tables import EventTables
from influencerformer.data.tracks.transport import cross_layers
from influencerformer.data.tracks.weights import hit_weights
from influencerformer.errors import UserError


@pytest.fixture(scope="module")
def event() -> EventTables:
    return generate_event(5, 2000)


def digest(event: EventTables) -> str:
    tables = (event.hits, event.truth, event.particles, event.cells)
    return hashlib.sha256("".join(csv_text(table) for table in tables if table).encode()).hexdigest()


def test_a_seed_gives_the_same_bytes_here_as_everywhere() -> None:
    assert digest(generate_event(7, 20))[:16] == "268ca3353858450c"
    assert digest(generate_event(7, 20)) != digest(generate_event(8, 20))


def test_the_detector_is_trackmls() -> None:
    assert NUM_LAYERS == 48
    pairs = np.array([(layer.volume, layer.layer) for layer in LAYERS])
    assert layer_ids(pairs).tolist() == list(range(48))
    assert pairs.tolist() == sorted(pairs.tolist())
    assert layer_ids(np.array([[8, 3], [10, 2], [-1, 2], [8, -2], [99, 99]])).tolist() == [-1] * 5
    assert set(TECHNOLOGY) == {layer.volume for layer in LAYERS}


def test_every_layer_is_hit_and_hits_lie_on_their_layers(event: EventTables) -> None:
    hits, truth = event.hits, event.truth
    assert truth is not None
    ids = layer_ids(np.stack([hits["volume_id"], hits["layer_id"]], 1))
    assert np.bincount(ids, minlength=48).min() > 10
    layers = [LAYERS[i] for i in ids]
    barrel = np.array([layer.barrel for layer in layers])
    radius = np.hypot(truth["tx"], truth["ty"])
    across, along = np.where(barrel, radius, truth["tz"]), np.where(barrel, truth["tz"], radius)
    distance = np.abs(across - [layer.place for layer in layers])
    # On the layer, or 2 mm behind it where sensors overlap.
    assert ((distance < 1e-3) | ((distance > 0.5) & (distance < 2.2))).all()
    assert (distance > 0.5).mean() == pytest.approx(0.03 * 0.9, abs=0.006)
    slack = 25.0
    assert (along >= np.array([layer.low for layer in layers]) - slack).all()
    assert (along <= np.array([layer.high for layer in layers]) + slack).all()


def test_spectrum_directions_and_vertices(event: EventTables) -> None:
    particles = event.particles
    assert particles is not None
    pt = np.hypot(particles["px"], particles["py"])
    assert pt.min() >= 0.4999
    # 1 / pT^3 from 0.5 GeV: a quarter lies above 1 GeV.
    assert (pt > 1).mean() == pytest.approx(0.25, abs=0.03)
    eta = np.arcsinh(particles["pz"] / pt)
    assert np.abs(eta).max() <= 3.0001
    assert (np.abs(eta) < 1.5).mean() == pytest.approx(0.5, abs=0.04)
    assert (particles["q"] == 1).mean() == pytest.approx(0.5, abs=0.04)
    off = np.hypot(particles["vx"], particles["vy"])
    assert (off > 0.1).mean() == pytest.approx(0.05, abs=0.02)
    assert np.median(off) == pytest.approx(0.0118, abs=0.002)
    assert np.std(particles["vz"][off < 0.1]) == pytest.approx(5, abs=0.5)


def test_counts_of_hits_noise_and_cells(event: EventTables) -> None:
    truth, particles, cells = event.truth, event.particles, event.cells
    assert truth is not None
    assert particles is not None
    assert cells is not None
    count = len(truth["hit_id"])
    assert (truth["particle_id"] == 0).sum() == round(0.1 * count)
    ids, hits = np.unique(truth["particle_id"][truth["particle_id"] > 0], return_counts=True)
    assert particles["nhits"][np.searchsorted(particles["particle_id"], ids)].tolist() == hits.tolist()
    assert 8 < hits.mean() < 12
    assert hits.min() >= 3
    assert truth["hit_id"].tolist() == event.hits["hit_id"].tolist() == list(range(1, count + 1))
    assert np.unique(cells["hit_id"]).tolist() == truth["hit_id"].tolist()
    assert (cells["value"] > 0).all()
    # Ids that a reader must not pass through float64.
    assert (particles["particle_id"] != particles["particle_id"].astype(float).astype(int)).all()


def test_hits_are_measured_with_the_resolution_of_their_cells(event: EventTables) -> None:
    hits, truth = event.hits, event.truth
    assert truth is not None
    for volume, pitch in ((8, 0.05), (13, 0.08), (17, 0.12)):
        here = (hits["volume_id"] == volume) & (truth["particle_id"] > 0)
        radius = np.hypot(truth["tx"], truth["ty"])[here]
        along = (hits["y"] - truth["ty"])[here] * truth["tx"][here] - (hits["x"] - truth["tx"])[here] * truth["ty"][
            here
        ]
        assert np.std(along / radius) == pytest.approx(pitch / np.sqrt(12), rel=0.1)


def test_the_order_of_hits_says_nothing_of_their_particles(event: EventTables) -> None:
    truth, hits = event.truth, event.hits
    assert truth is not None
    here = (hits["volume_id"] == 8) & (hits["layer_id"] == 2) & (truth["particle_id"] > 0)
    same = (np.diff(hits["module_id"][here]) == 0) & (np.diff(truth["particle_id"][here]) != 0)
    rising = np.diff(truth["particle_id"][here])[same] > 0
    assert rising.mean() == pytest.approx(0.5, abs=0.1)


def test_options_change_what_they_say() -> None:
    def hits(**options: Any) -> EventTables:
        return generate_event(1, 200, **options)

    for few, many in (({"efficiency": 0.8}, {"efficiency": 1.0}), ({"overlap": 0.0}, {"overlap": 0.2})):
        assert len(hits(**few).hits["x"]) < 0.95 * len(hits(**many).hits["x"])
    quiet = hits(noise=0.0).truth
    assert quiet is not None
    assert (quiet["particle_id"] != 0).all()
    for name, value in (("min_pt", 2.0), ("max_eta", 0.5)):
        particles = hits(**{name: value}).particles
        assert particles is not None
        pt = np.hypot(particles["px"], particles["py"])
        assert (pt.min() >= 1.999) if name == "min_pt" else (np.abs(np.arcsinh(particles["pz"] / pt)).max() <= 0.5001)
    prompt = hits(displaced=0.0).particles
    assert prompt is not None
    assert np.hypot(prompt["vx"], prompt["vy"]).max() < 0.1


def test_scattering_grows_as_momentum_falls() -> None:
    def spread(pt: float) -> float:
        """Of the places at the outermost cylinder of equal particles."""
        many = np.zeros(2000)
        particles = Helices(np.tile([1e-3, 0, 0], (2000, 1)), many, many, many + pt, many + 1, 2.0)
        found = cross_layers(particles, np.random.default_rng(0))
        last = found.position[found.layer == max(found.layer[found.particle == 0], key=lambda i: LAYERS[i].place)]
        return float(np.arctan2(last[:, 1], last[:, 0]).std())

    assert spread(1.0) / spread(4.0) == pytest.approx(4.0, rel=0.1)
    # Ten layers of about 2 % of a radiation length: 13.6 MeV / 1 GeV x sqrt(0.02) x 0.85 each.
    assert 0.001 < spread(1.0) < 0.006


def test_a_particle_that_curls_up_stops_at_its_turn() -> None:
    one = np.ones(1)
    soft = Helices(np.array([[1e-3, 0.0, 0.0]]), 0 * one, 0.01 * one, 0.12 * one, one, 2.0)
    found = cross_layers(soft, np.random.default_rng(0))
    radii = np.hypot(found.position[:, 0], found.position[:, 1])
    # Radius 200 mm: it gets 400 mm away from the beam line.
    assert radii.round().tolist() == [32, 72, 116, 172, 260, 360]


def test_weights_favour_the_ends_of_tracks_of_high_momentum() -> None:
    particle = np.array([0] * 5 + [1] * 4 + [2] * 3 + [-1])
    step = np.array([4, 0, 1, 2, 3, 0, 1, 2, 2.5, 0, 1, 2, 0])
    weights = hit_weights(particle, step, np.array([3.0, 0.5, 9.0]))
    assert weights.sum() == pytest.approx(1)
    assert not weights[9:].any()
    # The first particle weighs 1, the second 0.2, whatever their numbers of hits; the third has too few.
    first, second = np.array([2, 3.3, 2.15, 1, 1.5]), np.array([3.3, 1 + 2.3 / 3, 4 / 3, 2])
    wanted = np.concatenate([first / first.sum(), 0.2 * second / second.sum()]) / 1.2
    assert weights[:9].tolist() == pytest.approx(wanted.tolist(), rel=1e-12)
    assert hit_weights(np.array([-1, 0]), np.zeros(2), np.ones(1)).tolist() == [0.0, 0.0]


def test_two_thousand_particles_take_well_below_a_second() -> None:
    start = time.process_time()
    tables = generate_event(0, 2000)
    event = assemble_event("e", tables)
    assert time.process_time() - start < 1.0
    assert event.num_particles > 1990


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed of generated events must be 0 or larger, got -1"),
        ({"num_particles": 0}, "num_particles of generated events must be 1 or larger, got 0"),
        ({"noise": 1.0}, "noise of generated events must be 0 or larger and below 1, got 1.0"),
        ({"efficiency": 0.0}, "efficiency of generated events must be above 0 and at most 1, got 0.0"),
        ({"overlap": 1.1}, "overlap of generated events must be in 0..1, got 1.1"),
        ({"displaced": -0.1}, "displaced of generated events must be in 0..1, got -0.1"),
        ({"min_pt": 0.0}, "min_pt of generated events must be 0.05 GeV or larger, got 0.0"),
        ({"max_eta": float("nan")}, "max_eta of generated events must be above 0 and at most 4, got nan"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        generate_event(**{"seed": 0, "num_particles": 5, **options})
    assert str(caught.value) == message
