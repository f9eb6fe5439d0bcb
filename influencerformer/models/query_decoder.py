"""A masked-attention decoder over sets: queries for the points of a cloud, the hits of an event, or any tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenSet:
    """Tokens of B scenes, one scene after the other.

    Attributes:
        features: (T, D) floating point, T = sum of ``sizes``.
        coordinates: (T, P) floating point, where each token is in its scene.
        sizes: tokens of each scene, 1 or more.
    """

    features: Tensor
    coordinates: Tensor
    sizes: list[int]


@dataclass(frozen=True)
class Memory:
    """What queries look at in a cross-attention: the tokens themselves, or coarser ones.

    Attributes:
        tokens: M memory tokens.
        members: two (E,) int64: token and memory token of each membership, numbered over the batch. A memory token's
            mask logit is the mean over its members' logits. None where the memory tokens are the tokens.
    """

    tokens: TokenSet
    members: tuple[Tensor, Tensor] | None = None


class QueryOutputs(NamedTuple):
    """Predictions of the L = num_layers + 1 heads, the first before any layer, the last the output.

    Attributes:
        mask_logits: L lists of B tensors (Q, T_i).
        class_logits: L lists of B tensors (Q, C + 1), no-object last.
        objectness: L lists of B tensors (Q,), predicted IoU in 0..1, or None.
    """

    mask_logits: list[list[Tensor]]
    class_logits: list[list[Tensor]]
    objectness: list[list[Tensor]] | None


def segment_mean(values: Tensor, index: Tensor, num_segments: int, weights: Tensor | None = None) -> Tensor:
    """Mean of the rows of each segment.

    Args:
        values: (N, D) floating point.
        index: (N,) int64, 0..S-1, the segment of each row.
        num_segments: S.
        weights: (N,) positive, floating point; None weighs all rows alike.

    Returns:
        (S, D) means, 0 for a segment without rows. float16 and bfloat16 are summed in float32.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    rows = values.to(dtype)
    weights = rows.new_ones(len(index)) if weights is None else weights.to(dtype)
    total = rows.new_zeros(num_segments).index_add(0, index, weights)
    sums = rows.new_zeros(num_segments, rows.shape[1]).index_add(0, index, rows * weights[:, None])
    return (sums / total.clamp(min=torch.finfo(dtype).tiny)[:, None]).to(values.dtype)


class FourierPositions(nn.Module):
    """Coordinates as sines and cosines of geometrically spaced wavelengths, mixed by a linear map.

    Args:
        num_coordinates: P.
        dim: of the result.
        wavelengths: shortest and longest, in the unit of the coordinates.
        num_wavelengths: of each coordinate.
    """

    frequencies: Tensor

    def __init__(
        self, num_coordinates: int, dim: int, wavelengths: tuple[float, float], num_wavelengths: int = 12
    ) -> None:
        super().__init__()
        short, long = wavelengths
        if not 0 < short < long:
            raise ValueError(f"wavelengths must be positive, the shorter first, got {wavelengths}")
        steps = torch.linspace(0, 1, num_wavelengths)
        self.register_buffer("frequencies", 2 * math.pi / (short * (long / short) ** steps), persistent=False)
        self.linear = nn.Linear(num_coordinates * (2 * num_wavelengths + 1), dim)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(T, P) to (T, dim)."""
        phases = (coordinates[..., None] * self.frequencies).flatten(-2)
        return self.linear(torch.cat([coordinates, phases.sin(), phases.cos()], -1))


def attention_mask(mask_queries: Tensor, mask_features: Tensor) -> Tensor:
    """Where queries look: inside their own masks, or everywhere if a mask is empty.

    Args:
        mask_queries: (Q, D).
        mask_features: (M, D).

    Returns:
        (Q, M) bool, True at least once in every row.
    """
    inside = mask_queries @ mask_features.T >= 0
    return inside | ~inside.any(1, keepdim=True)


def _pooled(mask_features: Tensor, memory: Memory) -> Sequence[Tensor]:
    """B tensors (M_i, D): mean mask features of each memory token's members; logits are linear in them."""
    if memory.members is not None:
        token, place = memory.members
        mask_features = segment_mean(mask_features[token], place, len(memory.tokens.features))
    return mask_features.split(memory.tokens.sizes)


