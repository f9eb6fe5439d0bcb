"""Losses and criteria on any input: a finite result with its invariants, or one sentence on what does not fit.

500 cases by default; HYPOTHESIS_PROFILE=nightly makes 20,000.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from typing import Any

import fuzz_cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from influencerformer.losses import (
    HungarianMaskLoss,
    MaskInfluencerLoss,
    hungarian_mask_loss,
    influencer_loss,
    mask_influencer_loss,
)
from influencerformer.models import InfluencerCriterion, InfluencerSetCriterion
from influencerformer.models.transformers_criterion import TransformersCriterion

pytestmark = pytest.mark.usefixtures("unset_memory_is_nan")
Result = dict[str, Tensor]
LOSSES: dict[str, Callable[..., Result]] = {"influencer": mask_influencer_loss, "hungarian": hungarian_mask_loss}
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])


def cases(count: int) -> settings:
    """So many cases, forty times as many at night."""
    return fuzz_cases.cases(count, 40 * count)


def refusal(call: Callable[[], Result], *also: type[Exception]) -> tuple[Result | None, str]:
    """The result, or the sentence of a refusal that this package raised on purpose; another exception passes on."""
    try:
        return call(), ""
    except (TypeError, ValueError, *also) as error:
        trace = error.__traceback__
        assert trace is not None
        while trace.tb_next is not None:
            trace = trace.tb_next
        line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}: {line}"
        if "influencerformer" not in trace.tb_frame.f_code.co_filename or not line.startswith("raise"):
            raise AssertionError(f"not a refusal but an accident in {where}: {error}") from error
        sentence = str(error)
        assert len(sentence.split()) >= 4, sentence
        return None, sentence


class Draw:
    """Random tensors of one case, from a seed that hypothesis chose."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6), label="seed"))

    def integer(self, low: int, high: int, label: str) -> int:
        return self.draw(st.integers(low, high), label=label)

    def maybe(self, label: str) -> bool:
        return self.draw(st.booleans(), label=label)

    def one_of(self, *values: Any, label: str) -> Any:
        return self.draw(st.sampled_from(values), label=label)

    def logits(self, *shape: int, kind: str = "normal") -> Tensor:
        """float64 of a kind: normal, large, constant, saturated, mixed."""
        values = 2 * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        if kind == "large":
            return values.sign() * 1e4
        if kind == "constant":
            return torch.full(shape, 0.5, dtype=torch.float64)
        if kind == "mixed":
            return values * 10.0 ** torch.randint(-6, 4, shape, generator=self.generator)
        return values

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """In low..high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def flags(self, *shape: int, share: float = 0.5) -> Tensor:
        return torch.rand(*shape, generator=self.generator) < share


KINDS = ("normal", "normal", "large", "constant", "mixed")


def weights(d: Draw, *names: str) -> dict[str, float]:
    return {name: d.one_of(0.0, 0.5, 1.0, 5.0, label=name) for name in names if d.maybe(f"gives {name}")}


class MaskCase:
    """Arguments of a mask loss that fit.

    Attributes:
        logits: (L, B, Q, N) float64; classes (L, B, Q, C + 1); labels (B, N); class_labels (B, K), padded with -1.
        masks: (B, K, N) bool, or None.
        options: keywords of the loss that are no tensors of an image.
    """

    def __init__(self, draw: st.DrawFn, kinds: Sequence[str] = KINDS, *, overlap: bool = True) -> None:
        d = self.d = Draw(draw)
        self.layers, self.batch = d.integer(1, 3, "layers"), d.integer(1, 3, "batch")
        self.queries, self.pixels = d.integer(1, 5, "queries"), d.integer(0, 9, "pixels")
        self.instances, self.num_classes = d.integer(0, 7, "instances"), d.integer(1, 3, "classes")
        self.kind = d.one_of(*kinds, label="kind")
        self.logits = d.logits(self.layers, self.batch, self.queries, self.pixels, kind=self.kind)
        self.classes = d.logits(self.layers, self.batch, self.queries, self.num_classes + 1, kind=self.kind)
        self.labels = d.integers(-1, self.instances, self.batch, self.pixels)
        self.class_labels = d.integers(0, self.num_classes - 1, self.batch, self.instances)
        if d.maybe("sparse numbers"):
            # instances without a pixel, whose class may be padding
            gone = d.flags(self.batch, self.instances + 1)
            gone[:, 0] = False
            self.labels[gone.gather(1, self.labels.clamp(min=0))] = 0
            self.class_labels[gone[:, 1:] & d.flags(self.batch, self.instances)] = -1
        self.masks: Tensor | None = None
        if overlap and d.maybe("masks"):
            self.masks = (
                d.flags(self.batch, self.instances, self.pixels, share=0.4) & (self.class_labels >= 0)[..., None]
            )
        self.query_mask: Tensor | None = None
        self.claim_mask: Tensor | None = None
        self.objectness: Tensor | None = None

    def extras(self, loss: str) -> None:
        """Masks of queries and claims, objectness."""
        d = self.d
        if d.maybe("query_mask"):
            self.query_mask = d.flags(self.batch, self.queries)
            self.query_mask[:, d.integer(0, self.queries - 1, "real query")] = True
        if loss == "influencer" and d.maybe("claim_mask"):
            self.claim_mask = d.flags(
                self.batch, self.queries, self.instances, share=d.one_of(0.0, 0.2, 0.7, 1.0, label="claims")
            )
        if loss == "influencer" and d.maybe("objectness"):
            self.objectness = d.logits(self.layers, self.batch, self.queries)

    def options(self, loss: str) -> dict[str, Any]:
        d = self.d
        found: dict[str, Any] = weights(d, "class_weight", "mask_weight", "dice_weight", "no_object_weight")
        found["num_points"] = d.one_of(None, None, None, 1, 6, 100, label="num_points")
        if loss == "influencer":
            found |= weights(d, "attr_weight", "rep_weight", "bg_weight", "objectness_weight", "condensation_weight")
            found["temperature"] = d.one_of(1e-3, 0.02, 0.5, 5.0, label="temperature")
            found["iterations"] = d.one_of(1, 10, label="iterations")
            found["rep_margin"] = d.one_of(0.0, 0.3, label="rep_margin")
            found["quality"] = d.one_of(0.0, 0.5, 1.0, label="quality")
            found["shared_claims"] = d.maybe("shared_claims")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the arguments; without those that were not drawn."""
        given = {
            "mask_logits": self.logits,
            "instance_labels": self.labels,
            "class_logits": self.classes,
            "class_labels": self.class_labels,
            "instance_masks": self.masks,
            "query_mask": self.query_mask,
            "claim_mask": self.claim_mask,
            "objectness": self.objectness,
        }
        return {name: value for name, value in given.items() if value is not None}


