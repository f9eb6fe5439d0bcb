"""`fit`: what a run leaves behind, and that resuming, interrupting and failing lose nothing."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from influencerformer.errors import UserError
from influencerformer.training.cli import FitCLI, validate
from influencerformer.training.module import InstanceSegmenter
from influencerformer.training.segmenter import NonFiniteLossError
from influencerformer.training.tasks import load_segmenter

Train = Callable[..., FitCLI]


class InterruptAt(Callback):
    """Ctrl-C after a step, in the middle of the one after it, or in the validation that follows."""

    def __init__(self, step: int, within_step: bool = False, within_validation: bool = False) -> None:
        self.step = step
        self.within_step = within_step
        self.within_validation = within_validation

    def on_validation_batch_end(self, trainer: Trainer, *args: object) -> None:
        if self.within_validation and trainer.global_step == self.step:
            raise KeyboardInterrupt

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if self.within_step and trainer.global_step == self.step:
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if not (self.within_step or self.within_validation) and trainer.global_step == self.step:
            raise KeyboardInterrupt


class Spoil(Callback):
    """Makes the weights of the class head NaN before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.model.class_predictor.weight.fill_(float("nan"))


class Record(Callback):
    """Notes what each training step was given."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, tuple[str, ...], float]] = []
        self.temperatures: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, index) -> None:
        self.steps.append((trainer.global_step, tuple(batch["names"]), float(batch["pixel_values"].sum())))
        self.temperatures.append(pl_module.model.criterion.loss.temperature)


def rows(out_dir: Path) -> list[dict[str, str]]:
    with (out_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_leaves_everything_needed_to_go_on(finished: FitCLI) -> None:
    out = finished.out_dir
    for name in ("last.ckpt", "best.ckpt", "metrics.csv", "config.yaml", "tensorboard"):
        assert (out / name).exists(), name
    table = rows(out)
    assert [int(row["step"]) for row in table] == [1, 2, 3, 4, 5, 6]
    assert [row["val/AP"] != "" for row in table] == [False, False, True, False, False, True]
    assert all(float(row["train/loss"]) > 0 for row in table)
    parts = [
        name for name in table[0] if name.startswith("train/") and name not in ("train/loss", "train/learning_rate")
    ]
    for row in table:
        assert sum(float(row[name]) for name in parts) == pytest.approx(float(row["train/loss"]), rel=1e-4)
    rates = [float(row["train/learning_rate"]) for row in table]
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["model"]["loss"] == "influencer"
    assert config["trainer"]["check_val_every_n_epoch"] is None
    assert not {"resume", "config", "base"} & config.keys()


def test_criterion_is_timed(finished: FitCLI) -> None:
    assert 0 < finished.model.criterion_seconds < 5
    assert 0 < finished.model.criterion_backward_seconds < 5


def test_temperature_falls_with_the_run(train: Train, tmp_path: Path) -> None:
    record = Record()
    options = ("--model.loss_options", "{temperature: [0.5, 0.02]}", "--trainer.limit_val_batches", "0")
    train(tmp_path, *options, callbacks=(record,))
    assert record.temperatures[0] == pytest.approx(0.5)
    assert record.temperatures[-1] == pytest.approx(0.02)
    assert record.temperatures == sorted(record.temperatures, reverse=True)


def test_validate_repeats_the_last_validation_of_the_run(finished: FitCLI, tmp_path: Path) -> None:
    found = validate(["--checkpoint", str(finished.out_dir / "last.ckpt")])
    last = rows(finished.out_dir)[-1]
    for name in ("val/AP", "val/AP50", "val/AP75", "val/loss"):
        assert found[name] == pytest.approx(float(last[name]), rel=1e-5), name


@pytest.mark.parametrize(
    "interrupt",
    [
        InterruptAt(2),
        InterruptAt(3),
        InterruptAt(4),
        InterruptAt(5, within_step=True),
        InterruptAt(3, within_validation=True),
        InterruptAt(6, within_validation=True),
    ],
    ids=[
        "within an epoch",
        "before a validation",
        "at the end of an epoch",
        "within a step",
        "within validation",
        "within the last validation",
    ],
)
def test_resumed_run_equals_uninterrupted_one(
    train: Train, finished: FitCLI, tmp_path: Path, interrupt: InterruptAt
) -> None:
    first, second = Record(), Record()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=(first, interrupt))
    assert (tmp_path / "last.ckpt").is_file()
    resumed = train(tmp_path, "--resume", callbacks=(second,))
    assert resumed.trainer.global_step == 6
    # What was cut off is made again, on the same batches.
    made = first.steps + second.steps
    assert len({step for step, *_ in made}) == 6
    assert len(set(made)) == 6
    exact = dict(finished.model.named_parameters())
    if not interrupt.within_step:  # a forward pass made twice counts twice in running means
        exact |= finished.model.state_dict()
    for name, weight in exact.items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    # Every validation is complete; an interrupt right after a step can cost the log that step's training row.
    logged = {row["step"]: row for row in rows(tmp_path)}
    lost = set()
    for expected in rows(finished.out_dir):
        for name, value in expected.items():
            found = logged.get(expected["step"], {}).get(name, "")
            if not name.startswith("val/") and found == "":
                lost.add(expected["step"])
            elif not (interrupt.within_step and name.startswith("val/")):
                assert found == value, (expected["step"], name)
    assert lost <= {str(interrupt.step)}


def test_resume_starts_where_there_is_nothing_to_resume(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--resume", "--trainer.max_steps", "1").trainer.global_step == 1


def test_a_finished_run_is_not_overwritten(train: Train, finished: FitCLI) -> None:
    before = (finished.out_dir / "last.ckpt").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        train(finished.out_dir)
    assert train(finished.out_dir, "--resume").trainer.global_step == 6
    assert (finished.out_dir / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("option", "said"), [("--model.loss=hungarian", "its loss"), ("--model.num_queries=7", "its num_queries")]
)
def test_resume_refuses_another_model(train: Train, finished: FitCLI, option: str, said: str) -> None:
    with pytest.raises(UserError, match=f"another model: {said}"):
        train(finished.out_dir, "--resume", option)


def test_non_finite_loss_stops_and_names_the_step(train: Train, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 4: .*class_logits.*non_finite\.ckpt"):
        train(tmp_path, callbacks=(Spoil(4),))
    assert (tmp_path / "non_finite.ckpt").is_file()
    # The last good state, of the validation after step 3, is untouched.
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert all(weight.isfinite().all() for weight in load_segmenter(tmp_path / "last.ckpt").parameters())


def test_weights_at_the_start_do_not_depend_on_the_loss() -> None:
    states, draws = [], []
    for loss in ("influencer", "hungarian"):
        seed_everything(3)
        segmenter = InstanceSegmenter(num_classes=2, num_queries=5, loss=loss)
        states.append({k: v for k, v in segmenter.state_dict().items() if ".criterion." not in k})
        draws.append(torch.rand(3))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(*draws)


def test_schedule_needs_a_length(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cosine needs to know the length.*trainer\.max_steps"):
        train(tmp_path, "--trainer.max_steps", "-1")
