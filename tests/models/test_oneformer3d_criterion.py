"""InfluencerCriterion on predictions and truth made from OneFormer3D's contract."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from influencerformer import InfluencerCriterion, mask_influencer_loss

NUM_CLASSES = 3
PARTS = ["claim_mask", "claim_dice", "existence", "objectness", "attraction", "repulsion"]


class Scene:
    """What a criterion uses of OneFormer3D's InstanceData_: attributes, keys, get and a length."""

    def __init__(self, **fields: Tensor) -> None:
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.labels_3d)

    def keys(self) -> list[str]:
        return list(self.__dict__)

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class Batch:
    """Predictions of a model with three heads, and the truth, of S3DIS or ScanNet kind."""

    def __init__(self, kind: str, counts: tuple[int, ...] = (3, 2), seed: int = 0, dtype: Any = torch.float64) -> None:
        g = torch.Generator().manual_seed(seed)
        queries = [7] * len(counts) if kind == "s3dis" else [6 + 2 * i for i in range(len(counts))]
        points = [30 + 5 * i for i in range(len(counts))]

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

        heads = [
            {
                "cls_preds": [normal(q, NUM_CLASSES + 1) for q in queries],
                "masks": [normal(q, n) for q, n in zip(queries, points, strict=True)],
                "scores": [normal(q, 1) if kind == "s3dis" else None for q in queries],
            }
            for _ in range(3)
        ]
        self.pred: dict[str, Any] = {**heads[-1], "aux_outputs": heads[:-1]}
        self.insts = []
        for count, q, n in zip(counts, queries, points, strict=True):
            labels = torch.randint(0, count + 1, (n,), generator=g)
            labels[:count] = torch.arange(1, count + 1)
            masks = labels == torch.arange(1, count + 1)[:, None]
            fields = {"sp_masks": masks, "labels_3d": torch.randint(NUM_CLASSES, (count,), generator=g)}
            if kind == "scannet":
                fields["query_masks"] = masks[:, torch.randperm(n, generator=g)[:q]]
            self.insts.append(Scene(**fields))


