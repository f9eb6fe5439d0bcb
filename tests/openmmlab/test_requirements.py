"""The pinned environment, the extra and the Makefile agree."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("mmdet3d")
tomllib = pytest.importorskip("tomllib")

REPOSITORY = Path(__file__).resolve().parents[2]


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / name).read_text().splitlines()
    return dict(re.split("==", line.lower()) for line in lines if line and not line.startswith("#"))


def test_every_line_is_a_pin_from_the_registry() -> None:
    for path in (REPOSITORY / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), f"{path.name}: {line}"


def test_the_extra_is_met_by_the_pins() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = pins("mmdet3d.txt")
    for text in project["optional-dependencies"]["mmdet3d"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[wanted.name]), text


def test_nothing_pulls_torch_or_a_second_mmcv() -> None:
    names = pins("mmdet3d.txt").keys() | pins("mmdet3d-nodeps.txt").keys() | pins("oneformer3d-cpu.txt").keys()
    assert not names & {"torch", "torchvision", "mmcv", "mmcv-full", "torch-scatter", "minkowskiengine"}
