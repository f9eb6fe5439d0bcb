"""InfluencerFormer: matching-free training of query-based instance segmentation."""

from influencerformer.losses import (
    HungarianMaskLoss,
    MaskInfluencerLoss,
    hungarian_mask_loss,
    mask_influencer_loss,
)
from influencerformer.models import use_hungarian_loss, use_influencer_loss

__all__ = [
    "HungarianMaskLoss",
    "MaskInfluencerLoss",
    "hungarian_mask_loss",
    "mask_influencer_loss",
    "use_hungarian_loss",
    "use_influencer_loss",
]
