"""oneformer3d_check.py with mmengine's Config: data, pretrained checkpoints and the arguments that it completes."""

import os
from pathlib import Path

import pytest

pytest.importorskip("mmengine")
pytest.importorskip("mmdet3d")

from mmengine.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
S3DIS = str(REPOSITORY / "configs/s3dis/influencerformer_1xb4_s3dis-area-5.py")
SCANNET = str(REPOSITORY / "configs/scannet/oneformer3d_1xb2_scannet.py")


class Check:
    """The script with its checks of packages and checkpoints' contents left out, in a folder like OneFormer3D's."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
        import oneformer3d_check

        self.module, self.folder, self.capsys = oneformer3d_check, folder, capsys
        self.converted: dict[Path, Path] = {}
        monkeypatch.setattr(oneformer3d_check, "check_package", lambda *_: None)
        monkeypatch.setattr(oneformer3d_check, "loadable_checkpoint", lambda path, _: self.converted.get(path, path))

    def __call__(self, mode: str, *arguments: str) -> list[str]:
        """The completed arguments."""
        code = self.module.main([mode, "--device", "cpu", "--", *arguments])
        captured = self.capsys.readouterr()
        assert code == 0, captured.err
        return captured.out.splitlines()

    def error(self, mode: str, *arguments: str) -> str:
        assert self.module.main([mode, "--device", "cpu", "--", *arguments]) == 2
        captured = self.capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()[-1]


@pytest.fixture
def check(standin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setenv("ONEFORMER3D_ROOT", str(standin))
    monkeypatch.delenv("DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return Check(tmp_path, capsys, monkeypatch)


def prepare(folder: Path) -> None:
    """Empty files where S3DIS is looked for."""
    (folder / "points").mkdir(parents=True)
    for area in range(1, 7):
        (folder / f"s3dis_infos_Area_{area}.pkl").touch()


def test_data_that_is_not_prepared(check: Check) -> None:
    said = check.error("train", S3DIS)
    assert said.startswith(f"error: {check.folder}/data/s3dis/s3dis_infos_Area_1.pkl is missing: prepare S3DIS as")
    assert "mmdetection3d's data/s3dis/README.md" in said
    assert "Area_5" in check.error("test", S3DIS, "a.pth")
    said = check.error("train", SCANNET)
    assert f"{check.folder}/data/scannet/scannet_oneformer3d_infos_train.pkl is missing: prepare ScanNet" in said
    assert "OneFormer3D's data/scannet/README.md" in said
    prepare(check.folder / "data/s3dis")
    (check.folder / "data/s3dis/s3dis_infos_Area_5.pkl").unlink()
    assert "Area_5" in check.error("train", S3DIS)
    (check.folder / "data/s3dis/s3dis_infos_Area_5.pkl").touch()
    (check.folder / "data/s3dis/points").rmdir()
    assert "data/s3dis/points is missing" in check.error("train", S3DIS)


def test_the_pretrained_checkpoint(check: Check) -> None:
    prepare(check.folder / "data/s3dis")
    name = "work_dirs/tmp/instance-only-oneformer3d_1xb2_scannet-and-structured3d.pth"
    said = check.error("train", S3DIS, "--work-dir", "w")
    assert f"The pretrained checkpoint {check.folder}/{name} is missing: download https://github.com/" in said
    assert "--cfg-options load_from=None" in said
    scratch = [S3DIS, "--work-dir", "w", "--cfg-options", "load_from=None", "a.b=1"]
    assert check("train", *scratch) == scratch
    remote = [S3DIS, "--cfg-options", "load_from=https://host/a.pth"]
    assert check("train", *remote) == remote
    assert check("train", S3DIS, "--resume") == [S3DIS, "--resume"]
    (check.folder / "work_dirs/tmp").mkdir(parents=True)
    (check.folder / name).touch()
    assert check("train", S3DIS, "--amp") == [S3DIS, "--amp"]
    check.converted[Path(name)] = Path("copy.pth")
    assert check("train", S3DIS) == [S3DIS, "--cfg-options", "load_from=copy.pth"]
    assert check("train", S3DIS, "--resume") == [S3DIS, "--resume"]


def test_a_checkpoint_to_resume(check: Check) -> None:
    prepare(check.folder / "data/s3dis")
    assert "There is no checkpoint absent.pth to resume" in check.error("train", S3DIS, "--resume=absent.pth")
    (check.folder / "a.pth").touch()
    assert check("train", S3DIS, "--resume=a.pth") == [S3DIS, "--resume=a.pth"]
    check.converted[Path("a.pth")] = Path("b.pth")
    assert check("train", S3DIS, "--resume=a.pth") == [S3DIS, "--resume=a.pth", "--resume=b.pth"]


def test_a_checkpoint_to_evaluate(check: Check) -> None:
    prepare(check.folder / "data/s3dis")
    arguments = [S3DIS, "a.pth", "--work-dir", "w", "--tta"]
    assert check("test", *arguments) == arguments
    check.converted[Path("a.pth")] = Path("b.pth")
    assert check("test", *arguments) == [S3DIS, "b.pth", "--work-dir", "w", "--tta"]


@pytest.mark.parametrize("config", [S3DIS, SCANNET])
def test_the_folder_of_the_data(check: Check, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = check.folder / "prepared"
    monkeypatch.setenv("DATA_ROOT", str(data))
    assert f"{data}/s" in check.error("train", config, "--cfg-options", "load_from=None")
    prepare(data)
    for split in ("train", "val"):
        (data / f"scannet_oneformer3d_infos_{split}.pkl").touch()
    given = [config, "--cfg-options", "load_from=None"]
    completed = check("train", *given)
    assert completed[: len(given) + 1] == [*given, "--cfg-options"]
    merged = Config.fromfile(config, import_custom_modules=False)
    tested = check("test", config, "a.pth")[3:]
    merged.merge_from_dict(dict(entry.split("=", 1) for entry in [*completed[len(given) + 1 :], *tested]))
    found = [
        dataset["data_root"]
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader")
        for _, dataset in check.module.datasets(merged[loader], loader)
    ]
    assert found == [str(data)] * (7 if config == S3DIS else 3)


def test_a_configuration_that_does_not_read(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a.py with these --cfg-options does not read" in check.error("train", "a.py")
    assert "does not read" in check.error("train", S3DIS, "--cfg-options", "train_dataloader.dataset.datasets.9.a=1")
    monkeypatch.setenv("ONEFORMER3D_ROOT", os.fspath(check.folder / "absent"))
    assert f"{check.folder}/absent/configs/" in check.error("train", S3DIS)
