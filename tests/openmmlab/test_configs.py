"""The configurations of this repository through mmengine's Config, on top of OneFormer3D's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine")
pytest.importorskip("mmdet3d")

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASELINES = {
    "s3dis/oneformer3d_1xb4_s3dis-area-5.py": "oneformer3d_1xb2_s3dis-area-5.py",
    "scannet/oneformer3d_1xb2_scannet.py": "oneformer3d_1xb4_scannet.py",
}
EXPECTED = {
    "s3dis/influencerformer_1xb4_s3dis-area-5.py": {"non_object_weight": 0.05, "num_classes": 13, "bg_weight": 0.1},
    "scannet/influencerformer_1xb2_scannet.py": {"non_object_weight": 0.1, "num_classes": 18},
}
PAIRS = list(zip(BASELINES, EXPECTED, strict=True))


def load(path: Path) -> dict[str, Any]:
    return Config.fromfile(path, import_custom_modules=False).to_dict()


def differences(ours: Any, other: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Every leaf, list or key that two configurations do not share, by its dotted place."""
    if isinstance(ours, dict) and isinstance(other, dict):
        found = {}
        for name in ours.keys() | other.keys():
            found |= differences(ours.get(name, "absent"), other.get(name, "absent"), f"{where}.{name}".lstrip("."))
        return found
    if isinstance(ours, list) and isinstance(other, list) and len(ours) == len(other):
        found = {}
        for i, (a, b) in enumerate(zip(ours, other, strict=True)):
            found |= differences(a, b, f"{where}[{i}]")
        return found
    return {} if ours == other else {where: (ours, other)}


def test_every_configuration_is_in_a_pair() -> None:
    found = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py")}
    assert found == BASELINES.keys() | EXPECTED.keys()


@pytest.mark.parametrize(("name", "original"), BASELINES.items())
def test_the_baseline_is_oneformer3d_with_another_batch_size(root: Path, name: str, original: str) -> None:
    batch = 4 if "1xb4" in name else 2
    found = differences(load(CONFIGS / name), load(root / "configs" / original))
    assert found == {"train_dataloader.batch_size": (batch, 6 - batch)}


@pytest.mark.parametrize(("baseline", "influencer"), PAIRS)
def test_a_pair_differs_in_the_criterion_alone(root: Path, baseline: str, influencer: str) -> None:
    ours, other = load(CONFIGS / influencer), load(CONFIGS / baseline)
    before, after = other["model"]["criterion"], ours["model"]["criterion"]
    original, swapped = before.pop("inst_criterion"), after.pop("inst_criterion")
    imports = ours.pop("custom_imports"), other.pop("custom_imports")
    assert differences(ours, other) == {}
    assert imports == ({"imports": ["oneformer3d", "influencerformer"]}, {"imports": ["oneformer3d"]})
    assert original["type"] == "InstanceCriterion"
    assert swapped.pop("type") == "InfluencerCriterion"
    assert swapped == {"loss_weight": [0.5, 1.0, 1.0, 0.5], "fix_dice_loss_weight": True, **EXPECTED[influencer]}
    assert {name: original[name] for name in swapped if name in original} == {
        name: value for name, value in swapped.items() if name != "bg_weight"
    }


@pytest.mark.parametrize("name", [*BASELINES, *EXPECTED])
def test_a_missing_oneformer3d_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEFORMER3D_ROOT", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/absent/configs/oneformer3d_1xb\d_\S+\.py"):
        load(CONFIGS / name)


@pytest.mark.parametrize("name", [*BASELINES, *EXPECTED])
def test_oneformer3d_beside_the_repository_is_the_default(
    name: str, standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEFORMER3D_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    for folder in ("s3dis", "scannet"):
        shutil.copytree(CONFIGS / folder, tmp_path / "repository/configs" / folder)
    with pytest.raises(FileNotFoundError, match="oneformer3d/configs/oneformer3d_1xb"):
        load(tmp_path / "repository/configs" / name)
    shutil.copytree(standin, tmp_path / "oneformer3d")
    assert load(tmp_path / "repository/configs" / name)["custom_imports"]["imports"][0] == "oneformer3d"


@pytest.mark.parametrize(("name", "registered"), [*((n, False) for n in BASELINES), *((n, True) for n in EXPECTED)])
def test_custom_imports_register(name: str, registered: bool, standin: Path) -> None:
    script = (
        "import sys\nfrom mmengine.config import Config\nConfig.fromfile(sys.argv[1])\n"
        "from mmdet3d.registry import MODELS\n"
        "print(sorted({'S3DISUnifiedCriterion', 'InfluencerCriterion'} & MODELS.module_dict.keys()))"
    )
    environment = {**os.environ, "ONEFORMER3D_ROOT": str(standin), "PYTHONPATH": str(standin)}
    command = [sys.executable, "-c", script, str(CONFIGS / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    expected = ["InfluencerCriterion", "S3DISUnifiedCriterion"] if registered else ["S3DISUnifiedCriterion"]
    assert done.stdout.splitlines()[-1] == str(expected)


@pytest.mark.parametrize("name", [*BASELINES, *EXPECTED])
def test_no_path_of_a_machine(root: Path, name: str) -> None:
    config = load(CONFIGS / name)
    assert not config["load_from"].startswith("/")
    assert config["data_root"] in ("data/s3dis/", "data/scannet/")