def _perceptron(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))


@torch.no_grad()
def farthest_points(coordinates: Tensor, count: int) -> Tensor:
    """Points that are spread out: the first is the nearest to the mean, each next one the farthest from those before.

    Args:
        coordinates: (M, P), M >= 1.
        count: Q; beyond M the choice begins anew.

    Returns:
        (Q,) int64 indices.
    """
    distance = coordinates.new_full((len(coordinates),), math.inf)
    last = (coordinates - coordinates.mean(0)).square().sum(1).argmin(0, keepdim=True)
    chosen = [last]
    for _ in range(min(count, len(coordinates)) - 1):
        distance = torch.minimum(distance, (coordinates - coordinates.index_select(0, last)).square().sum(1))
        last = distance.argmax(0, keepdim=True)
        chosen.append(last)
    return torch.cat(chosen).repeat(-(-count // len(chosen)))[:count]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention of the queries, feed-forward; each is added to what it normed before."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_query = nn.Linear(dim, dim)
        self.cross_key = nn.Linear(dim, dim)
        self.cross_value = nn.Linear(dim, dim)
        self.cross_out = nn.Linear(dim, dim)
        self.self_norm = nn.LayerNorm(dim)
        self.self_query_key = nn.Linear(dim, 2 * dim)
        self.self_value = nn.Linear(dim, dim)
        self.self_out = nn.Linear(dim, dim)
        self.feedforward = _perceptron(dim, feedforward_dim, dim)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, memory_positions: Tensor, masks: list[Tensor]
    ) -> Tensor:
        """The queries after this layer.

        Args:
            queries: (B, Q, D).
            query_positions: (B, Q, D).
            memory: (M, D), scene after scene.
            memory_positions: (M, D).
            masks: B of (Q, M_i) bool, True where a query looks; in every row at least once.
        """
        sizes = [mask.shape[1] for mask in masks]
        heads = self.cross_query(self.cross_norm(queries) + query_positions).unflatten(-1, (self.num_heads, -1))
        keys = self.cross_key(memory + memory_positions).unflatten(-1, (self.num_heads, -1)).split(sizes)
        values = self.cross_value(memory).unflatten(-1, (self.num_heads, -1)).split(sizes)
        seen = [
            F.scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                key.transpose(0, 1)[None],
                value.transpose(0, 1)[None],
                attn_mask=mask[None, None],
            )[0]
            for query, key, value, mask in zip(heads, keys, values, masks, strict=True)
        ]
        queries = queries + self.cross_out(torch.stack(seen).transpose(1, 2).flatten(2))
        normed = self.self_norm(queries)
        query, key = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.self_query_key(normed + query_positions).chunk(2, -1)
        )
        value = self.self_value(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        queries = queries + self.self_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return queries + self.feedforward(queries)


class QueryDecoder(nn.Module):
    """Queries that look at memory tokens within their own masks, and predict masks over tokens after every layer.

    After Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022, with queries that
    start from memory tokens spread over the scene by farthest-point sampling as in Schult et al., Mask3D, ICRA 2023:
    such a query knows from the first step where it is, which makes small budgets enough.

    Args:
        dim: D of queries and masks, a multiple of ``num_heads``.
        num_layers: decoder layers; layer l looks at memory l modulo their number.
        num_heads: of the attentions.
        num_queries: Q.
        num_classes: C, without no-object.
        token_dim: width of the tokens' features.
        memory_dims: width of each memory's features. Queries are sampled from the first memory.
        num_coordinates: P.
        wavelengths: shortest and longest wavelength of the positions, in the unit of the coordinates.
        objectness: predict each mask's IoU as well.
        content_scale: standard deviation of what tells the queries apart beside the tokens that they start from.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_queries: int,
        num_classes: int,
        *,
        token_dim: int,
        memory_dims: Sequence[int],
        num_coordinates: int = 3,
        wavelengths: tuple[float, float] = (0.2, 20.0),
        objectness: bool = False,
        content_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        self.num_queries = num_queries
        self.token_input = nn.Linear(token_dim, dim)
        self.token_positions = FourierPositions(num_coordinates, dim, wavelengths)
        self.token_mix = _perceptron(dim, 2 * dim, dim)
        self.memory_inputs = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim)) for width in memory_dims
        )
        self.memory_positions = FourierPositions(num_coordinates, dim, wavelengths)
        self.query_content = nn.Parameter(content_scale * torch.randn(num_queries, dim))
        self.query_start = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, 4 * dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_classes + 1)
        self.mask_queries = _perceptron(dim, dim, dim)
        self.quality = nn.Linear(dim, 1) if objectness else None

    def forward(
        self, tokens: TokenSet, memories: Sequence[Memory], seeds: Sequence[Tensor] | None = None
    ) -> QueryOutputs:
        """Predictions of all heads.

        Args:
            tokens: what masks are over.
            memories: as many as ``memory_dims``.
            seeds: B tensors (Q,) int64, the token of the first memory that each query starts from, 0..M_i-1; None
                takes tokens that are spread over the scene.

        Raises:
            ValueError: another number of memories, or seeds of another number.
        """
        if len(memories) != len(self.memory_inputs):
            raise ValueError(f"the decoder was built for {len(self.memory_inputs)} memories, got {len(memories)}")
        mask_features = self.token_input(tokens.features) + self.token_positions(tokens.coordinates)
        mask_features = mask_features + self.token_mix(mask_features)
        inputs = [encode(memory.tokens.features) for encode, memory in zip(self.memory_inputs, memories, strict=True)]
        positions = [self.memory_positions(memory.tokens.coordinates) for memory in memories]
        attended = [_pooled(mask_features.detach(), memory) for memory in memories]

        starts = self._starts(memories[0].tokens, seeds)
        query_positions = positions[0][starts]
        queries = self.query_start(inputs[0] + positions[0])[starts] + self.query_content

        by_scene = mask_features.split(tokens.sizes)
        outputs = QueryOutputs([], [], None if self.quality is None else [])
        masks = self._predict(queries, by_scene, outputs)
        for index, layer in enumerate(self.layers):
            place = index % len(memories)
            seen = [attention_mask(query, feature) for query, feature in zip(masks, attended[place], strict=True)]
            queries = layer(queries, query_positions, inputs[place], positions[place], seen)
            masks = self._predict(queries, by_scene, outputs)
        return outputs

    def _predict(self, queries: Tensor, mask_features: Sequence[Tensor], outputs: QueryOutputs) -> Tensor:
        """Adds one head's predictions to ``outputs``; returns (B, Q, D) the queries' side of the masks, detached."""
        normed = self.norm(queries)
        masks = self.mask_queries(normed)
        outputs.mask_logits.append([query @ feature.T for query, feature in zip(masks, mask_features, strict=True)])
        outputs.class_logits.append(list(self.classify(normed)))
        if self.quality is not None and outputs.objectness is not None:
            outputs.objectness.append(list(self.quality(normed)[..., 0].sigmoid()))
        return masks.detach()

    def _starts(self, memory: TokenSet, seeds: Sequence[Tensor] | None) -> Tensor:
        """(B, Q) int64, the memory token each query starts from, numbered over the batch."""
        if seeds is None:
            seeds = [farthest_points(part, self.num_queries) for part in memory.coordinates.split(memory.sizes)]
        counts = [len(one) for one in seeds]
        if counts != [self.num_queries] * len(memory.sizes):
            raise ValueError(f"expected {self.num_queries} seeds for each of {len(memory.sizes)} scenes, got {counts}")
        offsets = memory.coordinates.new_tensor([0, *memory.sizes[:-1]], dtype=torch.int64).cumsum(0)
        return torch.stack(list(seeds)) + offsets[:, None]
