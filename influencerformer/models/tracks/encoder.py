"""The encoder of hits that all track models share: attention among neighbours in azimuth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influencerformer.models.query_decoder import FourierPositions
from influencerformer.models.tracks.windows import Windows, azimuth_windows

NUM_COORDINATES = 6
_WAVELENGTHS = (0.03, 4.0)


def hit_coordinates(positions: Tensor) -> Tensor:
    """(T, 3) x, y, z in mm to (T, NUM_COORDINATES): where a hit is, in numbers that are alike along a track.

    Cosine and sine of the azimuth; pseudorapidity of the line from the origin, halved; x / r and y / r over r, the
    conformal map, in which circles through the beam line are straight, in units of 1 / (30 mm); and r in metres.
    """
    x, y, z = positions.unbind(1)
    r = torch.hypot(x, y).clamp(min=1e-3)
    scale = 30 / r.square()
    return torch.stack([x / r, y / r, torch.asinh(z / r) / 2, x * scale, y * scale, r / 1000], 1)


class WindowAttention(nn.Module):
    """Multi-head attention within :class:`Windows`, then a feed-forward network; each is added to its input.

    Cost O(T W dim): independent of how many hits an event has in all.

    Args:
        dim: width of the hits' features, a multiple of ``num_heads``.
        num_heads: of the attention.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.feedforward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, hits: Tensor, places: Tensor, windows: Windows) -> Tensor:
        """Features (T, dim) after this layer, from features and encoded places, both (T, dim)."""
        normed = self.norm(hits)
        query, key = self.query_key(normed + places).chunk(2, -1)
        query, key, value = (
            part.index_select(0, index.flatten()).view(*index.shape, self.num_heads, -1).transpose(1, 2)
            for part, index in (
                (query, windows.members),
                (key, windows.keys),
                (self.value(normed), windows.keys),
            )
        )
        mask = windows.is_key[:, None, None]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
        hits = hits + self.out(seen.reshape(-1, hits.shape[1]).index_select(0, windows.slots))
        return hits + self.feedforward(hits)


class HitEncoder(nn.Module):
    """Features of hits that know of the hits around.

    Attention is local: hits are ordered by azimuth, and each attends to about ``2 * window`` neighbours around the
    beam line, in windows that are shifted by half their width in every other layer (compare van Stroud et al.,
    Transformers for charged particle track reconstruction in high energy physics, 2024). Places are encoded as sines
    and cosines, whose dot products depend on differences of the coordinates.

    Args:
        in_features: F, features of a hit.
        dim: width.
        num_layers: of :class:`WindowAttention`.
        num_heads: of each.
        window: W, even. Windows should reach around the bend of a track: 64 hits for events of 50 particles, 1024 for
            2000.
    """

    def __init__(self, in_features: int, dim: int = 64, num_layers: int = 4, num_heads: int = 4, window: int = 64):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        self.window = window
        self.places = FourierPositions(NUM_COORDINATES, dim, _WAVELENGTHS)
        self.inputs = nn.Sequential(nn.Linear(in_features + dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.layers = nn.ModuleList(WindowAttention(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, positions: Tensor, sizes: Sequence[int]) -> Tensor:
        """Features of the hits of B events, one event after the other.

        Args:
            features: (T, F).
            positions: (T, 3) x, y, z in mm.
            sizes: hits of each event.

        Returns:
            (T, dim).
        """
        places = self.places(hit_coordinates(positions))
        hits = self.inputs(torch.cat([features, places], 1))
        phi = torch.atan2(positions[:, 1], positions[:, 0])
        windows = [azimuth_windows(phi, sizes, self.window, shift) for shift in (0, self.window // 2)]
        for index, layer in enumerate(self.layers):
            hits = layer(hits, places, windows[index % 2])
        return self.norm(hits)
