"""InfluencerFormer: matching-free training of query-based instance segmentation."""

from influencerformer.losses import (
    HungarianMaskLoss,
    InfluencerLoss,
    MaskInfluencerLoss,
    hungarian_mask_loss,
    influencer_loss,
    mask_influencer_loss,
)
from influencerformer.models import InfluencerSetCriterion, use_hungarian_loss, use_influencer_loss

__all__ = [
    "HungarianMaskLoss",
    "InfluencerLoss",
    "InfluencerSetCriterion",
    "MaskInfluencerLoss",
    "hungarian_mask_loss",
    "influencer_loss",
    "mask_influencer_loss",
    "use_hungarian_loss",
    "use_influencer_loss",
]
