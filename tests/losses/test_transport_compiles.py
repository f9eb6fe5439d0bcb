"""The projections compile as one graph, without a break and without a look at values."""

from __future__ import annotations

import torch

from influencerformer.losses.transport import partial_transport


def test_one_graph_gives_the_same_claims() -> None:
    g = torch.Generator().manual_seed(0)
    potential, none = torch.rand(2, 3, 7, 4, generator=g), 0.2 * torch.rand(2, 3, 7, generator=g)
    exists = torch.rand(3, 4, generator=g) < 0.8
    compiled = torch.compile(partial_transport, fullgraph=True, backend="aot_eager")
    expected = partial_transport(potential, none, exists, 0.05)
    torch.testing.assert_close(compiled(potential, none, exists, 0.05), expected, rtol=1e-4, atol=1e-5)
