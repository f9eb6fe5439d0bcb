"""Models by name, and criteria that speak each framework's contract."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influencerformer.models.build import build_model
    from influencerformer.models.oneformer3d_criterion import InfluencerCriterion
    from influencerformer.models.set_criterion import InfluencerSetCriterion
    from influencerformer.models.transformers_criterion import (
        set_progress,
        use_hungarian_loss,
        use_influencer_loss,
        use_stock_loss,
    )

__all__ = [
    "InfluencerCriterion",
    "InfluencerSetCriterion",
    "build_model",
    "set_progress",
    "use_hungarian_loss",
    "use_influencer_loss",
    "use_stock_loss",
]

_MODULES = {
    "InfluencerCriterion": "oneformer3d_criterion",
    "InfluencerSetCriterion": "set_criterion",
    "build_model": "build",
}


def __getattr__(name: str) -> Any:
    """Loads a name's own module alone, so that a criterion asks for no framework but its own."""
    if name in __all__:
        module = _MODULES.get(name, "transformers_criterion")
        return getattr(import_module(f"influencerformer.models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
