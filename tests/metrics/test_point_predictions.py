from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.metrics import point_predictions as module
from influencerformer.metrics.point_predictions import point_predictions, to_point_labels, tokens_to_points


def plain(
    class_logits: Tensor, mask_logits: Tensor, token_of_point: Tensor, objectness: Tensor | None, top_k: int, least: int
) -> list[tuple[float, int, Tensor]]:
    """The rule on points, one candidate after the other."""
    probabilities = class_logits.softmax(-1)[:, :-1]
    if objectness is not None:
        probabilities = probabilities * objectness[:, None]
    logits = mask_logits[:, token_of_point]
    pairs = [(float(probabilities[q, c]), q, c) for q in range(len(logits)) for c in range(probabilities.shape[1])]
    found = []
    for probability, q, c in sorted(pairs, reverse=True)[:top_k]:
        mask = logits[q] > 0
        if probability > 0 and int(mask.sum()) >= least:
            found.append((probability * float(logits[q].sigmoid()[mask].mean()), c, mask))
    return sorted(found, key=lambda f: -f[0])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(0, 60),
    st.integers(1, 40),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 999),
)
def test_equals_the_plain_rule(
    queries: int, classes: int, tokens: int, points: int, top_k: int, least: int, with_objectness: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, classes + 1, generator=generator)
    mask_logits = torch.randn(queries, tokens, generator=generator) - 0.8
    token_of_point = torch.randint(0, tokens, (points,), generator=generator)
    # As a regressed IoU it can be negative.
    objectness = torch.rand(queries, generator=generator) * 1.2 - 0.1 if with_objectness else None
    result = point_predictions(
        class_logits, mask_logits, token_of_point, objectness=objectness, top_k=top_k, min_points=least
    )
    expected = plain(class_logits, mask_logits, token_of_point, objectness, top_k, least)
    assert len(result["scores"]) == len(expected)
    assert result["masks"].shape == (len(expected), points)
    assert (result["masks"].dtype, result["labels"].dtype) == (torch.bool, torch.int64)
    torch.testing.assert_close(result["scores"], torch.tensor([s for s, *_ in expected]))
    assert result["labels"].tolist() == [c for _, c, _ in expected]
    for mask, (*_, wanted) in zip(result["masks"], expected, strict=True):
        assert torch.equal(mask, wanted)


def test_a_case_by_hand() -> None:
    """Two tokens of 3 and 1 points: the mean sigmoid is that of the points; one query is there with both classes."""
    class_logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    mask_logits = torch.tensor([[0.9, 0.6, 0.4], [0.4, 0.4, 0.8]]).logit()
    token_of_point = torch.tensor([0, 0, 1, 0, 2])
    found = point_predictions(class_logits, mask_logits, token_of_point, min_points=2)
    quality = (3 * 0.9 + 0.6) / 4
    torch.testing.assert_close(found["scores"], torch.tensor([0.5, 0.3]) * quality)
    assert found["labels"].tolist() == [0, 1]
    assert found["masks"].tolist() == [[True, True, True, True, False]] * 2
    # Objectness multiplies and takes part in the choice.
    objectness = torch.tensor([0.1, 1.0])
    found = point_predictions(class_logits, mask_logits, token_of_point, objectness=objectness, top_k=1, min_points=1)
    torch.testing.assert_close(found["scores"], torch.tensor([0.1 * 0.8]))
    assert found["masks"].tolist() == [[False, False, False, False, True]]


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(9, 4), torch.randn(9, 50), torch.randint(0, 50, (400,))
    whole = point_predictions(*inputs)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 110)
    parts = point_predictions(*inputs)
    assert len(whole["scores"]) > 9
    for name in whole:
        assert torch.equal(whole[name], parts[name])


