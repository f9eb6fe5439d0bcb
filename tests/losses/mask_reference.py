"""The mask losses written out as loops, straight from the equations in the docstrings, in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

from torch import Tensor

from influencerformer.losses.condensation import SOFTENING

Matrix = list[list[float]]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    total = top + math.log(sum(math.exp(v - top) for v in values))
    return [v - total for v in values]


def pair_potential(
    masks: Matrix, labels: list[int], count: int, attr: float = 1, rep: float = 1, bg: float = 1
) -> tuple[Matrix, Matrix, Matrix]:
    """(Q, K) pixel, overlap, IoU of one image."""
    valid = [n for n, label in enumerate(labels) if label >= 0]
    pixel, overlap, iou = [], [], []
    for row in masks:
        pixel_row, overlap_row, iou_row = [], [], []
        for k in range(1, count + 1):
            total = 0.0
            for n in valid:
                if labels[n] == k:
                    total += attr * softplus(-row[n])
                elif labels[n] > 0:
                    total += rep * softplus(row[n])
                else:
                    total += bg * softplus(row[n])
            hit = sum(sigmoid(row[n]) for n in valid if labels[n] == k)
            predicted = sum(sigmoid(row[n]) for n in valid)
            size = sum(labels[n] == k for n in valid)
            pixel_row.append(total / len(valid))
            overlap_row.append(1 - (2 * hit + 1) / (predicted + size + 1))
            iou_row.append(hit / (predicted + size - hit))
        pixel.append(pixel_row)
        overlap.append(overlap_row)
        iou.append(iou_row)
    return pixel, overlap, iou


def transport(
    potential: Matrix, none: list[float], temperature: float, iterations: int, allowed: list[list[bool]] | None = None
) -> Matrix:
    """Claims (Q, K) by alternate projections of the duals f and g, which start at zero and end on the instance side."""
    queries, every = range(len(none)), range(len(potential[0]))
    free = [[allowed is None or allowed[q][k] for k in every] for q in queries]
    count = [k for k in every if any(free[q][k] for q in queries)]
    f, g = [0.0 for _ in queries], [0.0 for _ in every]
    for _ in range(iterations):
        for q in queries:
            terms = [-none[q] / temperature] + [(g[k] - potential[q][k]) / temperature for k in count if free[q][k]]
            top = max(terms)
            f[q] = -temperature * (top + math.log(sum(math.exp(t - top) for t in terms)))
        for k in count:
            terms = [(f[q] - potential[q][k]) / temperature for q in queries if free[q][k]]
            top = max(terms)
            g[k] = -temperature * (top + math.log(sum(math.exp(t - top) for t in terms)))
    return [
        [math.exp((f[q] + g[k] - potential[q][k]) / temperature) if k in count and free[q][k] else 0.0 for k in every]
        for q in queries
    ]


def condensation(masks: Matrix, labels: list[int], count: int, margin: float) -> tuple[float, float]:
    """Attraction and repulsion, summed over the instances of one image."""
    queries = range(len(masks))
    directions = []
    for n in range(len(labels)):
        centre = sum(masks[q][n] for q in queries) / len(masks)
        column = [masks[q][n] - centre for q in queries]
        length = math.sqrt(sum(c * c for c in column) + SOFTENING**2)
        directions.append([c / length for c in column])
    members = [[n for n, label in enumerate(labels) if label == k] for k in range(1, count + 1)]
    prototypes, attraction = [], 0.0
    for own in members:
        mean = [sum(directions[n][q] for n in own) / len(own) for q in queries]
        length = math.sqrt(sum(m * m for m in mean))
        attraction += 1 - length
        prototypes.append([m / max(length, SOFTENING**2) for m in mean])
    repulsion = 0.0
    for k, own in enumerate(members):
        power = 0.0
        for other, prototype in enumerate(prototypes):
            if other != k:
                cosines = [sum(a * b for a, b in zip(directions[n], prototype, strict=True)) for n in own]
                power += (sum(max(0.0, c - margin) for c in cosines) / len(own)) ** 4
        repulsion += power**0.25
    return attraction, repulsion


def existence(
    class_logits: list[Matrix], claims: list[Matrix], classes: list[list[int]], no_object_weight: float
) -> float:
    """One layer of a batch."""
    above = below = 0.0
    for logits, claimed, wanted in zip(class_logits, claims, classes, strict=True):
        for q, row in enumerate(logits):
            share = sum(claimed[q])
            scale = 1 / max(1.0, share)
            target = [0.0 for _ in row]
            for k, c in enumerate(wanted):
                target[c] += scale * claimed[q][k]
            target[-1] = no_object_weight * (1 - scale * share)
            above -= sum(t * p for t, p in zip(target, log_softmax(row), strict=True))
            below += sum(target)
    return above / below


def objectness_error(
    scores: list[list[float]], claims: list[Matrix], ious: list[Matrix], no_object_weight: float
) -> float:
    """One layer of a batch."""
    above = below = 0.0
    for row, claimed, iou in zip(scores, claims, ious, strict=True):
        for q, score in enumerate(row):
            share = sum(claimed[q])
            scale = 1 / max(1.0, share)
            wanted = scale * sum(p * i for p, i in zip(claimed[q], iou[q], strict=True))
            weight = scale * share + no_object_weight * (1 - scale * share)
            above += weight * (score - wanted) ** 2
            below += weight
    return above / below


def assignment(cost: Matrix) -> Matrix:
    """The cheapest injection of instances into queries, by trying all."""
    queries, count = len(cost), len(cost[0])
    best = min(permutations(range(queries), count), key=lambda p: sum(cost[q][k] for k, q in enumerate(p)))
    return [[float(best[k] == q) for k in range(count)] for q in range(queries)]


def mask_loss(
    masks: Tensor,
    labels: Tensor,
    class_logits: Tensor | None,
    classes: Tensor,
    *,
    attr_weight: float = 1,
    rep_weight: float = 1,
    bg_weight: float = 1,
    rep_margin: float = 0,
    temperature: float = 0.02,
    class_weight: float = 2,
    mask_weight: float = 5,
    dice_weight: float = 5,
    condensation_weight: float = 3,
    no_object_weight: float = 0.1,
    quality: float = 0,
    iterations: int = 10,
    hungarian: bool = False,
    objectness: Tensor | None = None,
    objectness_weight: float = 2,
    claim_mask: list[list[list[bool]]] | None = None,
    shared_claims: bool = False,
) -> dict[str, float]:
    """The parts of the Influencer Loss, or of its baseline, of (L, B, Q, N) logits and (B, N) labels."""
    wanted = [[int(c) for c in row if c >= 0] for row in classes]
    if claim_mask is None:
        total = max(1, sum(len(row) for row in wanted))
    else:
        total = max(1, sum(any(column) for image in claim_mask for column in zip(*image, strict=True)))
    names = ["claim_mask", "claim_dice", "existence", "objectness", "attraction", "repulsion"]
    if hungarian:
        names.remove("objectness")
    parts = dict.fromkeys(names, 0.0)
    last: dict[int, Matrix] = {}
    for layer in reversed(range(len(masks))):
        all_claims, weighted, ious = [], [], []
        for image, count in enumerate(map(len, wanted)):
            rows = masks[layer, image].tolist()
            pixel, overlap, iou = pair_potential(
                rows, labels[image].tolist(), count, attr_weight, rep_weight, bg_weight
            )
            queries, instances = range(len(rows)), range(count)
            cost = [[mask_weight * pixel[q][k] + dice_weight * overlap[q][k] for k in instances] for q in queries]
            none = [0.0 for _ in queries]
            if class_logits is not None:
                for q in queries:
                    log_p = log_softmax(class_logits[layer, image, q].tolist())
                    for k in instances:
                        cost[q][k] += class_weight * (1 - math.exp(log_p[wanted[image][k]]))
                    none[q] = class_weight * no_object_weight * (1 - math.exp(log_p[-1]))
            if hungarian:
                claims = assignment(cost)
            else:
                allowed = None if claim_mask is None else claim_mask[image]
                claims = transport(cost, none, temperature, iterations, allowed) if count else [[] for _ in queries]
                claims = last.setdefault(image, claims) if shared_claims else claims
            for q in queries:
                for k in instances:
                    parts["claim_mask"] += mask_weight * claims[q][k] * pixel[q][k] / total
                    parts["claim_dice"] += dice_weight * claims[q][k] * overlap[q][k] / total
            all_claims.append(claims)
            ious.append(iou)
            weighted.append(
                [[claims[q][k] * (iou[q][k] ** quality if quality else 1) for k in instances] for q in queries]
            )
        if class_logits is not None:
            logits = class_logits[layer].tolist()
            parts["existence"] += class_weight * existence(logits, weighted, wanted, no_object_weight)
        if objectness is not None:
            error = objectness_error(objectness[layer].tolist(), all_claims, ious, no_object_weight)
            parts["objectness"] += objectness_weight * error
    if not hungarian:
        for image, count in enumerate(map(len, wanted)):
            attraction, repulsion = condensation(masks[-1, image].tolist(), labels[image].tolist(), count, rep_margin)
            parts["attraction"] += condensation_weight * attraction / total
            parts["repulsion"] += condensation_weight * repulsion / total
    return {"loss": sum(parts.values()), **parts}
