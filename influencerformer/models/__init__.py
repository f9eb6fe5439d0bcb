"""Models by name, and criteria that speak each framework's contract."""

from influencerformer.models.build import build_model

__all__ = ["build_model"]
