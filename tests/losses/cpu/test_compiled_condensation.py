"""Condensation by kernels equals the plain form in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.losses import condensation as plain
from influencerformer.losses import crowd as plain_crowd
from influencerformer.losses.condensation import condensation
from influencerformer.losses.membership import Segments
from influencerformer.losses.targets import make_targets

pytest.importorskip("numba")

from influencerformer.losses.cpu import condensation as compiled
from influencerformer.losses.cpu import crowd as compiled_crowd


def terms(
    logits: Tensor, labels: Tensor, masks: Tensor | None, instances: int, margin: float, query_mask: Tensor | None
) -> tuple:
    """Attraction, repulsion, and the gradient of an uneven sum of them."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    classes = torch.zeros(len(labels), instances, dtype=torch.int64)
    segments = Segments(make_targets(labels.shape[1], len(labels), dtype, labels, masks, classes))
    assert segments.compiled(logits) == (dtype == torch.float32)
    logits = logits.detach().requires_grad_()
    attraction, repulsion, passed = condensation(logits, segments, rep_margin=margin, query_mask=query_mask)
    rising = torch.arange(1, instances + 1, dtype=dtype)
    total = (attraction * rising).sum() + (repulsion * rising.flip(0)).sum() + 1e-3 * passed.square().sum()
    return attraction.detach(), repulsion.detach(), torch.autograd.grad(total, logits)[0]


@pytest.fixture(params=[64, 2])
def crowd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more instances than this have a crowd's repulsion, from three others."""
    for module in (plain, compiled):
        monkeypatch.setattr(module, "CROWD", request.param)
    for module in (plain_crowd, compiled_crowd):
        monkeypatch.setattr(module, "NEAREST", 3)


@pytest.mark.usefixtures("crowd")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 2),
    queries=st.integers(1, 9),
    pixels=st.integers(1, 700),
    instances=st.integers(1, 20),
    offset=st.sampled_from([0.0, -10.0]),
    margin=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    padded=st.booleans(),
    overlap=st.sampled_from([0.0, 0.3]),
)
def test_kernels_agree_with_the_plain_path(
    seed: int,
    batch: int,
    queries: int,
    pixels: int,
    instances: int,
    offset: float,
    margin: float,
    dtype: torch.dtype,
    padded: bool,
    overlap: float,
) -> None:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, instances + 1, (batch, pixels), generator=g)
    logits = (torch.randn(batch, queries, pixels, generator=g) + offset).to(dtype)
    masks = torch.rand(batch, instances, pixels, generator=g) < overlap if overlap else None
    query_mask = torch.rand(batch, queries, generator=g) < 0.7 if padded else None
    if query_mask is not None:
        query_mask[:, 0] = True
    found = terms(logits, labels, masks, instances, margin, query_mask)
    expected = terms(logits.double(), labels, masks, instances, margin, query_mask)
    for part, exact in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(part.double(), exact, rtol=1e-4, atol=1e-5)
    assert found[2].dtype == dtype
    scale = max(1e-3, float(expected[2].abs().max()))
    rounding = 1e-3 if dtype == torch.float32 else 3e-2
    # a pixel at which all queries agree is at the hinge's edge: rounding decides whether it repels
    alike = logits == logits[:, :1]
    edge = (alike if query_mask is None else alike | ~query_mask[..., None]).all(1, keepdim=True)
    off = ((found[2].double() - expected[2]).abs() > rounding * scale) & ~edge
    assert not off.any()
