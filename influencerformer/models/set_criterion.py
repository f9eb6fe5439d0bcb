"""The criterion of the DETR family: outputs and targets as dicts, a dict of losses back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influencerformer.losses.mask_influencer import MaskInfluencerLoss
from influencerformer.losses.targets import IGNORED
from influencerformer.models.image_criterion import ImageCriterion, pad_classes


class InfluencerSetCriterion(nn.Module):
    """Takes the place of ``SetCriterion`` in MaskFormer, Mask2Former, Mask3D, SPFormer and their kin.

    Args:
        num_points: random cells an image, for masks (B, Q, h, w); None takes the whole grid of the mask logits.
        edge_fraction: the part of these cells that is drawn near outlines.
        queries_last: lists of mask logits are (N_i, Q), as Mask3D has them, not (Q, N_i).
        masks_key: the name of the masks in a target ("masks"; Mask3D also has "segment_mask").
        **options: keywords of :class:`influencerformer.losses.MaskInfluencerLoss`; its ``total_steps`` or
            ``set_progress`` moves the temperature.

    Attributes:
        weight_dict: {"loss_influencer": 1.0}, which the family's training loops multiply by.
        parts: detached scalars of the last call, for the log.

    Example:
        >>> criterion = InfluencerSetCriterion(total_steps=1000)
        >>> outputs = {"pred_logits": torch.zeros(1, 5, 3), "pred_masks": torch.zeros(1, 5, 8, 8)}
        >>> target = {"labels": torch.tensor([1]), "masks": torch.ones(1, 32, 32, dtype=torch.bool)}
        >>> sorted(criterion(outputs, [target]))
        ['loss_influencer']
    """

    def __init__(
        self,
        *,
        num_points: int | None = None,
        edge_fraction: float = 0.5,
        queries_last: bool = False,
        masks_key: str = "masks",
        **options: Any,
    ) -> None:
        super().__init__()
        self.image_criterion = ImageCriterion(MaskInfluencerLoss(**options), num_points, edge_fraction)
        self.queries_last = queries_last
        self.masks_key = masks_key
        self.weight_dict = {"loss_influencer": 1.0}
        self.parts: dict[str, Tensor] = {}

    @property
    def loss(self) -> MaskInfluencerLoss:
        """The loss, for its schedule."""
        loss = self.image_criterion.loss
        assert isinstance(loss, MaskInfluencerLoss)
        return loss

    def forward(self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The loss of the output layer and of every layer in ``aux_outputs``.

        Args:
            outputs: "pred_logits" (B, Q, C + 1), no-object last; "pred_masks" (B, Q, h, w), (B, Q, N), or a list of B
                tensors (Q, N_i); optionally "aux_outputs", a list of such dicts, one a layer.
            targets: B dicts with "labels" (K,) and masks (K, H, W), or (K, N_i), negative where ignored, or an
                integer instance map (H, W), or (N_i,): 0 background, 1..K, -1 ignored.

        Returns:
            {"loss_influencer": scalar}.

        Raises:
            KeyError: a missing entry.
            TypeError, ValueError: tensors that do not fit.
        """
        layers = [*outputs.get("aux_outputs", ()), outputs]
        masks = [_entry(layer, "pred_masks", "outputs") for layer in layers]
        classes = [_stacked(_entry(layer, "pred_logits", "outputs")) for layer in layers]
        truths = [_entry(target, self.masks_key, f"targets[{i}]") for i, target in enumerate(targets)]
        labels = [_entry(target, "labels", f"targets[{i}]") for i, target in enumerate(targets)]
        if isinstance(masks[-1], Tensor) and masks[-1].ndim == 4:
            loss = self.image_criterion(masks, classes, truths, labels)
            self.parts = self.image_criterion.parts
            return {"loss_influencer": loss}
        _check_point_truth(truths, labels, masks[-1], [self._rows(mask).shape[1] for mask in masks[-1]])
        logits = [self._columns(layer) for layer in masks]
        instance_labels, instance_masks = _point_truth(truths, labels, logits[0].shape[-1], logits[0].device)
        result = self.loss(
            logits,
            instance_labels,
            classes,
            pad_classes(labels, logits[0].device),
            instance_masks=instance_masks,
        )
        self.parts = {name: value for name, value in result.items() if name != "loss"}
        return {"loss_influencer": result["loss"]}

    def _rows(self, mask: Tensor) -> Tensor:
        """(Q, N)."""
        return mask.T if self.queries_last else mask

    def _columns(self, masks: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, Q, N), padded."""
        rows = [self._rows(mask) for mask in masks]
        most = max(row.shape[1] for row in rows)
        return torch.stack([F.pad(row, (0, most - row.shape[1])) for row in rows])


def _entry(mapping: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in mapping:
        raise KeyError(f"{where} must have an entry {name!r}, it has {sorted(mapping)}")
    return mapping[name]


def _stacked(logits: Tensor | Sequence[Tensor]) -> Tensor:
    return logits if isinstance(logits, Tensor) else torch.stack(list(logits))


def _check_point_truth(
    truths: Sequence[Tensor], classes: Sequence[Tensor], masks: Tensor | Sequence[Tensor], num_points: Sequence[int]
) -> None:
    """Lists must name every point; the targets of a padded tensor (B, Q, N) may be shorter."""
    if not len(truths) == len(classes) == len(num_points):
        raise ValueError(f"{len(truths)} targets came with {len(num_points)} pred_masks")
    if not truths:
        raise ValueError("targets hold no scene: give a dict of labels and masks for each")
    for i, (truth, labels, count) in enumerate(zip(truths, classes, num_points, strict=True)):
        for name, value in (("masks", truth), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise TypeError(f"the {name} of target {i} must be a tensor, got {type(value).__name__} in its place")
        if truth.ndim not in (1, 2) or truth.ndim != truths[0].ndim:
            raise ValueError(
                f"targets must all hold masks (K, N) or all instance maps (N,), as pred_masks have N points; "
                f"target 0 came as {tuple(truths[0].shape)}, target {i} as {tuple(truth.shape)}"
            )
        if truth.ndim == 2 and len(truth) != len(labels):
            raise ValueError(f"target {i} holds {len(truth)} masks and {len(labels)} labels")
        found = truth.shape[-1]
        if found > count or (found < count and not isinstance(masks, Tensor)):
            raise ValueError(f"target {i} covers {found} points, its pred_masks {count}")


def _point_truth(
    truths: Sequence[Tensor], classes: Sequence[Tensor], num_points: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Labels (B, N) with -1 for padding, and masks (B, K, N) unless the truth is label maps."""
    if truths[0].ndim == 1:
        labels = [truth.to(device) for truth in truths]
        masks = None
    else:
        most = max(len(c) for c in classes)
        pads = [(0, num_points - t.shape[1], 0, most - len(t)) for t in truths]
        masks = torch.stack([F.pad(t.to(device) > 0, pad) for t, pad in zip(truths, pads, strict=True)])
        labels = [torch.where((t.to(device) < 0).any(0), IGNORED, 0) for t in truths]
    return torch.stack([F.pad(t, (0, num_points - len(t)), value=IGNORED) for t in labels]), masks
