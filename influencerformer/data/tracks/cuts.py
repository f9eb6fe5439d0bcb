"""Which particles a tracker is asked to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from influencerformer.errors import UserError


@dataclass(frozen=True)
class Cuts:
    """The particles of interest; hits of others are background in training.

    Metrics leave the others out: they need not be found, and a track that finds one is neither right nor fake.

    Attributes:
        min_pt: smallest transverse momentum at the vertex in GeV; 0 keeps all.
        max_eta: largest absolute pseudorapidity at the vertex; None keeps all.
        min_hits: fewest hits in the event, 1 or more.
    """

    min_pt: float = 0.0
    max_eta: float | None = None
    min_hits: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.min_pt < float("inf"):
            raise UserError(f"cuts.min_pt must be 0 or larger, got {self.min_pt}")
        if self.max_eta is not None and not self.max_eta > 0:
            raise UserError(f"cuts.max_eta must be larger than 0 or null, got {self.max_eta}")
        if self.min_hits < 1:
            raise UserError(f"cuts.min_hits must be 1 or larger, got {self.min_hits}")

    def passed(
        self, pt: npt.NDArray[np.float64], eta: npt.NDArray[np.float64], num_hits: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """(P,) which of P particles are of interest."""
        kept = (pt >= self.min_pt) & (num_hits >= self.min_hits)
        return kept if self.max_eta is None else kept & (np.abs(eta) <= self.max_eta)
