"""Turns and mirror images: the event stays one of the same detector and the same field."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from influencerformer.data.tracks.assemble import assemble_event
from influencerformer.data.tracks.augment import MIRRORED, TrackTransform, transform_event
from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.detector import LAYERS
from influencerformer.data.tracks.generate import generate_event
from influencerformer.data.tracks.helix import Helices
from influencerformer.data.tracks.sample import Event


@pytest.fixture(scope="module")
def event() -> Event:
    return assemble_event("e", generate_event(2, 60, displaced=0.0), Cuts(min_pt=1.0))


def distances(event: Event) -> torch.Tensor:
    """From each particle's hit in the innermost cylinder to its helix, in mm along phi and z."""
    inner = (event.layers == 7) & (event.particle_labels > 0)
    number = event.particle_labels[inner] - 1
    particles = event.particles
    slope = np.sinh(particles.eta[number].double().numpy())
    helices = Helices(
        particles.vertex[number].double().numpy(),
        particles.phi[number].double().numpy(),
        slope,
        particles.pt[number].double().numpy() * np.hypot(1, slope),
        particles.charge[number].double().numpy(),
        2.0,
    )
    radius = event.positions[inner].double()[:, :2].norm(dim=1).numpy()
    reached = torch.from_numpy(helices.moved(helices.length_to_cylinder(radius)).position)
    return (reached - event.positions[inner]).norm(dim=1)


@pytest.mark.parametrize("mirror_y", [False, True])
@pytest.mark.parametrize("mirror_z", [False, True])
def test_hits_stay_on_the_helices_of_their_particles_and_on_their_layers(
    event: Event, mirror_y: bool, mirror_z: bool
) -> None:
    moved = transform_event(event, 2.5, mirror_y=mirror_y, mirror_z=mirror_z)
    assert len(distances(event)) > 5
    assert float(distances(event).max()) < 0.3
    assert distances(moved).tolist() == pytest.approx(distances(event).tolist(), abs=1e-3)
    for number in moved.layers.unique().tolist():
        x, y, z = moved.positions[moved.layers == number].unbind(1)
        along = torch.hypot(x, y) if LAYERS[number].barrel else z
        assert float((along - LAYERS[number].place).abs().max()) < 2.5


def test_what_changes_and_what_does_not(event: Event) -> None:
    moved = transform_event(event, 0.5, mirror_y=True, mirror_z=True)
    assert moved.particles.charge.tolist() == (-event.particles.charge).tolist()
    assert moved.particles.eta.tolist() == (-event.particles.eta).tolist()
    assert bool((moved.particles.phi.abs() <= math.pi).all())
    assert torch.equal(moved.particle_labels, event.particle_labels)
    assert torch.equal(moved.positions[:, 2], -event.positions[:, 2])
    turned = transform_event(event, math.pi / 2)
    assert turned.positions[:, 0].tolist() == pytest.approx((-event.positions[:, 1]).tolist(), abs=1e-3)
    assert turned.positions[:, 1].tolist() == pytest.approx(event.positions[:, 0].tolist(), abs=1e-3)


def test_layers_have_mirror_images() -> None:
    assert MIRRORED[MIRRORED].tolist() == list(range(len(LAYERS)))
    for layer, image in zip(LAYERS, (LAYERS[i] for i in MIRRORED.tolist()), strict=True):
        assert image == layer if layer.barrel else (image.place, image.low) == (-layer.place, layer.low)


def test_draws_depend_on_the_generator_alone(event: Event) -> None:
    def drawn(transform: TrackTransform, seed: int) -> torch.Tensor:
        return transform(event, torch.Generator().manual_seed(seed)).positions

    assert torch.equal(drawn(TrackTransform(), 1), drawn(TrackTransform(), 1))
    assert not torch.equal(drawn(TrackTransform(), 1), drawn(TrackTransform(), 2))
    assert torch.equal(drawn(TrackTransform(rotate=False, reflect=False), 1), event.positions)
    signs = {
        tuple((drawn(TrackTransform(rotate=False), seed)[0] / event.positions[0]).sign().tolist()) for seed in range(20)
    }
    assert signs == {(1, y, z) for y in (-1, 1) for z in (-1, 1)}
    assert torch.equal(drawn(TrackTransform(reflect=False), 3)[:, 2], event.positions[:, 2])


def test_an_event_without_particles_is_moved_too(event: Event) -> None:
    none = torch.zeros_like(event.particle_labels)
    bare = Event("b", event.positions, event.layers, None, none, none, torch.zeros(len(event)), event.hit_ids)
    moved = transform_event(replace(bare, has_truth=False), 1.0, mirror_z=True)
    assert moved.num_particles == 0
    assert not moved.has_truth
