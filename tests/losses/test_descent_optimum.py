"""Gradient descent from random logits ends at an injection with perfect masks and classes."""

from __future__ import annotations

import pytest
import torch

from influencerformer.losses import MaskInfluencerLoss

STEPS = 200
SEEDS = 8
CASES: dict[str, tuple[list[int], list[int], int]] = {
    "two in four": ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0], 4),
    "no spare query": ([1, 1, 2, 2, 3, 3, 0, 0], [0, 1, 0], 3),
    "one pixel": ([0] * 8 + [1, 2, 2, 2, 2, 3, 3], [0, 0, 1], 6),
    "five of one class": ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, -1], [0] * 5, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_descent_finds_the_injection(case: str) -> None:
    """The images of the batch differ in their start alone."""
    labels, classes, num_queries = CASES[case]
    truth, wanted = torch.tensor(labels), torch.tensor(classes)
    g = torch.Generator().manual_seed(0)
    masks = (0.3 * torch.randn(SEEDS, num_queries, len(labels), generator=g)).requires_grad_()
    class_logits = (0.3 * torch.randn(SEEDS, num_queries, 3, generator=g)).requires_grad_()
    # without a spare query a colder start can keep two queries in each other's place
    start = 0.5 if num_queries == len(classes) else MaskInfluencerLoss().temperature
    criterion = MaskInfluencerLoss((start, 0.02), total_steps=STEPS)
    optimizer = torch.optim.Adam([masks, class_logits], lr=0.3)
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        result = criterion(masks, truth.expand(SEEDS, -1), class_logits, wanted.expand(SEEDS, -1))
        result["loss"].backward()
        optimizer.step()
        history.append(result["loss"].item())

    predicted = (masks.detach() > 0) & (truth >= 0)
    instances = truth == torch.arange(1, len(classes) + 1)[:, None]
    perfect = (predicted[:, :, None] == instances).all(-1)  # (seeds, Q, K)
    labelled = class_logits.detach().argmax(-1)
    answers = perfect & (labelled[..., None] == wanted)
    assert (answers.sum(1) == 1).all(), "every instance has one query with its mask and its class"
    assert (answers.sum(2) <= 1).all()
    assert (labelled[~answers.any(2)] == 2).all(), "the other queries are no-object"
    assert history[-1] < 0.1 < history[0]
