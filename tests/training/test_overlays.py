"""Drawing: what is inside is coloured, what is outside stays."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencerformer.pictures.cloud_colours import instance_colours
from influencerformer.training.overlays import draw_instances, label_masks, outline


def test_colours_are_distinct_and_do_not_depend_on_the_count() -> None:
    colours = instance_colours(200)
    assert len({tuple(colour) for colour in colours.tolist()}) == 200
    assert np.array_equal(colours[:7], instance_colours(7))
    steps = np.abs(colours[1:].astype(int) - colours[:-1]).max(axis=1)
    assert steps.min() > 60
    assert instance_colours(0).shape == (0, 3)


def test_fill_outline_and_the_rest() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 5:15] = True
    colour = np.array([[255, 0, 50]], dtype=np.uint8)
    drawn = np.asarray(draw_instances(image, [mask], colours=colour, opacity=0.5, outline_width=1))
    assert (drawn[~mask] == 100).all()
    edge = outline(mask)
    assert edge.sum() == 36
    assert (drawn[edge] == colour[0]).all()
    assert (drawn[mask & ~edge] == [177, 50, 75]).all()
    assert (image == 100).all()


def test_tensors_label_maps_empty_masks_and_captions() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[:10, :10], labels[20:, 30:] = 1, 3
    labels[0, 50] = -1
    plain = np.asarray(draw_instances(image, label_masks(labels)))
    same = np.asarray(draw_instances(image, [labels == 1, labels == 2, labels == 3]))
    assert np.array_equal(plain, same)
    assert (plain[labels.numpy() <= 0] == 0).all()
    assert plain[5, 5].any()
    assert plain[30, 45].any()
    assert not np.array_equal(plain[5, 5], plain[30, 45])
    named = np.asarray(draw_instances(image, label_masks(labels), captions=["a", "b", "c"]))
    assert (named != plain).any()


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask 0 is \(4, 5\).*\(5, 4\)"):
        draw_instances(torch.zeros(3, 5, 4, dtype=torch.uint8), [np.ones((4, 5), dtype=bool)])


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_outline_is_the_members_near_a_non_member(seed: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < 0.8
    expected = np.zeros_like(mask)
    non_members = np.argwhere(~mask)
    for row, column in np.argwhere(mask):
        distances = np.abs(non_members - [row, column]).sum(axis=1)
        expected[row, column] = bool(len(distances)) and distances.min() <= width
    assert np.array_equal(outline(mask, width), expected)