@pytest.fixture(params=["s3dis", "scannet"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return Batch(request.param)


def criterion(**options: Any) -> InfluencerCriterion:
    return InfluencerCriterion(num_classes=NUM_CLASSES, **options)


def test_parts_add_up_and_are_for_the_log_alone(batch: Batch) -> None:
    result = criterion()(batch.pred, batch.insts)
    assert [name for name in result if "loss" in name] == ["inst_loss"]
    assert all(isinstance(value, Tensor) and value.ndim == 0 for value in result.values())
    assert [name for name, value in result.items() if value.requires_grad] == ["inst_loss"]
    parts = [result[f"inst_{name}"] for name in PARTS]
    torch.testing.assert_close(torch.stack(parts).sum(), result["inst_loss"].detach())
    assert all(value.mean().isfinite() for value in result.values())
    has_scores = batch.pred["scores"][0] is not None
    assert (result["inst_objectness"] > 0) == has_scores


def test_equals_the_loss_it_adapts(batch: Batch) -> None:
    """The weights, in the units of the original, and everything else by the loss itself."""
    weights = [0.5, 1.0, 1.0, 0.5]
    found = criterion(loss_weight=weights, temperature=0.1, non_object_weight=0.05)(batch.pred, batch.insts)
    unit = sum(weights[:3]) / 12
    layers = [*batch.pred["aux_outputs"], batch.pred]
    scores = (
        [[s.flatten() for s in layer["scores"]] for layer in layers] if layers[0]["scores"][0] is not None else None
    )
    claims = [i.query_masks.T for i in batch.insts] if batch.insts[0].get("query_masks") is not None else None
    expected = mask_influencer_loss(
        [layer["masks"] for layer in layers],
        None,
        [layer["cls_preds"] for layer in layers],
        [i.labels_3d for i in batch.insts],
        instance_masks=[i.sp_masks for i in batch.insts],
        claim_mask=claims,
        objectness=scores,
        class_weight=0.5 / unit,
        mask_weight=1.0 / unit,
        dice_weight=1.0 / unit,
        objectness_weight=0.5 / unit,
        no_object_weight=0.05,
        temperature=0.1,
    )
    torch.testing.assert_close(found["inst_loss"], unit * expected["loss"])


def test_scaled_weights_scale_the_loss(batch: Batch) -> None:
    """The temperature and the condensation follow the weights, so the claims stay what they are."""
    once = criterion()(batch.pred, batch.insts)
    twice = criterion(loss_weight=[1.0, 2.0, 2.0, 1.0])(batch.pred, batch.insts)
    torch.testing.assert_close(twice["inst_loss"], 2 * once["inst_loss"])


def test_every_layer_counts_and_may_be_absent(batch: Batch) -> None:
    full = criterion()(batch.pred, batch.insts)["inst_loss"]
    full.backward()
    for layer in [batch.pred, *batch.pred["aux_outputs"]]:
        assert all(mask.grad is not None and bool(mask.grad.any()) for mask in layer["masks"])
    del batch.pred["aux_outputs"]
    assert criterion()(batch.pred, batch.insts)["inst_loss"] < full


def test_lists_trimmed_in_place_before_the_call() -> None:
    """As S3DISUnifiedCriterion does with the semantic queries; the criterion itself changes none."""
    batch = Batch("s3dis")
    for layer in [batch.pred, *batch.pred["aux_outputs"]]:
        for name in ("cls_preds", "masks", "scores"):
            for i, value in enumerate(layer[name]):
                layer[name][i] = value[:-2]
    before = [mask.shape for mask in batch.pred["masks"]]
    assert criterion()(batch.pred, batch.insts)["inst_loss"].isfinite()
    assert [mask.shape for mask in batch.pred["masks"]] == before == [(5, 30), (5, 35)]


@pytest.mark.parametrize("kind", ["s3dis", "scannet"])
@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (2, 0, 1)])
def test_scenes_without_instances(kind: str, counts: tuple[int, ...]) -> None:
    batch = Batch(kind, counts)
    loss = criterion()(batch.pred, batch.insts)["inst_loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(bool(classes.grad.isfinite().all()) for classes in batch.pred["cls_preds"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision(batch: Batch, dtype: torch.dtype) -> None:
    """Predictions in half precision are computed in float32; their gradients come back in half."""
    expected = criterion()(batch.pred, batch.insts)["inst_loss"]
    kind = "scannet" if batch.pred["scores"][0] is None else "s3dis"
    half = Batch(kind, dtype=dtype)
    loss = criterion()(half.pred, half.insts)["inst_loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.item(), expected.item(), rtol=0.02, atol=0.02)
    assert half.pred["masks"][0].grad.dtype == dtype


def test_query_masks_limit_the_claims_and_are_optional() -> None:
    """A superpoint query outside of every instance gets no gradient of claims, with query_masks only."""
    batch = Batch("scannet")
    options = {"condensation_weight": 0.0, "loss_weight": [0.0, 1.0, 1.0, 0.0]}
    criterion(**options)(batch.pred, batch.insts)["inst_loss"].backward()
    for mask, scene in zip(batch.pred["masks"], batch.insts, strict=True):
        moved = mask.grad.abs().sum(1) > 0
        assert (moved == scene.query_masks.any(0)).all()
        del scene.query_masks
    for mask in batch.pred["masks"]:
        mask.grad = None
    criterion(temperature=1.0, **options)(batch.pred, batch.insts)["inst_loss"].backward()
    assert all(bool((mask.grad.abs().sum(1) > 0).all()) for mask in batch.pred["masks"])


def test_one_scene_with_and_one_without_query_masks() -> None:
    batch = Batch("scannet")
    del batch.insts[1].query_masks
    assert criterion()(batch.pred, batch.insts)["inst_loss"].isfinite()


def test_instances_without_any_query() -> None:
    """The original is NaN here."""
    batch = Batch("scannet")
    for scene in batch.insts:
        scene.query_masks = torch.zeros_like(scene.query_masks)
    loss = criterion()(batch.pred, batch.insts)["inst_loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(bool(mask.grad.isfinite().all()) for mask in batch.pred["masks"])


def test_more_instances_than_queries() -> None:
    batch = Batch("s3dis", (12, 9))
    assert criterion()(batch.pred, batch.insts)["inst_loss"].isfinite()


def planted(score: float = 1.0) -> Batch:
    """A batch whose predictions are the truth: query k is instance k, the others are no-object."""
    batch = Batch("s3dis")
    for layer in [batch.pred, *batch.pred["aux_outputs"]]:
        for i, scene in enumerate(batch.insts):
            masks, classes = torch.full_like(layer["masks"][i], -20), torch.full_like(layer["cls_preds"][i], -20)
            scores = torch.zeros_like(layer["scores"][i])
            count = len(scene)
            masks[:count] = torch.where(scene.sp_masks, 20.0, -20.0)
            classes[torch.arange(count), scene.labels_3d] = 20
            classes[count:, -1] = 20
            scores[:count] = score
            layer["masks"][i], layer["cls_preds"][i], layer["scores"][i] = masks, classes, scores
    return batch


def test_the_correct_assignment_is_the_optimum_whatever_the_order() -> None:
    best = planted()
    right = criterion()(best.pred, best.insts)["inst_loss"]
    assert right < 1e-3
    order = torch.randperm(7)
    for layer in [best.pred, *best.pred["aux_outputs"]]:
        for name in ("masks", "cls_preds", "scores"):
            layer[name] = [value[order] for value in layer[name]]
    torch.testing.assert_close(criterion()(best.pred, best.insts)["inst_loss"], right)
    for layer in [best.pred, *best.pred["aux_outputs"]]:
        claimed, free = int((order == 0).nonzero()), int((order == 6).nonzero())
        for name in ("masks", "cls_preds", "scores"):
            layer[name][0][free] = layer[name][0][claimed]
    assert criterion()(best.pred, best.insts)["inst_loss"] > right + 0.01


def test_objectness_is_trained_to_the_iou_of_the_claimed_mask() -> None:
    """A claimed query's score is pulled to its mask's IoU, others to zero."""
    batch = planted(0.4)
    for layer in [batch.pred, *batch.pred["aux_outputs"]]:
        for scores in layer["scores"]:
            scores[5:] = 0.3
            scores.requires_grad_()
    criterion()(batch.pred, batch.insts)["inst_loss"].backward()
    for scores, scene in zip(batch.pred["scores"], batch.insts, strict=True):
        assert (scores.grad[: len(scene)] < 0).all()
        assert (scores.grad[5:] > 0).all()
    assert planted(1.0) is not None
    perfect = planted(1.0)
    assert criterion()(perfect.pred, perfect.insts)["inst_objectness"] < 1e-6


@pytest.mark.parametrize("name", ["cls_preds", "masks", "scores"])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("where", ["output", "aux_outputs"])
def test_missing_prediction_is_named(batch: Batch, name: str, renamed: bool, where: str) -> None:
    layer = batch.pred if where == "output" else batch.pred["aux_outputs"][1]
    value = layer.pop(name)
    if renamed:
        layer[f"pred_{name}"] = value
    place = "pred has no" if where == "output" else r"pred\['aux_outputs'\]\[1\] has no"
    with pytest.raises(KeyError, match=f"{place} '{name}'"):
        criterion()(batch.pred, batch.insts)


def test_renamed_aux_outputs_are_not_taken_for_absent(batch: Batch) -> None:
    batch.pred["aux_preds"] = batch.pred.pop("aux_outputs")
    with pytest.raises(KeyError, match=r"pred has no 'aux_outputs' but 'aux_preds'"):
        criterion()(batch.pred, batch.insts)


@pytest.mark.parametrize("name", ["sp_masks", "labels_3d"])
def test_missing_truth_is_named(batch: Batch, name: str) -> None:
    value = getattr(batch.insts[1], name)
    delattr(batch.insts[1], name)
    with pytest.raises(KeyError, match=rf"insts\[1\] has no '{name}'"):
        criterion()(batch.pred, batch.insts)
    setattr(batch.insts[1], f"gt_{name}", value)
    with pytest.raises(KeyError, match=rf"insts\[1\] has no '{name}'; it has .*gt_{name}"):
        criterion()(batch.pred, batch.insts)


def test_renamed_query_masks_are_not_taken_for_absent() -> None:
    batch = Batch("scannet")
    batch.insts[0].query_mask = batch.insts[0].query_masks
    del batch.insts[0].query_masks
    with pytest.raises(KeyError, match=r"insts\[0\] has no 'query_masks' but 'query_mask'"):
        criterion()(batch.pred, batch.insts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.insts.pop(), r"pred\['aux_outputs'\]\[0\]\['cls_preds'\] holds 2 scenes, insts 1"),
        (
            lambda b: setattr(b.insts[1], "sp_masks", b.insts[1].sp_masks[:, 1:]),
            r"insts\[1\].sp_masks must be \(G, N\)",
        ),
        (lambda b: setattr(b.insts[1], "sp_masks", b.insts[1].sp_masks[1:]), r"insts\[1\].sp_masks must be \(G, N\)"),
        (lambda b: setattr(b.insts[0], "query_masks", b.insts[0].sp_masks), r"insts\[0\].query_masks must be \(G, Q\)"),
        (lambda b: setattr(b.insts[0], "labels_3d", b.insts[0].labels_3d + 9), "image 0: class_labels go up to"),
        (lambda b: b.pred["scores"].__setitem__(0, None), "scores are None in some layers or scenes"),
        (
            lambda b: b.pred["cls_preds"].__setitem__(1, torch.zeros(7, 9)),
            r"cls_preds of scene 1 must be \(Q, C \+ 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: Any, message: str) -> None:
    batch = Batch("s3dis")
    change(batch)
    with pytest.raises(ValueError, match=message):
        criterion()(batch.pred, batch.insts)


def test_values_that_are_not_finite(batch: Batch) -> None:
    with torch.no_grad():
        batch.pred["masks"][1][0, 3] = torch.nan
    with pytest.raises(ValueError, match="image 1: mask_logits holds 1 of"):
        criterion()(batch.pred, batch.insts)
    result = criterion(nonfinite="skip")(batch.pred, batch.insts)
    assert result["inst_loss"].isfinite()
    assert result["inst_nonfinite"] == 1
    assert result["inst_nonfinite"].is_floating_point()  # mmengine takes the mean of what it logs


def test_keywords_of_the_original_are_accepted_with_a_warning() -> None:
    weights = {"loss_weight": [0.5, 1.0, 1.0, 0.5], "non_object_weight": 0.05, "fix_dice_loss_weight": True}
    with pytest.warns(UserWarning, match="ignores matcher, fix_mean_loss") as caught:
        criterion(matcher={"type": "HungarianMatcher"}, fix_mean_loss=True, iter_matcher=True, **weights)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(**weights)


def test_fixed_dice_weight_is_four_times_the_weight(batch: Batch) -> None:
    fixed = criterion(fix_dice_loss_weight=True)(batch.pred, batch.insts)
    torch.testing.assert_close(fixed, criterion(loss_weight=[0.5, 1.0, 4.0, 0.5])(batch.pred, batch.insts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weight": [1.0, 1.0]}, "four weights"),
        ({"loss_weight": [1.0, -1.0, 1.0, 1.0]}, "four weights"),
        ({"loss_weight": [0.0, 0.0, 0.0, 1.0]}, "four weights"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"rep_margin": -1.0}, "rep_margin must be a finite number of at least 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
    ],
)
def test_options_out_of_range(batch: Batch, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        criterion(**options)(batch.pred, batch.insts)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        InfluencerCriterion(num_classes=0)


def test_iter_matcher_lays_the_claims_of_every_layer_anew() -> None:
    batch = Batch("s3dis")
    each = criterion()(batch.pred, batch.insts)
    shared = criterion(iter_matcher=False)(batch.pred, batch.insts)
    assert each["inst_loss"] != shared["inst_loss"]
    del batch.pred["aux_outputs"]
    alone = criterion()(batch.pred, batch.insts)["inst_loss"]
    torch.testing.assert_close(criterion(iter_matcher=False)(batch.pred, batch.insts)["inst_loss"], alone)


def test_background_weight_acts_on_points_of_no_instance(batch: Batch) -> None:
    pixel = [criterion(bg_weight=w)(batch.pred, batch.insts)["inst_claim_mask"] for w in (0.1, 1.0)]
    assert pixel[0] < pixel[1]
    for scene in batch.insts:
        scene.sp_masks[0] |= ~scene.sp_masks.any(0)
    pixel = [criterion(bg_weight=w)(batch.pred, batch.insts)["inst_claim_mask"] for w in (0.1, 1.0)]
    torch.testing.assert_close(pixel[0], pixel[1])


class Hub:
    """As much of mmengine's MessageHub as the criterion asks."""

    info: ClassVar[dict[str, int]] = {}

    @classmethod
    def get_current_instance(cls) -> type[Hub]:
        return cls

    @classmethod
    def get_info(cls, name: str, default: Any = None) -> Any:
        return cls.info.get(name, default)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    module = types.ModuleType("mmengine.logging")
    module.MessageHub = Hub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmengine.logging", module)
    yield Hub
    Hub.info = {}


def test_the_temperature_follows_the_runner(batch: Batch, hub: type[Hub]) -> None:
    loss = criterion(temperature=(0.5, 0.02), anneal=0.5)
    for iteration, expected in ((0, 0.5), (25, 0.1), (50, 0.02), (99, 0.02)):
        hub.info = {"iter": iteration, "max_iters": 100}
        assert loss(batch.pred, batch.insts)["inst_temperature"].item() == pytest.approx(expected)


def test_the_temperature_counts_calls_without_a_runner(batch: Batch) -> None:
    loss = criterion(temperature=(0.5, 0.02), anneal=1.0, total_steps=2)
    found = [loss(batch.pred, batch.insts)["inst_temperature"].item() for _ in range(3)]
    assert found == pytest.approx([0.5, 0.1, 0.02])


def test_a_hub_without_a_run_is_no_runner(batch: Batch, hub: type[Hub]) -> None:
    assert criterion(temperature=0.3)(batch.pred, batch.insts)["inst_temperature"].item() == pytest.approx(0.3)


def test_the_normaliser_is_that_of_all_ranks(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With twice the instances on the average rank, what is averaged over instances halves."""
    from influencerformer.losses import mask_influencer

    once = criterion()(batch.pred, batch.insts)
    monkeypatch.setattr(mask_influencer, "mean_over_ranks", lambda count: 2 * count)
    other = criterion()(batch.pred, batch.insts)
    for name in ("claim_mask", "claim_dice", "attraction", "repulsion"):
        torch.testing.assert_close(2 * other[f"inst_{name}"], once[f"inst_{name}"])


def test_training_moves_to_the_truth() -> None:
    """Gradient descent on the predictions themselves finds one query for every instance."""
    batch = Batch("s3dis", dtype=torch.float32)
    del batch.pred["aux_outputs"]
    leaves = [value for name in ("masks", "cls_preds", "scores") for value in batch.pred[name]]
    optimizer = torch.optim.Adam(leaves, lr=0.2)
    loss = criterion(total_steps=150)
    for _ in range(200):
        optimizer.zero_grad()
        loss(batch.pred, batch.insts)["inst_loss"].backward()
        optimizer.step()
    for i, scene in enumerate(batch.insts):
        found = (batch.pred["masks"][i][:, None] > 0) == scene.sp_masks
        assert found.all(-1).any(0).all()
