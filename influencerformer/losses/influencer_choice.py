"""One influencer an instance where training left several: the choice before `condense`."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def choose_influencers(followers: Tensor, influencers: Tensor, radius: float, min_followers: int = 1) -> Tensor:
    """Chooses influencers so that none is a duplicate of another, those with most followers first.

    The influencer with most followers within the radius is chosen and its followers are taken; then the one with most
    of those that are left, and so on (greedy set cover). At the loss's optimum this changes nothing: all influencers
    but one of each instance have no follower. A network that is smooth in its input cannot get there: neighbouring
    points, alike to it, get neighbouring influencers, and `condense` alone would make an instance of each.

    Args:
        followers: (N, D) floating point.
        influencers: (M, D).
        radius: in units of the embedding, as for `condense`.
        min_followers: an influencer with fewer that are left is not chosen, 1 or more.

    Returns:
        (C,) int64, indices of the chosen influencers, in the order of the choice; of equals the first. For labels:
        ``condense(followers, influencers[chosen], radius)``.

    Raises:
        ValueError: shapes that do not fit, or a radius or `min_followers` that is not positive.

    Cost: O(N M D), and N M bytes of memory: give some thousands of candidates, not all points of a large cloud.

    Example:
        >>> f = torch.tensor([[0.0], [0.2], [5.0]])
        >>> choose_influencers(f, f + 0.1, radius=0.5)
        tensor([0, 2])
    """
    if followers.ndim != 2 or influencers.ndim != 2 or followers.shape[1] != influencers.shape[1]:
        raise ValueError(
            f"followers and influencers must be (N, D) and (M, D), got {tuple(followers.shape)} and "
            f"{tuple(influencers.shape)}"
        )
    if not radius > 0 or min_followers < 1:
        raise ValueError(f"radius must be positive and min_followers 1 or more, got {radius} and {min_followers}")
    chosen: list[int] = []
    if not len(influencers) or not len(followers):
        return torch.zeros(0, dtype=torch.long, device=followers.device)
    # Around a common centre: distances far from the origin lose digits.
    centre = influencers.mean(0)
    near = torch.cdist(influencers - centre, followers - centre) < radius
    left = near.sum(1)
    while int(left.max()) >= min_followers:
        best = int(left.argmax())
        chosen.append(best)
        taken = near[best].nonzero().squeeze(1)
        left -= near[:, taken].sum(1)
        near[:, taken] = False
    return torch.tensor(chosen, dtype=torch.long, device=followers.device)