PREDICTIONS = ("mask_logits", "class_logits", "objectness")


def ragged(d: Draw, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The same as lists of images, of which each keeps a part of its queries and pixels."""
    batch, q, n = tensors["mask_logits"].shape[1:]
    queries = [d.integer(1, q, "queries of image") for _ in range(batch)]
    pixels = [d.integer(0, n, "pixels of image") for _ in range(batch)]
    parts: dict[str, Callable[[Tensor, int], Tensor]] = {
        "mask_logits": lambda t, i: t[: queries[i], : pixels[i]],
        "class_logits": lambda t, i: t[: queries[i]],
        "objectness": lambda t, i: t[: queries[i]],
        "instance_labels": lambda t, i: t[: pixels[i]],
        "class_labels": lambda t, i: t,
        "instance_masks": lambda t, i: t[:, : pixels[i]],
        "claim_mask": lambda t, i: t[: queries[i]],
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if name not in tensors:
            continue
        value = tensors[name]
        if name in PREDICTIONS:
            found[name] = [[part(image, i) for i, image in enumerate(layer)] for layer in value]
        else:
            found[name] = [part(image, i) for i, image in enumerate(value)]
    return found


def in_form(case: MaskCase) -> dict[str, Any]:
    """The tensors in one of the forms that the losses take."""
    d, tensors = case.d, case.tensors()
    forms = ["layers", "sequence"]
    forms += ["ragged"] if case.query_mask is None else []
    forms += ["batch"] if case.layers == 1 else []
    forms += ["image"] if case.layers == case.batch == 1 else []
    form = d.one_of(*forms, label="form")
    if form == "ragged":
        return ragged(d, tensors)
    if form == "layers":
        return dict(tensors)
    if form == "sequence":
        return {name: list(value) if name in PREDICTIONS else value for name, value in tensors.items()}
    found = {name: value[0] if name in PREDICTIONS else value for name, value in tensors.items()}
    if form == "batch":
        return dict(found)
    return {name: value[0] for name, value in found.items()}


def leaves_of(arguments: dict[str, Any], dtype: torch.dtype | None) -> tuple[dict[str, Any], list[Tensor]]:
    """The arguments with predictions of this dtype, or of their own, that ask for a gradient, and these."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, list):
            return [leaf(part) for part in value]
        if not isinstance(value, Tensor) or (dtype is None and not value.is_floating_point()):
            return value
        leaves.append(value.detach().to(dtype or value.dtype).requires_grad_())
        return leaves[-1]

    return {k: leaf(v) if k in PREDICTIONS else v for k, v in arguments.items()}, leaves


def check_result(result: Result, leaves: list[Tensor], scale: float = 1.0, *, total: str = "loss") -> None:
    """Finite, not below zero, its parts add up, and every gradient is there and finite.

    Args:
        scale: the size of the numbers that cancel in the loss.
    """
    loss = result[total]
    parts = [value for name, value in result.items() if name not in (total, "nonfinite")]
    assert all(bool(value.isfinite().all()) for value in result.values()), result
    assert all(float(value) >= -1e-5 * scale for value in parts), result
    torch.testing.assert_close(torch.stack(parts).sum(), loss.detach(), rtol=1e-4, atol=1e-5 * scale)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert gradient is None or (gradient.dtype == leaf.dtype and bool(gradient.isfinite().all())), gradient


@cases(140)
@given(st.data())
def test_a_mask_loss_of_what_fits_is_finite(data: st.DataObject) -> None:
    loss = data.draw(st.sampled_from(sorted(LOSSES)), label="loss")
    case = MaskCase(data.draw)
    case.extras(loss)
    arguments, leaves = leaves_of(in_form(case), data.draw(DTYPES, label="dtype"))
    options = case.options(loss)
    if case.masks is not None and data.draw(st.booleans(), label="masks alone"):
        del arguments["instance_labels"]
    if case.instances and bool((case.class_labels >= 0).all()) and data.draw(st.booleans(), label="no classes"):
        arguments = {k: v for k, v in arguments.items() if k != "class_logits"}
    result = LOSSES[loss](**arguments, **options)
    check_result(result, leaves, scale=1e6 if case.kind in ("large", "mixed") else 10.0)


@cases(40)
@given(st.data())
def test_values_that_are_not_finite_are_named_or_replaced(data: st.DataObject) -> None:
    loss = data.draw(st.sampled_from(sorted(LOSSES)), label="loss")
    case = MaskCase(data.draw)
    case.extras(loss)
    options = case.options(loss)
    name = data.draw(st.sampled_from([n for n, t in case.tensors().items() if n in PREDICTIONS and t.numel()]))
    broken = case.tensors()[name].view(-1)
    for _ in range(data.draw(st.integers(1, 3), label="how many")):
        bad = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]), label="value")
        broken[data.draw(st.integers(0, broken.numel() - 1), label="where")] = bad
    arguments, leaves = leaves_of(in_form(case), torch.float32)
    given_values = [leaf.detach() for leaf in leaves]
    count = sum(int((~value.isfinite()).sum()) for value in given_values)
    if data.draw(st.booleans(), label="skip"):
        result = LOSSES[loss](**arguments, **options, nonfinite="skip")
        assert int(result["nonfinite"]) == count
        check_result(result, leaves, scale=1e6)
    else:
        result_or_none, sentence = refusal(lambda: LOSSES[loss](**arguments, **options))
        assert (result_or_none is None) == (count > 0)
        assert count == 0 or (name in sentence and "NaN or infinite" in sentence)


