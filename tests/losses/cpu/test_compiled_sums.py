"""The kernels' sums and gradients equal those of the plain path in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.losses import cpu
from influencerformer.losses.mask_sums import MaskSums, mask_sums
from influencerformer.losses.membership import Segments
from influencerformer.losses.targets import make_targets

pytest.importorskip("numba")


def truth(labels: Tensor, instances: int, dtype: torch.dtype, masks: Tensor | None = None) -> Segments:
    classes = torch.zeros(len(labels), instances, dtype=torch.int64)
    return Segments(make_targets(labels.shape[1], len(labels), dtype, labels, masks, classes))


def sums_and_gradient(
    logits: Tensor, labels: Tensor, instances: int, seed: int, masks: Tensor | None = None, **options: object
) -> tuple:
    """The sums, and the gradient of a random combination of them."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.detach().requires_grad_()
    found = mask_sums(logits, truth(labels, instances, dtype, masks), **options)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(part.shape, generator=g, dtype=torch.float64) for part in found]
    total = sum((part.double() * weight).sum() for part, weight in zip(found, weights, strict=True))
    return found, torch.autograd.grad(total, logits)[0]


def compare(found: tuple[MaskSums, Tensor], expected: tuple[MaskSums, Tensor], pixels: int, rounding: float) -> None:
    for part, exact in zip(found[0], expected[0], strict=True):
        scale = max(1.0, float(exact.detach().abs().max())) if exact.numel() else 1.0
        torch.testing.assert_close(part.double(), exact, rtol=0, atol=1e-5 * scale + 1e-7 * pixels)
    scale = max(1.0, float(expected[1].abs().max())) if expected[1].numel() else 1.0
    torch.testing.assert_close(found[1].double(), expected[1], rtol=0, atol=rounding * scale)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 2),
    queries=st.integers(1, 7),
    pixels=st.sampled_from([0, 1, 7, 300, 1500]),
    coherent=st.booleans(),
    instances=st.integers(0, 20),
    scale=st.sampled_from([0.0, 0.1, 3.0, 30.0, 1000.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    split=st.booleans(),
    bg_weight=st.sampled_from([1.0, 0.1, 0.0]),
    layout=st.sampled_from(["contiguous", "transposed", "strided"]),
    overlap=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_kernels_agree_with_the_plain_path(
    seed: int,
    batch: int,
    queries: int,
    pixels: int,
    coherent: bool,
    instances: int,
    scale: float,
    dtype: torch.dtype,
    split: bool,
    bg_weight: float,
    layout: str,
    overlap: float,
) -> None:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, instances + 1, (batch, pixels), generator=g)
    if coherent:
        labels = labels[:, torch.arange(pixels) // 40]
    logits = (scale * torch.randn(batch, queries, pixels, generator=g)).to(dtype)
    if layout == "transposed":
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "strided":
        logits = torch.stack([logits, logits], -1)[..., 0]
    masks = torch.rand(batch, instances, pixels, generator=g) < overlap if overlap else None
    options = {"split_softplus": split, "rep_weight": 0.7, "bg_weight": bg_weight, "masks": masks}
    found = sums_and_gradient(logits, labels, instances, seed, **options)
    assert found[1].dtype == dtype
    assert found[0].inside_logit.dtype == torch.float32
    expected = sums_and_gradient(logits.double(), labels, instances, seed, **options)
    rounding = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    compare(found, expected, pixels, rounding)


def test_the_kernels_are_what_float32_on_a_cpu_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([[0, 1, 1, 2]])
    assert truth(labels, 2, torch.float32).compiled(torch.zeros(1, 2, 4))
    assert truth(labels, 2, torch.float32).compiled(torch.zeros(1, 2, 4, dtype=torch.bfloat16))
    assert not truth(labels, 2, torch.float64).compiled(torch.zeros(1, 2, 4, dtype=torch.float64))
    monkeypatch.setattr(cpu, "AVAILABLE", False)
    assert not truth(labels, 2, torch.float32).compiled(torch.zeros(1, 2, 4))


def test_queries_of_no_interest_are_passed_over() -> None:
    g = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(-1, 4, (2, 50), generator=g), torch.randn(2, 4, 50, generator=g)
    active = torch.tensor([[True, False, True, True], [False, False, False, True]])
    found, grad = sums_and_gradient(logits, labels, 3, 0, active=active)
    expected, all_grads = sums_and_gradient(logits, labels, 3, 0)
    for part, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(part[active], whole[active])
        assert not part[~active].any()
    torch.testing.assert_close(grad[active], all_grads[active])
    assert not grad[~active].any()


def test_threads_do_not_change_a_bit() -> None:
    g = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(-1, 40, (2, 5000), generator=g), torch.randn(2, 50, 5000, generator=g)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sums_and_gradient(logits, labels, 39, 0)
        torch.set_num_threads(3)
        three = sums_and_gradient(logits, labels, 39, 0)
    finally:
        torch.set_num_threads(before)
    for part, again in zip((*one[0], one[1]), (*three[0], three[1]), strict=True):
        assert torch.equal(part, again)


@pytest.mark.parametrize("value", [-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4])
def test_softplus_of_any_logit_is_finite_and_exact(value: float) -> None:
    logits = torch.full((1, 1, 500), value)
    found, _ = sums_and_gradient(logits, torch.ones(1, 500, dtype=torch.int64), 1, 0)
    exact = 500 * torch.nn.functional.softplus(torch.tensor(value, dtype=torch.float64))
    torch.testing.assert_close(found.total_softplus.double().sum(), exact, rtol=1e-6, atol=1e-4)
