"""InfluencerCriterion in mmdet3d's registry, and what register_criterion.py says about it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine")
pytest.importorskip("mmdet3d")

from mmdet3d.registry import MODELS
from mmengine.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "register_criterion.py"
PASS = "PASS: InfluencerCriterion is registered in the MODELS registry.\n"
CONFIGS = {
    "s3dis": ("influencerformer_1xb4_s3dis-area-5.py", "oneformer3d_1xb4_s3dis-area-5.py"),
    "scannet": ("influencerformer_1xb2_scannet.py", "oneformer3d_1xb2_scannet.py"),
}


def block(root: Path, dataset: str, baseline: bool) -> dict[str, Any]:
    path = REPOSITORY / "configs" / dataset / CONFIGS[dataset][baseline]
    return Config.fromfile(path, import_custom_modules=False).model.criterion.inst_criterion


@pytest.mark.parametrize("dataset", CONFIGS)
@pytest.mark.usefixtures("models")
def test_the_block_of_a_configuration_builds(root: Path, dataset: str) -> None:
    swapped = block(root, dataset, baseline=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion = MODELS.build(swapped)
    assert type(criterion).__module__.startswith("influencerformer.")
    assert callable(criterion)
    assert criterion.num_classes == (13 if dataset == "s3dis" else 18)


@pytest.mark.parametrize("dataset", CONFIGS)
@pytest.mark.usefixtures("models")
def test_swapping_the_type_alone_warns_once_of_what_is_ignored(root: Path, dataset: str) -> None:
    original = block(root, dataset, baseline=True)
    original.type = "InfluencerCriterion"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MODELS.build(original)
    (said,) = [str(entry.message) for entry in caught]
    for name in ("matcher", "fix_mean_loss"):
        assert name in said
    for name in ("iter_matcher", "num_classes", "fix_dice_loss_weight"):
        assert name not in said


@pytest.mark.usefixtures("models")
def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="'bgweight'"):
        MODELS.build({"type": "InfluencerCriterion", "num_classes": 3, "bgweight": 0.1})


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_verify_passes() -> None:
    done = run(str(SCRIPT), "--verify")
    assert (done.stdout, done.returncode) == (PASS, 0)


def test_without_verify_it_explains_the_use() -> None:
    done = run(str(SCRIPT))
    assert done.returncode == 0
    for word in ("custom_imports", "InfluencerCriterion", "_delete_=True", "--verify"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("stub", "text", "said"),
    [
        ("mmcv/__init__.py", "__version__ = '9.9.0'", "MMCV==9.9.0 is used but incompatible"),
        ("mmengine/__init__.py", "raise ImportError('broken')", "does not import (ImportError: broken)"),
        ("influencerformer/__init__.py", "raise ImportError('no torch')", "pip install -e this repository"),
        (
            "influencerformer/__init__.py",
            f"__path__ = [{str(REPOSITORY / 'influencerformer')!r}]",
            "MODELS has no InfluencerCriterion though influencerformer is imported",
        ),
        (
            "sitecustomize.py",
            "from mmdet3d.registry import MODELS\n@MODELS.register_module()\nclass InfluencerCriterion: ...\n",
            "MODELS has the name InfluencerCriterion for sitecustomize.InfluencerCriterion",
        ),
    ],
    ids=["mmcv", "mmengine", "broken", "not-registered", "name-taken"],
)
def test_verify_fails_with_the_reason(tmp_path: Path, stub: str, text: str, said: str) -> None:
    (tmp_path / stub).parent.mkdir(exist_ok=True)
    (tmp_path / stub).write_text(text)
    done = run(str(SCRIPT), "--verify", path=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL: ")
    assert said in done.stdout
    assert done.stdout.count("\n") == 1


def test_verify_fails_without_mmdet3d() -> None:
    done = run("-S", str(SCRIPT), "--verify")
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL: mmdet3d is not installed: run make mmdet3d")


def test_the_package_is_silent_without_mmdet3d() -> None:
    script = "import sys; sys.modules['mmdet3d'] = None; import influencerformer; influencerformer.mask_influencer_loss"
    done = run("-W", "error", "-c", script)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_an_mmdet3d_that_does_not_import_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").write_text("__version__ = '9.9.0'")
    done = run("-c", "import influencerformer; influencerformer.mask_influencer_loss", path=tmp_path)
    assert done.returncode == 0
    assert "InfluencerCriterion is not registered" in done.stderr
    assert "MMCV==9.9.0" in done.stderr
