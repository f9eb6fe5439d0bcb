from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.metrics import predictions as module
from influencerformer.metrics.predictions import instance_predictions, to_label_map


def plain(
    class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int], padded: tuple[int, int], top_k: int
) -> list[tuple[float, int, Tensor]]:
    """The rule, one candidate after the other."""
    probabilities = class_logits.softmax(-1)[:, :-1]
    logits = F.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)[0]
    logits = logits[:, : size[0], : size[1]]
    pairs = [(float(probabilities[q, c]), q, c) for q in range(len(logits)) for c in range(probabilities.shape[1])]
    found = []
    for probability, q, c in sorted(pairs, reverse=True)[:top_k]:
        mask = logits[q] > 0
        if mask.any():
            found.append((probability * float(logits[q].sigmoid()[mask].mean()), c, mask))
    return sorted(found, key=lambda f: -f[0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 40),
    st.integers(0, 999),
)
def test_equals_the_plain_rule(queries: int, classes: int, h: int, w: int, top_k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, classes + 1, generator=generator)
    mask_logits = torch.randn(queries, 6, 7, generator=generator) - 0.8
    padded = (24, 28)
    result = instance_predictions(class_logits, mask_logits, (h, w), padded_size=padded, top_k=top_k)
    expected = plain(class_logits, mask_logits, (h, w), padded, top_k)
    assert len(result["scores"]) == len(expected)
    assert result["masks"].shape == (len(expected), h, w)
    torch.testing.assert_close(result["scores"], torch.tensor([s for s, *_ in expected]))
    assert result["labels"].tolist() == [c for _, c, _ in expected]
    for mask, (*_, wanted) in zip(result["masks"], expected, strict=True):
        assert torch.equal(mask, wanted)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(9, 4), torch.randn(9, 8, 8)
    whole = instance_predictions(class_logits, mask_logits, (30, 20), padded_size=(32, 32))
    monkeypatch.setattr(module, "_CHUNK_PIXELS", 2100)
    parts = instance_predictions(class_logits, mask_logits, (30, 20), padded_size=(32, 32))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_nothing_to_report() -> None:
    result = instance_predictions(torch.zeros(5, 3), torch.full((5, 4, 4), -9.0), (16, 16))
    assert result["masks"].shape == (0, 16, 16)
    assert result["scores"].shape == result["labels"].shape == (0,)
    broken = instance_predictions(torch.full((5, 3), torch.nan), torch.zeros(5, 4, 4) + 1, (16, 16))
    assert len(broken["scores"]) == 0


def test_output_at_another_size() -> None:
    mask_logits = torch.full((1, 8, 8), -5.0)
    mask_logits[0, :4, :4] = 5.0
    result = instance_predictions(torch.tensor([[3.0, 0.0]]), mask_logits, (32, 32), output_size=(64, 128))
    assert result["masks"].shape == (1, 64, 128)
    expected = torch.zeros(64, 128, dtype=torch.bool)
    expected[:32, :64] = True
    # Pixels on the border itself may fall either way.
    assert int((result["masks"][0] ^ expected).sum()) <= 32 + 64


def test_half_precision_outputs() -> None:
    result = instance_predictions(torch.randn(3, 3).half(), torch.randn(3, 4, 4).bfloat16(), (8, 8))
    assert result["scores"].dtype == torch.float32


def test_label_map_prefers_high_scores() -> None:
    masks = torch.zeros(4, 6, 6, dtype=torch.bool)
    masks[0, :4, :3] = True
    masks[1, :4, :4] = True  # the best: it covers 0 wholly
    masks[2, 3:, 2:] = True  # 12 pixels, 2 of them under 1
    masks[3, 5:, :2] = True  # below the threshold
    labels, kept = to_label_map(masks, torch.tensor([0.7, 0.9, 0.6, 0.3]), threshold=0.5)
    assert labels.dtype == np.uint16
    assert kept == [1, 2]
    expected = np.zeros((6, 6), np.uint16)
    expected[3:, 2:] = 2
    expected[:4, :4] = 1
    assert np.array_equal(labels, expected)
    assert to_label_map(masks, torch.tensor([0.7, 0.9, 0.6, 0.3]), threshold=0.0)[1] == [1, 2, 3]
    assert to_label_map(masks, torch.tensor([0.7, 0.9, 0.6, 0.3]), 0.0, min_visible=0.9)[1] == [1, 3]
    nothing, none = to_label_map(masks[:0], torch.zeros(0))
    assert none == []
    assert not nothing.any()
