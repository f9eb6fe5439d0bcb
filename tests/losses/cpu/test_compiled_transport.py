"""The kernel's claims equal those of the plain form in double precision, whatever the temperature and the masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from influencerformer.losses import cpu
from influencerformer.losses.transport import partial_transport

pytest.importorskip("numba")


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 2),
    batch=st.integers(1, 3),
    queries=st.integers(1, 40),
    instances=st.integers(0, 30),
    temperature=st.sampled_from([1.0, 0.2, 0.02]),
    scale=st.sampled_from([1.0, 20.0]),
    iterations=st.sampled_from([1, 10]),
    masks=st.booleans(),
)
def test_kernel_agrees_with_the_plain_form(
    seed: int,
    layers: int,
    batch: int,
    queries: int,
    instances: int,
    temperature: float,
    scale: float,
    iterations: int,
    masks: bool,
) -> None:
    g = torch.Generator().manual_seed(seed)
    potential = scale * torch.rand(layers, batch, queries, instances, generator=g)
    none = 0.2 * torch.rand(layers, batch, queries, generator=g)
    exists = torch.rand(batch, instances, generator=g) < 0.8
    options: dict[str, torch.Tensor] = {}
    if masks:
        options["claim_mask"] = torch.rand(batch, queries, instances, generator=g) < 0.6
        options["query_mask"] = torch.rand(batch, queries, generator=g) < 0.8
        options["query_mask"][:, 0] = True
        exists &= (options["claim_mask"] & options["query_mask"][..., None]).any(1)
    assert cpu.applies(potential)
    found = partial_transport(potential, none, exists, temperature, iterations=iterations, **options)
    expected = partial_transport(
        potential.double(), none.double(), exists, temperature, iterations=iterations, **options
    )
    # a rounding of the potential is amplified by 1 / temperature
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * scale / temperature)
    torch.testing.assert_close(found.sum(-2), exists.float().expand(layers, batch, instances), rtol=0, atol=1e-5)
    if masks:
        allowed = options["claim_mask"] & options["query_mask"][..., None]
        assert not found[(~allowed).expand(found.shape)].any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), stages=st.integers(1, 4), iterations=st.sampled_from([1, 10]))
def test_kernel_agrees_over_several_temperatures(seed: int, stages: int, iterations: int) -> None:
    """Also where one is not colder than that before it."""
    g = torch.Generator().manual_seed(seed)
    potential, none = 5 * torch.rand(2, 2, 9, 7, generator=g), 0.2 * torch.rand(2, 2, 9, generator=g)
    exists = torch.rand(2, 7, generator=g) < 0.8
    temperatures = 0.05 + torch.rand(2, 2, stages, generator=g)
    found = partial_transport(potential, none, exists, temperatures, iterations=iterations)
    expected = partial_transport(
        potential.double(), none.double(), exists, temperatures.double(), iterations=iterations
    )
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.sum(-2), exists.float().expand(2, 2, 7), rtol=0, atol=1e-5)
