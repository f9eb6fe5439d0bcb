"""Which hits attend to which: windows of neighbours in azimuth, around the beam line and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """S windows of W hits each, over all events of a batch; each window attends to 2 W hits around it.

    Slots beyond an event's hits repeat some of its hits; `slots` and `is_key` leave them out.

    Attributes:
        members: (S, W) int64, hits of each window, numbered over the batch.
        slots: (T,) int64, the place of each hit in the flattened `members`.
        keys: (S, 2 W) int64, hits that the window's hits attend to, each at most once where `is_key`.
        is_key: (S, 2 W) bool.
    """

    members: Tensor
    slots: Tensor
    keys: Tensor
    is_key: Tensor


def azimuth_windows(phi: Tensor, sizes: Sequence[int], width: int, shift: int = 0) -> Windows:
    """Windows of neighbours in azimuth.

    The hits of an event lie on a circle, ordered by azimuth. Windows follow each other on it, and each attends to the
    W / 2 hits before it, itself, and the W / 2 hits after it, around the circle: the whole event if that has no more
    than 2 W hits.

    Args:
        phi: (T,) azimuth of the hits, -pi..pi, event after event.
        sizes: hits of each event; 0 is allowed.
        width: W, even.
        shift: places on the circle by which the first window is moved.

    Raises:
        ValueError: a width that is not even and positive, or sizes that do not add up to T.
    """
    if width < 2 or width % 2:
        raise ValueError(f"width must be even and positive, got {width}")
    if sum(sizes) != len(phi):
        raise ValueError(f"sizes add up to {sum(sizes)} hits, phi has {len(phi)}")
    device = phi.device
    offsets = torch.arange(2 * width, device=device)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    start = first_slot = 0
    for size in sizes:
        order = start + phi[start : start + size].argsort(stable=True)
        first = torch.arange(0, size, width, device=device)[:, None]
        place = first + offsets[:width]
        around = first - width // 2 + offsets
        parts.append(
            (
                order[(place + shift) % max(size, 1)],
                (order.argsort() - shift) % max(size, 1) + first_slot,
                order[(around + shift) % max(size, 1)],
                (offsets < size).expand(len(first), -1),
            )
        )
        start, first_slot = start + size, first_slot + width * len(first)
    members, slots, keys, is_key = (torch.cat(part) for part in zip(*parts, strict=True))
    return Windows(members, slots, keys, is_key)
