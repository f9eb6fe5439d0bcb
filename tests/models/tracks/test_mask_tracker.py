"""The mask tracker: queries that start from hits, and tracks from masks."""

from __future__ import annotations

import pytest
import torch
from track_batches import NUM_FEATURES, batch_of, events_of

from influencerformer.errors import UserError
from influencerformer.losses import hungarian_mask_loss, mask_influencer_loss
from influencerformer.models.tracks.mask_tracker import MaskTracker, masked_tracks


def small_model(**options: object) -> MaskTracker:
    torch.manual_seed(0)
    return MaskTracker(NUM_FEATURES, 6, 8, 2, 2, 4, **options)  # type: ignore[arg-type]


def test_outputs_have_the_documented_shapes() -> None:
    outputs = small_model(decoder_layers=3)(batch_of(20, 7))
    assert outputs.loss is None
    assert [[tuple(m.shape) for m in layer] for layer in outputs.mask_logits] == [[(6, 20), (6, 7)]] * 4
    assert [[tuple(c.shape) for c in layer] for layer in outputs.class_logits] == [[(6, 2), (6, 2)]] * 4


def test_queries_start_from_the_hits_nearest_to_the_beam_line() -> None:
    batch = batch_of(8, 4)
    seeds = small_model()(batch).seeds
    radius = [positions[:, :2].norm(dim=1) for positions in batch["positions"]]
    assert seeds[0].tolist() == radius[0].argsort()[:6].tolist()
    assert seeds[1].tolist() == (radius[1].argsort().tolist() * 2)[:6]


@pytest.mark.parametrize(
    ("loss", "function"), [("influencer", mask_influencer_loss), ("hungarian", hungarian_mask_loss)]
)
def test_the_loss_is_that_of_the_masks(loss: str, function: object) -> None:
    batch = batch_of(20, 7, truth=True)
    options = {"temperature": 0.1} if loss == "influencer" else {}
    model = small_model(loss=loss, loss_options=options)
    outputs = model(batch)
    expected = function(  # type: ignore[operator]
        outputs.mask_logits, batch["instance_labels"], outputs.class_logits, batch["class_labels"], **options
    )
    torch.testing.assert_close(outputs.loss, expected["loss"])
    assert model.criterion.parts.keys() == expected.keys() - {"loss"}
    outputs.loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_both_losses_start_from_the_same_weights() -> None:
    one, other = (dict(small_model(loss=loss).named_parameters()) for loss in ("influencer", "hungarian"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_own_claims_leave_particles_without_a_seed_unclaimed() -> None:
    batch = batch_of(20, truth=True)
    model = small_model(own_claims=True, loss_options={"condensation_weight": 0.0})
    outputs = model(batch)
    labels = batch["instance_labels"][0]
    claim_mask = labels[outputs.seeds[0]][:, None] == torch.tensor([1, 2, 3])
    expected = mask_influencer_loss(
        outputs.mask_logits,
        batch["instance_labels"],
        outputs.class_logits,
        batch["class_labels"],
        claim_mask=[claim_mask],
        condensation_weight=0.0,
        temperature=0.2,
    )
    torch.testing.assert_close(outputs.loss, expected["loss"])


def test_own_claims_restrict_the_matching_too() -> None:
    batch = batch_of(20, truth=True)
    outputs = small_model(loss="hungarian", own_claims=True)(batch)
    mine = batch["instance_labels"][0][outputs.seeds[0]][:, None] == torch.tensor([1, 2, 3])
    predictions = outputs.mask_logits, batch["instance_labels"], outputs.class_logits, batch["class_labels"]
    torch.testing.assert_close(outputs.loss, hungarian_mask_loss(*predictions, claim_mask=[mine])["loss"])
    assert not torch.isclose(outputs.loss, hungarian_mask_loss(*predictions)["loss"])


def test_events_of_a_batch_do_not_see_each_other() -> None:
    model, batch = small_model().eval(), batch_of(20, 7)
    together, alone = model(batch), model(events_of(batch, 1))
    torch.testing.assert_close(alone.mask_logits[-1][0], together.mask_logits[-1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", ["influencer", "hungarian"])
def test_an_event_without_particles_trains(loss: str) -> None:
    batch = batch_of(9, particles=0, truth=True)
    outputs = small_model(loss=loss)(batch)
    outputs.loss.backward()
    assert bool(outputs.loss.isfinite())


def test_more_particles_than_queries_are_one_sentence() -> None:
    with pytest.raises(UserError, match="event event1 has 7 particles, more than the 6 queries"):
        small_model()({**batch_of(20, 20, truth=True), "class_labels": [torch.zeros(n).long() for n in (6, 7)]})


def test_tracks_of_planted_masks() -> None:
    masks = torch.tensor(
        [
            [5.0, 5, 5, -5, -5, -5, -5, 1],
            [-5.0, -5, -5, 5, 5, 5, -5, 2],
            [4.0, 4, 4, -5, -5, -5, -5, -5],  # the first again, less sure of being a track
            [-5.0, -5, -5, -5, -5, -5, 9, 9],  # no track by its class
        ]
    )
    classes = torch.tensor([[3.0, 0], [2.0, 0], [1.0, 0], [0.0, 1]])
    assert masked_tracks(masks, classes).tolist() == [1, 1, 1, 2, 2, 2, 0, 2]
    assert masked_tracks(masks, classes, score_threshold=0.9).tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
    assert masked_tracks(masks, classes, score_threshold=0.99).tolist() == [0] * 8
    assert masked_tracks(masks, classes, score_threshold=0.2, min_hits=2).tolist() == [1, 1, 1, 2, 2, 2, 3, 3]


def test_a_mask_suppressed_by_another_suppresses_none() -> None:
    # The second is like the first, the third like the second but not like the first.
    masks = torch.tensor([[1.0] * 6 + [-1.0] * 4, [-1.0] + [1.0] * 7 + [-1.0] * 2, [-1.0] * 4 + [1.0] * 6])
    classes = torch.tensor([[3.0, 0], [2.0, 0], [1.0, 0]])
    assert masked_tracks(masks, classes).tolist() == [1] * 6 + [2] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "stock"}, "loss must be one of influencer, hungarian for the mask tracker, got 'stock'"),
        ({"loss_options": {"bogus": 1}}, "loss_options do not fit the influencer loss: .*'bogus'"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_model(**options)