@cases(80)
@given(st.data())
def test_order_and_padding_do_not_matter(data: st.DataObject) -> None:
    loss = data.draw(st.sampled_from(sorted(LOSSES)), label="loss")
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]), label="dtype")
    case = MaskCase(data.draw, kinds=("normal",))
    case.extras(loss)
    options = {**case.options(loss), "num_points": None}
    before, leaves = leaves_of(case.tensors(), dtype)
    expected = LOSSES[loss](**before, **options)["loss"]
    gradients = torch.autograd.grad(expected, leaves, allow_unused=True)
    change = data.draw(st.sampled_from(["queries", "pixels", "instances", "images", "padding"]), label="change")
    moved, back = _moved(case, change)
    after, new_leaves = leaves_of(moved, dtype)
    found = LOSSES[loss](**after, **options)["loss"]
    # projections at a low temperature amplify roundings
    close: dict[str, float] = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-3}
    torch.testing.assert_close(found, expected, **close)
    new_gradients = torch.autograd.grad(found, new_leaves, allow_unused=True)
    names = [name for name in before if name in PREDICTIONS]
    for name, old, new in zip(names, gradients, new_gradients, strict=True):
        if old is not None and new is not None:
            torch.testing.assert_close(back(name, new), old, **close, msg=lambda m, name=name: f"{name}: {m}")


QUERY_AXIS = {"mask_logits": 2, "class_logits": 2, "objectness": 2, "query_mask": 1, "claim_mask": 1}
PIXEL_AXIS = {"mask_logits": 3, "instance_labels": 1, "instance_masks": 2}
INSTANCE_AXIS = {"class_labels": 1, "instance_masks": 1, "claim_mask": 2}
IMAGE_AXIS = {"mask_logits": 1, "class_logits": 1, "objectness": 1}


def _moved(case: MaskCase, change: str) -> tuple[dict[str, Tensor], Callable[[str, Tensor], Tensor]]:
    """The case in another order or padded, and how its gradient is brought back."""
    tensors = case.tensors()
    if change == "padding":
        if "query_mask" not in tensors:
            tensors["query_mask"] = torch.ones(case.batch, case.queries, dtype=torch.bool)
        filling = case.d.one_of(0.0, 7.0, -7.0, label="filling")
        more = {
            "mask_logits": pad(case.logits, (0, 3, 0, 2), value=filling),
            "class_logits": pad(case.classes, (0, 0, 0, 2), value=filling),
            "instance_labels": pad(case.labels, (0, 3), value=-1),
            "class_labels": pad(case.class_labels, (0, 2), value=-1),
            "instance_masks": None if case.masks is None else pad(case.masks, (0, 3, 0, 2)),
            "query_mask": pad(tensors["query_mask"], (0, 2)),
            "claim_mask": None if case.claim_mask is None else pad(case.claim_mask, (0, 2, 0, 2)),
            "objectness": None if case.objectness is None else pad(case.objectness, (0, 2), value=filling),
        }
        n, q = case.pixels, case.queries
        return (
            {name: value for name, value in more.items() if value is not None},
            lambda name, gradient: gradient[:, :, :q, :n] if name == "mask_logits" else gradient[:, :, :q],
        )
    sizes = {
        "queries": (case.queries, QUERY_AXIS),
        "pixels": (case.pixels, PIXEL_AXIS),
        "instances": (case.instances, INSTANCE_AXIS),
        "images": (case.batch, IMAGE_AXIS),
    }
    size, axes = sizes[change]
    order = torch.randperm(size, generator=case.d.generator)
    axis_of = {name: axes.get(name, 0 if change == "images" else None) for name in tensors}
    moved = {
        name: value if axis_of[name] is None else value.index_select(axis_of[name], order)
        for name, value in tensors.items()
    }
    if change == "instances":
        # instance order[i] + 1 is now number i + 1
        new_number = torch.cat([torch.tensor([0]), order.argsort() + 1])
        moved["instance_labels"] = torch.where(case.labels > 0, new_number[case.labels.clamp(min=0)], case.labels)

    def back(name: str, gradient: Tensor) -> Tensor:
        axis = axes.get(name)
        return gradient if axis is None else gradient.index_select(axis, order.argsort())

    return moved, back


Spoil = Callable[[MaskCase, dict[str, Any]], Any]


def _with(value: Tensor, index: tuple[int, ...], new: float) -> Tensor:
    value = value.clone()
    value[index] = new
    return value


