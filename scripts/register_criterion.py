"""InfluencerCriterion in mmdetection3d's MODELS registry: how to use it, and whether it is there.

    python scripts/register_criterion.py --verify    prints PASS or FAIL with the reason; exit code 0 or 1

`import influencerformer` registers it wherever mmdet3d is installed, so in a configuration of OneFormer3D two things
change, here for S3DIS:

    custom_imports = dict(imports=["oneformer3d", "influencerformer"])

    model = dict(criterion=dict(inst_criterion=dict(
        _delete_=True,  # drops the matcher and the other keywords of InstanceCriterion
        type="InfluencerCriterion",
        num_classes=13,
        loss_weight=[0.5, 1.0, 1.0, 0.5],
        non_object_weight=0.05,
        fix_dice_loss_weight=True,
        bg_weight=0.1)))

Swapping `type` alone works too: the keywords without a meaning are ignored, with a warning that names them.
configs/s3dis and configs/scannet have whole configurations, docs/integration_guide.md explains every parameter.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

NAME = "InfluencerCriterion"


def reason_against() -> str | None:
    """Why the criterion is not in the registry and what to do, in one sentence; None if it is there."""
    try:
        found = find_spec("mmdet3d")
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        return "mmdet3d is not installed: run make mmdet3d, or see docs/integration_guide.md for CUDA machines."
    try:
        models = import_module("mmdet3d.registry").MODELS
    except Exception as error:
        return (
            f"mmdet3d is installed but does not import ({type(error).__name__}: {error}): install the versions in "
            "requirements/mmdet3d.txt and requirements/mmdet3d-nodeps.txt."
        )
    try:
        import_module("influencerformer")
        criterion = import_module("influencerformer.models").InfluencerCriterion
    except Exception as error:
        return (
            f"influencerformer does not import ({type(error).__name__}: {error}): pip install -e this repository, or "
            "put it on PYTHONPATH."
        )
    registered = models.module_dict.get(NAME)
    if registered is None:
        return (
            f"MODELS has no {NAME} though influencerformer is imported: check that its version is that of this script."
        )
    if registered is not criterion:
        return (
            f"MODELS has the name {NAME} for {registered.__module__}.{registered.__qualname__}: rename that one, or "
            "leave it out of custom_imports."
        )
    return None


def main(argv: list[str]) -> int:
    """Explains the use, or verifies: 0 if the criterion is registered, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true", help="say whether the criterion is registered")
    if not parser.parse_args(argv).verify:
        parser.print_help()
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = reason_against()
    if reason is not None:
        print(f"FAIL: {reason}")
        return 1
    print(f"PASS: {NAME} is registered in the MODELS registry.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
