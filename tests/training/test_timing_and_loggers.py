"""The criterion's clock, and the metrics file that survives resuming."""

import gc
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from influencerformer.training.loggers import MetricsFile
from influencerformer.training.timing import CriterionClock


class Slow(torch.autograd.Function):
    """Identity; its backward pass sleeps."""

    @staticmethod
    def forward(ctx, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return gradient, None


class SlowCriterion(nn.Module):
    """Sleeps for 20 ms forward, 30 ms backward; takes its inputs in nested containers, as transformers does."""

    def forward(self, logits: Tensor, layers: list[dict[str, Tensor]]) -> Tensor:
        time.sleep(0.02)
        return (Slow.apply(logits, 0.03) + sum(layer["logits"] for layer in layers)).sum()


@pytest.fixture
def step() -> tuple[CriterionClock, nn.Module, nn.Module]:
    criterion = SlowCriterion()
    return CriterionClock(criterion), criterion, nn.Linear(4, 4)


def test_clock_times_forward_and_backward_of_the_criterion_alone(
    step: tuple[CriterionClock, nn.Module, nn.Module],
) -> None:
    clock, criterion, network = step
    for _ in range(2):
        clock.reset()
        hidden = network(torch.ones(2, 4))
        features = Slow.apply(hidden, 0.3)  # the network's own backward pass, slow too, must not count
        loss = criterion(features, layers=[{"logits": features * 2}])
        clock.start_backward()
        loss.backward()
        assert 0.02 <= clock.forward_seconds < 0.2
        assert 0.03 <= clock.backward_seconds < 0.2


def test_a_timed_step_leaves_no_cycles(step: tuple[CriterionClock, nn.Module, nn.Module]) -> None:
    """They would hold memory until the rare collection of old objects: a run would grow for hours."""
    clock, criterion, network = step

    def train() -> None:
        clock.reset()
        features = network(torch.ones(2, 4))
        loss = criterion(features + 1, layers=[{"logits": features * 2}])
        clock.start_backward()
        loss.backward()

    train()
    gc.collect()
    gc.disable()
    try:
        train()
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert clock.backward_seconds > 0


def test_clock_changes_nothing_and_can_be_removed(step: tuple[CriterionClock, nn.Module, nn.Module]) -> None:
    clock, criterion, network = step
    with torch.no_grad():
        criterion(network(torch.ones(1, 4)), layers=[])
    assert clock.forward_seconds > 0
    assert clock.backward_seconds == 0
    clock.reset()
    clock.remove()
    criterion(network(torch.ones(1, 4)), layers=[]).backward()
    assert clock.forward_seconds == 0


def test_metrics_of_a_step_share_a_row_and_columns_may_come_later(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": torch.tensor(0.5), "epoch": 0}, step=3)
    log.log_metrics({"val/AP": 12.0}, step=3)
    log.log_metrics({"train/loss": 0.25}, step=4)
    log.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,train/loss,val/AP", "3,0.5,12.0", "4,0.25,"]


def test_metrics_go_on_after_a_resume(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step=step)
    first.save()
    second = MetricsFile(tmp_path)
    second.forget_after(1)
    second.log_metrics({"loss": 7.0}, step=2)
    second.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "0,0.0", "1,1.0", "2,7.0"]
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_written_without_metrics(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "run").finalize("success")
    assert not (tmp_path / "run").exists()
