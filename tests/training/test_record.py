"""The recorder on a network of one weight: curves, times, checksums, and resuming."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from influencerformer.training.record import (
    EvalPoint,
    LossPoint,
    RunRecord,
    RunRecorder,
    checksum,
    parameter_checksum,
    peak_resident_bytes,
    write_json,
)

STEP_SECONDS, VALIDATION_SECONDS = 0.01, 0.2


class OneWeight(pl.LightningModule):
    """Loss and AP are known functions of the step; a step and a validation take known times."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.model.criterion = nn.Identity()
        self.stop_at = stop_at
        self.criterion_seconds, self.criterion_backward_seconds = 0.002, 0.001

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.stop_at:
            raise RuntimeError("power cut")
        time.sleep(STEP_SECONDS)
        self.model.criterion.parts = {"loss": torch.tensor(9.0), "pull": torch.tensor(float(self.global_step))}
        return self.model(batch).sum() * 0 + self.global_step

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        time.sleep(VALIDATION_SECONDS)
        self.log_dict({"val/AP": 10.0 + self.global_step, "val/AP50": 20.0, "val/loss": float("nan")})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.arange(4.0)[:, None], batch_size=1)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.zeros(1, 1))


def train(folder: Path, stop_at: int | None = None, seed: int = 0, resume: bool = False) -> RunRecord:
    pl.seed_everything(seed, verbose=False)
    recorder = RunRecorder("influencer", seed, "digest")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=8,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder, ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1, filename="{step}")],
    )
    try:
        trainer.fit(OneWeight(stop_at), ckpt_path=folder / "step=4.ckpt" if resume else None)
    except RuntimeError:
        assert stop_at is not None
    record = RunRecord.load(folder)
    assert record is not None
    return record


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_recorded(tmp_path: Path) -> None:
    record = train(tmp_path)
    assert (record.loss, record.seed, record.config_digest) == ("influencer", 0, "digest")
    assert record.finished
    assert (record.steps, record.max_steps, record.parameters) == (8, 8, 2)
    assert [(p.step, p.ap, p.ap50, p.val_loss) for p in record.evaluations] == [
        (3, 13.0, 20.0, None),
        (6, 16.0, 20.0, None),
    ]
    assert [(p.step, p.loss, p.parts) for p in record.losses] == [
        (step + 1, float(step), {"pull": float(step)}) for step in range(8)
    ]
    assert record.timed_steps == 7
    assert record.criterion_step_seconds == pytest.approx(0.003)
    assert record.step_seconds is not None
    assert record.step_seconds >= STEP_SECONDS
    assert 8 * STEP_SECONDS <= record.seconds < 8 * STEP_SECONDS + VALIDATION_SECONDS
    assert record.evaluations[0].seconds < record.evaluations[1].seconds < record.seconds
    assert record.memory_kind == "process"
    assert record.peak_memory > 50 * 2**20
    assert "thread" in record.machine
    assert record.versions["torch"] == torch.__version__


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on_where_the_checkpoint_was_taken(tmp_path: Path) -> None:
    cut = train(tmp_path, stop_at=7)
    assert not cut.finished
    assert cut.evaluations[-1].step == 6
    resumed = train(tmp_path, resume=True)
    whole = train(tmp_path / "whole")
    assert resumed.finished
    assert resumed.resumed_at == [4]
    assert [p.step for p in resumed.evaluations] == [p.step for p in whole.evaluations]
    assert [(p.step, p.loss) for p in resumed.losses] == [(p.step, p.loss) for p in whole.losses]
    assert resumed.init_checksum == whole.init_checksum
    assert resumed.batch_checksum == whole.batch_checksum
    seconds = [p.seconds for p in resumed.losses]
    assert seconds == sorted(seconds)
    assert resumed.seconds < whole.seconds + VALIDATION_SECONDS


@pytest.mark.filterwarnings("ignore")
def test_checksums_tell_runs_apart(tmp_path: Path) -> None:
    one, same, other = (train(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert one.init_checksum == same.init_checksum != other.init_checksum
    assert one.batch_checksum == same.batch_checksum == other.batch_checksum


def test_checksum_sees_values_order_and_names() -> None:
    batch = {"pixel_values": torch.rand(2, 3, 64, 64), "names": ["a", "b"], "class_labels": [torch.ones(2)]}
    base = checksum(batch)
    assert checksum({name: batch[name] for name in reversed(batch)}) == base
    assert checksum(batch, 1) != base
    assert checksum(batch | {"names": ["b", "a"]}) != base
    assert checksum(batch | {"pixel_values": batch["pixel_values"] + 1e-3}) != base  # type: ignore[operator]
    assert checksum(batch | {"class_labels": [torch.zeros(2)]}) != base
    assert checksum(torch.ones(3, dtype=torch.bfloat16)) != checksum(torch.zeros(3, dtype=torch.bfloat16))


def test_parameter_checksum_sees_one_changed_weight() -> None:
    network = nn.Linear(3, 3)
    before = parameter_checksum(network)
    assert parameter_checksum(network) == before
    with torch.no_grad():
        network.weight[1, 2] += 1e-3
    assert parameter_checksum(network) != before


def test_storage_round_trip(tmp_path: Path) -> None:
    record = RunRecord(
        "hungarian", 3, evaluations=[EvalPoint(1, 2.0, 3.0, 4.0)], losses=[LossPoint(1, 2.0, None, {"a": 1.0})]
    )
    assert RunRecord.load(tmp_path) is None
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_resident_bytes()
    held = torch.ones(64 * 2**20)
    assert peak_resident_bytes() >= before
    assert peak_resident_bytes() > held.nbytes
