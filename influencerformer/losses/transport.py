"""Partial entropic transport: how instances lay claims on queries."""

from __future__ import annotations

import torch
from torch import Tensor

from influencerformer.losses import cpu


@torch.no_grad()
def partial_transport(
    potential: Tensor,
    no_object_potential: Tensor,
    instance_mask: Tensor,
    temperature: float | Tensor,
    *,
    query_mask: Tensor | None = None,
    claim_mask: Tensor | None = None,
    iterations: int = 10,
) -> Tensor:
    r"""Claims of K instances on Q queries, by entropic optimal transport in the log domain.

    .. math::
        P = \arg\min_{P \ge 0} \sum_{qk} P_{qk} D_{qk} + \sum_q P_{q0} D_{q0}
            + \tau \sum_{q, k \ge 0} P_{qk} (\log P_{qk} - 1),
        \quad \sum_q P_{qk} = 1, \quad P_{q0} + \sum_k P_{qk} = 1

    Every instance lays one unit of claim, every query answers one unit, and what a query does not answer is
    its no-object share :math:`P_{q0}`. The duals are potentials: :math:`g_k` the pull of an instance,
    :math:`f_q` the push of a query that is wanted twice,

    .. math::
        f_q = -\tau \log\big(e^{-D_{q0}/\tau} + \textstyle\sum_k e^{(g_k - D_{qk})/\tau}\big), \qquad
        g_k = -\tau \log \textstyle\sum_q e^{(f_q - D_{qk})/\tau}.

    The iteration ends on the instance side: every instance's claims add to one exactly, however few the
    iterations and also where there are more instances than queries (then queries answer more than one).
    As :math:`\tau \to 0` it is the assignment of least cost. The result is a constant: by Danskin's theorem the
    gradient of the minimum with respect to D is P.

    Args:
        potential: (..., Q, K) pair potentials D.
        no_object_potential: (..., Q) the potential of answering nothing.
        instance_mask: (..., K) bool, broadcastable, False for padding.
        temperature: :math:`\tau > 0`, in the units of D; or (..., S), broadcastable, S of them from hot to cold. The
            projections at each go on from the duals of the one before, which takes far fewer of them than the last one
            alone would (scaling of the temperature: Schmitzer, SIAM J. Sci. Comput. 41, 2019). One that is not colder
            than that before it is passed over.
        query_mask: (..., Q) bool, broadcastable, False for padding; at least one query must be real.
        claim_mask: (..., Q, K) bool, broadcastable, False where a query may not claim an instance; an instance of
            ``instance_mask`` has at least one query that may.
        iterations: projections on either side at each temperature, at least 1.

    Returns:
        (..., Q, K) claims, zero for padding.

    Example:
        >>> D = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
        >>> partial_transport(D, torch.zeros(3), torch.ones(2, dtype=torch.bool), 0.1).round()
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """
    _check(temperature, iterations)
    # filled where it is needed, as a copy from the host would make it wait
    temperatures = temperature if isinstance(temperature, Tensor) else potential.new_full((1,), temperature)
    allowed = claim_mask
    if query_mask is not None:
        allowed = query_mask[..., None] if allowed is None else allowed & query_mask[..., None]
    if allowed is not None:
        # a column that no query may claim is outside of instance_mask; it must only stay finite
        allowed = allowed | ~allowed.any(-2, keepdim=True)
    if potential.dtype == torch.float32 and cpu.applies(potential):
        from influencerformer.losses.cpu.transport import compiled_transport

        return compiled_transport(
            potential, no_object_potential, instance_mask, allowed, temperatures, iterations=iterations
        )
    if allowed is not None:
        potential = potential.masked_fill(~allowed, torch.inf)
    # A shift of a column is absorbed by g: it keeps the exponents small where they matter.
    lowest = potential.amin(-2, keepdim=True) if potential.shape[-2] else potential
    gap, g, tau = lowest - potential, torch.where(instance_mask, -lowest.squeeze(-2), -torch.inf), None
    f = -no_object_potential
    for colder in temperatures.split(1, -1):
        own_f, own_g = f, g
        for _ in range(iterations):
            towards = gap + own_g[..., None, :]
            own_f = -colder * torch.logaddexp(
                -no_object_potential / colder, torch.logsumexp(towards / colder[..., None], -1)
            )
            pull = -colder * torch.logsumexp((gap + own_f[..., :, None]) / colder[..., None], -2)
            own_g = torch.where(instance_mask, pull, -torch.inf)
        if tau is None:
            f, g, tau = own_f, own_g, colder
        else:
            f, g = torch.where(colder < tau, own_f, f), torch.where(colder < tau, own_g, g)
            tau = torch.minimum(tau, colder)
    assert tau is not None
    claims = ((gap + f[..., :, None]) / tau[..., None]).softmax(-2)
    return claims * instance_mask[..., None, :]


@torch.no_grad()
def single_claim_transport(
    potential: Tensor,
    no_object_potential: Tensor,
    candidates: Tensor,
    num_instances: int,
    temperature: float,
    *,
    iterations: int = 10,
) -> Tensor:
    """:func:`partial_transport` where a query may claim one instance at most, so that Q numbers do in place of Q K.

    Args:
        potential: (..., Q) pair potential of a query and the instance that it may claim.
        no_object_potential: (..., Q).
        candidates: (..., Q) int64, broadcastable, that instance in 0..K-1, or -1 for a query that may claim none.
        num_instances: K.
        temperature, iterations: as there.

    Returns:
        (..., Q) claims on the instance that a query may claim.
    """
    _check(temperature, iterations)
    log_kernel, log_none = -potential / temperature, -no_object_potential / temperature
    index = torch.where(candidates < 0, num_instances, candidates).expand(log_kernel.shape)
    nothing = log_kernel.new_zeros(*log_kernel.shape[:-1], num_instances + 1)
    g = nothing
    for _ in range(iterations):
        shares = log_kernel - torch.logaddexp(log_none, log_kernel + g.gather(-1, index))
        top = (nothing - torch.inf).scatter_reduce(-1, index, shares, "amax")
        terms = (shares - top.gather(-1, index)).exp()
        total = nothing.scatter_add(-1, index, terms)
        g = -(top + total.log())
    return terms / total.gather(-1, index) * (candidates >= 0)


def _check(temperature: float | Tensor, iterations: int) -> None:
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
