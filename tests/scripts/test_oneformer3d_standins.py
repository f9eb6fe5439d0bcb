"""What the stand-ins for OneFormer3D's compiled packages compute, and how the launcher refuses."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def standins(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import oneformer3d_standins

    return oneformer3d_standins


def test_scatter_mean_averages_floats_and_floors_integers(standins: ModuleType) -> None:
    index = torch.tensor([0, 2, 0, 2, 2])
    values = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]])
    mean = standins.scatter_mean(values.float(), index, dim=-1, dim_size=4)
    assert torch.allclose(mean, torch.tensor([[0.5, 0.0, 2 / 3, 0.0], [1.0, 0.0, 1.0, 0.0]]))
    assert standins.scatter_mean(values, index).tolist() == [[0, 0, 0], [1, 0, 1]]
    assert torch.equal(standins.scatter_mean(values.float().T, index, dim=0), mean[:, :3].T)


def test_scatter_mean_passes_gradients(standins: ModuleType) -> None:
    values = torch.zeros(3, 2, requires_grad=True)
    standins.scatter_mean(values, torch.tensor([0, 0, 1]), dim=0).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]


def test_scatter_mean_refuses_what_it_does_not_cover(standins: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="one-dimensional"):
        standins.scatter_mean(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))


def test_voxels_are_sorted_averaged_and_mapped_back(standins: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    points = [torch.rand(count, 3, generator=generator) * 6 - 3 for count in (200, 100)]
    features = [torch.rand(count, 2, generator=generator) for count in (200, 100)]
    coordinates, values = standins.batch_sparse_collate(list(zip(points, features, strict=True)))
    assert coordinates.dtype == torch.int32
    assert torch.equal(coordinates[:, 0], torch.tensor([0] * 200 + [1] * 100, dtype=torch.int32))
    assert torch.equal(coordinates[:, 1:], torch.cat(points).floor().int())
    field = standins.TensorField(features=values, coordinates=coordinates)
    voxels = field.sparse()
    inverse = field.inverse_mapping(voxels.coordinate_map_key)
    expected, expected_inverse = torch.unique(coordinates, dim=0, return_inverse=True)
    assert torch.equal(voxels.coordinates, expected)
    assert torch.equal(inverse, expected_inverse)
    means = torch.stack([values[inverse == row].mean(0) for row in range(len(expected))])
    assert torch.allclose(voxels.features, means)
    with pytest.raises(RuntimeError, match="another"):
        field.inverse_mapping(0)


def test_stand_ins_name_what_is_missing(standins: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("MinkowskiEngine") is not None:
        pytest.skip("MinkowskiEngine is installed")
    for name in ("MinkowskiEngine", "MinkowskiEngine.MinkowskiOps", "MinkowskiEngine.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert standins.install_minkowski()
    try:
        import MinkowskiEngine as engine
        import MinkowskiEngine.MinkowskiOps as ops

        assert engine.RegionType(1) is engine.RegionType.HYPER_CROSS
        with pytest.raises(RuntimeError, match="MinkowskiConvolution needs it"):
            engine.MinkowskiConvolution(3, 4)
        with pytest.raises(RuntimeError, match="not installed"):
            ops.cat(1, 2)
        with pytest.raises(AttributeError):
            engine.something_else  # noqa: B018
        assert engine.__spec__ is not None
    finally:
        for name in ("MinkowskiEngine", "MinkowskiEngine.MinkowskiOps", "MinkowskiEngine.utils"):
            sys.modules.pop(name, None)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "oneformer3d_cpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_launcher_says_in_a_line_what_is_wrong(tmp_path: Path) -> None:
    missing = launch(str(tmp_path / "train.py"))
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: There is no script at")
    (tmp_path / "train.py").write_text("")
    outside = launch(str(tmp_path / "train.py"))
    assert outside.returncode == 2
    assert "not inside a checkout of OneFormer3D" in outside.stderr
    assert launch().returncode == 2


@pytest.mark.skipif(find_spec("mmdet3d") is not None, reason="mmdet3d is installed")
def test_launcher_names_the_package_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "oneformer3d").mkdir()
    (tmp_path / "oneformer3d" / "__init__.py").write_text("")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").write_text("")
    done = launch(str(tmp_path / "tools" / "train.py"))
    assert done.returncode == 2
    assert "OneFormer3D needs mm" in done.stderr
    assert "Traceback" not in done.stderr
