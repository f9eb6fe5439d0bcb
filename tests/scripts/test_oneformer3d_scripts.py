"""train_*.sh and eval_*.sh: the commands they compose and what they say when something is missing.

The interpreter is a stand-in that notes down its arguments and, in the place of oneformer3d_check.py, returns the
arguments it was to complete.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE_PYTHON = """#!/usr/bin/env bash
name=${1##*/}
printf '%s\\n' "$PWD" "$ONEFORMER3D_ROOT" "$PYTHONPATH" "${DATA_ROOT:-}" "${CUDA_VISIBLE_DEVICES-unset}" \\
    "${TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD:-}" "$@" >> "$LOG.${name%.py}"
if [[ $1 == */oneformer3d_check.py ]]; then
    while [[ $1 != -- ]]; do shift; done
    shift
    [[ -z ${CHECK_FAILS:-} ]] || { echo "error: $CHECK_FAILS" >&2; exit 2; }
    printf '%s\\n' "$@" ${CHECK_ADDS:-}
fi
"""


@dataclass
class Call:
    """What the stand-in interpreter saw."""

    folder: Path
    root: str
    pythonpath: list[str]
    data_root: str
    visible: str
    trusted: str
    arguments: list[str]


@dataclass
class Place:
    """A folder with OneFormer3D, the stand-in interpreter and a caller's folder."""

    folder: Path
    root: Path
    environment: dict[str, str]

    def run(self, script: str, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        merged = {**self.environment, **environment}
        return subprocess.run(
            ["bash", str(REPOSITORY / "scripts" / script), *arguments],
            cwd=self.folder,
            env={name: value for name, value in merged.items() if value is not None},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def call(self, name: str) -> Call:
        """The call of train.py, oneformer3d_check.py, ..., or -m; by the name of the first argument."""
        folder, root, path, data, visible, trusted, *arguments = (
            Path(f"{self.environment['LOG']}.{name}").read_text().splitlines()
        )
        return Call(Path(folder), root, path.split(":"), data, visible, trusted, arguments)


def checkout(folder: Path) -> Path:
    for name in ("oneformer3d/__init__.py", "tools/train.py", "tools/test.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    (tmp_path / "here").mkdir()
    root = checkout(tmp_path / "of3d")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "ONEFORMER3D_ROOT": str(root),
    }
    return Place(tmp_path / "here", root, environment)


CONFIGS = {
    ("s3dis", "baseline"): "oneformer3d_1xb4_s3dis-area-5",
    ("s3dis", "influencerformer"): "influencerformer_1xb4_s3dis-area-5",
    ("scannet", "baseline"): "oneformer3d_1xb2_scannet",
    ("scannet", "influencerformer"): "influencerformer_1xb2_scannet",
}


@pytest.mark.parametrize(("dataset", "loss"), CONFIGS)
def test_training_on_one_gpu(place: Place, dataset: str, loss: str) -> None:
    done = place.run(f"train_{dataset}.sh", loss, PYTHONPATH="/elsewhere")
    assert done.returncode == 0, done.stderr
    call, name = place.call("train"), CONFIGS[dataset, loss]
    config = REPOSITORY / "configs" / dataset / f"{name}.py"
    assert config.is_file()
    assert call.arguments == [
        f"{place.root}/tools/train.py",
        str(config),
        "--work-dir",
        f"{place.root}/work_dirs/{name}",
    ]
    assert (call.folder, call.root, call.trusted) == (place.root, str(place.root), "1")
    assert call.pythonpath == [str(place.root), str(REPOSITORY), "/elsewhere"]
    assert call.visible == "unset"
    check = place.call("oneformer3d_check").arguments
    assert check[1:] == ["train", "--device", "cuda", "--gpus", "1", "--", *call.arguments[1:]]


def test_options_are_passed_on(place: Place) -> None:
    options = ["--amp", "--cfg-options", "load_from=None", "a.b=[1, 2]"]
    done = place.run("train_s3dis.sh", "baseline", "--work-dir", "out dir", "--resume", "old/epoch_3.pth", *options)
    assert done.returncode == 0, done.stderr
    here = place.folder
    assert place.call("train").arguments[2:] == [
        "--work-dir",
        f"{here}/out dir",
        f"--resume={here}/old/epoch_3.pth",
        *options,
    ]


def test_what_the_check_adds_reaches_the_tool(place: Place) -> None:
    assert place.run("train_s3dis.sh", "baseline", CHECK_ADDS="--cfg-options load_from=copy.pth").returncode == 0
    assert place.call("train").arguments[-2:] == ["--cfg-options", "load_from=copy.pth"]


def test_resume_of_the_latest(place: Place) -> None:
    done = place.run("train_scannet.sh", "baseline", "--resume", "--amp")
    assert "nothing to resume" in done.stderr
    assert place.call("train").arguments[4:] == ["--amp"]
    Path(f"{place.environment['LOG']}.train").unlink()
    work_dir = place.root / "work_dirs/oneformer3d_1xb2_scannet"
    work_dir.mkdir(parents=True)
    (work_dir / "last_checkpoint").write_text("epoch_1.pth")
    assert place.run("train_scannet.sh", "baseline", "--resume", "--amp").stderr == ""
    assert place.call("train").arguments[4:] == ["--resume", "--amp"]


@pytest.mark.parametrize(
    ("environment", "port"),
    [({}, "--standalone"), ({"PORT": "2950"}, "--master_port=2950"), ({"MASTER_PORT": "7"}, "--master_port=7")],
)
def test_several_gpus(place: Place, environment: dict[str, str], port: str) -> None:
    done = place.run("train_s3dis.sh", "influencerformer", GPUS="4", **environment)
    assert done.returncode == 0, done.stderr
    arguments = place.call("-m").arguments
    expected = ["-m", "torch.distributed.run", "--nproc_per_node=4", port, f"{place.root}/tools/train.py"]
    assert arguments[:5] == expected
    assert arguments[-2:] == ["--launcher", "pytorch"]
    assert "--gpus\n4\n" in "\n".join(place.call("oneformer3d_check").arguments)


def test_cpu(place: Place) -> None:
    done = place.run("train_s3dis.sh", "influencerformer", DEVICE="cpu", DATA_ROOT="rooms")
    assert done.returncode == 0, done.stderr
    call = place.call("oneformer3d_cpu")
    assert call.arguments[:2] == [str(REPOSITORY / "scripts/oneformer3d_cpu.py"), f"{place.root}/tools/train.py"]
    assert (call.visible, call.data_root) == ("", f"{place.folder}/rooms")


def test_checkpoint_of_an_evaluation(place: Place) -> None:
    name = "influencerformer_1xb4_s3dis-area-5"
    work_dir = place.root / "work_dirs" / name
    work_dir.mkdir(parents=True)
    for file in ("epoch_9.pth", "epoch_10.pth", "epoch_11_spconv.pth", "best_epoch_2.pth"):
        (work_dir / file).touch()
    config = str(REPOSITORY / f"configs/s3dis/{name}.py")

    def tested(*arguments: str) -> list[str]:
        Path(f"{place.environment['LOG']}.test").unlink(missing_ok=True)
        done = place.run("eval_s3dis.sh", "influencerformer", *arguments)
        assert done.returncode == 0, done.stderr
        call = place.call("test")
        assert call.trusted == "1"
        return call.arguments[1:]

    rest = ["--work-dir", str(work_dir)]
    assert tested() == [config, f"{work_dir}/epoch_10.pth", *rest]
    (work_dir / "last_checkpoint").write_text("/moved/away/epoch_9.pth")
    assert tested() == [config, f"{work_dir}/epoch_9.pth", *rest]
    (work_dir / "last_checkpoint").write_text(f"{work_dir}/epoch_10.pth")
    assert tested("--cfg-options", "a=1") == [config, f"{work_dir}/epoch_10.pth", *rest, "--cfg-options", "a=1"]
    (place.folder / "mine.pth").touch()
    assert tested("mine.pth", "--tta") == [config, f"{place.folder}/mine.pth", *rest, "--tta"]
    relative = f"work_dirs/{name}/best_epoch_2.pth"
    assert tested(relative) == [config, f"{place.root}/{relative}", *rest]


def test_oneformer3d_is_found_on_pythonpath_and_beside_the_repository(place: Place, tmp_path: Path) -> None:
    other = checkout(tmp_path / "other")
    path = f"/nothing::{other}:{place.root}"
    assert place.run("train_s3dis.sh", "baseline", ONEFORMER3D_ROOT=None, PYTHONPATH=path).returncode == 0
    assert place.call("train").root == str(other)
    Path(f"{place.environment['LOG']}.train").unlink()
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "work/repository/scripts")
    sibling = checkout(tmp_path / "work/oneformer3d")
    script = str(tmp_path / "work/repository/scripts/train_s3dis.sh")
    assert place.run(script, "baseline", ONEFORMER3D_ROOT=None).returncode == 0
    assert place.call("train").root == str(sibling)
    shutil.rmtree(sibling)
    done = place.run(script, "baseline", ONEFORMER3D_ROOT=None)
    assert done.returncode == 2
    assert f"not found in ONEFORMER3D_ROOT, on PYTHONPATH or at {sibling}: git clone" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["train_s3dis.sh"], {}, "must be baseline or influencerformer, got nothing"),
        (["train_s3dis.sh", "hungarian"], {}, "must be baseline or influencerformer, got hungarian"),
        (["eval_scannet.sh", "--amp"], {}, "must be baseline or influencerformer, got --amp"),
        (
            ["train_s3dis.sh", "baseline"],
            {"ONEFORMER3D_ROOT": "absent"},
            "ONEFORMER3D_ROOT=absent holds no OneFormer3D",
        ),
        (["train_s3dis.sh", "baseline"], {"DEVICE": "tpu"}, "DEVICE must be cuda or cpu, got tpu"),
        (["train_s3dis.sh", "baseline"], {"GPUS": "two"}, "GPUS must be a number of GPUs from 1, got two"),
        (["train_s3dis.sh", "baseline"], {"GPUS": "0"}, "GPUS must be a number of GPUs from 1, got 0"),
        (["train_s3dis.sh", "baseline"], {"GPUS": "2", "DEVICE": "cpu"}, "GPUS=2 needs DEVICE=cuda, got DEVICE=cpu"),
        (["train_s3dis.sh", "baseline"], {"PYTHON": "absent/python"}, "no interpreter absent/python: set PYTHON"),
        (["train_s3dis.sh", "baseline", "--work-dir"], {}, "--work-dir needs a folder"),
        (["train_s3dis.sh", "baseline"], {"CHECK_FAILS": "no data."}, "no data."),
        (["eval_s3dis.sh", "baseline"], {}, "train first with scripts/train_s3dis.sh baseline, or name one"),
        (["eval_scannet.sh", "baseline", "absent.pth"], {}, "no checkpoint absent.pth, neither in"),
    ],
)
def test_one_sentence_and_exit_code_2(
    place: Place, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    done = place.run(*arguments, **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(".\n")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path(f"{place.environment['LOG']}.train").exists()


@pytest.mark.parametrize("script", ["train_s3dis.sh", "eval_s3dis.sh", "train_scannet.sh", "eval_scannet.sh"])
def test_help(place: Place, script: str) -> None:
    done = place.run(script, "--help", ONEFORMER3D_ROOT=None)
    assert done.returncode == 0
    for word in (
        "baseline",
        "influencerformer",
        "ONEFORMER3D_ROOT",
        "GPUS",
        "DEVICE",
        "DATA_ROOT",
        "--work-dir",
        script,
    ):
        assert word in done.stdout
    assert place.run(script, "baseline", "-h").stdout == done.stdout
