"""InfluencerFormer: matching-free training of query-based instance segmentation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from influencerformer.losses import (
    HungarianMaskLoss,
    InfluencerLoss,
    MaskInfluencerLoss,
    hungarian_mask_loss,
    influencer_loss,
    mask_influencer_loss,
)
from influencerformer.models.mmdet3d_registry import register_with_mmdet3d

if TYPE_CHECKING:
    from influencerformer.models import (
        InfluencerCriterion,
        InfluencerSetCriterion,
        use_hungarian_loss,
        use_influencer_loss,
    )

__all__ = [
    "HungarianMaskLoss",
    "InfluencerCriterion",
    "InfluencerLoss",
    "InfluencerSetCriterion",
    "MaskInfluencerLoss",
    "hungarian_mask_loss",
    "influencer_loss",
    "mask_influencer_loss",
    "use_hungarian_loss",
    "use_influencer_loss",
]


def __getattr__(name: str) -> Any:
    """Loads what needs transformers when it is first asked for: the losses alone import in a moment."""
    if name in __all__:
        return getattr(import_module("influencerformer.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_with_mmdet3d()
