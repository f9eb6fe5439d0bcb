"""The Influencer Loss for embeddings: followers condense on influencers, one influencer an instance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from influencerformer.losses.checks import check_integers, check_overflow, check_weights
from influencerformer.losses.precision import full_precision, without_autocast
from influencerformer.losses.targets import IGNORED

LOG_FLOOR = 1e-6
"""Added inside the logarithm of the attraction: bounds its gradient at perfect condensation."""
CHUNK_PAIRS = 4_000_000
"""Pairs whose distance is looked at in one go when near pairs are searched: bounds the memory."""


def influencer_loss(
    followers: Tensor,
    influencers: Tensor,
    instance_labels: Tensor,
    *,
    attr_weight: float = 1.0,
    rep_weight: float = 1.0,
    bg_weight: float = 1.0,
    influencer_weight: float = 1.0,
    rep_margin: float = 1.0,
    influencer_margin: float = 1.0,
) -> dict[str, Tensor]:
    r"""Influencer Loss between follower embeddings :math:`f_i` and influencer embeddings :math:`g_j`.

    With :math:`a_j = \operatorname{mean}_{i \in p(j)} |f_i - g_j|^2 / m_f^2` over the members of j's instance,

    .. math::
        \text{attraction} &= \operatorname*{mean}_{\text{instances } k}
            \exp \operatorname*{mean}_{j \in k} \log (a_j + \epsilon) \\
        \text{repulsion} &= \operatorname*{mean}_{(i, j)\ \text{near, not of one instance}}
            \max(0, m_f - |f_i - g_j|)^2 \\
        \text{influencers} &= \operatorname*{mean}_{(j, l)\ \text{near}} \max(0, m_i - |g_j - g_l|)

    A geometric mean over candidate influencers of an arithmetic mean over followers: one good influencer is enough.
    The last term is blind to the truth and removes duplicate influencers. "Near" are the pairs inside the margin
    (hard negatives); the others add nothing. Background points have no instance: they repel and are repelled,
    with weight ``bg_weight`` for a pair whose follower is background (D. Murnane, EPJ Web Conf. 295, 09016, 2024).

    Args:
        followers: (N, D) floating point; float16 and bfloat16 are computed in float32.
        influencers: (N, D).
        instance_labels: (N,) integers, 0 background, 1.. instances, -1 ignored.
        attr_weight, rep_weight, influencer_weight: weights of the three terms.
        bg_weight: weight of background followers in the repulsion.
        rep_margin: :math:`m_f > 0`, in units of the embedding.
        influencer_margin: :math:`m_i > 0`.

    Returns:
        A dict of scalars: "loss" (differentiable) and detached "attraction", "repulsion", "influencers",
        which add up to it.

    Raises:
        TypeError, ValueError: dtypes, shapes or values that do not fit; the message says what came.

    Cost: attraction O(N D); near pairs are searched in chunks, and only they enter the graph.

    Example:
        >>> f = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
        >>> g = torch.tensor([[0.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
        >>> round(influencer_loss(f, g, torch.tensor([1, 1, 2]))["loss"].item(), 3)
        0.002
    """
    _check(followers, influencers, instance_labels, rep_margin, influencer_margin)
    check_weights(
        attr_weight=attr_weight, rep_weight=rep_weight, bg_weight=bg_weight, influencer_weight=influencer_weight
    )
    with without_autocast(followers):
        kept = instance_labels != IGNORED
        f, g = full_precision(followers[kept]), full_precision(influencers[kept])
        labels = instance_labels[kept].long()
        attraction = attr_weight * _attraction(f, g, labels, rep_margin)

        i, j = _near_pairs(f, g, rep_margin, labels)
        weight = torch.where(labels[i] == 0, bg_weight, 1.0).to(f.dtype)
        hinge = (rep_margin - _distance(f[i], g[j])).clamp(min=0)
        repulsion = rep_weight * (weight * hinge.square()).sum() / max(len(i), 1)

        j, other = _near_pairs(g, g, influencer_margin, None)
        hinge = (influencer_margin - _distance(g[j], g[other])).clamp(min=0)
        duplicates = influencer_weight * hinge.sum() / max(len(j), 1)
        loss = attraction + repulsion + duplicates + (f.sum() + g.sum()) * 0
        check_overflow(loss, "embeddings", (f, g), None)
    return {
        "loss": loss,
        "attraction": attraction.detach(),
        "repulsion": repulsion.detach(),
        "influencers": duplicates.detach(),
    }


def _check(followers: Tensor, influencers: Tensor, labels: Tensor, rep_margin: float, influencer_margin: float) -> None:
    for name, values in (("followers", followers), ("influencers", influencers), ("instance_labels", labels)):
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(values).__name__} in its place")
    if not (followers.is_floating_point() and influencers.is_floating_point()):
        raise TypeError(
            f"followers and influencers must be floating point, got {followers.dtype} and {influencers.dtype}"
        )
    if followers.ndim != 2 or followers.shape != influencers.shape:
        raise ValueError(
            "followers and influencers must both be (N, D), "
            f"got {tuple(followers.shape)} and {tuple(influencers.shape)}"
        )
    if not followers.shape[1]:
        raise ValueError("followers and influencers need at least one dimension, got (N, 0)")
    check_integers("instance_labels", labels, "0 background, 1.. instances, -1 ignored")
    if labels.shape != followers.shape[:1]:
        raise ValueError(f"instance_labels must be (N,) = ({len(followers)},), got {tuple(labels.shape)}")
    if not (0 < rep_margin < math.inf and 0 < influencer_margin < math.inf):
        raise ValueError(f"margins must be positive and finite, got {rep_margin} and {influencer_margin}")
    for name, values in (("followers", followers), ("influencers", influencers)):
        bad = int((~values.isfinite()).sum())
        if bad:
            raise ValueError(f"{name} holds {bad} of {values.numel()} values that are NaN or infinite")


def _attraction(f: Tensor, g: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean squared distance by the parallel-axis theorem: to the members' centre, plus their spread around it."""
    member = labels > 0
    f, g = f[member], g[member]
    _, instance = labels[member].unique(return_inverse=True)
    if len(instance) == 0:
        return f.sum()
    count = f.new_zeros(int(instance.max()) + 1).index_add(0, instance, torch.ones_like(f[:, 0]))

    def mean(values: Tensor) -> Tensor:
        total = values.new_zeros(len(count), *values.shape[1:]).index_add(0, instance, values)
        return total / count.view(-1, *[1] * (values.ndim - 1))

    centre = mean(f)
    spread = mean((f - centre[instance]).square().sum(-1))
    squared = ((g - centre[instance]).square().sum(-1) + spread[instance]) / margin**2
    return mean((squared + LOG_FLOOR).log()).exp().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance with a finite gradient where the points coincide."""
    return ((a - b).square().sum(-1) + torch.finfo(a.dtype).eps ** 2).sqrt()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) distances around a common centre: ``cdist`` loses digits far from the origin."""
    centre = b.mean(0)
    return torch.cdist(a - centre, b - centre)


@torch.no_grad()
def _near_pairs(a: Tensor, b: Tensor, radius: float, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices (i, j) with |a_i - b_j| < radius: with labels, those not of one instance; without, those with i < j."""
    rows, columns = [], []
    step = max(1, CHUNK_PAIRS // max(len(b), 1))
    for start in range(0, len(a), step):
        near = _distances(a[start : start + step], b) < radius
        if labels is not None:
            same = labels[start : start + step, None] == labels
            near &= ~(same & (labels > 0))
        else:
            index = torch.arange(len(b), device=b.device)
            near &= index[start : start + step, None] < index
        i, j = near.nonzero(as_tuple=True)
        rows.append(i + start)
        columns.append(j)
    empty = torch.zeros(0, dtype=torch.long, device=a.device)
    return torch.cat([empty, *rows]), torch.cat([empty, *columns])


class InfluencerLoss(nn.Module):
    """Module of :func:`influencer_loss`; the keywords are its keywords."""

    def __init__(
        self,
        *,
        attr_weight: float = 1.0,
        rep_weight: float = 1.0,
        bg_weight: float = 1.0,
        influencer_weight: float = 1.0,
        rep_margin: float = 1.0,
        influencer_margin: float = 1.0,
    ) -> None:
        super().__init__()
        self.attr_weight = attr_weight
        self.rep_weight = rep_weight
        self.bg_weight = bg_weight
        self.influencer_weight = influencer_weight
        self.rep_margin = rep_margin
        self.influencer_margin = influencer_margin

    def forward(self, followers: Tensor, influencers: Tensor, instance_labels: Tensor) -> dict[str, Tensor]:
        return influencer_loss(
            followers,
            influencers,
            instance_labels,
            attr_weight=self.attr_weight,
            rep_weight=self.rep_weight,
            bg_weight=self.bg_weight,
            influencer_weight=self.influencer_weight,
            rep_margin=self.rep_margin,
            influencer_margin=self.influencer_margin,
        )


@torch.no_grad()
def condense(followers: Tensor, influencers: Tensor, radius: float) -> Tensor:
    """Instances from embeddings: every influencer with a follower within the radius is an instance.

    Args:
        followers: (N, D).
        influencers: (N, D).
        radius: in units of the embedding; half the margin of training is a good start.

    Returns:
        (N,) int64, for each point the number 1.. of its nearest influencer's instance, 0 if none is within the radius.
    """
    nearest = torch.zeros(len(followers), dtype=torch.long, device=followers.device)
    step = max(1, CHUNK_PAIRS // max(len(influencers), 1))
    for start in range(0, len(followers), step):
        distance, index = _distances(followers[start : start + step], influencers).min(1)
        nearest[start : start + step] = torch.where(distance < radius, index, -1)
    found, labels = nearest.unique(return_inverse=True)
    return labels + (0 if len(found) and found[0] < 0 else 1)
