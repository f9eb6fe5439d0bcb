"""Looks, before one of OneFormer3D's tools starts, at what it would stumble over, and completes its arguments.

    python scripts/oneformer3d_check.py train --device cuda --gpus 1 -- CONFIG [OPTIONS of tools/train.py]
    python scripts/oneformer3d_check.py test --device cpu -- CONFIG CHECKPOINT [OPTIONS of tools/test.py]

Run by train_*.sh and eval_*.sh, in OneFormer3D's folder. Prints the tool's arguments, one a line: those given, the
folder of the data where DATA_ROOT is set, and a copy in the place of a checkpoint whose backbone would not load
(scripts/oneformer3d_checkpoint.py). What is wrong is said in one sentence, with exit code 2. A
checkpoint that holds more than tensors, numbers and mmengine's logs is refused, as the tools would run what it holds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oneformer3d_checkpoint import CheckpointError, loadable_checkpoint

GUIDE = "docs/integration_guide.md lists the packages of CPU and CUDA machines"
RELEASE = "https://github.com/oneformer3d/oneformer3d/releases/download/v1.0/"
ALWAYS = {
    "torch": ("2.4", None),
    "numpy": ("1.26", "2.4"),
    "pkg_resources": (None, None),
    "mmengine": ("0.10", "1"),
    "mmdet3d": ("1.1", "1.5"),
    "spconv": ("2", "3"),
    "influencerformer": (None, None),
}
"""Versions from and below which each package is known to work; mmdet3d itself checks mmcv and mmdet."""
ON_CUDA = ("mmcv._ext", "torch_scatter", "MinkowskiEngine")
REMEDY = {
    "numpy": "OneFormer3D calls np.in1d, which numpy 2.4 dropped: pip install 'numpy<2.4'",
    "pkg_resources": "mmengine reads it: pip install 'setuptools<81'",
    "mmcv._ext": "install mmcv 2.1.0 with its operators in the place of mmcv-lite",
    "influencerformer": "pip install -e the repository of this script",
}


class Problem(ValueError):
    """What the caller has to put right, in one sentence."""


def version_of(text: str) -> tuple[int, ...]:
    """(1, 4, 0) of "1.4.0+cpu"; what follows the numbers does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))


def check_package(name: str, lowest: str | None, below: str | None) -> None:
    """Raises Problem unless `name` imports and its version is in [lowest, below)."""
    remedy = REMEDY.get(name, GUIDE)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise Problem(f"{name} cannot be imported ({type(error).__name__}: {error}): {remedy}.") from error
    found = str(getattr(module, "__version__", ""))
    if not found:
        return
    if (lowest and version_of(found) < version_of(lowest)) or (below and version_of(found) >= version_of(below)):
        limits = " and ".join(filter(None, [lowest and f"at least {lowest}", below and f"below {below}"]))
        raise Problem(f"{name} must be {limits}, got {found}: {remedy}.")


def check_device(device: str, gpus: int) -> None:
    """Raises Problem unless torch sees enough CUDA devices; a CPU is always there."""
    if device == "cpu":
        return
    torch = importlib.import_module("torch")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        raise Problem(
            f"torch {torch.__version__} sees no CUDA device: install a CUDA build of torch and check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or set DEVICE=cpu."
        )
    if seen < gpus:
        raise Problem(f"GPUS={gpus}, but torch sees {seen}: set GPUS to {seen} at most, or check CUDA_VISIBLE_DEVICES.")


