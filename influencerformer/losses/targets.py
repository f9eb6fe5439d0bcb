"""The truth of a batch in one form, whatever form the user gave it in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influencerformer.losses.checks import check_integers

IGNORED = -1
BACKGROUND = 0


@dataclass(frozen=True)
class MaskTargets:
    """Instances of a batch of B images (clouds, events) with N pixels (points, hits) each.

    Exactly one of ``labels`` and ``masks`` is set. A label map is the cheap form (one integer a pixel);
    masks are for instances that overlap.

    Attributes:
        labels: (B, N) int64, 0 background, 1..K instances, -1 ignored; or None.
        masks: (B, K, N) bool; or None.
        valid: (B, N) bool, False where the pixel is ignored.
        sizes: (B, K) pixels of each instance, in the dtype of the computation.
        num_valid: (B,) pixels that are not ignored, at least 1.
        instance_mask: (B, K) bool, True where the instance exists: it is no padding and has a pixel.
        classes: (B, K) int64, 0 where the instance does not exist.
    """

    labels: Tensor | None
    masks: Tensor | None
    valid: Tensor
    sizes: Tensor
    num_valid: Tensor
    instance_mask: Tensor
    classes: Tensor

    @property
    def num_instances(self) -> int:
        """K, the padded number of instances."""
        return self.instance_mask.shape[1]

    def select(self, columns: Tensor) -> MaskTargets:
        """The same truth on chosen pixels: ``columns`` (B, P) int64 indexes N, and may repeat."""
        labels = masks = None
        if self.labels is not None:
            labels = self.labels.gather(1, columns)
        if self.masks is not None:
            masks = self.masks.gather(2, columns[:, None].expand(-1, self.masks.shape[1], -1))
        given = torch.where(self.instance_mask, self.classes, IGNORED)
        return _assemble(labels, masks, self.valid.gather(1, columns), given, self.sizes.dtype)

    def membership(self) -> Tensor:
        """(B, N, K + 1) indicators in the dtype of ``sizes``; column 0 is the background."""
        if self.labels is not None:
            values = torch.arange(self.num_instances + 1, device=self.labels.device)
            return (self.labels[..., None] == values).to(self.sizes.dtype)
        assert self.masks is not None
        members = self.masks & self.valid[:, None]
        background = self.valid & ~members.any(1)
        return torch.cat([background[:, None], members], 1).to(self.sizes.dtype).transpose(1, 2)


def _assemble(
    labels: Tensor | None, masks: Tensor | None, valid: Tensor, classes: Tensor, dtype: torch.dtype
) -> MaskTargets:
    if labels is not None:
        counts = torch.zeros(labels.shape[0], classes.shape[1] + 1, dtype=dtype, device=labels.device)
        counts.scatter_add_(1, labels.clamp(min=0), valid.to(dtype))
        sizes = counts[:, 1:]
    else:
        assert masks is not None
        sizes = (masks & valid[:, None]).sum(-1).to(dtype)
    exists = (classes >= 0) & (sizes > 0)
    return MaskTargets(
        labels=labels,
        masks=masks,
        valid=valid,
        sizes=sizes,
        num_valid=valid.sum(-1).clamp(min=1).to(dtype),
        instance_mask=exists,
        classes=torch.where(exists, classes, 0),
    )


def make_targets(
    num_pixels: int,
    batch: int,
    dtype: torch.dtype,
    instance_labels: Tensor | None,
    instance_masks: Tensor | None,
    class_labels: Tensor | None,
) -> MaskTargets:
    """Checks the truth and brings it to one form.

    Args:
        num_pixels: N.
        batch: B.
        dtype: floating dtype of the computation.
        instance_labels: (B, N) integers; with ``instance_masks`` only its -1 (ignored) entries count.
        instance_masks: (B, K, N) bool or 0/1.
        class_labels: (B, K) integers, -1 padding; None makes every instance class 0.

    Raises:
        TypeError: labels that are not integers.
        ValueError: shapes that do not fit, labels above K, or an instance without a class.
    """
    if instance_labels is None and instance_masks is None:
        raise ValueError("instance_labels or instance_masks is needed, both are None")
    labels = instance_labels
    if labels is not None:
        check_integers("instance_labels", labels, "0 background, 1..K instances, -1 ignored")
        if labels.shape != (batch, num_pixels):
            raise ValueError(
                f"instance_labels must be {(batch, num_pixels)} as mask_logits has it, got {tuple(labels.shape)}"
            )
        labels = labels.long()
        if labels.device.type == "cpu" and labels.numel() and int(labels.min()) < IGNORED:
            raise ValueError(
                f"instance_labels go down to {int(labels.min())}: 0 is background, 1..K are instances, -1 is ignored"
            )
    if instance_masks is not None:
        if instance_masks.ndim != 3 or instance_masks.shape[::2] != (batch, num_pixels):
            raise ValueError(
                f"instance_masks must be (B, K, N) = ({batch}, K, {num_pixels}), got {tuple(instance_masks.shape)}"
            )
        if instance_masks.is_complex():
            raise TypeError(f"instance_masks must be bool or 0/1, got {instance_masks.dtype}")
        if instance_masks.is_floating_point() and instance_masks.device.type == "cpu":
            strange = (instance_masks != 0) & (instance_masks != 1)
            if bool(strange.any()):
                value = float(instance_masks[strange][0])
                raise ValueError(f"instance_masks must be bool or hold only 0 and 1, got {value}")
        everywhere = torch.ones(batch, num_pixels, dtype=torch.bool, device=instance_masks.device)
        valid = everywhere if labels is None else labels >= 0
        members = instance_masks.bool()
        num_instances = members.shape[1]
        masks: Tensor | None = members
        labels = None
        if members.device.type == "cpu" and not bool((members.sum(1) > 1).any()):
            # a partition after all, for which sums are cheaper; on an accelerator looking would be waiting
            numbers = torch.arange(1, num_instances + 1)
            labels = torch.where(valid, (members * numbers[:, None]).sum(1), IGNORED)
            masks = None
    else:
        assert labels is not None
        masks, valid = None, labels >= 0
        if class_labels is not None:
            if class_labels.ndim != 2:
                raise ValueError(f"class_labels must be (B, K) = ({batch}, K), got {tuple(class_labels.shape)}")
            num_instances = class_labels.shape[-1]
        else:
            num_instances = int(labels.max()) if labels.numel() else 0
    if class_labels is None:
        device = valid.device
        classes = torch.zeros(batch, max(num_instances, 0), dtype=torch.long, device=device)
    else:
        check_integers("class_labels", class_labels, "0..C-1, -1 padding")
        if class_labels.shape != (batch, num_instances):
            raise ValueError(
                f"class_labels must be (B, K) = ({batch}, {num_instances}), got {tuple(class_labels.shape)}"
            )
        classes = class_labels.long()
    if labels is not None and labels.device.type == "cpu" and labels.numel() and int(labels.max()) > num_instances:
        raise ValueError(
            f"instance_labels go up to {int(labels.max())}, but class_labels names only K = {num_instances} instances"
        )
    targets = _assemble(labels, masks, valid, classes, dtype)
    if classes.device.type == "cpu":
        stray = (targets.sizes > 0) & (classes < 0)
        if bool(stray.any()):
            image, instance = stray.nonzero()[0].tolist()
            raise ValueError(
                f"instance {instance + 1} of image {image} has pixels, but its class in class_labels is -1 (padding): "
                "give every instance of an image a class"
            )
    return targets
