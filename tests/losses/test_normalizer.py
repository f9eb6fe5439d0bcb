"""The number that a loss is divided by, with and without several ranks."""

from __future__ import annotations

import pytest
import torch
from mask_cases import Batch
from torch import Tensor, distributed

from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss
from influencerformer.losses.normalizer import mean_over_ranks


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """This rank and another one, which has 9 instances."""

    def all_reduce(count: Tensor) -> None:
        count += 9

    monkeypatch.setattr(distributed, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)


def test_one_rank() -> None:
    assert mean_over_ranks(torch.tensor(7.0)) == 7
    assert mean_over_ranks(torch.tensor(0.0)) == 1


@pytest.mark.usefixtures("two_ranks")
def test_mean_of_two_ranks() -> None:
    count = torch.tensor(3.0)
    assert mean_over_ranks(count) == 6
    assert count == 3


@pytest.mark.parametrize("loss", [mask_influencer_loss, hungarian_mask_loss])
def test_mask_parts_are_divided_by_the_mean(loss: object, request: pytest.FixtureRequest) -> None:
    """So that the mean of the gradients over ranks is that of one large batch."""
    batch = Batch(0, counts=(2, 1))
    alone = loss(*batch.arguments)  # type: ignore[operator]
    request.getfixturevalue("two_ranks")
    together = loss(*batch.arguments)  # type: ignore[operator]
    for name in set(alone) & {"claim_mask", "claim_dice", "attraction", "repulsion"}:
        torch.testing.assert_close(together[name], alone[name] * 3 / 6)
    # the other rank's weights are 9 too; this one's are 1 an instance and 0.1 a query that none has claimed
    queries = batch.arguments[0].shape[-2] * len(batch.arguments[1])
    weights = 3 + 0.1 * (queries - 3)
    torch.testing.assert_close(together["existence"], alone["existence"] * 2 * weights / (weights + 9))
