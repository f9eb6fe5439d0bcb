"""The Influencer Loss for the mask matrix: condensation, claims, existence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influencerformer.losses.checks import check_overflow, check_weights
from influencerformer.losses.condensation import condensation
from influencerformer.losses.crowd import CROWD, crowd_temperatures
from influencerformer.losses.existence import existence, objectness_error
from influencerformer.losses.inputs import Logits, MaskInputs, NonFinite, Truth, make_inputs
from influencerformer.losses.membership import Segments
from influencerformer.losses.normalizer import mean_over_ranks
from influencerformer.losses.pair_potential import of_batch, pair_potential
from influencerformer.losses.precision import without_autocast
from influencerformer.losses.schedule import Annealing
from influencerformer.losses.transport import partial_transport, single_claim_transport


def mask_influencer_loss(
    mask_logits: Logits,
    instance_labels: Truth | None = None,
    class_logits: Logits | None = None,
    class_labels: Truth | None = None,
    *,
    instance_masks: Truth | None = None,
    query_mask: Tensor | None = None,
    claim_mask: Truth | None = None,
    objectness: Logits | None = None,
    attr_weight: float = 1.0,
    rep_weight: float = 1.0,
    bg_weight: float = 1.0,
    rep_margin: float = 0.0,
    temperature: float = 0.02,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    objectness_weight: float = 2.0,
    condensation_weight: float = 3.0,
    no_object_weight: float = 0.1,
    quality: float = 0.0,
    shared_claims: bool = False,
    iterations: int = 10,
    num_points: int | None = None,
    nonfinite: NonFinite | None = None,
) -> dict[str, Tensor]:
    r"""Influencer Loss between Q queries and K instances over N pixels, without a matching.

    .. math::
        L = \sum_{\text{layers}} \Big[ \tfrac1K \sum_{qk} P_{qk}\,
            (w_m\,\text{pixel}_{qk} + w_d\,\text{overlap}_{qk}) + w_c\,\text{existence}
            + w_o\,\text{objectness} \Big]
            + w_{co}\, \tfrac1K \sum_k (\text{attraction}_k + \text{repulsion}_k)

    The claims :math:`P` solve the partial entropic transport of :func:`partial_transport` with the potential
    :math:`D = w_m\,\text{pixel} + w_d\,\text{overlap} + w_c (1 - p_q(\text{class}_k))` and the no-object potential
    :math:`w_c w_{no} (1 - p_q(\text{no-object}))`, and are constants for the gradient. The terms are those of
    :func:`pair_potential`, :func:`existence` and, for the last layer only, :func:`condensation`. docs/loss.md holds the
    derivation and the statement on the optimum.

    Args:
        mask_logits: (Q, N), (B, Q, N), or, for L decoder layers of which the last is the output, (L, B, Q, N) or a
            sequence of L tensors (B, Q, N), which spares a copy. A ragged batch, whose images differ in Q and N, comes
            as a sequence of L sequences of B tensors (Q_i, N_i); the other arguments then are sequences of B entries
            (predictions: L of them) alike. float16 and bfloat16 are computed in float32.
        instance_labels: (N,) or (B, N) integers: 0 background, 1..K instances, -1 ignored. With ``instance_masks`` only
            its -1 entries count.
        class_logits: (..., Q, C + 1) alike, no-object last; without them the existence part and the class potential
            are left out, and nothing speaks against a duplicate.
        class_labels: (K,) or (B, K) integers in 0..C-1, padded with -1; None makes every instance class 0.
        instance_masks: (K, N) or (B, K, N) bool, for instances that overlap.
        query_mask: (Q,) or (B, Q) bool, False for padded queries; an image has at least one query.
        claim_mask: (Q, K) or (B, Q, K) bool, True where a query may claim an instance; None allows all. An instance
            that no query may claim is left out of claims, classes and the normaliser, not of the condensation.
        objectness: (..., Q) predicted IoU of each query's mask, alike; trained to the IoU of the claimed mask, 0 for
            no-object. None leaves the part out.
        attr_weight, rep_weight, bg_weight: weights of the pixel potential: members pulled in, members of other
            instances pushed out, background pushed out. All 1 is binary cross-entropy.
        rep_margin: cosine above which a pixel and another instance's prototype repel in the condensation, at least 0.
        temperature: of the claims, in the units of D (weights 2/5/5): 0.5 is soft, 0.02 nearly an assignment.
        class_weight, mask_weight, dice_weight, objectness_weight: weights of class, pixel, overlap and objectness.
        condensation_weight: weight of the condensation.
        no_object_weight: weight of no-object in the existence cross-entropy.
        quality: exponent that ties class targets to mask quality: claims count by IoU ** quality. 0 is off.
        shared_claims: every decoder layer is trained by the claims of the last one, in place of its own.
        iterations: projections of the transport; in an image of more than CROWD instances, at each of the temperatures
            of :func:`crowd_temperatures`.
        num_points: evaluate on this many random pixels of each image, drawn with replacement; None takes all.
        nonfinite: "raise" names the tensor that holds NaN or inf; "skip" replaces such values and
            reports their number as ``nonfinite``. None raises on a CPU and skips on an accelerator, where a
            look would make the host wait.

    Returns:
        A dict of scalars: "loss" (differentiable), and detached "claim_mask", "claim_dice", "existence", "objectness",
        "attraction", "repulsion", which add up to it, and "nonfinite".

    Raises:
        TypeError, ValueError: shapes, dtypes, labels or values that do not fit; the message says what came.

    Example:
        >>> labels = torch.tensor([1, 1, 2, 2, 0])
        >>> masks = torch.tensor([[9.0, 9, -9, -9, -9], [-9.0, -9, 9, 9, -9], [-9.0, -9, -9, -9, -9]])
        >>> classes = torch.tensor([[9.0, -9], [9.0, -9], [-9.0, 9]])
        >>> bool(mask_influencer_loss(masks, labels, classes)["loss"] < 1e-2)
        True
    """
    check_weights(
        attr_weight=attr_weight,
        rep_weight=rep_weight,
        bg_weight=bg_weight,
        rep_margin=rep_margin,
        class_weight=class_weight,
        mask_weight=mask_weight,
        dice_weight=dice_weight,
        objectness_weight=objectness_weight,
        condensation_weight=condensation_weight,
        no_object_weight=no_object_weight,
        quality=quality,
    )
    with without_autocast(mask_logits):
        inputs = make_inputs(
            mask_logits,
            instance_labels,
            class_logits,
            class_labels,
            instance_masks=instance_masks,
            query_mask=query_mask,
            claim_mask=claim_mask,
            objectness=objectness,
            num_points=num_points,
            nonfinite=nonfinite,
        )
        exists, classes, candidates = inputs.instance_mask, inputs.classes[:, None], inputs.candidates
        if candidates is not None:
            classes = _classes_of_candidates(inputs.classes, candidates)
        weights = {"attr_weight": attr_weight, "rep_weight": rep_weight, "bg_weight": bg_weight}
        potentials, condensed = [], []
        for group, own_candidates in zip(inputs.groups, inputs.candidates_by_group(), strict=True):
            segments, layers = Segments(group.targets), list(group.mask_logits)
            if condensation_weight:
                parts_of_group = condensation(layers[-1], segments, rep_margin=rep_margin, query_mask=group.query_mask)
                condensed.append(torch.stack([parts_of_group.attraction.sum(), parts_of_group.repulsion.sum()]))
                layers[-1] = parts_of_group.logits
            potentials.append(pair_potential(layers, segments, candidates=own_candidates, **weights))
        potential = of_batch(potentials)
        with torch.no_grad():
            cost = mask_weight * potential.pixel() + dice_weight * potential.overlap()
        none = cost.new_zeros(cost.shape[:-1])
        if inputs.class_logits is not None:
            probability = inputs.class_logits.detach().softmax(-1)
            cost = cost + class_weight * (1 - probability.gather(-1, classes.expand(cost.shape)))
            none = class_weight * no_object_weight * (1 - probability[..., -1])
        if shared_claims:
            cost, none = cost[-1:], none[-1:]
        if candidates is not None:
            claims = single_claim_transport(
                cost[..., 0], none, candidates, exists.shape[-1], temperature, iterations=iterations
            )[..., None]
        else:
            claims = partial_transport(
                cost,
                none,
                exists,
                _temperature(cost, inputs, temperature),
                query_mask=inputs.query_mask,
                claim_mask=inputs.claim_mask,
                iterations=iterations,
            )
        claims = claims.expand(potential.sums.inside_logit.shape)
        pixel, overlap = potential.claimed(claims)

        count = mean_over_ranks(exists.sum().to(cost.dtype))
        zero = cost.new_zeros(())
        parts = {
            "claim_mask": mask_weight * pixel / count,
            "claim_dice": dice_weight * overlap / count,
            "existence": zero,
            "objectness": zero,
            "attraction": zero,
            "repulsion": zero,
        }
        if inputs.class_logits is not None:
            weighted = claims * potential.iou() ** quality if quality else claims
            nll = existence(
                inputs.class_logits, weighted, classes, no_object_weight=no_object_weight, query_mask=inputs.query_mask
            )
            parts["existence"] = class_weight * nll.sum()
        if inputs.objectness is not None:
            error = objectness_error(
                inputs.objectness,
                claims,
                potential.iou(),
                no_object_weight=no_object_weight,
                query_mask=inputs.query_mask,
            )
            parts["objectness"] = objectness_weight * error.sum()
        if condensed:
            sums = condensation_weight * torch.stack(condensed).sum(0) / count
            parts["attraction"], parts["repulsion"] = sums.unbind()
        loss = torch.stack(list(parts.values())).sum()
        check_overflow(
            loss, "mask_logits", [layer for group in inputs.groups for layer in group.mask_logits], nonfinite
        )
    return {"loss": loss, **{k: v.detach() for k, v in parts.items()}, "nonfinite": inputs.nonfinite}


def _temperature(cost: Tensor, inputs: MaskInputs, temperature: float) -> float | Tensor:
    """As given, or (L, B, S) where an image may hold a crowd."""
    if inputs.instance_mask.shape[1] <= CROWD:
        return temperature
    allowed = inputs.claim_mask
    if inputs.query_mask is not None:
        real = inputs.query_mask[..., None]
        allowed = real if allowed is None else allowed & real
    potential = cost if allowed is None else cost.masked_fill(~allowed, torch.inf)
    return crowd_temperatures(potential, inputs.instance_mask, temperature)


def _classes_of_candidates(classes: Tensor, candidates: Tensor) -> Tensor:
    """(B, Q, 1) classes of the instances that queries may claim; 0 where there is none."""
    if not classes.shape[1]:
        return torch.zeros_like(candidates)[..., None]
    return classes.gather(1, candidates.clamp(min=0))[..., None]


class MaskInfluencerLoss(nn.Module):
    """Module of :func:`mask_influencer_loss` with an annealed temperature.

    Args:
        temperature: a constant, or (start, end): geometric from start to end over the first ``anneal`` of the run,
            then constant.
        anneal: fraction of the run after which the temperature stays at its end.
        total_steps: length of the run in calls of :meth:`forward` in training mode, counted here and kept in the
            ``state_dict``, so that a resumed run goes on where it was. The training loop may instead say where it is
            by :meth:`set_progress`.

    The other keywords are those of :func:`mask_influencer_loss`, as are the arguments and the result of a call.

    Example:
        >>> criterion = MaskInfluencerLoss(temperature=(0.5, 0.02))
        >>> criterion.set_progress(0.35)
        >>> round(criterion.temperature, 3)
        0.1
    """

    def __init__(
        self,
        temperature: float | tuple[float, float] = (0.2, 0.02),
        *,
        anneal: float = 0.7,
        total_steps: int = 10_000,
        attr_weight: float = 1.0,
        rep_weight: float = 1.0,
        bg_weight: float = 1.0,
        rep_margin: float = 0.0,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        objectness_weight: float = 2.0,
        condensation_weight: float = 3.0,
        no_object_weight: float = 0.1,
        quality: float = 0.0,
        shared_claims: bool = False,
        iterations: int = 10,
        num_points: int | None = None,
        nonfinite: NonFinite | None = None,
    ) -> None:
        super().__init__()
        self.annealing = Annealing(temperature, anneal, total_steps)
        self.attr_weight = attr_weight
        self.rep_weight = rep_weight
        self.bg_weight = bg_weight
        self.rep_margin = rep_margin
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.objectness_weight = objectness_weight
        self.condensation_weight = condensation_weight
        self.no_object_weight = no_object_weight
        self.quality = quality
        self.shared_claims = shared_claims
        self.iterations = iterations
        self.num_points = num_points
        self.nonfinite: NonFinite | None = nonfinite

    @property
    def temperature(self) -> float:
        """The temperature of the next call."""
        return self.annealing.temperature

    def set_progress(self, fraction: float) -> None:
        """Says where in the run the next call is, 0 at its start and 1 at its end; ends the counting of calls."""
        self.annealing.set_progress(fraction)

    def forward(
        self,
        mask_logits: Logits,
        instance_labels: Truth | None = None,
        class_logits: Logits | None = None,
        class_labels: Truth | None = None,
        *,
        instance_masks: Truth | None = None,
        query_mask: Tensor | None = None,
        claim_mask: Truth | None = None,
        objectness: Logits | None = None,
    ) -> dict[str, Tensor]:
        result = mask_influencer_loss(
            mask_logits,
            instance_labels,
            class_logits,
            class_labels,
            instance_masks=instance_masks,
            query_mask=query_mask,
            claim_mask=claim_mask,
            objectness=objectness,
            attr_weight=self.attr_weight,
            rep_weight=self.rep_weight,
            bg_weight=self.bg_weight,
            rep_margin=self.rep_margin,
            temperature=self.temperature,
            class_weight=self.class_weight,
            mask_weight=self.mask_weight,
            dice_weight=self.dice_weight,
            objectness_weight=self.objectness_weight,
            condensation_weight=self.condensation_weight,
            no_object_weight=self.no_object_weight,
            quality=self.quality,
            shared_claims=self.shared_claims,
            iterations=self.iterations,
            num_points=self.num_points,
            nonfinite=self.nonfinite,
        )
        if self.training:
            self.annealing.advance()
        return result