SPOILS: dict[str, Spoil] = {
    "mask_logits integer": lambda c, a: a.update(mask_logits=a["mask_logits"].long()),
    "mask_logits bool": lambda c, a: a.update(mask_logits=a["mask_logits"] > 0),
    "mask_logits complex": lambda c, a: a.update(mask_logits=a["mask_logits"].to(torch.complex64)),
    "mask_logits without queries": lambda c, a: a.update(mask_logits=a["mask_logits"][:, :, :0]),
    "mask_logits without images": lambda c, a: a.update(mask_logits=a["mask_logits"][:, :0]),
    "mask_logits without layers": lambda c, a: a.update(mask_logits=a["mask_logits"][:0]),
    "mask_logits of five axes": lambda c, a: a.update(mask_logits=a["mask_logits"][..., None]),
    "mask_logits of one axis": lambda c, a: a.update(mask_logits=a["mask_logits"].flatten()),
    "mask_logits of no axis": lambda c, a: a.update(mask_logits=torch.tensor(1.0)),
    "mask_logits empty list": lambda c, a: a.update(mask_logits=[]),
    "mask_logits list of empty list": lambda c, a: a.update(mask_logits=[[]]),
    "mask_logits list of numbers": lambda c, a: a.update(mask_logits=[1.0, 2.0]),
    "mask_logits numbers in lists": lambda c, a: a.update(mask_logits=[[1.0, 2.0], [3.0, 4.0]]),
    "mask_logits None": lambda c, a: a.update(mask_logits=None),
    "mask_logits of unequal layers": lambda c, a: a.update(
        mask_logits=[a["mask_logits"][0], a["mask_logits"][0][:, :, 1:], a["mask_logits"][0][:, 1:]]
    ),
    "layers of unequal batches": lambda c, a: a.update(
        mask_logits=[list(a["mask_logits"][0]), list(a["mask_logits"][0])[1:]]
    ),
    "ragged with a padded truth": lambda c, a: a.update(mask_logits=[list(layer) for layer in a["mask_logits"]]),
    "labels above K": lambda c, a: a.update(instance_labels=_with(c.labels, (0, 0), c.instances + 1)),
    "labels far above K": lambda c, a: a.update(instance_labels=_with(c.labels, (0, 0), 2**40)),
    "labels below -1": lambda c, a: a.update(instance_labels=_with(c.labels, (0, 0), -7)),
    "labels far below -1": lambda c, a: a.update(instance_labels=_with(c.labels, (0, 0), -(2**62))),
    "labels float": lambda c, a: a.update(instance_labels=c.labels.float()),
    "labels complex": lambda c, a: a.update(instance_labels=c.labels.to(torch.complex64)),
    "labels bool": lambda c, a: a.update(instance_labels=c.labels > 0),
    "labels int8": lambda c, a: a.update(instance_labels=c.labels.to(torch.int8)),
    "labels uint8": lambda c, a: a.update(instance_labels=c.labels.clamp(min=0).to(torch.uint8)),
    "labels of another length": lambda c, a: a.update(instance_labels=pad(c.labels, (0, 1))),
    "labels of another batch": lambda c, a: a.update(instance_labels=torch.cat([c.labels, c.labels])),
    "labels flat": lambda c, a: a.update(instance_labels=c.labels.flatten()),
    "labels None": lambda c, a: a.update(instance_labels=None),
    "no truth": lambda c, a: a.update(instance_labels=None, instance_masks=None),
    "labels numpy": lambda c, a: a.update(instance_labels=c.labels.numpy()),
    "labels list": lambda c, a: a.update(instance_labels=c.labels.tolist()),
    "class_labels above C": lambda c, a: a.update(class_labels=c.class_labels + c.num_classes),
    "class_labels far above C": lambda c, a: a.update(class_labels=c.class_labels + 2**40),
    "class_labels all padding": lambda c, a: a.update(class_labels=torch.full_like(c.class_labels, -1)),
    "class_labels below -1": lambda c, a: a.update(class_labels=torch.full_like(c.class_labels, -9)),
    "class_labels float": lambda c, a: a.update(class_labels=c.class_labels.float()),
    "class_labels complex": lambda c, a: a.update(class_labels=c.class_labels.to(torch.complex64)),
    "class_labels bool": lambda c, a: a.update(class_labels=c.class_labels > 0),
    "class_labels int32": lambda c, a: a.update(class_labels=c.class_labels.int()),
    "class_labels too few": lambda c, a: a.update(class_labels=c.class_labels[:, 1:]),
    "class_labels flat": lambda c, a: a.update(class_labels=c.class_labels.flatten()),
    "class_labels of no axis": lambda c, a: a.update(class_labels=torch.tensor(0)),
    "class_labels of another batch": lambda c, a: a.update(class_labels=c.class_labels[1:]),
    "class_labels None": lambda c, a: a.update(class_labels=None),
    "class_logits with fewer queries": lambda c, a: a.update(class_logits=a["class_logits"][:, :, 1:]),
    "class_logits without classes": lambda c, a: a.update(class_logits=a["class_logits"][..., :1]),
    "class_logits of no class at all": lambda c, a: a.update(class_logits=a["class_logits"][..., :0]),
    "class_logits of another batch": lambda c, a: a.update(class_logits=a["class_logits"][:, 1:]),
    "class_logits of another number of layers": lambda c, a: a.update(class_logits=a["class_logits"][1:]),
    "class_logits integer": lambda c, a: a.update(class_logits=a["class_logits"].long()),
    "class_logits flat": lambda c, a: a.update(class_logits=a["class_logits"].flatten()),
    "class_logits of another dtype": lambda c, a: a.update(class_logits=a["class_logits"].float()),
    "class_logits None": lambda c, a: a.update(class_logits=None),
    "class_logits list of lists": lambda c, a: a.update(class_logits=[list(layer) for layer in a["class_logits"]]),
    "instance_masks of fewer pixels": lambda c, a: a.update(instance_masks=_masks(c)[..., 1:]),
    "instance_masks of more instances": lambda c, a: a.update(instance_masks=pad(_masks(c), (0, 0, 0, 1), value=True)),
    "instance_masks of another batch": lambda c, a: a.update(instance_masks=_masks(c)[1:]),
    "instance_masks of one image": lambda c, a: a.update(instance_masks=_masks(c)[0]),
    "instance_masks float": lambda c, a: a.update(instance_masks=_masks(c).float()),
    "instance_masks NaN": lambda c, a: a.update(instance_masks=_masks(c).float() * torch.nan),
    "instance_masks integer": lambda c, a: a.update(instance_masks=_masks(c).int() * 255),
    "query_mask float": lambda c, a: a.update(query_mask=torch.ones(c.batch, c.queries)),
    "query_mask too short": lambda c, a: a.update(query_mask=torch.ones(c.batch, c.queries - 1) > 0),
    "query_mask of no query": lambda c, a: a.update(query_mask=torch.zeros(c.batch, c.queries) > 0),
    "objectness of another shape": lambda c, a: a.update(objectness=a["mask_logits"]),
    "objectness integer": lambda c, a: a.update(objectness=torch.ones(c.layers, c.batch, c.queries).long()),
    "objectness of no axis": lambda c, a: a.update(objectness=torch.tensor(1.0)),
    "objectness with an axis too many": lambda c, a: a.update(objectness=torch.ones(c.layers, c.batch, c.queries, 1)),
    "claim_mask float": lambda c, a: a.update(claim_mask=torch.ones(c.batch, c.queries, c.instances)),
    "claim_mask transposed": lambda c, a: a.update(claim_mask=torch.ones(c.batch, c.instances, c.queries + 1) > 0),
    "claim_mask of one image": lambda c, a: a.update(claim_mask=torch.ones(c.queries, c.instances) > 0),
    "temperature 0": lambda c, a: a.update(temperature=0.0),
    "temperature below 0": lambda c, a: a.update(temperature=-1.0),
    "temperature NaN": lambda c, a: a.update(temperature=float("nan")),
    "temperature infinite": lambda c, a: a.update(temperature=float("inf")),
    "temperature tiny": lambda c, a: a.update(temperature=1e-30),
    "iterations 0": lambda c, a: a.update(iterations=0),
    "rep_margin below 0": lambda c, a: a.update(rep_margin=-0.1),
    "rep_margin NaN": lambda c, a: a.update(rep_margin=float("nan")),
    "num_points 0": lambda c, a: a.update(num_points=0),
    "num_points below 0": lambda c, a: a.update(num_points=-3),
    "num_points fraction": lambda c, a: a.update(num_points=1.5),
    "nonfinite unknown": lambda c, a: a.update(nonfinite="ignore"),
    "weight below 0": lambda c, a: a.update(mask_weight=-1.0),
    "weight NaN": lambda c, a: a.update(class_weight=float("nan")),
    "weight infinite": lambda c, a: a.update(dice_weight=float("inf")),
    "no_object_weight below 0": lambda c, a: a.update(no_object_weight=-1.0),
    "quality below 0": lambda c, a: a.update(quality=-1.0),
}
OF_INFLUENCER = ("temperature", "iterations", "rep_margin", "quality", "objectness", "claim_mask")
WRONG = (
    "mask_logits integer", "mask_logits complex", "mask_logits without queries", "mask_logits of five axes",
    "mask_logits empty list", "labels float", "labels of another length", "labels of another batch", "no truth",
    "class_labels float", "class_logits with fewer queries", "class_logits without classes", "query_mask float",
    "query_mask too short", "objectness of another shape", "claim_mask float", "temperature 0", "iterations 0",
    "rep_margin below 0",
)  # fmt: skip
"""Spoils that no case can survive, whatever else was drawn."""


