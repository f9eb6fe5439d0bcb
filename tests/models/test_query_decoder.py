"""The query decoder on sets of any kind: shapes, what queries may see, sampling, pooling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss
from influencerformer.models.query_decoder import (
    DecoderLayer,
    FourierPositions,
    Memory,
    QueryDecoder,
    TokenSet,
    attention_mask,
    farthest_points,
    segment_mean,
)


def token_set(sizes: list[int], dim: int, seed: int = 0, num_coordinates: int = 2) -> TokenSet:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(sum(sizes), dim, generator=g, dtype=torch.float64)
    return TokenSet(features, torch.rand(sum(sizes), num_coordinates, generator=g, dtype=torch.float64), sizes)


def small_decoder(objectness: bool = False, memory_dims: tuple[int, ...] = (6,)) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(
        8, 2, 2, 4, 3, token_dim=6, memory_dims=memory_dims, num_coordinates=2, objectness=objectness
    ).double()


def test_hits_that_are_their_own_memory_give_what_the_losses_take() -> None:
    hits = token_set([9, 5], 6)
    outputs = small_decoder(objectness=True)(hits, [Memory(hits)])
    assert [[tuple(m.shape) for m in layer] for layer in outputs.mask_logits] == [[(4, 9), (4, 5)]] * 3
    assert [[tuple(c.shape) for c in layer] for layer in outputs.class_logits] == [[(4, 4), (4, 4)]] * 3
    assert outputs.objectness is not None
    assert [[tuple(o.shape) for o in layer] for layer in outputs.objectness] == [[(4,), (4,)]] * 3
    labels = [torch.tensor([0, 1, 1, 2, 2, 2, -1, 3, 3]), torch.tensor([1, 1, 0, 2, 2])]
    classes = [torch.tensor([0, 2, 1]), torch.tensor([1, 1])]
    loss = mask_influencer_loss(
        outputs.mask_logits, labels, outputs.class_logits, classes, objectness=outputs.objectness
    )["loss"]
    loss.backward()
    assert bool(loss.isfinite())
    baseline = hungarian_mask_loss(outputs.mask_logits, labels, outputs.class_logits, classes)["loss"]
    assert bool(baseline.isfinite())


def test_memory_of_the_tokens_equals_memory_with_members_that_say_so() -> None:
    hits, decoder, same = token_set([9, 5], 6), small_decoder(), torch.arange(14)
    one = decoder(hits, [Memory(hits)])
    other = decoder(hits, [Memory(hits, (same, same))])
    torch.testing.assert_close(one.mask_logits, other.mask_logits)


def test_layers_take_the_memories_in_turn() -> None:
    hits, coarse = token_set([9, 5], 6), token_set([2, 1], 3, seed=1)
    members = (torch.arange(14), torch.tensor([0] * 4 + [1] * 5 + [2] * 5))
    decoder = small_decoder(memory_dims=(6, 3))
    before = decoder(hits, [Memory(hits), Memory(coarse, members)])
    moved = TokenSet(coarse.features + 1, coarse.coordinates, coarse.sizes)
    after = decoder(hits, [Memory(hits), Memory(moved, members)])
    for layer in (0, 1):
        torch.testing.assert_close(after.mask_logits[layer], before.mask_logits[layer])
    assert not torch.allclose(after.mask_logits[2][0], before.mask_logits[2][0])


def test_another_number_of_memories_is_refused() -> None:
    hits = token_set([9, 5], 6)
    with pytest.raises(ValueError, match="the decoder was built for 1 memories, got 2"):
        small_decoder()(hits, [Memory(hits), Memory(hits)])


def layer_output(memory: Tensor, mask: Tensor) -> Tensor:
    torch.manual_seed(0)
    layer = DecoderLayer(8, 2, 16).double()
    queries = torch.randn(1, 3, 8, dtype=torch.float64)
    return layer(queries, torch.zeros_like(queries), memory, torch.zeros_like(memory), [mask])


def test_a_query_does_not_see_memory_outside_its_mask() -> None:
    memory = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([[True, False, False, True, False]]).expand(3, -1)
    changed = memory.clone()
    changed[[1, 2, 4]] = 100.0
    torch.testing.assert_close(layer_output(memory, mask), layer_output(changed, mask))
    changed[3] = 100.0
    assert not torch.allclose(layer_output(memory, mask), layer_output(changed, mask))


def test_an_empty_mask_looks_everywhere_others_only_inside() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    queries = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [-2.0, -3.0], [0.0, 0.0]])
    assert attention_mask(queries, features).tolist() == [
        [True, False, True],
        [False, False, True],
        [False, False, True],
        [True, True, True],
    ]
    assert attention_mask(torch.tensor([[-1.0, -1.0]]), features[:2]).tolist() == [[True, True]]


def test_farthest_points_of_a_line_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert farthest_points(line, 4).tolist() == [2, 3, 0, 1]
    assert farthest_points(line, 2).tolist() == [2, 3]
    assert farthest_points(line, 6).tolist() == [2, 3, 0, 1, 2, 3]
    assert farthest_points(torch.zeros(1, 3), 3).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.booleans())
def test_segment_mean_is_that_of_a_naive_loop(index: list[int], weighted: bool) -> None:
    g = torch.Generator().manual_seed(len(index))
    values = torch.randn(len(index), 3, generator=g, dtype=torch.float64)
    weights = torch.rand(len(index), generator=g, dtype=torch.float64) + 0.1
    found = segment_mean(values, torch.tensor(index), 5, weights if weighted else None)
    for segment in range(5):
        rows = [i for i, s in enumerate(index) if s == segment]
        share = (weights if weighted else torch.ones_like(weights))[rows]
        mean = (values[rows] * share[:, None]).sum(0) / share.sum() if rows else torch.zeros(3).double()
        torch.testing.assert_close(found[segment], mean)


def test_gradcheck_of_segment_mean() -> None:
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    index, weights = torch.tensor([0, 2, 2, 0, 3, 0]), torch.tensor([1.0, 2, 1, 3, 1, 1]).double()
    assert torch.autograd.gradcheck(lambda v: segment_mean(v, index, 4, weights), values)


def test_means_of_bfloat16_are_summed_in_float32() -> None:
    values = torch.cat([torch.tensor([[256.0]]), torch.ones(256, 1)]).bfloat16()
    mean = segment_mean(values, torch.zeros(257, dtype=torch.int64), 1)
    assert mean.dtype == torch.bfloat16
    assert float(mean) == pytest.approx(512 / 257, rel=0.01)


def test_positions_are_sines_and_cosines_of_the_wavelengths() -> None:
    positions = FourierPositions(1, 5, (0.5, 2.0), num_wavelengths=2)
    with torch.no_grad():
        positions.linear.weight.copy_(torch.eye(5))
        positions.linear.bias.zero_()
    x = 0.3
    expected = [x, *(f(2 * math.pi * x / wave) for f in (math.sin, math.cos) for wave in (0.5, 2.0))]
    torch.testing.assert_close(positions(torch.tensor([[x]]))[0], torch.tensor(expected))


@pytest.mark.parametrize("wavelengths", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_wavelengths_that_do_not_rise_are_refused(wavelengths: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="wavelengths must be positive, the shorter first"):
        FourierPositions(3, 8, wavelengths)
