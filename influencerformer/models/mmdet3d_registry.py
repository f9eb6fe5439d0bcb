"""Makes InfluencerCriterion known to mmdet3d."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec

NAME = "InfluencerCriterion"


def register_with_mmdet3d() -> bool:
    """Registers :class:`influencerformer.models.InfluencerCriterion` in mmdet3d's ``MODELS``.

    Returns:
        True if it is registered then. False, without a word, where mmdet3d is not installed, and with a warning that
        gives the reason where mmdet3d does not import.
    """
    if find_spec("mmdet3d") is None:
        return False
    try:
        models = import_module("mmdet3d.registry").MODELS
    except Exception as error:
        # mmdet3d asserts on versions, and its compiled parts fail in ways of their own
        warnings.warn(
            f"{NAME} is not registered, because mmdet3d is installed but does not import: {error}", stacklevel=2
        )
        return False
    from influencerformer.models.oneformer3d_criterion import InfluencerCriterion

    found = models.module_dict.get(NAME)
    if found is None:
        models.register_module(name=NAME, module=InfluencerCriterion)
    elif found is not InfluencerCriterion:
        warnings.warn(f"{NAME} is not registered: mmdet3d's MODELS has that name for {found}", stacklevel=2)
        return False
    return True