def _masks(case: MaskCase) -> Tensor:
    if case.masks is not None:
        return case.masks
    return case.labels[:, None] == torch.arange(1, case.instances + 1)[:, None]


@cases(100)
@given(st.data())
def test_a_mask_loss_of_what_does_not_fit_says_so(data: st.DataObject) -> None:
    loss = data.draw(st.sampled_from(sorted(LOSSES)), label="loss")
    known = [name for name in SPOILS if loss == "influencer" or not name.startswith(OF_INFLUENCER)]
    case = MaskCase(data.draw, kinds=("normal",))
    case.extras(loss)
    arguments: dict[str, Any] = {**case.tensors(), **case.options(loss)}
    spoils = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True), label="spoils")
    for name in spoils:
        if case.pixels or not name.startswith("labels"):
            try:
                SPOILS[name](case, arguments)
            except (IndexError, RuntimeError, AttributeError, TypeError):
                continue  # what a first spoil has left cannot be spoilt further
    spoilt, leaves = leaves_of(arguments, None)
    result, _ = refusal(lambda: LOSSES[loss](**spoilt))
    if result is not None:
        assert len(spoils) > 1 or spoils[0] not in WRONG or (spoils[0].startswith("labels") and not case.pixels), result
        check_result(result, leaves, scale=1e6)


