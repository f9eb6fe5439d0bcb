"""Checks and brings to one shape what a mask loss is given; shared by the Influencer Loss and its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from influencerformer.losses.checks import check_kinds, check_options
from influencerformer.losses.precision import full_precision
from influencerformer.losses.targets import MaskTargets, make_targets

SATURATED = 1e4
"""Logits beyond this are as good as certain: infinite ones are brought back to it."""

NonFinite = Literal["raise", "skip"]
Logits = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]
Truth = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class ImageGroup:
    """Images of one Q and one N: mask logits of L decoder layers, L x (B, Q, N), with their truth.

    One image's may be L x (Q, N): a view made here would hold back every layer's gradient until the last one is there,
    because autograd goes through operations in the reverse of their order.
    """

    mask_logits: list[Tensor]
    query_mask: Tensor | None
    targets: MaskTargets


@dataclass(frozen=True)
class MaskInputs:
    """What a mask loss works on: pixels by groups of one shape, all else padded to the batch.

    Attributes:
        groups: the images, in their order; a batch of one shape is one group, a ragged one has a group an image.
        class_logits: (L, B, Q, C + 1) or None.
        objectness: (L, B, Q) or None.
        query_mask: (B, Q) bool, False for padding, or None.
        claim_mask: (B, Q, K) bool, or None where every query may claim every instance.
        candidates: (B, Q) int64, the one instance a query may claim, -1 none; or None where there is a choice.
        instance_mask: (B, K) bool, True where an instance exists and a query may claim it.
        classes: (B, K) int64.
        nonfinite: number of values replaced.
    """

    groups: list[ImageGroup]
    class_logits: Tensor | None
    objectness: Tensor | None
    query_mask: Tensor | None
    claim_mask: Tensor | None
    candidates: Tensor | None
    instance_mask: Tensor
    classes: Tensor
    nonfinite: Tensor

    def candidates_by_group(self) -> list[Tensor | None]:
        """Those of each group's own queries."""
        if self.candidates is None:
            return [None] * len(self.groups)
        counts = [1 if group.mask_logits[0].ndim == 2 else len(group.mask_logits[0]) for group in self.groups]
        parts = zip(self.candidates.split(counts), self.groups, strict=True)
        return [part[:, : group.mask_logits[0].shape[-2]] for part, group in parts]


def _finite(name: str, logits: Tensor, nonfinite: NonFinite) -> tuple[Tensor, Tensor]:
    """The logits without NaN and inf, and how many there were."""
    if nonfinite == "skip":
        count = (~logits.isfinite()).sum()
        return logits.nan_to_num(nan=0.0, posinf=SATURATED, neginf=-SATURATED).clamp(-SATURATED, SATURATED), count
    # a sum is one fast pass, and not finite if any value is not; the search is for the message
    if not bool(logits.detach().sum(dtype=full_precision(logits.new_empty(0)).dtype).isfinite()):
        bad = ~logits.isfinite()
        if bool(bad.any()):
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name} holds {int(bad.sum())} of {logits.numel()} values that are NaN or infinite (first: {where}): "
                "the model has diverged or overflowed; lower the learning rate, clip gradients, or use bfloat16 "
                "instead of float16"
            )
    return logits, torch.zeros((), dtype=torch.long, device=logits.device)


