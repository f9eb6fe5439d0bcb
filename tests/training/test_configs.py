"""The configurations that come with the package."""

from pathlib import Path
from typing import Any

import pytest

from influencerformer.training.cli import FitCLI
from influencerformer.training.config_files import expand_configs, resolve_config, with_bases

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
INFLUENCER = [name for name in ALL if "influencer" in Path(name).name]


def parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for hook in ("before_instantiate_classes", "instantiate_classes", "after_instantiate_classes"):
        monkeypatch.setattr(FitCLI, hook, lambda self: None)
    config = FitCLI(["--config", str(path)], "influencerformer fit", "").config
    for name in ("config", "base"):
        config.pop(name)
    return config.as_flat().__dict__


def test_every_family_has_a_pair() -> None:
    families = {"scenes", "nuclei", "coco", "coco_subset", "rooms", "s3dis", "scannet", "tracks"}
    assert {Path(name).parent.name for name in INFLUENCER} == families
    assert [name.replace("influencer", "hungarian") for name in INFLUENCER] == [
        name for name in ALL if "hungarian" in Path(name).name
    ]


@pytest.mark.parametrize("name", INFLUENCER)
def test_a_pair_differs_in_the_loss_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = parsed(CONFIGS / name, monkeypatch)
    other = parsed(CONFIGS / name.replace("influencer", "hungarian"), monkeypatch)
    assert ours.keys() == other.keys()
    assert {key: (ours[key], other[key]) for key in ours if ours[key] != other[key]} == {
        "model.loss": ("influencer", "hungarian")
    }


@pytest.mark.parametrize("name", ALL)
def test_no_path_of_a_machine(name: str) -> None:
    root = resolve_config(CONFIGS / name)["data"].get("root", "")
    assert not Path(root).is_absolute()


def test_coco_follows_the_published_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(CONFIGS / "coco/mask2former_swin_t_influencer.yaml", monkeypatch)
    expected = {
        "model.architecture": "mask2former-swin-t",
        "model.pretrained": True,
        "model.num_queries": 100,
        "model.learning_rate": 1e-4,
        "model.weight_decay": 0.05,
        "model.backbone_lr_multiplier": 0.1,
        "model.schedule": "multistep",
        "trainer.max_steps": 368_750,
        "trainer.gradient_clip_val": 0.01,
        "data.crop_size": 1024,
        "data.scale_jitter": (0.1, 2.0),
    }
    assert {key: tuple(v) if isinstance(v := config[key], list) else v for key in expected} == expected


def test_later_files_win_and_mappings_merge(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text("model: {loss: hungarian, num_queries: 5}\ntrainer: {max_steps: 1}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {num_queries: 7}\n")
    (tmp_path / "sub/c.yaml").write_text("base: ../b.yaml\nmodel: {loss: influencer}\n")
    assert resolve_config(tmp_path / "sub/c.yaml") == {
        "model": {"loss": "influencer", "num_queries": 7},
        "trainer": {"max_steps": 1},
    }
    assert [path.name for path in with_bases(tmp_path / "sub/c.yaml")] == ["a.yaml", "b.yaml", "c.yaml"]
    expanded = expand_configs(["--x", "1", "--config", f"{tmp_path}/b.yaml", f"--config={tmp_path}/a.yaml", "-c"])
    assert [Path(argument).name for argument in expanded] == ["--x", "1", "a.yaml", "b.yaml", "a.yaml", "--config"]