@cases(60)
@given(st.data())
def test_the_embedding_loss_is_finite_or_says_why_not(data: st.DataObject) -> None:
    d = Draw(data.draw)
    count, size = d.integer(0, 12, "points"), d.integer(1, 3, "dimensions")
    kind = d.one_of(*KINDS, label="kind")
    dtype = data.draw(DTYPES, label="dtype")
    f, g = d.logits(count, size, kind=kind), d.logits(count, size, kind=kind)
    if dtype == torch.float16:
        f, g = f.clamp(-100, 100), g.clamp(-100, 100)  # squares of what float16 can hold overflow in its gradient
    numbers = torch.tensor([-1, 0, 7, 3, 10**9])
    labels = numbers[d.integers(0, len(numbers) - 1, count)]
    options = weights(d, "attr_weight", "rep_weight", "bg_weight", "influencer_weight")
    options["rep_margin"] = d.one_of(0.1, 1.0, 30.0, label="rep_margin")
    options["influencer_margin"] = d.one_of(0.1, 1.0, 30.0, label="influencer_margin")
    scale = 1e9 if kind in ("large", "mixed") else 10.0
    leaves = [t.to(dtype).requires_grad_() for t in (f, g)]
    spoil = d.one_of(*[""] * 4, *EMBEDDING_SPOILS, label="spoil")
    if not spoil:
        result = influencer_loss(*leaves, labels, **options)
        check_result(result, leaves, scale)
        if dtype == torch.float64:
            order = torch.randperm(count, generator=d.generator)
            renamed = torch.where(labels > 0, labels * 2 + 5, labels)[order]
            again = influencer_loss(*(leaf.detach()[order] for leaf in leaves), renamed, **options)
            torch.testing.assert_close(again["loss"], result["loss"].detach(), rtol=1e-9, atol=1e-9)
        return
    arguments: dict[str, Any] = {"followers": leaves[0], "influencers": leaves[1], "instance_labels": labels, **options}
    arguments |= EMBEDDING_SPOILS[spoil](arguments)
    result, _ = refusal(lambda: influencer_loss(**arguments))
    if result is not None:
        check_result(result, [t for t in (arguments["followers"], arguments["influencers"])], scale)


EMBEDDING_SPOILS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "NaN": lambda a: {"followers": (a["followers"].detach() * torch.nan).requires_grad_()},
    "infinite": lambda a: {"influencers": (a["influencers"].detach() + torch.inf).requires_grad_()},
    "other shapes": lambda a: {"influencers": pad(a["influencers"], (0, 1))},
    "one axis": lambda a: {"followers": a["followers"].flatten(), "influencers": a["influencers"].flatten()},
    "integers": lambda a: {"followers": a["followers"].long(), "influencers": a["influencers"].long()},
    "other dtypes": lambda a: {"influencers": a["influencers"].detach().double().requires_grad_()},
    "labels float": lambda a: {"instance_labels": a["instance_labels"].float()},
    "labels bool": lambda a: {"instance_labels": a["instance_labels"] > 0},
    "labels int32": lambda a: {"instance_labels": a["instance_labels"].int()},
    "labels below -1": lambda a: {"instance_labels": a["instance_labels"].clamp(max=0) - 5},
    "labels too many": lambda a: {"instance_labels": pad(a["instance_labels"], (0, 1))},
    "labels of two axes": lambda a: {"instance_labels": a["instance_labels"][:, None]},
    "labels None": lambda a: {"instance_labels": None},
    "no margin": lambda a: {"rep_margin": 0.0},
    "margin NaN": lambda a: {"influencer_margin": float("nan")},
    "weight NaN": lambda a: {"attr_weight": float("nan")},
}


class ImageCase:
    """What a criterion on images takes: L mask logits (B, Q, h, w) and a truth at its own resolution."""

    def __init__(self, draw: st.DrawFn) -> None:
        d = self.d = Draw(draw)
        self.layers, self.batch = d.integer(1, 3, "layers"), d.integer(1, 3, "batch")
        self.queries, self.num_classes = d.integer(1, 4, "queries"), d.integer(1, 3, "classes")
        height, width = d.integer(1, 4, "height"), d.integer(1, 4, "width")
        kind = d.one_of(*KINDS, label="kind")
        self.scale = 1e6 if kind in ("large", "mixed") else 10.0
        self.dtype = draw(DTYPES, label="dtype")
        self.masks = [
            d.logits(self.batch, self.queries, height, width, kind=kind).to(self.dtype).requires_grad_()
            for _ in range(self.layers)
        ]
        self.classes = [
            d.logits(self.batch, self.queries, self.num_classes + 1, kind=kind).to(self.dtype).requires_grad_()
            for _ in range(self.layers)
        ]
        self.truths: list[Tensor] = []
        self.labels: list[Tensor] = []
        form = d.one_of("maps", "masks", "bool masks", "both", label="truth")
        for _ in range(self.batch):
            count = d.integer(0, 5, "instances")
            size = d.integer(1, 9, "image height"), d.integer(1, 9, "image width")
            if form == "maps" or (form == "both" and d.maybe("map")):
                self.truths.append(d.integers(-1, count, *size))
            elif form == "bool masks":
                self.truths.append(d.flags(count, *size, share=0.4))
            else:
                self.truths.append(d.integers(-1, 1, count, *size).to(d.one_of(torch.int8, torch.float32, label="as")))
            self.labels.append(d.integers(0, self.num_classes - 1, count))

    def spoil(self) -> str:
        """Makes one thing wrong, or nothing: its name."""
        d = self.d
        what = d.one_of(*[""] * 6, *IMAGE_SPOILS, label="spoil")
        if what:
            IMAGE_SPOILS[what](self)
        return what

    def outcome(self, call: Callable[[], Result], what: str, total: str, parts: Callable[[], Result]) -> None:
        """Checks a result, and that nothing is refused where nothing is wrong."""
        result, sentence = refusal(call, KeyError)
        assert what or result is not None, sentence
        on_points = self.masks[-1].ndim == 3  # where what is a map of an image is masks, or both are
        assert result is None or what not in WRONG_IMAGES or (on_points and what.startswith("map")), what
        if result is not None:
            leaves = [leaf for leaf in (*self.masks, *self.classes) if leaf.requires_grad]
            check_result({total: result[total], **parts()}, leaves, self.scale, total=total)


