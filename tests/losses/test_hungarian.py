"""The baseline is Mask2Former's own loss on the same pixels, and never crashes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from mask_cases import NUM_CLASSES, Batch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher, Mask2FormerLoss

from influencerformer.losses import HungarianMaskLoss, hungarian_mask_loss
from influencerformer.losses.hungarian import hungarian_assignment

HEIGHT, WIDTH = 6, 7
WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


@pytest.fixture
def same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes transformers read the whole grid in place of random points."""
    monkeypatch.setattr(modeling_mask2former, "sample_point", lambda features, *_, **__: features.flatten(2))

    def no_points(self: Mask2FormerLoss, logits: Tensor, *_: object) -> Tensor:
        return logits.new_zeros(len(logits), 1, 2)

    monkeypatch.setattr(Mask2FormerLoss, "sample_points_using_uncertainty", no_points)


def criterion() -> Mask2FormerLoss:
    loss = Mask2FormerLoss(Mask2FormerConfig(num_labels=NUM_CLASSES), WEIGHTS)
    loss.matcher = Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=1)
    return loss


@pytest.mark.usefixtures("same_points")
@pytest.mark.parametrize("counts", [(3,), (3, 1, 4), (2, 0, 1), (6, 2)])
def test_equals_transformers(counts: tuple[int, ...]) -> None:
    """Also with an image without instances and one with more instances than the 5 queries."""
    batch = Batch(0, layers=3, counts=counts, pixels=HEIGHT * WIDTH, ignored=False)
    maps = batch.masks.unflatten(-1, (HEIGHT, WIDTH)).float()
    truths = [
        mask[:k].unflatten(-1, (HEIGHT, WIDTH)).float() for mask, k in zip(batch.instance_masks(), counts, strict=True)
    ]
    classes = [row[:k] for row, k in zip(batch.classes, counts, strict=True)]
    class_logits = batch.class_logits.float()
    auxiliary = [{"masks_queries_logits": maps[i], "class_queries_logits": class_logits[i]} for i in range(2)]
    theirs = criterion()(maps[-1], class_logits[-1], truths, classes, auxiliary)
    summed = {
        name: weight * sum(value for key, value in theirs.items() if key.startswith(name))
        for name, weight in WEIGHTS.items()
    }
    ours = hungarian_mask_loss(maps.flatten(-2), batch.labels, class_logits, batch.classes)
    torch.testing.assert_close(ours["claim_mask"], summed["loss_mask"])
    torch.testing.assert_close(ours["claim_dice"], summed["loss_dice"])
    torch.testing.assert_close(ours["existence"], summed["loss_cross_entropy"])
    torch.testing.assert_close(ours["loss"], sum(summed.values()))


def assignment_cost(cost: Tensor, assignment: Tensor) -> float:
    return (cost * assignment).sum().item()


@pytest.mark.parametrize(("queries", "count"), [(5, 3), (3, 3), (3, 5), (1, 4), (4, 1)])
def test_assignment_is_scipys(queries: int, count: int) -> None:
    cost = torch.randn(2, 4, queries, count, generator=torch.Generator().manual_seed(0))
    found = hungarian_assignment(cost, torch.ones(4, count, dtype=torch.bool))
    assert found.shape == cost.shape
    assert found.dtype == cost.dtype
    for layer in range(2):
        for image in range(4):
            rows, columns = linear_sum_assignment(cost[layer, image].numpy())
            expected = torch.zeros(queries, count)
            expected[rows, columns] = 1
            assert torch.equal(found[layer, image], expected)


def test_assignment_leaves_padding_out() -> None:
    """The cheapest entries lie in the padding."""
    cost = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0))
    cost[:, 3] = cost[:, :, 2] = -10
    found = hungarian_assignment(cost, torch.tensor([[True, True, False]]), torch.tensor([[True, True, True, False]]))
    assert found.sum() == 2
    assert found[:, 3].sum() == found[:, :, 2].sum() == 0
    rows, columns = linear_sum_assignment(cost[0, :3, :2].numpy())
    assert found[0, rows, columns].tolist() == [1, 1]


