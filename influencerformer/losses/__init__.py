"""The losses: pure functions and thin modules, without any framework but PyTorch."""

from influencerformer.losses.embedding import InfluencerLoss, condense, influencer_loss
from influencerformer.losses.hungarian import HungarianMaskLoss, hungarian_mask_loss
from influencerformer.losses.mask_influencer import MaskInfluencerLoss, mask_influencer_loss

__all__ = [
    "HungarianMaskLoss",
    "InfluencerLoss",
    "MaskInfluencerLoss",
    "condense",
    "hungarian_mask_loss",
    "influencer_loss",
    "mask_influencer_loss",
]