def test_a_mask_below_100_points_is_dropped_unless_told() -> None:
    class_logits, mask_logits = torch.tensor([[2.0, 0.0]] * 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    token_of_point = torch.tensor([0] * 99 + [1] * 100)
    assert point_predictions(class_logits, mask_logits, token_of_point)["masks"].sum(1).tolist() == [100]
    assert len(point_predictions(class_logits, mask_logits, token_of_point, min_points=99)["masks"]) == 2


def test_a_score_of_zero_is_dropped() -> None:
    class_logits, mask_logits = torch.zeros(2, 2), torch.ones(2, 4)
    objectness = torch.tensor([0.0, 0.5])
    found = point_predictions(class_logits, mask_logits, torch.arange(4), objectness=objectness, min_points=1)
    torch.testing.assert_close(found["scores"], torch.tensor([0.25]) * torch.tensor(1.0).sigmoid())


def test_half_precision_and_values_that_are_not_finite() -> None:
    class_logits = torch.zeros(3, 2, dtype=torch.bfloat16)
    mask_logits = torch.tensor([[5.0, 5.0], [torch.nan, 5.0], [torch.inf, -5.0]], dtype=torch.bfloat16)
    found = point_predictions(class_logits, mask_logits, torch.tensor([0, 1]), min_points=1)
    assert found["scores"].dtype == torch.float32
    # The query with a NaN is left out; an infinite logit is certainty.
    assert found["masks"].tolist() == [[True, False], [True, True]]


def test_no_gradient_is_kept() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    found = point_predictions(logits, torch.ones(3, 4), torch.arange(4), min_points=1)
    assert not found["scores"].requires_grad


CLASSES, MASKS, TOKENS = torch.zeros(3, 2), torch.ones(3, 4), torch.arange(4)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((CLASSES[:2], MASKS, TOKENS), {}, r"class_logits must be \(3, C \+ 1\), got \(2, 2\)"),
        ((CLASSES, MASKS, TOKENS + 1), {}, r"token_of_point must lie in 0\.\.3, got 1\.\.4"),
        ((CLASSES, MASKS, TOKENS - 1), {}, r"token_of_point must lie in 0\.\.3, got -1\.\.2"),
        ((CLASSES, MASKS, TOKENS.int()), {}, r"token_of_point must be \(N,\) int64, got \(4,\) int32"),
        ((CLASSES, MASKS, TOKENS), {"objectness": torch.ones(3, 1)}, r"objectness must be \(3,\), got \(3, 1\)"),
        ((CLASSES, MASKS, TOKENS), {"min_points": 0}, "min_points must be 1 or larger, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: tuple[Tensor, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_predictions(*inputs, **options)


def test_tokens_to_points_takes_masks_and_labels() -> None:
    token_of_point = torch.tensor([2, 0, 0, 1])
    masks = torch.tensor([[True, False, False], [False, False, True]])
    assert tokens_to_points(masks, token_of_point).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert tokens_to_points(torch.tensor([7, 8, 9]), token_of_point).tolist() == [9, 7, 7, 8]
    assert tokens_to_points(masks, token_of_point[:0]).shape == (2, 0)
    with pytest.raises(ValueError, match=r"token_of_point must lie in 0\.\.2, got 0\.\.3"):
        tokens_to_points(masks, torch.tensor([0, 3]))


def masks_of(*points: range) -> Tensor:
    masks = torch.zeros(len(points), 20, dtype=torch.bool)
    for mask, those in zip(masks, points, strict=True):
        mask[list(those)] = True
    return masks


def test_point_labels_are_laid_down_by_falling_score() -> None:
    masks = masks_of(range(0, 8), range(4, 12), range(12, 16))
    labels, kept = to_point_labels(masks, torch.tensor([0.7, 0.9, 0.8]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3] * 4 + [1] * 8 + [2] * 4 + [0] * 4
    assert kept == [1, 2, 0]


def test_point_labels_leave_out_low_scores_and_repetitions() -> None:
    masks = masks_of(range(0, 8), range(0, 9), range(10, 14), range(4, 12), range(0))
    scores = torch.tensor([0.9, 0.8, 0.49, 0.7, 0.6])
    # The second has one of nine points left, the fourth four of eight.
    assert to_point_labels(masks, scores)[1] == [0, 3]
    assert to_point_labels(masks, scores, min_visible=0.51)[1] == [0]
    assert to_point_labels(masks, scores, threshold=0.4)[1] == [0, 3, 2]
    assert to_point_labels(masks, scores, threshold=float(scores[2]))[1] == [0, 3, 2]
    # Without anything left a mask is dropped whatever min_visible.
    assert to_point_labels(masks, scores, min_visible=0.0)[1] == [0, 1, 3]


def test_point_labels_of_nothing() -> None:
    labels, kept = to_point_labels(masks_of(), torch.zeros(0))
    assert labels.tolist() == [0] * 20
    assert kept == []
