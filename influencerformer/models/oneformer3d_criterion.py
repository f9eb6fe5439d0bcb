"""The criterion of OneFormer3D on S3DIS and ScanNet: predictions and truth as lists of scenes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from influencerformer.losses.inputs import NonFinite
from influencerformer.losses.mask_influencer import MaskInfluencerLoss

UNIT = 12.0
"""Sum of the class, pixel and overlap weights that the temperature and the weight of the condensation are made for."""
DICE_FACTOR = 4.0
"""What the original multiplies the dice weight of its output layer by under fix_dice_loss_weight, at any batch size."""


class InfluencerCriterion:
    """Takes the place of OneFormer3D's ``InstanceCriterion``: swap ``type`` in the configuration.

    A plain callable, as the original, without parameters or device; in an mmengine run the temperature follows the
    runner's iteration, so a resumed run goes on where it was. Registered in mmdet3d's ``MODELS`` when
    ``influencerformer`` is imported where mmdet3d is installed (``custom_imports``).

    Args:
        num_classes: C, without no-object.
        loss_weight: of class, pixel (BCE), overlap (dice) and objectness terms.
        non_object_weight: weight of no-object in the class and objectness terms.
        attr_weight, rep_weight, bg_weight, rep_margin, iterations: as in
            :class:`influencerformer.losses.MaskInfluencerLoss`.
        temperature: a constant or (start, end), for weights that sum to 12; it is scaled to those of ``loss_weight``,
            as is ``condensation_weight``.
        anneal: fraction of the run after which the temperature stays at its end.
        condensation_weight: weight of the condensation.
        iter_matcher: True lays the claims of every decoder layer anew, False takes the last layer's for all.
        total_steps: length of the run in calls, where no mmengine runner tells it.
        nonfinite: "raise" or "skip" on NaN and inf in predictions; None raises on a CPU and skips on an accelerator.
        fix_dice_loss_weight: True weighs dice four times ``loss_weight[2]``, as the original does in its output layer;
            here in every layer and at every batch size.
        matcher, fix_mean_loss: keywords of the original without a meaning here; a warning names those given.

    Raises:
        ValueError: weights or classes out of range.

    Example:
        >>> criterion = InfluencerCriterion(num_classes=2)
        >>> pred = {"cls_preds": [torch.zeros(5, 3)], "masks": [torch.zeros(5, 8)], "scores": [None]}
        >>> class Scene:
        ...     sp_masks, labels_3d = torch.ones(1, 8, dtype=torch.bool), torch.tensor([1])
        >>> sorted(criterion(pred, [Scene()]))[-3:]
        ['inst_objectness', 'inst_repulsion', 'inst_temperature']
    """

    def __init__(
        self,
        *,
        num_classes: int,
        loss_weight: Sequence[float] = (0.5, 1.0, 1.0, 0.5),
        non_object_weight: float = 0.1,
        attr_weight: float = 1.0,
        rep_weight: float = 1.0,
        bg_weight: float = 1.0,
        rep_margin: float = 0.0,
        temperature: float | tuple[float, float] = (0.2, 0.02),
        anneal: float = 0.7,
        condensation_weight: float = 3.0,
        iter_matcher: bool = True,
        iterations: int = 10,
        total_steps: int = 10_000,
        nonfinite: NonFinite | None = None,
        fix_dice_loss_weight: bool = False,
        matcher: object = None,
        fix_mean_loss: object = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        weights = list(loss_weight)
        if len(weights) != 4 or min(weights) < 0 or sum(weights[:3]) <= 0:
            raise ValueError(
                f"loss_weight must be four weights of class, BCE, dice and score, none negative, got {loss_weight}"
            )
        ignored = {"matcher": matcher, "fix_mean_loss": fix_mean_loss}
        given = [name for name, value in ignored.items() if value is not None]
        if given:
            warnings.warn(
                f"InfluencerCriterion ignores {', '.join(given)}: queries claim instances without a matcher, and the "
                "loss is always a mean over instances",
                stacklevel=2,
            )
        if fix_dice_loss_weight:
            weights[2] *= DICE_FACTOR
        self.num_classes = num_classes
        self.unit = sum(weights[:3]) / UNIT
        self.loss = MaskInfluencerLoss(
            temperature,
            anneal=anneal,
            total_steps=total_steps,
            attr_weight=attr_weight,
            rep_weight=rep_weight,
            bg_weight=bg_weight,
            rep_margin=rep_margin,
            class_weight=weights[0] / self.unit,
            mask_weight=weights[1] / self.unit,
            dice_weight=weights[2] / self.unit,
            objectness_weight=weights[3] / self.unit,
            condensation_weight=condensation_weight,
            no_object_weight=non_object_weight,
            shared_claims=not iter_matcher,
            iterations=iterations,
            nonfinite=nonfinite,
        )

    def __call__(self, pred: Mapping[str, Any], insts: Sequence[Any]) -> dict[str, Tensor]:
        """The loss of B scenes, with that of the layers in ``aux_outputs``.

        Args:
            pred: lists of length B, ``cls_preds`` (Q_i, C + 1), no-object last, ``masks`` (Q_i, N_i) logits and
                ``scores`` (Q_i, 1) predicted IoU or None; optionally ``aux_outputs``, such a dict for each other layer.
            insts: B records with ``sp_masks`` (G_i, N_i) bool, ``labels_3d`` (G_i,) integers in 0..C-1, and optionally
                ``query_masks`` (G_i, Q_i) bool: which queries lie in which instance, and so may claim it.

        Returns:
            "inst_loss", and detached parts for the log that do not count: "inst_claim_mask", "inst_claim_dice",
            "inst_existence", "inst_objectness", "inst_attraction", "inst_repulsion", which add up to it, and
            "inst_temperature" and "inst_nonfinite".

        Raises:
            KeyError: an entry that is missing, by name.
            TypeError, ValueError: tensors that do not fit.
        """
        layers = [*_aux_outputs(pred), pred]
        for name in ("cls_preds", "masks", "scores"):
            for i, layer in enumerate(layers):
                where = "pred" if layer is pred else f"pred['aux_outputs'][{i}]"
                _check_layer(name, layer, where, len(insts))
        truth = [_Truth(inst, i) for i, inst in enumerate(insts)]
        for i, scene in enumerate(truth):
            scene.check(pred["masks"][i], pred["cls_preds"][i], self.num_classes)
        claim_masks = [scene.claim_mask(pred["masks"][i]) for i, scene in enumerate(truth)]
        progress = _progress_of_run()
        if progress is not None:
            self.loss.set_progress(progress)
        temperature = self.loss.temperature
        result = self.loss(
            [layer["masks"] for layer in layers],
            None,
            [layer["cls_preds"] for layer in layers],
            [scene.classes for scene in truth],
            instance_masks=[scene.masks for scene in truth],
            claim_mask=None if all(scene.queries is None for scene in truth) else claim_masks,
            objectness=_objectness(layers),
        )
        loss = self.unit * result.pop("loss")
        parts = {f"inst_{name}": value * (1 if name == "nonfinite" else self.unit) for name, value in result.items()}
        parts["inst_nonfinite"] = parts["inst_nonfinite"].to(loss.dtype)
        return {"inst_loss": loss, **parts, "inst_temperature": loss.new_full((), temperature)}


class _Truth:
    """One scene's instances, read by name."""

    def __init__(self, inst: Any, scene: int) -> None:
        self.where = f"insts[{scene}]"
        self.masks: Tensor = self._required(inst, "sp_masks")
        self.classes: Tensor = self._required(inst, "labels_3d")
        self.queries: Tensor | None = getattr(inst, "query_masks", None)
        known = inst.keys() if hasattr(inst, "keys") else vars(inst)
        stray = [name for name in known if name.startswith("query") and name != "query_masks"]
        if stray and self.queries is None:
            raise KeyError(
                f"{self.where} has no 'query_masks' but {', '.join(map(repr, stray))}: name it 'query_masks'"
            )

    def _required(self, inst: Any, name: str) -> Tensor:
        value = getattr(inst, name, None)
        if value is None:
            known = sorted(inst.keys()) if hasattr(inst, "keys") else sorted(vars(inst))
            raise KeyError(f"{self.where} has no {name!r}; it has {', '.join(known) or 'nothing'}")
        return value

    def check(self, masks: Tensor, classes: Tensor, num_classes: int) -> None:
        """Against the last layer's predictions of the same scene."""
        if not isinstance(masks, Tensor) or not isinstance(classes, Tensor):
            raise TypeError(f"masks and cls_preds of scene {self.where[6:-1]} must be tensors, got None in their place")
        if classes.ndim != 2 or classes.shape[1] != num_classes + 1:
            raise ValueError(
                f"cls_preds of scene {self.where[6:-1]} must be (Q, C + 1) with C = num_classes = {num_classes}, "
                f"got {tuple(classes.shape)}"
            )
        count, points = len(self.classes), masks.shape[-1]
        if self.masks.shape != (count, points):
            raise ValueError(
                f"{self.where}.sp_masks must be (G, N) = ({count}, {points}), as labels_3d has {count} instances and "
                f"masks have {points} points, got {tuple(self.masks.shape)}"
            )
        if self.queries is not None and self.queries.shape != (count, len(masks)):
            raise ValueError(
                f"{self.where}.query_masks must be (G, Q) = ({count}, {len(masks)}), got {tuple(self.queries.shape)}"
            )

    def claim_mask(self, masks: Tensor) -> Tensor:
        """(Q, G) which query may claim which instance."""
        if self.queries is None:
            return torch.ones(len(masks), len(self.classes), dtype=torch.bool, device=masks.device)
        return self.queries.bool().T


