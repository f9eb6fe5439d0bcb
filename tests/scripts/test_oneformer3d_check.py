"""What oneformer3d_check.py says about packages and devices, and which checkpoints are converted."""

import os
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
PERMUTING_TOOL = """
import sys
import torch

source, target = sys.argv[sys.argv.index("--in-path") + 1], sys.argv[sys.argv.index("--out-path") + 1]
checkpoint = torch.load(source)
for name, value in checkpoint["state_dict"].items():
    if value.dim() == 5:
        checkpoint["state_dict"][name] = value.permute(1, 2, 3, 4, 0)
torch.save(checkpoint, target)
"""
VERSIONS = {
    "torch": "2.13.0+cpu",
    "numpy": "2.3.5",
    "pkg_resources": None,
    "mmengine": "0.10.7",
    "mmdet3d": "1.4.0",
    "spconv": "2.3.8",
    "influencerformer": None,
    "mmcv._ext": None,
    "torch_scatter": "2.1.2",
    "MinkowskiEngine": "0.5.4",
}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import oneformer3d_check

    return oneformer3d_check


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import oneformer3d_checkpoint

    return oneformer3d_checkpoint


def pretend(
    monkeypatch: pytest.MonkeyPatch, check: ModuleType, gpus: int, versions: dict[str, str | Exception | None]
) -> None:
    """Packages of these versions, or that fail to import, and as many GPUs."""
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus)

    def import_module(name: str) -> Any:
        version = {**VERSIONS, **versions}[name]
        if isinstance(version, Exception):
            raise version
        return SimpleNamespace(__version__=version or "", cuda=cuda)

    monkeypatch.setattr(check.importlib, "import_module", import_module)


