"""The criterion of transformers' MaskFormer, Mask2Former and EoMT, swapped in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from influencerformer.losses.hungarian import HungarianMaskLoss
from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.models.image_criterion import ImageCriterion, masks_of

Model = TypeVar("Model", bound=nn.Module)
WEIGHTS = ("class_weight", "mask_weight", "dice_weight")


class TransformersCriterion(ImageCriterion):
    """Takes the place of ``model.criterion``; same arguments as transformers' own, same state in a checkpoint.

    Args:
        loss: MaskInfluencerLoss or HungarianMaskLoss.
        empty_weight: (C + 1,) the replaced criterion's class weights, kept so that checkpoints stay interchangeable.
        num_points, edge_fraction: see ImageCriterion.
    """

    def __init__(
        self,
        loss: MaskInfluencerLoss | HungarianMaskLoss,
        empty_weight: Tensor,
        num_points: int | None,
        edge_fraction: float,
    ) -> None:
        super().__init__(loss, num_points, edge_fraction)
        self.register_buffer("empty_weight", empty_weight)

    def forward(  # type: ignore[override]
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        auxiliary_predictions: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """{"loss_influencer": loss}, or "loss_hungarian", already weighted; the parts are in ``parts``."""
        layers = list(auxiliary_predictions or [])
        masks = [layer["masks_queries_logits"] for layer in layers] + [masks_queries_logits]
        classes = [layer["class_queries_logits"] for layer in layers] + [class_queries_logits]
        loss = super().forward(masks, classes, mask_labels, class_labels)
        name = "influencer" if isinstance(self.loss, MaskInfluencerLoss) else "hungarian"
        return {f"loss_{name}": loss}


class StockCriterion(nn.Module):
    """transformers' own criterion, fed with instance maps: each becomes (K, H, W) masks, as it expects them."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    @property
    def empty_weight(self) -> Tensor:
        """(C + 1,) the criterion's class weights."""
        weight = self.criterion.empty_weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(
        self,
        masks_queries_logits: Tensor,
        class_queries_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        auxiliary_predictions: Any = None,
    ) -> dict[str, Tensor]:
        """The criterion's own result; ignored pixels, which it does not know, are background to it."""
        masks = [
            (masks_of(truth, len(classes)) > 0).to(masks_queries_logits.dtype)
            for truth, classes in zip(mask_labels, class_labels, strict=True)
        ]
        return self.criterion(masks_queries_logits, class_queries_logits, masks, class_labels, auxiliary_predictions)


def _criterion_of(model: nn.Module) -> nn.Module:
    criterion = getattr(model, "criterion", None)
    if not isinstance(criterion, nn.Module) or not hasattr(criterion, "empty_weight"):
        raise TypeError(
            "expected a MaskFormer, Mask2Former or EoMT segmentation model of transformers "
            f"(it has a criterion with class weights), got {type(model).__name__}"
        )
    return criterion


def _swap(
    model: nn.Module,
    loss_type: type[MaskInfluencerLoss] | type[HungarianMaskLoss],
    num_points: int | None,
    edge_fraction: float,
    options: dict[str, Any],
) -> None:
    replaced = _criterion_of(model)
    config: Any = model.config
    # MaskFormer names its class weight otherwise and has it in the loss alone, as 1
    defaults = {name: float(getattr(config, name)) for name in WEIGHTS if hasattr(config, name)}
    defaults.setdefault("class_weight", float(getattr(config, "cross_entropy_weight", 2.0)))
    defaults["no_object_weight"] = float(config.no_object_weight)
    loss = loss_type(**{**defaults, **options})
    if isinstance(loss, MaskInfluencerLoss) and hasattr(config, "num_blocks"):
        # EoMT calls its criterion once a layer
        loss.annealing.total_steps *= config.num_blocks + 1
    empty_weight = replaced.empty_weight
    assert isinstance(empty_weight, Tensor)
    criterion = TransformersCriterion(loss, empty_weight, num_points, edge_fraction)
    criterion.to(empty_weight.device).train(replaced.training)
    model.criterion = criterion


def use_influencer_loss(
    model: Model, *, num_points: int | None = None, edge_fraction: float = 0.5, **options: Any
) -> Model:
    """Makes a MaskFormer, Mask2Former or EoMT of transformers train with the Influencer Loss.

    The model's outputs, its inputs (``mask_labels`` and ``class_labels``; an integer instance map (H, W) is accepted in
    place of (K, H, W) masks), its checkpoints and ``Trainer`` stay as they are. Class, mask, dice and no-object weights
    come from the model's configuration unless given.

    Args:
        model: fresh or from ``from_pretrained``; changed in place.
        num_points: random cells of the mask logits' grid an image at which the loss is evaluated; None takes all.
        edge_fraction: the part of these cells that is drawn near outlines.
        **options: keywords of :class:`influencerformer.losses.MaskInfluencerLoss`. Say ``total_steps``, the length of
            your run in forward passes, so that the temperature falls over the first 70 % of it.

    Returns:
        The same model.

    Raises:
        TypeError: not such a model, or an unknown option.

    Example:
        >>> from influencerformer.models import build_model
        >>> model = use_influencer_loss(build_model("mask2former-tiny", num_classes=1), total_steps=5000)
        >>> model.criterion.loss.temperature
        0.2
    """
    _swap(model, MaskInfluencerLoss, num_points, edge_fraction, options)
    return model


def use_hungarian_loss(
    model: Model, *, num_points: int | None = None, edge_fraction: float = 0.5, **options: Any
) -> Model:
    """The baseline in the same place: Hungarian matching that never crashes, on the same points, with instance maps.

    Args:
        model: as for :func:`use_influencer_loss`.
        num_points, edge_fraction: as for :func:`use_influencer_loss`.
        **options: keywords of :class:`influencerformer.losses.HungarianMaskLoss`.

    Returns:
        The same model.
    """
    _swap(model, HungarianMaskLoss, num_points, edge_fraction, options)
    return model


def use_stock_loss(model: Model, *, num_points: int | None = None) -> Model:
    """transformers' own criterion with instance maps accepted: for comparisons with what a user has today.

    Args:
        model: as for :func:`use_influencer_loss`; its criterion must not have been swapped yet.
        num_points: points a mask that Mask2Former's and EoMT's criterion sample; None keeps the configuration's.

    Returns:
        The same model.

    Raises:
        TypeError: not such a model, or its criterion was swapped before.
    """
    criterion: Any = _criterion_of(model)
    if isinstance(criterion, (TransformersCriterion, StockCriterion)):
        raise TypeError(
            f"expected a model with transformers' own criterion, its criterion is a {type(criterion).__name__}"
        )
    if num_points is not None:
        criterion.num_points = criterion.matcher.num_points = num_points
    model.criterion = StockCriterion(criterion)
    return model


def set_progress(model: nn.Module, fraction: float) -> None:
    """Tells the model's criterion where in the run the next step is, 0 to 1; no effect on one without a schedule."""
    for module in model.modules():
        if isinstance(module, MaskInfluencerLoss):
            module.set_progress(fraction)
