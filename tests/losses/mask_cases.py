"""Planted configurations, the mistakes a loss must punish, and random batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

SATURATED = 20.0
NUM_CLASSES = 3


class Planted:
    """Instance k of a label map is query k, with its class; all other queries are no-object.

    Attributes: labels (N,), classes (K,), masks (Q, N) and class_logits (Q, C + 1), both float64.
    """

    def __init__(self, labels: Tensor, classes: Tensor, num_queries: int, saturation: float = SATURATED) -> None:
        count = len(classes)
        assert num_queries >= count
        self.labels, self.classes, self.saturation = labels, classes, saturation
        self.masks = torch.full((num_queries, len(labels)), -saturation, dtype=torch.float64)
        self.class_logits = torch.full((num_queries, NUM_CLASSES + 1), -saturation, dtype=torch.float64)
        for k in range(count):
            self.masks[k, labels == k + 1] = saturation
            self.class_logits[k, classes[k]] = saturation
        self.class_logits[count:, -1] = saturation

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.masks, self.labels, self.class_logits, self.classes

    def copy(self) -> Planted:
        new = Planted(self.labels, self.classes, len(self.masks), self.saturation)
        new.masks, new.class_logits = self.masks.clone(), self.class_logits.clone()
        return new

    def silence(self, query: int) -> None:
        """Makes a query an empty no-object."""
        self.masks[query] = -self.saturation
        self.class_logits[query] = -self.saturation
        self.class_logits[query, -1] = self.saturation


def duplicated(right: Planted) -> Planted:
    """A spare query repeats the first instance."""
    wrong, spare = right.copy(), len(right.classes)
    wrong.masks[spare], wrong.class_logits[spare] = right.masks[0], right.class_logits[0]
    return wrong


def merged(right: Planted) -> Planted:
    """One query covers two instances."""
    wrong = right.copy()
    wrong.masks[0] = torch.maximum(right.masks[0], right.masks[1])
    wrong.silence(1)
    return wrong


def missed(right: Planted) -> Planted:
    """Nobody covers the first instance."""
    wrong = right.copy()
    wrong.silence(0)
    return wrong


def wrong_class(right: Planted) -> Planted:
    """The first instance has another class."""
    wrong = right.copy()
    wrong.class_logits[0, :-1] = right.class_logits[0, :-1].roll(1)
    return wrong


def extra_object(right: Planted) -> Planted:
    """A spare query with an empty mask says that it is an object."""
    wrong = right.copy()
    wrong.class_logits[-1] = right.class_logits[0]
    return wrong


def extra_mask(right: Planted) -> Planted:
    """A spare query covers background and says that it is an object."""
    wrong = extra_object(right)
    wrong.masks[-1, right.labels == 0] = right.saturation
    return wrong


def swapped_pixels(right: Planted) -> Planted:
    """One pixel of the first instance is given to the second and the other way round."""
    wrong = right.copy()
    first, second = ((right.labels == k).nonzero()[0] for k in (1, 2))
    wrong.masks[:, first], wrong.masks[:, second] = right.masks[:, second], right.masks[:, first]
    return wrong


def background_pixel(right: Planted) -> Planted:
    """The first query takes a pixel of background too."""
    wrong = right.copy()
    wrong.masks[0, (right.labels == 0).nonzero()[0]] = right.saturation
    return wrong


def lost_pixel(right: Planted) -> Planted:
    """The first query lacks one pixel of its instance."""
    wrong = right.copy()
    wrong.masks[0, (right.labels == 1).nonzero()[0]] = -right.saturation
    return wrong


MISTAKES: list[Callable[[Planted], Planted]] = [
    duplicated,
    merged,
    missed,
    wrong_class,
    extra_object,
    extra_mask,
    swapped_pixels,
    background_pixel,
    lost_pixel,
]


def possible(mistake: Callable[[Planted], Planted], right: Planted) -> bool:
    """Whether a configuration has the instances, spare queries or background that a mistake needs."""
    count = len(right.classes)
    if mistake in (duplicated, extra_object, extra_mask):
        return len(right.masks) > count > 0 and (mistake is not extra_mask or bool((right.labels == 0).any()))
    if mistake is background_pixel:
        return count > 0 and bool((right.labels == 0).any())
    if mistake is swapped_pixels and count > 1:
        # two equal instances of one pixel each trade their names, which is no mistake
        return bool((right.labels == 1).sum() + (right.labels == 2).sum() > 2 or right.classes[0] != right.classes[1])
    return count >= (2 if mistake in (merged, swapped_pixels) else 1)


@st.composite
def planted_configurations(draw: st.DrawFn) -> Planted:
    """Random label maps of 1 to 5 instances from one pixel on, with background and ignored pixels or without."""
    count = draw(st.integers(1, 5))
    spare = draw(st.integers(0, 4))
    sizes = [draw(st.integers(1, 8)) for _ in range(count)]
    background, ignored = draw(st.integers(0, 15)), draw(st.integers(0, 3))
    labels = torch.tensor([-1] * ignored + [0] * background + [k + 1 for k in range(count) for _ in range(sizes[k])])
    order = draw(st.permutations(range(len(labels))))
    classes = torch.tensor(draw(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=count, max_size=count)))
    return Planted(labels[list(order)], classes, count + spare)


class Batch:
    """Random logits and truth: masks (L, B, Q, N), class_logits (L, B, Q, C + 1), labels (B, N), classes (B, K)."""

    def __init__(
        self,
        seed: int = 0,
        *,
        layers: int = 1,
        counts: tuple[int, ...] = (3, 1),
        queries: int = 5,
        pixels: int = 17,
        dtype: torch.dtype = torch.float64,
        ignored: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(seed)
        batch, most = len(counts), max(counts)
        self.masks = (2 * torch.randn(layers, batch, queries, pixels, generator=g, dtype=torch.float64)).to(dtype)
        self.class_logits = torch.randn(layers, batch, queries, NUM_CLASSES + 1, generator=g, dtype=torch.float64)
        self.class_logits = self.class_logits.to(dtype)
        self.labels = torch.stack([torch.randint(0, c + 1, (pixels,), generator=g) for c in counts])
        self.classes = torch.randint(0, NUM_CLASSES, (batch, most), generator=g)
        for i, c in enumerate(counts):
            self.labels[i, :c] = torch.arange(1, c + 1)  # no instance without a pixel
            self.classes[i, c:] = -1
        if ignored:
            self.labels[:, -2:] = -1

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.masks, self.labels, self.class_logits, self.classes

    def instance_masks(self) -> Tensor:
        """(B, K, N) bool."""
        return self.labels[:, None] == torch.arange(1, self.classes.shape[1] + 1)[:, None]


def value_and_gradients(
    loss: Callable[..., dict[str, Tensor]],
    masks: Tensor,
    labels: Tensor | None,
    class_logits: Tensor,
    *args: Tensor,
    **kw: object,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients with respect to mask and class logits."""
    masks, class_logits = masks.detach().requires_grad_(), class_logits.detach().requires_grad_()
    value = loss(masks, labels, class_logits, *args, **kw)["loss"]
    grads = torch.autograd.grad(value, (masks, class_logits))
    return value.detach(), *grads