BAD: dict[str, Callable[[Tensor], None]] = {
    "one nan": lambda c: c[0, 0, 0].fill_(torch.nan),
    "one infinite": lambda c: c[0, 1, 1].fill_(torch.inf),
    "minus infinite": lambda c: c[0, 1, 1].fill_(-torch.inf),
    "a row": lambda c: c[0, 2].fill_(torch.nan),
    "a column": lambda c: c[0, :, 1].fill_(torch.inf),
    "all nan": lambda c: c.fill_(torch.nan),
    "all infinite": lambda c: c.fill_(torch.inf),
    "largest numbers": lambda c: c[0, 0].fill_(torch.finfo(c.dtype).max),
    "nan beside largest": lambda c: (c[0, 0].fill_(torch.finfo(c.dtype).max), c[0, 1].fill_(torch.nan)),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("case", BAD)
def test_costs_that_are_not_finite_never_crash(case: str) -> None:
    cost = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0))
    BAD[case](cost)
    found = hungarian_assignment(cost, torch.ones(1, 3, dtype=torch.bool))
    assert found[0].sum(0).tolist() == [1, 1, 1]
    assert found[0].sum(1).max() <= 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_finite_costs_win_over_others(bad: float) -> None:
    cost = torch.full((1, 3, 2), bad)
    cost[0, 1, 0] = 1e6
    cost[0, 2, 1] = -3.0
    found = hungarian_assignment(cost, torch.ones(1, 2, dtype=torch.bool))
    assert found[0].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_every_layer_is_matched_on_its_own() -> None:
    """A layer that has the queries the other way round is as good as any."""
    labels = torch.tensor([[1, 1, 2, 2, 0]])
    masks = torch.full((2, 1, 2, 5), -20.0)
    masks[0, 0, 0, :2] = masks[0, 0, 1, 2:4] = 20
    masks[1] = masks[0, :, [1, 0]]
    classes = torch.tensor([20.0, -20.0]).expand(2, 1, 2, 2)
    assert hungarian_mask_loss(masks, labels, classes, torch.tensor([[0, 0]]))["loss"] < 1e-5


def test_module_equals_function() -> None:
    batch = Batch(1)
    torch.testing.assert_close(HungarianMaskLoss()(*batch.arguments), hungarian_mask_loss(*batch.arguments))


@pytest.mark.parametrize("seed", range(20))
def test_pairs_that_may_not_be_claimed_are_not_matched(seed: int) -> None:
    """As many others as can be are, at the least cost: all ways are tried."""
    g = torch.Generator().manual_seed(seed)
    queries, count = 4, 3
    cost, allowed = torch.randn(1, 1, queries, count, generator=g), torch.rand(1, queries, count, generator=g) < 0.4
    found = hungarian_assignment(cost, torch.ones(1, count, dtype=torch.bool), claim_mask=allowed)[0, 0].bool()
    ways = []
    for chosen in itertools.permutations(range(queries), count):
        pairs = [(q, k) for k, q in enumerate(chosen) if allowed[0, q, k]]
        ways.append((-len(pairs), sum(float(cost[0, 0, q, k]) for q, k in pairs)))
    most, least = min(ways)
    assert not bool((found & ~allowed[0]).any())
    assert int(found.sum()) == -most
    assert float(cost[0, 0][found].sum()) == pytest.approx(least, abs=1e-5)


def test_an_instance_that_no_query_may_claim_is_left_out() -> None:
    batch = Batch(0, counts=(3, 2))
    allowed = torch.ones(2, batch.arguments[0].shape[-2], 3, dtype=torch.bool)
    allowed[0, :, 1] = False
    loss = hungarian_mask_loss(*batch.arguments, claim_mask=allowed)
    masks, labels, classes, class_labels = batch.arguments
    class_labels = class_labels.clone()
    class_labels[0, 1] = (class_labels[0, 1] + 1) % NUM_CLASSES
    other = hungarian_mask_loss(masks, labels, classes, class_labels, claim_mask=allowed)
    assert loss["loss"] == other["loss"]
    assert loss["loss"] != hungarian_mask_loss(*batch.arguments)["loss"]
