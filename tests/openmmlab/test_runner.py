"""Training loops of mmengine's Runner with the criterion inside a wrapper, as in OneFormer3D."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine")
pytest.importorskip("mmdet3d")

import torch
from mmdet3d.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

CLASSES, QUERIES, SEMANTIC, POINTS = 13, 6, 13, 24
EPOCH, STEPS = 2, 10
PARTS = {
    "inst_claim_mask",
    "inst_claim_dice",
    "inst_existence",
    "inst_objectness",
    "inst_attraction",
    "inst_repulsion",
    "inst_temperature",
    "inst_nonfinite",
}

pytestmark = pytest.mark.usefixtures("models", "hub")


class TinyOneFormer3D(BaseModel):
    """One linear layer a head and three layers of predictions, in the shapes of OneFormer3D on S3DIS."""

    def __init__(self, criterion: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(QUERIES + SEMANTIC, 8))
        self.classes = nn.Linear(8, CLASSES + 1)
        self.scores = nn.Linear(8, 1)
        self.criterion = MODELS.build(criterion)

    def forward(self, points: list[Tensor], insts: list[Any], mode: str = "loss") -> dict[str, Tensor]:
        layers = [self.layer(points, scale) for scale in (0.5, 1.0, 2.0)]
        return self.criterion({**layers[-1], "aux_outputs": layers[:-1]}, insts)

    def layer(self, points: list[Tensor], scale: float) -> dict[str, list[Tensor]]:
        queries = scale * self.queries
        return {
            "masks": [queries @ features.T for features in points],
            "cls_preds": [self.classes(queries) for _ in points],
            "scores": [self.scores(queries) for _ in points],
        }


class Rooms(torch.utils.data.Dataset):
    """Rooms of two instances, the third of them empty."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        from oneformer3d import InstanceData_

        features = torch.randn(POINTS, 8, generator=torch.Generator().manual_seed(index))
        inst = InstanceData_()
        inst.sp_masks = torch.arange(POINTS)[None] // (POINTS // 2) == torch.arange(2)[:, None]
        inst.labels_3d = torch.tensor([index % CLASSES, 5])
        if index == 2:
            inst.sp_masks, inst.labels_3d = inst.sp_masks[:0], inst.labels_3d[:0]
        return features, inst


def batch_of(samples: list[tuple[Tensor, Any]]) -> dict[str, list[Any]]:
    return {"points": [points for points, _ in samples], "insts": [inst for _, inst in samples]}


def trained(work_dir: Path, resume: Path | None = None, steps: int = STEPS, **criterion: Any) -> Runner:
    """A finished run of so many iterations, from a checkpoint if `resume` names one."""
    MessageHub._instance_dict.clear()
    finished = runner(work_dir, resume, steps, **criterion)
    finished.train()
    return finished


def runner(work_dir: Path, resume: Path | None = None, steps: int = STEPS, **criterion: Any) -> Runner:
    block = {"type": "InfluencerCriterion", "num_classes": CLASSES, "bg_weight": 0.1, **criterion}
    wrapper = {
        "type": "S3DISUnifiedCriterion",
        "num_semantic_classes": SEMANTIC,
        "sem_criterion": {"loss_weight": 5.0},
        "inst_criterion": block,
    }
    return Runner(
        model=TinyOneFormer3D(wrapper),
        work_dir=str(work_dir),
        train_dataloader={
            "dataset": Rooms(),
            "batch_size": 2,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": batch_of,
        },
        train_cfg={"by_epoch": True, "max_epochs": steps // EPOCH},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.05}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 2}},
        default_scope="mmdet3d",
        randomness={"seed": 0},
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        log_level="WARNING",
    )


def history(finished: Runner) -> dict[str, list[float]]:
    """What the loop logged at every iteration."""
    scalars = finished.message_hub.log_scalars
    return {key.removeprefix("train/"): buffer.data[0].tolist() for key, buffer in scalars.items()}


def test_the_loss_is_the_sum_of_the_losses_and_falls(tmp_path: Path) -> None:
    logged = history(trained(tmp_path))
    assert logged.keys() >= PARTS
    assert len(logged["loss"]) == STEPS
    for step in range(STEPS):
        inst, semantic = logged["inst_loss"][step], logged["last_layer_seg_loss"][step]
        assert logged["loss"][step] == pytest.approx(inst + semantic, rel=1e-5)
        parts = [logged[name][step] for name in PARTS - {"inst_temperature", "inst_nonfinite"}]
        assert sum(parts) == pytest.approx(inst, rel=1e-4)
    assert sum(logged["inst_loss"][-2:]) < sum(logged["inst_loss"][:2])


def scheduled(steps: int) -> list[float]:
    return [0.2 * 0.1 ** min(1.0, step / steps / 0.7) for step in range(steps)]


def test_the_temperature_follows_the_iterations_of_the_runner(tmp_path: Path) -> None:
    logged = history(trained(tmp_path, temperature=(0.2, 0.02), anneal=0.7))
    assert logged["inst_temperature"] == pytest.approx(scheduled(STEPS), rel=1e-5)


@pytest.mark.parametrize("steps", [STEPS, 2 * STEPS])
def test_a_resumed_run_goes_on_in_its_schedule(tmp_path: Path, steps: int) -> None:
    trained(tmp_path / "first")
    resumed = trained(tmp_path / "rest", tmp_path / "first" / "epoch_2.pth", steps)
    assert resumed.iter == steps
    # the history of the first iterations comes back with the checkpoint
    after = history(resumed)["inst_temperature"][-(steps - 4) :]
    assert after == pytest.approx(scheduled(steps)[4:], rel=1e-5)


def test_the_model_has_no_state_of_the_criterion(tmp_path: Path) -> None:
    built = runner(tmp_path).model
    assert set(built.state_dict()) == {"queries", "classes.weight", "classes.bias", "scores.weight", "scores.bias"}