def _aux_outputs(pred: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "aux_outputs" in pred:
        return pred["aux_outputs"]
    for name, value in pred.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            raise KeyError(f"pred has no 'aux_outputs' but {name!r}, a list of dicts: name it 'aux_outputs'")
    return ()


def _check_layer(name: str, layer: Mapping[str, Any], where: str, batch: int) -> None:
    if name not in layer:
        raise KeyError(f"{where} has no {name!r}; it has {', '.join(map(repr, layer)) or 'nothing'}")
    if len(layer[name]) != batch:
        raise ValueError(f"{where}[{name!r}] holds {len(layer[name])} scenes, insts {batch}")


def _objectness(layers: Sequence[Mapping[str, Any]]) -> list[list[Tensor]] | None:
    """L lists of B tensors (Q_i,), or None where the model has no objectness head."""
    missing = [score is None for layer in layers for score in layer["scores"]]
    if all(missing):
        return None
    if any(missing):
        raise ValueError("scores are None in some layers or scenes and tensors in others: give all or none")
    return [[score.flatten() for score in layer["scores"]] for layer in layers]


def _progress_of_run() -> float | None:
    """Where the mmengine runner of this process is, in [0, 1]; None without one."""
    logging = sys.modules.get("mmengine.logging")
    if logging is None:
        return None
    hub = logging.MessageHub.get_current_instance()
    iteration, length = hub.get_info("iter"), hub.get_info("max_iters")
    return None if iteration is None or not length else min(1.0, iteration / length)
