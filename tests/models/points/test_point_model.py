"""The point model: what must hold of its outputs, its batches and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from point_batches import IN_CHANNELS, NUM_CLASSES, batch_of, small_model

from influencerformer.errors import UserError
from influencerformer.models.points.criterion import use_point_loss
from influencerformer.models.points.point_model import SIZES, build_point_model
from influencerformer.models.points.scenes import make_scenes


def test_outputs_have_the_documented_shapes() -> None:
    batch = batch_of(60, 40)
    outputs = small_model(objectness=True)(batch)
    assert outputs.loss is None
    assert outputs.objectness is not None
    assert [len(x) for x in (outputs.mask_logits, outputs.class_logits, outputs.objectness)] == [3, 3, 3]
    for masks, classes, quality in zip(outputs.mask_logits, outputs.class_logits, outputs.objectness, strict=True):
        for i in range(2):
            tokens = int(outputs.token_of_point[i].max()) + 1
            assert masks[i].shape == (5, tokens)
            assert classes[i].shape == (5, NUM_CLASSES + 1)
            assert quality[i].shape == (5,)
            assert bool(((quality[i] >= 0) & (quality[i] <= 1)).all())
    assert [len(t) for t in outputs.token_of_point] == [60, 40]


def test_the_batch_is_left_as_it_was() -> None:
    batch = batch_of(60, 40, truth=True)
    before = {name: [value.clone() for value in values] for name, values in batch.items()}
    small_model()(batch)
    assert all(torch.equal(a, b) for name in batch for a, b in zip(batch[name], before[name], strict=True))


def test_a_scene_gives_the_same_alone_as_in_a_batch() -> None:
    model, batch = small_model().eval(), batch_of(60, 1, 40)
    together = model(batch)
    for i in range(3):
        alone = model({name: [value[i]] for name, value in batch.items()})
        assert torch.equal(alone.token_of_point[0], together.token_of_point[i])
        torch.testing.assert_close(alone.mask_logits[-1][0], together.mask_logits[-1][i])
        torch.testing.assert_close(alone.class_logits[-1][0], together.class_logits[-1][i])


def test_permuted_points_give_permuted_outputs() -> None:
    model, batch = small_model().eval(), batch_of(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    one = model(batch)
    other = model({name: [value[0][order]] for name, value in batch.items()})
    torch.testing.assert_close(
        one.mask_logits[-1][0][:, one.token_of_point[0][order]], other.mask_logits[-1][0][:, other.token_of_point[0]]
    )
    torch.testing.assert_close(one.class_logits[-1][0], other.class_logits[-1][0])


def test_a_shifted_scene_gives_the_same_outputs() -> None:
    model, batch = small_model().eval(), batch_of(60)
    batch["coordinates"] = [(batch["coordinates"][0] * 1024).round() / 1024]
    moved = {**batch, "coordinates": [batch["coordinates"][0] + torch.tensor([17.0, -3.5, 0.25])]}
    torch.testing.assert_close(model(batch).mask_logits[-1][0], model(moved).mask_logits[-1][0])


def test_masks_are_over_superpoints_where_given() -> None:
    model, batch = small_model().eval(), batch_of(60, 40)
    outputs = model({**batch, "superpoints": [torch.arange(60) % 7, None]})
    assert outputs.mask_logits[-1][0].shape == (5, 7)
    assert torch.equal(outputs.token_of_point[0], torch.arange(60) % 7)
    voxels = model(batch)
    torch.testing.assert_close(outputs.mask_logits[-1][1], voxels.mask_logits[-1][1])


def test_superpoints_that_are_the_voxels_change_nothing() -> None:
    model, batch = small_model().eval(), batch_of(60, 40)
    voxels = model(batch)
    same = model({**batch, "superpoints": voxels.token_of_point})
    torch.testing.assert_close(same.mask_logits[-1], voxels.mask_logits[-1])
    torch.testing.assert_close(same.class_logits[-1], voxels.class_logits[-1])


def test_superpoints_pool_the_features_of_their_points() -> None:
    batch = batch_of(60)
    batch["superpoints"] = [torch.arange(60) // 20]
    scenes = make_scenes(batch, IN_CHANNELS, 0.1)
    assert scenes.parts is not None
    values = torch.randn(len(scenes.voxels), 2, dtype=torch.float64)
    of_point = make_scenes({**batch, "superpoints": [None]}, IN_CHANNELS, 0.1).token_of_point[0]
    expected = torch.stack([values[of_point[i : i + 20]].mean(0) for i in (0, 20, 40)])
    torch.testing.assert_close(scenes.to_tokens(values), expected)


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (60, 1)])
def test_scenes_of_one_point_train(sizes: tuple[int, ...]) -> None:
    batch = batch_of(*sizes)
    batch["instance_labels"] = [torch.ones(n, dtype=torch.int64) for n in sizes]
    batch["class_labels"] = [torch.tensor([1]) for _ in sizes]
    model = small_model()
    loss = model(batch).loss
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("kind", ["influencer", "hungarian"])
@pytest.mark.parametrize("instances", [0, 9])
def test_no_instances_and_more_instances_than_queries_are_finite(kind: str, instances: int) -> None:
    model = use_point_loss(small_model(), kind)
    loss = model(batch_of(60, 40, truth=True, instances=instances)).loss
    loss.backward()
    assert bool(loss.isfinite())


def test_every_parameter_is_trained() -> None:
    model = small_model(objectness=True)
    model(batch_of(60, 40, truth=True)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_the_same_seed_gives_the_same_step() -> None:
    def step() -> list[torch.Tensor]:
        model = small_model(seed=4).float()
        batch = batch_of(60, 40, truth=True)
        batch = {n: [v.float() if v.is_floating_point() else v for v in values] for n, values in batch.items()}
        model(batch).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))


def test_state_dict_round_trip() -> None:
    batch, model, other = batch_of(60), small_model(seed=0).eval(), small_model(seed=1).eval()
    assert not torch.equal(model(batch).mask_logits[-1][0], other(batch).mask_logits[-1][0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch).mask_logits[-1][0], other(batch).mask_logits[-1][0])


def test_bfloat16_autocast_trains() -> None:
    model, batch = small_model().float(), batch_of(60, 40, truth=True)
    batch = {n: [v.float() if v.is_floating_point() else v for v in values] for n, values in batch.items()}
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch)
    outputs.loss.backward()
    assert outputs.mask_logits[-1][0].dtype == torch.bfloat16
    assert bool(outputs.loss.isfinite())
    exact = model(batch).loss
    torch.testing.assert_close(outputs.loss, exact, rtol=0.05, atol=0.05)


def test_named_sizes_are_built_and_others_refused() -> None:
    model = build_point_model("point-tiny", num_classes=NUM_CLASSES, num_queries=7, in_channels=6, voxel_size=0.1)
    assert model.decoder.num_queries == 7
    with pytest.raises(UserError, match="unknown point model 'point-huge': expected point-tiny or point-base"):
        build_point_model("point-huge", num_classes=1)
    assert set(SIZES) == {"point-tiny", "point-base"}


def wrong(name: str, scene: int, value: Any) -> dict[str, Any]:
    batch = batch_of(60, 40, truth=True)
    batch["superpoints"] = [None, None]
    batch[name][scene] = value
    return batch


@pytest.mark.parametrize(
    ("batch", "kind", "message"),
    [
        (wrong("features", 1, torch.zeros(40, 6)), UserError, "built for 4 features a point, scene 1 has 6"),
        (
            wrong("features", 1, torch.zeros(39, 4)),
            ValueError,
            r"scene 1 has 40 points, but its features are \(39, 4\)",
        ),
        (wrong("features", 1, torch.full((40, 4), torch.nan)), UserError, "features of scene 1 hold NaN"),
        (wrong("coordinates", 1, torch.full((40, 3), torch.nan)), UserError, "scene 1: coordinates hold NaN"),
        (wrong("coordinates", 0, torch.zeros(60, 2)), ValueError, r"coordinates of scene 0 must be \(N, 3\)"),
        (wrong("coordinates", 0, torch.zeros(0, 3)), ValueError, "with N of 1 or more"),
        (wrong("coordinates", 0, torch.zeros(60, 3).long()), ValueError, r"got \(60, 3\) int64"),
        (
            wrong("superpoints", 1, torch.zeros(39).long()),
            ValueError,
            r"superpoints of scene 1 must be \(40,\) integers",
        ),
        (wrong("superpoints", 1, torch.zeros(40)), ValueError, r"got \(40,\) float32"),
        (wrong("instance_labels", 1, torch.full((40,), 3)), ValueError, "scene 1: instance_labels must lie in -1..2"),
        (wrong("instance_labels", 1, torch.zeros(39).long()), ValueError, "scene 1: 39 instance_labels came with 40"),
        ({"coordinates": [], "features": []}, ValueError, "a batch needs 1 or more scenes"),
        ({**batch_of(60, 40), "features": batch_of(60)["features"]}, ValueError, "got 2 coordinates, 1 features"),
        ({**batch_of(60, 40, truth=True), "class_labels": []}, ValueError, "0 class_labels came with 2 scenes"),
    ],
)
def test_bad_input_is_named(batch: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        small_model()(batch)


def test_bad_options_are_named() -> None:
    with pytest.raises(UserError, match="voxel_size must be positive, in metres, got 0"):
        build_point_model("point-tiny", num_classes=1, voxel_size=0)
    with pytest.raises(ValueError, match="2 levels or more"):
        small_model(channels=(8,))
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 16 and 3"):
        small_model(num_heads=3)
    with pytest.raises(ValueError, match="num_queries must be at least 1, got 0"):
        small_model(num_queries=0)
