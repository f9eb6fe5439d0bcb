"""Fixtures for the tests against mmengine's and mmdet3d's own machinery (make test-mmdet3d)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oneformer3d_standin import write_oneformer3d

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = os.environ.get("ONEFORMER3D_ROOT")
"""The real OneFormer3D, whose configurations are then looked at too."""


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_oneformer3d(tmp_path_factory.mktemp("standin") / "oneformer3d")


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="not given"))])
def root(request: pytest.FixtureRequest, standin: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OneFormer3D's folder, with ONEFORMER3D_ROOT set to it."""
    folder = standin if request.param == "stand-in" else Path(str(REAL)).resolve()
    monkeypatch.setenv("ONEFORMER3D_ROOT", str(folder))
    return folder


@pytest.fixture(scope="session")
def models(standin: Path) -> Iterator[None]:
    """mmdet3d's model zoo and the stand-in's package imported, so that MODELS.build works without mmcv's operators."""
    sys.path[:0] = [str(REPOSITORY / "scripts"), str(standin)]
    import oneformer3d_standins

    oneformer3d_standins.install_mmcv_ops()
    __import__("mmdet3d.models")
    __import__("oneformer3d")
    __import__("influencerformer")
    yield
    for folder in (REPOSITORY / "scripts", standin):
        sys.path.remove(str(folder))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No runner's messages before a test and none of its own after it; checkpoints with mmengine's objects load."""
    from mmengine.logging import MessageHub

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    MessageHub._instance_dict.clear()
    yield
    MessageHub._instance_dict.clear()
