"""Models by name, and criteria that speak each framework's contract."""

from influencerformer.models.build import build_model
from influencerformer.models.set_criterion import InfluencerSetCriterion
from influencerformer.models.transformers_criterion import (
    set_progress,
    use_hungarian_loss,
    use_influencer_loss,
    use_stock_loss,
)

__all__ = [
    "InfluencerSetCriterion",
    "build_model",
    "set_progress",
    "use_hungarian_loss",
    "use_influencer_loss",
    "use_stock_loss",
]
