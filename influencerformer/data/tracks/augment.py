"""Augmentation of events by what the detector and the physics do not notice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influencerformer.data.tracks.detector import LAYERS
from influencerformer.data.tracks.sample import Event, Particles

_PLACES = [(layer.barrel, layer.place, layer.low) for layer in LAYERS]
MIRRORED = torch.tensor(
    [_PLACES.index((layer.barrel, layer.place if layer.barrel else -layer.place, layer.low)) for layer in LAYERS]
)
"""(NUM_LAYERS,) the layer at the mirror image in z = 0 of each."""


@dataclass(frozen=True)
class TrackTransform:
    """A random turn about the beam line and random mirror images; tracks stay helices of the same field.

    Attributes:
        rotate: turn by a random angle.
        reflect: with probability 1/2 each, mirror y (charges change sign) and mirror z.
    """

    rotate: bool = True
    reflect: bool = True

    def __call__(self, event: Event, generator: torch.Generator) -> Event:
        """Draw one training event; the same generator state gives the same result."""
        # All numbers are drawn, used or not: what one option does never shifts the other's draws.
        u = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        angle = 2 * math.pi * u[0] if self.rotate else 0.0
        mirror_y, mirror_z = (self.reflect and number < 0.5 for number in u[1:])
        return transform_event(event, angle, mirror_y=mirror_y, mirror_z=mirror_z)


def transform_event(event: Event, angle: float, *, mirror_y: bool = False, mirror_z: bool = False) -> Event:
    """The event turned by `angle` radians about z, after mirror images in y = 0 and z = 0."""
    y, z = -1.0 if mirror_y else 1.0, -1.0 if mirror_z else 1.0
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cosine, sine, 0.0], [-y * sine, y * cosine, 0.0], [0.0, 0.0, z]], dtype=torch.float64)

    def moved(points: Tensor) -> Tensor:
        return (points.double() @ matrix).float()

    particles = event.particles
    phi = torch.remainder(y * particles.phi.double() + angle + math.pi, 2 * math.pi) - math.pi
    return replace(
        event,
        positions=moved(event.positions),
        layers=MIRRORED[event.layers] if mirror_z else event.layers,
        particles=Particles(
            ids=particles.ids,
            pt=particles.pt,
            eta=z * particles.eta,
            phi=phi.float(),
            vertex=moved(particles.vertex),
            charge=-particles.charge if mirror_y else particles.charge,
            num_hits=particles.num_hits,
        ),
    )
