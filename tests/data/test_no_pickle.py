"""No file is unpickled without limits, anywhere in the package and its scripts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from influencerformer.data.points.array_files import read_npy
from influencerformer.data.points.cloud_files import read_cloud
from influencerformer.data.points.room_cache import RoomCache
from influencerformer.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = [
    path for folder in ("influencerformer", "scripts", "examples") for path in (REPOSITORY / folder).rglob("*.py")
]
LIMITS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "load_from_checkpoint": ("weights_only", True),
}
FORBIDDEN = ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")
UNPICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(source: str) -> list[str]:
    """What in a program unpickles, or runs, what it is given."""
    found = []
    tree = ast.parse(source)
    for name, call in calls(tree):
        for ending, (option, value) in LIMITS.items():
            if name == ending or name.endswith(f".{ending}"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if given.get(option) != str(value):
                    found.append(f"{name} without {option}={value}")
        if name in FORBIDDEN:
            found.append(name)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {module}" for module in modules if module.split(".")[0] in UNPICKLERS]
    return found


def test_every_load_is_limited() -> None:
    assert len(SOURCES) > 100
    assert {str(path): found for path in SOURCES if (found := faults(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "import pickle",
        "from joblib import load",
        "yaml.load(text)",
        "Module.load_from_checkpoint(p)",
        "eval(text)",
    ],
)
def test_the_test_sees_what_it_looks_for(source: str) -> None:
    assert faults(source)
    assert not faults(
        "torch.load(p, weights_only=True)\nmodel.eval()\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)"
    )


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    for read in (read_npy, read_cloud):
        with pytest.raises(UserError, match=r"a\.npy cannot be read as an array of numbers \(it holds object values\)"):
            read(path)
    np.savez(tmp_path / "room.npz", key=np.frombuffer(b"k", np.uint8), a=np.array([None]))
    assert RoomCache(tmp_path).load("room", "k") is None