IMAGE_SPOILS: dict[str, Callable[[ImageCase], object]] = {
    "fewer truths": lambda c: c.truths.pop(),
    "fewer classes": lambda c: c.labels.pop(),
    "an image less": lambda c: (c.truths.pop(), c.labels.pop()),
    "no image": lambda c: (c.truths.clear(), c.labels.clear()),
    "a class too many": lambda c: c.labels.__setitem__(0, pad(c.labels[0], (0, 1))),
    "a class too few": lambda c: c.labels.__setitem__(0, c.labels[0][1:]),
    "classes out of range": lambda c: c.labels.__setitem__(0, c.labels[0] + c.num_classes),
    "classes below 0": lambda c: c.labels.__setitem__(0, c.labels[0] - 9),
    "classes float": lambda c: c.labels.__setitem__(0, c.labels[0].float()),
    "classes of two axes": lambda c: c.labels.__setitem__(0, c.labels[0][None]),
    "map float": lambda c: c.truths.__setitem__(0, torch.ones(4, 4)),
    "map bool": lambda c: c.truths.__setitem__(0, torch.ones(4, 4) > 0),
    "map out of range": lambda c: c.truths.__setitem__(0, torch.full((4, 4), 99)),
    "map of one axis": lambda c: c.truths.__setitem__(0, c.truths[0].flatten()),
    "map of no pixel": lambda c: c.truths.__setitem__(0, torch.zeros(0, 4).long()),
    "masks of no pixel": lambda c: c.truths.__setitem__(0, torch.zeros(len(c.labels[0]), 0, 0)),
    "masks NaN": lambda c: c.truths.__setitem__(0, torch.full((len(c.labels[0]), 4, 4), torch.nan)),
    "truth of four axes": lambda c: c.truths.__setitem__(0, torch.ones(1, 1, 4, 4)),
    "truth None": lambda c: c.truths.__setitem__(0, None),  # type: ignore[call-overload]
    "logits NaN": lambda c: c.masks.__setitem__(0, (c.masks[0].detach() * torch.nan).requires_grad_()),
    "logits integer": lambda c: c.masks.__setitem__(-1, c.masks[-1].detach().long()),
    "logits of no cell": lambda c: c.masks.__setitem__(slice(None), [m[..., :0].detach() for m in c.masks]),
    "logits of no query": lambda c: c.masks.__setitem__(slice(None), [m[:, :0].detach() for m in c.masks]),
    "logits of another layer": lambda c: c.masks.__setitem__(0, pad(c.masks[0].detach(), (0, 1))),
    "class logits of fewer queries": lambda c: c.classes.__setitem__(0, c.classes[0].detach()[:, 1:]),
    "class logits of another batch": lambda c: c.classes.__setitem__(-1, c.classes[-1].detach()[1:]),
    "class logits of no class": lambda c: c.classes.__setitem__(slice(None), [m[..., :1].detach() for m in c.classes]),
    "class logits flat": lambda c: c.classes.__setitem__(0, c.classes[0].detach().flatten()),
}
WRONG_IMAGES = ("fewer classes", "classes float", "map float", "map bool", "truth of four axes", "logits NaN")


@cases(45)
@given(st.data())
def test_the_transformers_criterion_is_finite_or_says_why_not(data: st.DataObject) -> None:
    case = ImageCase(data.draw)
    what = case.spoil()
    d = case.d
    loss = d.one_of(MaskInfluencerLoss, HungarianMaskLoss, label="loss")()
    criterion = TransformersCriterion(
        loss,
        torch.ones(case.num_classes + 1),
        d.one_of(None, 1, 7, 100, label="num_points"),
        d.one_of(0.0, 0.5, 1.0, label="edge_fraction"),
    )
    auxiliary = [
        {"masks_queries_logits": m, "class_queries_logits": c}
        for m, c in zip(case.masks[:-1], case.classes[:-1], strict=True)
    ]
    name = "loss_influencer" if isinstance(loss, MaskInfluencerLoss) else "loss_hungarian"
    case.outcome(
        lambda: criterion(case.masks[-1], case.classes[-1], case.truths, case.labels, auxiliary),
        what,
        name,
        lambda: criterion.parts,
    )


@cases(45)
@given(st.data())
def test_the_set_criterion_is_finite_or_says_why_not(data: st.DataObject) -> None:
    case = ImageCase(data.draw)
    d = case.d
    points = d.maybe("points")
    if points:
        # (B, Q, N) against a truth of these points, or of fewer
        case.masks = [m.detach().flatten(2).requires_grad_() for m in case.masks]
        cells = case.masks[0].shape[-1]
        maps = d.maybe("all maps")
        for i, count in enumerate(len(c) for c in case.labels):
            n = d.integer(0, cells, "points")
            case.truths[i] = d.integers(-1, count, n) if maps else d.integers(-1, 1, count, n)
    what = case.spoil()
    options: dict[str, Any] = {"num_points": None if points else d.one_of(None, 7, label="num_points")}
    masks: list[Any] = list(case.masks)
    if points and not what and d.maybe("lists"):
        # one list entry an image, as long as its truth
        lengths = [truth.shape[-1] for truth in case.truths]
        options["queries_last"] = d.maybe("queries_last")
        masks = [[image[:, :n] for image, n in zip(layer, lengths, strict=True)] for layer in case.masks]
        if options["queries_last"]:
            masks = [[image.T for image in layer] for layer in masks]
    criterion = InfluencerSetCriterion(**options)
    layers = [{"pred_masks": m, "pred_logits": c} for m, c in zip(masks, case.classes, strict=True)]
    outputs: dict[str, Any] = {**layers[-1], "aux_outputs": layers[:-1]}
    targets: list[dict[str, Any]] = [{} for _ in range(max(len(case.truths), len(case.labels)))]
    for target, truth in zip(targets, case.truths, strict=False):
        target["masks"] = truth
    for target, labels in zip(targets, case.labels, strict=False):
        target["labels"] = labels
    case.outcome(lambda: criterion(outputs, targets), what, "loss_influencer", lambda: criterion.parts)


class Scene:
    """The truth of a scene, read by name."""

    def __init__(self, **fields: Tensor) -> None:
        self.__dict__.update(fields)