@pytest.mark.parametrize(
    ("device", "versions", "said"),
    [
        ("cpu", {"mmengine": ModuleNotFoundError("No module named 'mmengine'")}, "mmengine cannot be imported"),
        ("cpu", {"mmdet3d": ModuleNotFoundError("No module named 'mmdet3d'")}, "mmdet3d cannot be imported"),
        ("cpu", {"mmdet3d": AssertionError("MMCV==2.2.0 is used")}, "(AssertionError: MMCV==2.2.0 is used)"),
        ("cpu", {"mmdet3d": "1.0.0rc6"}, "mmdet3d must be at least 1.1 and below 1.5, got 1.0.0rc6"),
        ("cpu", {"mmengine": "0.7.3"}, "mmengine must be at least 0.10 and below 1, got 0.7.3"),
        ("cpu", {"spconv": OSError("libcudart.so")}, "spconv cannot be imported (OSError: libcudart.so)"),
        ("cpu", {"spconv": "1.2.1"}, "spconv must be at least 2 and below 3, got 1.2.1"),
        ("cpu", {"numpy": "2.4.0"}, "np.in1d"),
        ("cpu", {"pkg_resources": ModuleNotFoundError("gone")}, "pip install 'setuptools<81'"),
        ("cpu", {"torch": "2.1.2+cu118"}, "torch must be at least 2.4, got 2.1.2+cu118"),
        ("cuda", {"mmcv._ext": ModuleNotFoundError("mmcv._ext")}, "in the place of mmcv-lite"),
        ("cuda", {"torch_scatter": OSError("undefined symbol")}, "torch_scatter cannot be imported"),
        ("cuda", {"MinkowskiEngine": ModuleNotFoundError("absent")}, "MinkowskiEngine cannot be imported"),
    ],
)
def test_packages(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str,
    versions: dict[str, Any], said: str,
) -> None:  # fmt: skip
    pretend(monkeypatch, check, 1, versions)
    assert check.main(["train", "--device", device, "--", "config.py"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("seen", "said"), [(0, "torch 2.13.0+cpu sees no CUDA device: install"), (2, "GPUS=4, but torch sees 2: set GPUS")]
)
def test_devices(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seen: int, said: str
) -> None:
    pretend(monkeypatch, check, seen, {})
    assert check.main(["train", "--gpus", "4", "--", "config.py"]) == 2
    assert said in capsys.readouterr().err


def saved(path: Path, layout: str, version: int | None) -> dict[str, torch.Tensor]:
    """A checkpoint with two sparse kernels in a layout, with or without mmengine's metadata; the kernels as they are
    in the model."""
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    kernels = {"unet.conv.2.weight": torch.rand(3, 2, 2, 2, 8), "input_conv.0.weight": torch.rand(8, 3, 3, 3, 6)}
    for name, kernel in kernels.items():
        state[name] = kernel if layout == "spconv 2" else kernel.permute(1, 2, 3, 4, 0)
        if layout == "twice":
            state[name] = state[name].permute(1, 2, 3, 4, 0)
    state["decoder.weight"] = torch.rand(2, 2)
    metadata = {} if version is None else {name.removesuffix(".weight"): {"version": version} for name in kernels}
    state._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    torch.save({"meta": {}, "state_dict": state}, path)
    return kernels


def as_loaded(path: Path) -> dict[str, torch.Tensor]:
    """The sparse kernels as mmdet3d lays them into the model: permuted unless of version 2."""
    state = torch.load(path, weights_only=False)["state_dict"]
    version = {name: state._metadata.get(name.removesuffix(".weight"), {}).get("version") for name in state}
    five = {name: value for name, value in state.items() if value.dim() == 5}
    return {name: value if version[name] == 2 else value.permute(4, 0, 1, 2, 3) for name, value in five.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "of3d/tools").mkdir(parents=True)
    (tmp_path / "of3d/tools/fix_spconv_checkpoint.py").write_text(PERMUTING_TOOL)
    return tmp_path / "of3d"


@pytest.mark.parametrize(
    ("layout", "version", "converted"),
    [("spconv 2", 2, False), ("spconv 1", None, False), ("spconv 2", None, True), ("spconv 1", 2, True)],
)
def test_a_checkpoint_loads_whole_and_stays_as_it_is(
    checkpoints: ModuleType, tmp_path: Path, root: Path, layout: str, version: int | None, converted: bool
) -> None:
    path = tmp_path / "epoch_9.pth"
    kernels = saved(path, layout, version)
    before = path.read_bytes()
    used = checkpoints.loadable_checkpoint(path, root)
    assert used == (tmp_path / "epoch_9_spconv.pth" if converted else path)
    loaded = as_loaded(used)
    assert all(torch.equal(loaded[name], kernel) for name, kernel in kernels.items())
    assert path.read_bytes() == before
    changed = used.stat().st_mtime_ns
    assert checkpoints.loadable_checkpoint(path, root) == used
    assert used.stat().st_mtime_ns == changed
    assert checkpoints.loadable_checkpoint(used, root) == used
    assert len(list(tmp_path.glob("*.p*"))) == 1 + converted


def test_a_newer_checkpoint_is_converted_anew(checkpoints: ModuleType, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "epoch_9.pth"
    saved(path, "spconv 2", None)
    copy = checkpoints.loadable_checkpoint(path, root)
    kernels = saved(path, "spconv 2", None)
    os.utime(path, (copy.stat().st_mtime + 5, copy.stat().st_mtime + 5))
    assert checkpoints.loadable_checkpoint(path, root) == copy
    assert torch.equal(as_loaded(copy)["input_conv.0.weight"], kernels["input_conv.0.weight"])


def test_no_sparse_kernels(checkpoints: ModuleType, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "dense.pth"
    torch.save({"weight": torch.rand(2)}, path)
    assert checkpoints.loadable_checkpoint(path, root) == path


def test_checkpoints_that_cannot_be_used(checkpoints: ModuleType, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.pth"

    def said() -> str:
        with pytest.raises(checkpoints.CheckpointError) as raised:
            checkpoints.loadable_checkpoint(path, root)
        return str(raised.value)

    assert f"There is no checkpoint {path}" in said()
    path.write_bytes(b"not a checkpoint")
    assert f"{path} is not a checkpoint that torch can read" in said()
    torch.save([1, 2], path)
    assert f"{path} holds no state_dict" in said()
    saved(path, "twice", None)
    assert "in no layout of spconv" in said()
    saved(path, "spconv 2", None)
    (root / "tools/fix_spconv_checkpoint.py").write_text("raise SystemExit(3)")
    assert "which failed" in said()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth", "of3d"]


class Planted:
    """Runs a function while it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_a_checkpoint_runs_no_code(checkpoints: ModuleType, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.pth"
    for planted in (Planted(os.mkdir, str(tmp_path / "planted")), Planted(getattr, "x", "upper")):
        torch.save({"state_dict": {}, "message_hub": planted}, path)
        with pytest.raises(checkpoints.CheckpointError, match=r"without running what it holds: \S") as raised:
            checkpoints.loadable_checkpoint(path, root)
        assert "weights_only" not in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "planted").exists()


def test_the_check_needs_no_torch_to_say_that_it_is_missing(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert check.main(["test", "--device", "cpu", "--", "config.py", "a.pth"]) == 2
    assert "torch cannot be imported" in capsys.readouterr().err
