"""Accumulated gradients: those of one large batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from influencerformer.data.accumulation import look_ahead
from influencerformer.losses.normalizer import Accumulation, accumulated_with, mean_over_ranks
from influencerformer.training.cli import FitCLI


class Gradients(Callback):
    """Keeps the gradient of every optimiser step, and layers that look at a whole batch out of it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: dict, *args: object) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Of two gradients, relative to their length."""
    assert first.keys() == second.keys()
    apart = torch.stack([(first[n] - second[n]).double().square().sum() for n in first]).sum()
    return float((apart / torch.stack([first[n].double().square().sum() for n in first]).sum()).sqrt())


def run(train: Callable[..., FitCLI], folder: Path, *options: str) -> Gradients:
    seen = Gradients()
    still = ("--trainer.limit_val_batches=0", "--model.learning_rate=1e-12", "--model.weight_decay=0")
    train(folder, *still, *options, callbacks=(seen,))
    return seen


@pytest.mark.parametrize(("loss", "class_weight"), [("influencer", 0.0), ("influencer", 2.0), ("hungarian", 2.0)])
def test_an_accumulated_gradient_is_that_of_the_large_batch(
    loss: str, class_weight: float, train: Callable[..., FitCLI], tmp_path: Path
) -> None:
    """16 scenes: two steps of 3 batches of 2, and the epoch's last step of 2 batches of 2."""
    constant = ", temperature: 0.1" if loss == "influencer" else ""
    options = (
        f"--model.loss={loss}",
        f"--model.loss_options={{class_weight: {class_weight}{constant}}}",
        "--model.num_queries=10",
    )
    accumulated = run(
        train,
        tmp_path / "a",
        *options,
        "--data.batch_size=2",
        "--trainer.accumulate_grad_batches=3",
        "--trainer.max_steps=3",
    )
    large = run(train, tmp_path / "b", *options, "--data.batch_size=6", "--trainer.max_steps=2")
    assert len(accumulated.steps) == 3
    assert max(distance(*pair) for pair in zip(large.steps, accumulated.steps, strict=False)) < 1e-5
    assert sum(accumulated.losses[:3]) == pytest.approx(large.losses[0], rel=1e-5)
    # The last step of an epoch has fewer batches, which Lightning divides by 3 all the same.
    rest = run(train, tmp_path / "c", *options, "--data.batch_size=4", "--trainer.max_steps=4")
    assert distance(rest.steps[3], accumulated.steps[2]) < 1e-5


def test_batches_know_what_the_others_of_their_step_hold() -> None:
    counts = [3, 0, 2, 4, 1]
    batches = [{"names": ["a", "b"], "class_labels": [torch.zeros(n), torch.zeros(1)]} for n in counts]
    seen = [batch["accumulation"] for batch in look_ahead(batches, [2, 2, 1], 2)]
    assert [step["instances"] for step in seen] == [1, 4, 5, 3, 0]
    assert [step["images"] for step in seen] == [2, 2, 2, 2, 0]
    assert {step["batches"] for step in seen} == {2}


def test_only_the_batches_of_a_step_are_fetched_ahead() -> None:
    fetched = []

    def source():
        for i in range(6):
            fetched.append(i)
            yield {"names": [str(i)], "class_labels": [torch.zeros(1)]}

    batches = look_ahead(source(), [2, 2, 2], 2)
    next(batches)
    assert fetched == [0, 1]
    next(batches)
    assert fetched == [0, 1]
    next(batches)
    assert fetched == [0, 1, 2, 3]


def test_a_normaliser_counts_the_other_batches_of_a_step() -> None:
    with accumulated_with(Accumulation(batches=2, instances=5, images=4)):
        assert mean_over_ranks(torch.tensor(3.0)) == 4
        # a weight of 0.9 an instance and 0.5 an image: 7 + 4.5 + 2
        assert mean_over_ranks(torch.tensor(7.0), per_instance=0.9, per_image=0.5) == pytest.approx(6.75)
        with torch.no_grad():
            assert mean_over_ranks(torch.tensor(3.0)) == 3
    assert mean_over_ranks(torch.tensor(3.0)) == 3


def test_a_normaliser_of_nothing_is_the_least() -> None:
    assert mean_over_ranks(torch.zeros(2), least=0.25).tolist() == [0.25, 0.25]