SCENE_SPOILS: dict[str, Callable[[dict[str, Any], list[Scene]], object]] = {
    "a scene less": lambda pred, insts: insts.pop(),
    "no scene": lambda pred, insts: insts.clear(),
    "masks missing": lambda pred, insts: pred.pop("masks"),
    "scores missing": lambda pred, insts: pred.pop("scores"),
    "masks of fewer points": lambda pred, insts: pred["masks"].__setitem__(0, pred["masks"][0][:, 1:]),
    "masks of fewer queries": lambda pred, insts: pred["masks"].__setitem__(0, pred["masks"][0][1:]),
    "masks NaN": lambda pred, insts: pred["masks"].__setitem__(0, pred["masks"][0] * torch.nan),
    "masks None": lambda pred, insts: pred["masks"].__setitem__(0, None),
    "classes of fewer queries": lambda pred, insts: pred["cls_preds"].__setitem__(0, pred["cls_preds"][0][1:]),
    "classes flat": lambda pred, insts: pred["cls_preds"].__setitem__(0, pred["cls_preds"][0].flatten()),
    "another number of classes": lambda pred, insts: pred["cls_preds"].__setitem__(
        0, pad(pred["cls_preds"][0], (0, 1))
    ),
    "a score of None": lambda pred, insts: pred["scores"].__setitem__(0, None),
    "scores of fewer queries": lambda pred, insts: pred["scores"].__setitem__(0, torch.ones(0, 1)),
    "no labels": lambda pred, insts: delattr(insts[0], "labels_3d"),
    "labels out of range": lambda pred, insts: insts[0].__dict__.update(labels_3d=insts[0].labels_3d + 99),
    "labels below 0": lambda pred, insts: insts[0].__dict__.update(labels_3d=insts[0].labels_3d - 99),
    "labels float": lambda pred, insts: insts[0].__dict__.update(labels_3d=insts[0].labels_3d.float()),
    "labels of two axes": lambda pred, insts: insts[0].__dict__.update(labels_3d=insts[0].labels_3d[None]),
    "masks of an instance less": lambda pred, insts: insts[0].__dict__.update(sp_masks=insts[0].sp_masks[1:]),
    "truth of one axis": lambda pred, insts: insts[0].__dict__.update(sp_masks=insts[0].sp_masks.flatten()),
    "truth integer": lambda pred, insts: insts[0].__dict__.update(sp_masks=insts[0].sp_masks.long()),
    "query_masks transposed": lambda pred, insts: insts[0].__dict__.update(query_masks=torch.ones(9, 1) > 0),
    "query_masks float": lambda pred, insts: insts[0].__dict__.update(
        query_masks=torch.ones(len(insts[0].labels_3d), len(pred["masks"][0]))
    ),
    "query_masks misnamed": lambda pred, insts: insts[0].__dict__.update(queries_mask=torch.ones(1, 1)),
    "aux_outputs misnamed": lambda pred, insts: pred.update(aux=pred.pop("aux_outputs")),
    "aux_outputs of a scene less": lambda pred, insts: [layer["masks"].pop() for layer in pred["aux_outputs"]],
}


@cases(40)
@given(st.data())
def test_the_oneformer3d_criterion_is_finite_or_says_why_not(data: st.DataObject) -> None:
    d = Draw(data.draw)
    layers, batch, num_classes = d.integer(1, 3, "layers"), d.integer(1, 3, "batch"), d.integer(1, 3, "classes")
    kind, dtype = d.one_of(*KINDS, label="kind"), data.draw(DTYPES, label="dtype")
    sizes = [
        (d.integer(1, 4, "queries"), d.integer(0, 8, "points"), d.integer(0, 6, "instances")) for _ in range(batch)
    ]
    scored, restricted = d.maybe("scores"), d.maybe("query_masks")
    leaves: list[Tensor] = []

    def leaf(*shape: int, kind: str = "normal") -> Tensor:
        leaves.append(d.logits(*shape, kind=kind).to(dtype).requires_grad_())
        return leaves[-1]

    heads: list[dict[str, Any]] = [
        {
            "cls_preds": [leaf(q, num_classes + 1, kind=kind) for q, _, _ in sizes],
            "masks": [leaf(q, n, kind=kind) for q, n, _ in sizes],
            "scores": [leaf(q, 1) if scored else None for q, _, _ in sizes],
        }
        for _ in range(layers)
    ]
    insts = []
    for q, n, k in sizes:
        masks = (
            d.flags(k, n, share=0.4) if d.maybe("overlap") else d.integers(0, k, n) == torch.arange(1, k + 1)[:, None]
        )
        fields = {"sp_masks": masks, "labels_3d": d.integers(0, num_classes - 1, k)}
        if restricted and d.maybe("has query_masks"):
            fields["query_masks"] = d.flags(k, q, share=0.3)
        insts.append(Scene(**fields))
    criterion = InfluencerCriterion(
        num_classes=num_classes,
        loss_weight=d.one_of((0.5, 1.0, 1.0, 0.5), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), label="loss_weight"),
        iter_matcher=d.maybe("iter_matcher"),
        fix_dice_loss_weight=d.maybe("fix_dice_loss_weight"),
        condensation_weight=d.one_of(0.0, 3.0, label="condensation_weight"),
    )
    pred = {**heads[-1], "aux_outputs": heads[:-1]}
    what = d.one_of(*[""] * 6, *SCENE_SPOILS, label="spoil")
    if what:
        SCENE_SPOILS[what](pred, insts)
    result, sentence = refusal(lambda: criterion(pred, insts), KeyError)
    assert what or result is not None, sentence
    if result is not None:
        result = {k.removeprefix("inst_"): v for k, v in result.items() if k != "inst_temperature"}
        check_result(result, leaves, 1e6 if kind in ("large", "mixed") else 10.0)
