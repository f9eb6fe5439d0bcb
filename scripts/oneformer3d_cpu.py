"""Runs one of OneFormer3D's own scripts, unmodified, on a machine without CUDA, compiler or MinkowskiEngine.

    python scripts/oneformer3d_cpu.py PATH/TO/oneformer3d/tools/train.py CONFIG --work-dir DIR
    python scripts/oneformer3d_cpu.py PATH/TO/oneformer3d/tools/test.py CONFIG CHECKPOINT --work-dir DIR

Everything after the script's path is handed to it. Compiled packages that are missing get a stand-in
(scripts/oneformer3d_standins.py); what is installed is used as it is. Paths inside the config stay relative to
the current directory, as with the script itself. torch 2.6 and later refuse mmengine's checkpoints unless
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, so it is set here: load only checkpoints whose origin you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path

from influencerformer.errors import UserError

REQUIRED = ("mmengine", "mmcv", "mmdet", "mmdet3d", "spconv")


def find_root(script: Path) -> Path:
    """The OneFormer3D checkout that `script` belongs to: the nearest folder above it with the package in it.

    Raises:
        UserError: there is no such script or folder.
    """
    if not script.is_file():
        raise UserError(f"There is no script at {script}: give the path of OneFormer3D's tools/train.py or test.py.")
    for folder in script.resolve().parents:
        if (folder / "oneformer3d" / "__init__.py").is_file():
            return folder
    raise UserError(f"{script} is not inside a checkout of OneFormer3D: no folder above it holds the package.")


def prepare(root: Path) -> list[str]:
    """Makes `import oneformer3d` work.

    Args:
        root: the checkout; goes on sys.path and on PYTHONPATH, for worker processes.

    Returns:
        What was replaced or patched, in words.

    Raises:
        UserError: a package without a stand-in is missing.
    """
    import oneformer3d_standins as standins

    done = ["mmcv._ext"] if importlib.util.find_spec("mmcv") and standins.install_mmcv_ops() else []
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"OneFormer3D needs {name}, which cannot be imported here ({error}): "
                "docs/integration_guide.md lists what to install."
            ) from error
    importlib.import_module("mmdet3d.models")
    done += ["torch_scatter"] if standins.install_torch_scatter() else []
    done += ["MinkowskiEngine"] if standins.install_minkowski() else []
    done += ["spconv's backward"] if standins.patch_spconv_backward() else []
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return done


def main(argv: list[str]) -> int:
    """Runs the script named first in `argv` with the rest as its arguments; 2 if that cannot be done."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    script = Path(argv[0])
    try:
        done = prepare(find_root(script))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"stand-ins: {', '.join(done) or 'none'}", flush=True)
    sys.argv = [str(script), *argv[1:]]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