def _layers(name: str, logits: Logits, num_axes: int = 3) -> list[Tensor]:
    """L tensors (B, Q, X) from (Q, X), (B, Q, X), (L, B, Q, X); a sequence of L tensors of ``num_axes`` as it is."""
    if isinstance(logits, Tensor):
        if logits.ndim not in (2, 3, 4):
            raise ValueError(
                f"{name} must be (Q, N), (B, Q, N) or (L, B, Q, N), got {tuple(logits.shape)}: "
                "flatten the pixels of an image into one axis"
            )
        if logits.ndim == 4 and not len(logits):
            raise ValueError(f"{name} hold no layer: {tuple(logits.shape)}")
        return list(logits) if logits.ndim == 4 else [logits if logits.ndim == 3 else logits[None]]
    layers = [layer for layer in logits if isinstance(layer, Tensor)]
    fit = [layer.ndim == num_axes and layer.shape == layers[0].shape for layer in layers]
    if not layers or len(layers) < len(logits) or not all(fit):
        shapes = [tuple(layer.shape) for layer in layers]
        axes = "(B, Q, N)" if num_axes == 3 else "(Q, N)"
        raise ValueError(f"{name} as a sequence must be L tensors {axes} of one shape, got {shapes}")
    return layers


def make_inputs(
    mask_logits: Logits,
    instance_labels: Truth | None,
    class_logits: Logits | None,
    class_labels: Truth | None,
    *,
    instance_masks: Truth | None = None,
    query_mask: Tensor | None = None,
    claim_mask: Truth | None = None,
    objectness: Logits | None = None,
    num_points: int | None = None,
    nonfinite: NonFinite | None = None,
) -> MaskInputs:
    """See :func:`influencerformer.losses.mask_influencer_loss` for the arguments and the errors."""
    check_options(num_points, nonfinite)
    check_kinds(
        mask_logits=mask_logits,
        instance_labels=instance_labels,
        class_logits=class_logits,
        class_labels=class_labels,
        instance_masks=instance_masks,
        query_mask=query_mask,
        claim_mask=claim_mask,
        objectness=objectness,
    )
    if mask_logits is None:
        raise TypeError("mask_logits are needed: a tensor or a sequence of tensors, got None")
    if isinstance(mask_logits, Tensor) or not mask_logits or isinstance(mask_logits[0], Tensor):
        given: tuple[Truth | None, ...] = (instance_labels, class_labels, instance_masks, query_mask, claim_mask)
        if isinstance(mask_logits, Tensor) and mask_logits.ndim == 2:
            given = tuple(_one_image(t) for t in given)
        return _uniform_inputs(mask_logits, class_logits, objectness, given, num_points, nonfinite)
    if query_mask is not None:
        raise ValueError("query_mask is for padded queries, and a ragged batch (L lists of B tensors) has none")
    layers = [list(layer) for layer in mask_logits]
    batch = len(layers[0])
    images = []
    for i in range(batch):
        truth = (instance_labels, class_labels, instance_masks, None, claim_mask)
        try:
            images.append(
                _uniform_inputs(
                    _image_layers("mask_logits", layers, i, batch),
                    _with_batch_axis("class_logits", class_logits, i, batch),
                    _with_batch_axis("objectness", objectness, i, batch),
                    tuple(_image(t, i, batch) for t in truth),
                    num_points,
                    nonfinite,
                    num_axes=2,
                )
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {i}: {error}") from None
    if not images:
        raise ValueError("mask_logits hold no image")
    return _merged(images)


def _one_image(truth: Truth | None) -> Tensor | None:
    return truth[None] if isinstance(truth, Tensor) else None


def _image(truth: Truth | None, i: int, batch: int) -> Tensor | None:
    """The truth of image i, with a batch axis of one."""
    if truth is None:
        return None
    if len(truth) != batch:
        raise ValueError(f"the truth has {len(truth)} entries for a batch of {batch}")
    return truth[i][None]


def _image_layers(name: str, logits: Logits, i: int, batch: int) -> list[Tensor]:
    """The L tensors of image i."""
    layers = []
    for layer in logits:
        if len(layer) != batch:
            raise ValueError(f"{name} must hold B tensors in every layer, got {len(layer)} beside {batch}")
        layers.append(layer[i])
    return layers


def _with_batch_axis(name: str, logits: Logits | None, i: int, batch: int) -> list[Tensor] | None:
    return None if logits is None else [layer[None] for layer in _image_layers(name, logits, i, batch)]


def _uniform_inputs(
    mask_logits: Logits,
    class_logits: Logits | None,
    objectness: Logits | None,
    truth: tuple[Truth | None, ...],
    num_points: int | None,
    nonfinite: NonFinite | None,
    num_axes: int = 3,
) -> MaskInputs:
    instance_labels, class_labels, instance_masks, query_mask, claim_mask = (
        t if t is None or isinstance(t, Tensor) else torch.stack(list(t)) for t in truth
    )
    masks = _layers("mask_logits", mask_logits, num_axes)
    for layer in masks:
        if not layer.is_floating_point():
            raise TypeError(f"mask_logits must be floating point, got {layer.dtype}")
    batch, num_queries, num_pixels = (1, *masks[0].shape)[-3:]
    if batch == 0:
        raise ValueError(f"mask_logits hold no image: {tuple(masks[0].shape)}")
    if num_queries == 0:
        raise ValueError("mask_logits hold no query")
    classes = None
    if class_logits is not None:
        classes = _layers("class_logits", class_logits)
        expected = (len(masks), batch, num_queries)
        found = (len(classes), *classes[0].shape[:-1])
        if found != expected or classes[0].shape[-1] < 2:
            raise ValueError(
                f"class_logits must be (L, B, Q, C + 1) = {(*expected, 'C + 1')} with no-object last, "
                f"got {(*found, classes[0].shape[-1])}"
            )
    if query_mask is not None and query_mask.shape != (batch, num_queries):
        raise ValueError(f"query_mask must be (B, Q) = {(batch, num_queries)}, got {tuple(query_mask.shape)}")
    if query_mask is not None and query_mask.dtype != torch.bool:
        raise TypeError(f"query_mask must be bool, got {query_mask.dtype}")
    if query_mask is not None and query_mask.device.type == "cpu" and not bool(query_mask.any(1).all()):
        empty = int((~query_mask.any(1)).nonzero()[0])
        raise ValueError(f"query_mask leaves image {empty} no query: an image needs at least one")

    nonfinite = nonfinite or ("raise" if masks[0].device.type == "cpu" else "skip")
    # mask logits of half precision stay as they are: their sums are made in float32, some rows at a time
    dtype = full_precision(masks[0].new_empty(0)).dtype
    checked = [_finite("mask_logits", layer, nonfinite) for layer in masks]
    masks, bad = [layer for layer, _ in checked], torch.stack([count for _, count in checked]).sum()
    stacked = None
    if classes is not None:
        stacked, bad_classes = _finite("class_logits", full_precision(torch.stack(classes)), nonfinite)
        stacked, bad = stacked.to(dtype), bad + bad_classes
    scores = None
    if objectness is not None:
        scores = torch.stack(_scores(objectness, (len(masks), batch, num_queries)))
        scores, bad_scores = _finite("objectness", full_precision(scores), nonfinite)
        scores, bad = scores.to(dtype), bad + bad_scores

    targets = make_targets(num_pixels, batch, dtype, instance_labels, instance_masks, class_labels)
    if stacked is not None and class_labels is not None and class_labels.device.type == "cpu":
        num_classes = stacked.shape[-1] - 1
        if class_labels.numel() and int(class_labels.max()) >= num_classes:
            raise ValueError(
                f"class_labels go up to {int(class_labels.max())}, but class_logits has only C = {num_classes} classes "
                "(0..C-1) and no-object last"
            )
    if num_points is not None and num_points < num_pixels:
        columns = torch.randint(num_pixels, (batch, num_points), device=masks[0].device)
        targets = targets.select(columns)
        index = columns[:, None].expand(-1, num_queries, -1)
        masks = [layer.reshape(batch, num_queries, num_pixels).gather(-1, index) for layer in masks]
    exists, candidates = targets.instance_mask, None
    if claim_mask is not None:
        expected = (batch, num_queries, targets.num_instances)
        if claim_mask.shape != expected or claim_mask.dtype != torch.bool:
            raise ValueError(
                f"claim_mask must be bool (B, Q, K) = {expected}, got {claim_mask.dtype} {tuple(claim_mask.shape)}"
            )
        real = claim_mask if query_mask is None else claim_mask & query_mask[..., None]
        exists = exists & real.any(1)
        candidates = _candidates(real & exists[:, None])
    group = ImageGroup(masks, query_mask, targets)
    return MaskInputs([group], stacked, scores, query_mask, claim_mask, candidates, exists, targets.classes, bad)


def _candidates(claimable: Tensor) -> Tensor | None:
    """The one instance that a query may claim, if none may claim two; on an accelerator looking would be waiting."""
    if claimable.device.type != "cpu" or bool((claimable.sum(-1) > 1).any()):
        return None
    order = torch.arange(1, claimable.shape[-1] + 1)
    return (claimable * order).sum(-1) - 1


def _scores(objectness: Logits, expected: tuple[int, ...]) -> list[Tensor]:
    """L tensors (B, Q)."""
    if isinstance(objectness, Tensor) and objectness.ndim == 0:
        raise ValueError(f"objectness must be (L, B, Q) = {expected}, got a single number")
    if isinstance(objectness, Tensor) and objectness.ndim < 3:
        objectness = objectness.reshape(1, -1, objectness.shape[-1])
    layers = [layer for layer in objectness if isinstance(layer, Tensor)]
    found = [tuple(layer.shape) for layer in layers]
    if found != [expected[1:]] * expected[0]:
        raise ValueError(f"objectness must be (L, B, Q) = {expected}, got {len(found)} layers of {found}")
    return layers


def pad_to(values: Tensor, *sizes: int) -> Tensor:
    """Zeros (or False) after the end of the last axes, up to these sizes."""
    padding = [p for size, found in zip(sizes[::-1], values.shape[::-1], strict=False) for p in (0, size - found)]
    return F.pad(values, padding)


def _merged(images: list[MaskInputs]) -> MaskInputs:
    """One batch of B inputs of one image each."""
    groups = [image.groups[0] for image in images]
    queries = [group.mask_logits[0].shape[-2] for group in groups]
    q, k = max(queries), max(image.instance_mask.shape[1] for image in images)

    def cat(values: list[Tensor | None], axis: int, *sizes: int) -> Tensor | None:
        given = [pad_to(value, *sizes) for value in values if value is not None]
        return torch.cat(given, axis) if given else None

    query_mask = None
    if min(queries) < q:
        device = groups[0].mask_logits[0].device
        real = [torch.ones(1, count, dtype=torch.bool, device=device) for count in queries]
        query_mask = torch.cat([pad_to(mask, q) for mask in real])
    widths = {image.class_logits.shape[-1] for image in images if image.class_logits is not None}
    if len(widths) > 1:
        raise ValueError(f"class_logits must have one C + 1 in all images, got {sorted(widths)}")
    return MaskInputs(
        groups=groups,
        class_logits=cat([image.class_logits for image in images], 1, q, *widths),
        objectness=cat([image.objectness for image in images], 1, q),
        query_mask=query_mask,
        claim_mask=cat([image.claim_mask for image in images], 0, q, k),
        candidates=_merged_candidates([image.candidates for image in images], q),
        instance_mask=torch.cat([pad_to(image.instance_mask, k) for image in images]),
        classes=torch.cat([pad_to(image.classes, k) for image in images]),
        nonfinite=torch.stack([image.nonfinite for image in images]).sum(),
    )


def _merged_candidates(candidates: list[Tensor | None], num_queries: int) -> Tensor | None:
    given = [one for one in candidates if one is not None]
    if len(given) < len(candidates):
        return None
    return torch.cat([F.pad(one, (0, num_queries - one.shape[1]), value=-1) for one in given])