def datasets(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every dataset with a folder below `key` of `config`, with the dotted key of its `data_root`."""
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        below = f"{key}.{name}"
        if isinstance(value, dict) and {"data_root", "ann_file"} <= value.keys():
            yield f"{below}.data_root", value
        elif isinstance(value, (dict, list, tuple)):
            yield from datasets(value, below)


def check_data(config: Any, loaders: list[str], data_root: str | None) -> list[str]:
    """Looks for each dataset's list of scenes and folder of points.

    Args:
        config: mmengine's Config.
        loaders: names of the dataloaders that will be built.
        data_root: takes the place of every `data_root` if given.

    Returns:
        The settings, as KEY=VALUE, that put `data_root` into the configuration.

    Raises:
        Problem: something is not there.
    """
    settings = []
    for loader in loaders:
        for key, dataset in datasets(config[loader], loader):
            folder = Path(data_root or dataset["data_root"])
            if data_root:
                settings.append(f"{key}={data_root}")
            for path in (folder / dataset["ann_file"], folder / dict(dataset.get("data_prefix", {})).get("pts", "")):
                if not path.exists():
                    s3dis = "S3DIS" in dataset["type"]
                    guide = "mmdetection3d's data/s3dis/README.md" if s3dis else "OneFormer3D's data/scannet/README.md"
                    raise Problem(
                        f"{path.absolute()} is missing: prepare {'S3DIS' if s3dis else 'ScanNet'} as {guide} says, or "
                        "set DATA_ROOT to the folder that it was prepared in."
                    )
    return settings


def read_config(options: argparse.Namespace) -> Any:
    """mmengine's Config of `options.config` with `options.cfg_options`; Problem where it does not read."""
    from mmengine.config import Config

    try:
        config = Config.fromfile(options.config, import_custom_modules=False)
        config.merge_from_dict(options.cfg_options or {})
    except Exception as error:
        raise Problem(f"{options.config} with these --cfg-options does not read: {error}.") from error
    return config


def complete_train(options: argparse.Namespace, config: Any) -> list[str]:
    """What is to be added to the arguments of tools/train.py."""
    if options.resume not in (None, "auto"):
        if not Path(options.resume).is_file():
            raise Problem(f"There is no checkpoint {options.resume} to resume: name an epoch_*.pth, or no file at all.")
        used = loadable_checkpoint(Path(options.resume), Path.cwd())
        return [] if used == Path(options.resume) else [f"--resume={used}"]
    source = config.get("load_from")
    if options.resume == "auto" or source is None or "://" in source:
        return []
    if not Path(source).is_file():
        raise Problem(
            f"The pretrained checkpoint {Path(source).absolute()} is missing: download {RELEASE}{Path(source).name} to "
            "there, or train from scratch with --cfg-options load_from=None."
        )
    used = loadable_checkpoint(Path(source), Path.cwd())
    return [] if used == Path(source) else ["--cfg-options", f"load_from={used}"]


def complete(mode: str, device: str, gpus: int, arguments: list[str]) -> list[str]:
    """Checks everything in the order in which it matters.

    Returns:
        The tool's arguments, completed.

    Raises:
        Problem, CheckpointError: in one sentence.
    """
    for name, (lowest, below) in ALWAYS.items():
        check_package(name, lowest, below)
    check_device(device, gpus)
    for name in ON_CUDA if device == "cuda" else ():
        check_package(name, None, None)

    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(prog=f"tools/{mode}.py", allow_abbrev=False)
    parser.add_argument("config")
    if mode == "test":
        parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    parser.add_argument("--resume", nargs="?", const="auto")
    parser.add_argument("--work-dir")
    options, _ = parser.parse_known_args(arguments)
    config = read_config(options)
    loaders = ["train_dataloader", "val_dataloader"] if mode == "train" else ["test_dataloader"]
    settings = check_data(config, loaders, os.environ.get("DATA_ROOT"))
    arguments = [*arguments, *(["--cfg-options", *settings] if settings else [])]
    if mode == "train":
        return arguments + complete_train(options, config)
    used = loadable_checkpoint(options.checkpoint, Path.cwd())
    return [str(used) if value == str(options.checkpoint) else value for value in arguments]


def main(argv: list[str]) -> int:
    """Prints the completed arguments and returns 0, or says what is wrong and returns 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["train", "test"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--gpus", type=int, default=1)
    end = argv.index("--") if "--" in argv else len(argv)
    given, arguments = parser.parse_args(argv[:end]), argv[end + 1 :]
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = complete(given.mode, given.device, given.gpus, arguments)
    except (Problem, CheckpointError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print("\n".join(done))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
