"""The encoder of hits: what it must not depend on, and what it must."""

from __future__ import annotations

import math

import pytest
import torch
from track_batches import NUM_FEATURES, batch_of

from influencerformer.errors import UserError
from influencerformer.models.tracks.batch import pack_hits
from influencerformer.models.tracks.encoder import HitEncoder, hit_coordinates


def encoder(window: int = 4, num_layers: int = 2) -> HitEncoder:
    torch.manual_seed(0)
    return HitEncoder(NUM_FEATURES, 8, num_layers, 2, window).double().eval()


def encode(model: HitEncoder, features: torch.Tensor, positions: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    return model(features.double(), positions.double(), sizes)


def test_coordinates_by_hand() -> None:
    found = hit_coordinates(torch.tensor([[30.0, 40.0, 0.0], [0.0, 100.0, 100.0 * math.sinh(1.0)]]))
    expected = [[0.6, 0.8, 0.0, 0.36, 0.48, 0.05], [0.0, 1.0, 0.5, 0.0, 0.3, 0.1]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_hit_on_the_beam_line_has_finite_coordinates() -> None:
    assert bool(hit_coordinates(torch.zeros(1, 3)).isfinite().all())


def test_events_of_a_batch_do_not_see_each_other() -> None:
    hits = pack_hits(batch_of(30, 1, 13), NUM_FEATURES)
    model = encoder()
    together = encode(model, *hits)
    start = 0
    for size in hits.sizes:
        part = slice(start, start + size)
        alone = encode(model, hits.features[part], hits.positions[part], [size])
        torch.testing.assert_close(together[part], alone)
        start += size


def test_the_order_of_hits_does_not_matter() -> None:
    hits = pack_hits(batch_of(40), NUM_FEATURES)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    model = encoder()
    one = encode(model, *hits)
    other = encode(model, hits.features[order], hits.positions[order], [40])
    torch.testing.assert_close(one[order], other)


def test_attention_is_local_in_azimuth() -> None:
    phi = torch.linspace(-3.1, 3.1, 64)
    positions = torch.stack([100 * phi.cos(), 100 * phi.sin(), torch.zeros(64)], 1)
    features = torch.randn(64, NUM_FEATURES, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[0] += 1
    model = encoder(window=4, num_layers=1)
    moved = (encode(model, features, positions, [64]) - encode(model, changed, positions, [64])).abs().sum(1) > 1e-9
    # Windows are 0..3, 4..7, ..., 60..63 and reach two places further: the first and, around the circle, the last.
    assert moved.nonzero().flatten().tolist() == [0, 1, 2, 3, 60, 61, 62, 63]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": [torch.zeros(3, 2)]}, r"event event0: the network takes 5 features a hit, got \(3, 2\)"),
        (
            {"features": [torch.zeros(0, NUM_FEATURES)], "positions": [torch.zeros(0, 3)]},
            "event event0 has no hits: leave it out",
        ),
        ({"features": [torch.full((3, NUM_FEATURES), math.nan)]}, "event event0: features or positions hold NaN"),
    ],
)
def test_bad_events_are_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pack_hits({**batch_of(3), **change}, NUM_FEATURES)


def test_positions_must_fit() -> None:
    with pytest.raises(ValueError, match=r"event event0: positions must be \(3, 3\), got \(2, 3\)"):
        pack_hits({**batch_of(3), "positions": [torch.zeros(2, 3)]}, NUM_FEATURES)
    with pytest.raises(ValueError, match="features and positions of 1 or more events, got 0 and 0"):
        pack_hits({"features": [], "positions": []}, NUM_FEATURES)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads, got 8 and 3"):
        HitEncoder(NUM_FEATURES, 8, 1, 3)
