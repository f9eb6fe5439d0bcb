"""The mask losses on point clouds: tokens take their points' labels, then loss, then parts for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from influencerformer.errors import UserError
from influencerformer.losses.hungarian import HungarianMaskLoss
from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.models.points.voxels import token_labels

LOSSES: dict[str, type[MaskInfluencerLoss] | type[HungarianMaskLoss]] = {
    "influencer": MaskInfluencerLoss,
    "hungarian": HungarianMaskLoss,
}
Model = TypeVar("Model", bound=nn.Module)


class PointOutputs(NamedTuple):
    """Predictions for B scenes by L heads, of which the last is the output. A tuple, so that hooks find the tensors.

    Attributes:
        mask_logits: L lists of B tensors (Q, T_i), over the tokens of each scene.
        class_logits: L lists of B tensors (Q, C + 1), no-object last.
        objectness: L lists of B tensors (Q,), predicted IoU in 0..1, or None.
        token_of_point: B tensors (N_i,) int64, 0..T_i-1: ``mask_logits[-1][i][:, token_of_point[i]]`` is over points.
        loss: scalar, or None without the truth.
    """

    mask_logits: list[list[Tensor]]
    class_logits: list[list[Tensor]]
    objectness: list[list[Tensor]] | None
    token_of_point: list[Tensor]
    loss: Tensor | None = None


class PointCriterion(nn.Module):
    """A mask loss on the tokens of point clouds. A token has the label that most of its points have.

    Args:
        loss: MaskInfluencerLoss, or HungarianMaskLoss, which does not train objectness.

    Attributes:
        parts: detached scalars of the last call, for the log.
    """

    def __init__(self, loss: MaskInfluencerLoss | HungarianMaskLoss) -> None:
        super().__init__()
        self.loss = loss
        self.parts: dict[str, Tensor] = {}

    def forward(
        self, outputs: PointOutputs, instance_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> Tensor:
        """The loss.

        Args:
            outputs: of the model, whatever its ``loss`` holds.
            instance_labels: B tensors (N_i,) int64: 0 background, 1..K_i instances, -1 ignored.
            class_labels: B tensors (K_i,) int64.

        Raises:
            ValueError: another number of scenes, or labels that do not fit; the message names the scene.
        """
        scenes = outputs.token_of_point
        if not len(instance_labels) == len(class_labels) == len(scenes):
            raise ValueError(
                f"{len(instance_labels)} instance_labels and {len(class_labels)} class_labels came with "
                f"{len(scenes)} scenes"
            )
        labels = []
        for i, (truth, classes, tokens) in enumerate(zip(instance_labels, class_labels, scenes, strict=True)):
            try:
                labels.append(token_labels(truth, tokens, outputs.mask_logits[-1][i].shape[1], len(classes)))
            except ValueError as error:
                raise ValueError(f"scene {i}: {error}") from None
        options: dict[str, Any] = {}
        if outputs.objectness is not None and isinstance(self.loss, MaskInfluencerLoss):
            options["objectness"] = outputs.objectness
        result = self.loss(outputs.mask_logits, labels, outputs.class_logits, list(class_labels), **options)
        self.parts = {name: value.detach() for name, value in result.items() if name != "loss"}
        return result["loss"]


def use_point_loss(model: Model, loss: str, **options: Any) -> Model:
    """Makes a :class:`PointMaskFormer` train with another loss.

    Args:
        model: changed in place; no random numbers are drawn.
        loss: "influencer" or "hungarian".
        **options: keywords of :class:`influencerformer.losses.MaskInfluencerLoss` or
            :class:`influencerformer.losses.HungarianMaskLoss`.

    Returns:
        The same model.

    Raises:
        UserError: an unknown loss.
        TypeError: a model without such a criterion, or an unknown option.
    """
    if loss not in LOSSES:
        raise UserError(f"loss must be one of {', '.join(LOSSES)} for a point model, got {loss!r}")
    replaced = getattr(model, "criterion", None)
    if not isinstance(replaced, PointCriterion):
        raise TypeError(f"expected a PointMaskFormer (its criterion is a PointCriterion), got {type(model).__name__}")
    model.criterion = PointCriterion(LOSSES[loss](**options)).train(replaced.training)
    return model
