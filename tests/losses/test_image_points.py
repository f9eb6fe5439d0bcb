"""Reading predictions and truth at the same cells of the mask grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from influencerformer.losses.image_points import sample_image_points


def square(size: int = 32) -> Tensor:
    """A label map: background, one square, and an ignored strip at the right."""
    labels = torch.zeros(size, size, dtype=torch.long)
    labels[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    labels[:, -size // 8 :] = -1
    return labels


def coordinates(height: int, width: int) -> list[Tensor]:
    """One layer (1, 2, h, w) that holds the row and the column of each cell, so that a draw tells where it was."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return [torch.stack([rows, columns]).float()[None]]


def test_grid_of_the_truths_own_size_is_the_truth() -> None:
    labels = square(16)
    logits = torch.randn(1, 3, 16, 16)
    points = sample_image_points([logits], [labels])
    assert torch.equal(points.instance_labels[0].view(16, 16), labels)
    assert torch.equal(points.mask_logits[0], logits.flatten(2))
    assert points.instance_masks is None


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_coarse_grid_takes_the_truth_at_cell_centres(scale: int) -> None:
    labels = torch.randint(0, 9, (5 * scale, 7 * scale))
    points = sample_image_points([torch.zeros(1, 1, 5, 7)], [labels])
    middle = scale // 2
    assert torch.equal(points.instance_labels[0].view(5, 7), labels[middle::scale, middle::scale])


@pytest.mark.parametrize(("height", "width"), [(5, 7), (16, 9), (3, 3)])
def test_centres_of_any_ratio(height: int, width: int) -> None:
    labels = torch.randint(0, 9, (13, 17))
    points = sample_image_points([torch.zeros(1, 1, height, width)], [labels])
    found = points.instance_labels[0].view(height, width)
    for i in range(height):
        for j in range(width):
            assert found[i, j] == labels[int((i + 0.5) * 13 / height), int((j + 0.5) * 17 / width)]


def test_all_layers_are_read_at_the_same_cells() -> None:
    torch.manual_seed(0)
    layer = torch.randn(2, 3, 8, 8)
    points = sample_image_points([layer, 2 * layer, -layer], [square(8), square(16)[:8, :8]], 20)
    assert len(points.mask_logits) == 3
    assert torch.equal(points.mask_logits[1], 2 * points.mask_logits[0])
    assert torch.equal(points.mask_logits[2], -points.mask_logits[0])


def test_drawn_truth_and_logits_belong_together() -> None:
    torch.manual_seed(0)
    labels = square(32)
    points = sample_image_points(coordinates(32, 32), [labels], 300)
    assert points.mask_logits[0].shape == (1, 2, 300)
    rows, columns = points.mask_logits[0][0].long()
    assert torch.equal(points.instance_labels[0], labels[rows, columns])


def outline_share(edge_fraction: float) -> float:
    """The share of draws within one cell of the square's outline; ties to its inside alone."""
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[8:24, 8:24] = 1
    torch.manual_seed(0)
    points = sample_image_points(coordinates(32, 32), [labels], 900, edge_fraction)
    rows, columns = points.mask_logits[0][0]
    distance = torch.maximum((rows - 15.5).abs(), (columns - 15.5).abs())  # the outline is at 8
    return ((distance > 7) & (distance < 9)).float().mean().item()


def test_edge_points_lie_at_outlines() -> None:
    even = (18**2 - 14**2) / 32**2
    assert outline_share(1.0) > 0.98
    assert outline_share(0.0) == pytest.approx(even, abs=0.05)
    assert outline_share(0.5) == pytest.approx(0.5 + 0.5 * even, abs=0.05)


@pytest.mark.parametrize("form", ["labels", "masks"])
@pytest.mark.parametrize("edge_fraction", [0.0, 0.5, 1.0])
def test_image_without_outlines(form: str, edge_fraction: float) -> None:
    truth = torch.zeros(8, 8, dtype=torch.long) if form == "labels" else torch.zeros(0, 8, 8, dtype=torch.bool)
    points = sample_image_points([torch.randn(1, 2, 8, 8)], [truth], 30, edge_fraction)
    assert (points.instance_labels == 0).all()
    assert points.mask_logits[0].shape == (1, 2, 30)


@pytest.mark.parametrize("num_points", [None, 40])
def test_ignored_pixels_stay_ignored(num_points: int | None) -> None:
    torch.manual_seed(0)
    labels = square(16)
    masks = (labels == 1)[None].to(torch.int8).masked_fill(labels < 0, -1)
    rows, columns = sample_image_points(coordinates(16, 16), [labels], None).mask_logits[0][0].long()
    assert (labels[rows, columns] < 0).any()
    for truth in (labels, masks):
        points = sample_image_points(coordinates(16, 16), [truth], num_points)
        rows, columns = points.mask_logits[0][0].long()
        assert torch.equal(points.instance_labels[0] < 0, labels[rows, columns] < 0)
        if points.instance_masks is not None:
            assert torch.equal(points.instance_masks[0, 0], labels[rows, columns] == 1)


@pytest.mark.parametrize("num_points", [None, 60])
def test_overlapping_masks(num_points: int | None) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, :8], masks[1, 4:] = True, True
    points = sample_image_points(coordinates(12, 12), [masks], num_points)
    rows, columns = points.mask_logits[0][0].long()
    assert points.instance_masks is not None
    assert torch.equal(points.instance_masks[0], masks[:, rows, columns])
    assert points.instance_masks[0].all(0).any(), "some points lie in both"
    assert (points.instance_labels == 0).all()


def test_outline_between_overlaps_is_an_edge() -> None:
    """Where the second of two overlapping masks ends inside the first."""
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0], masks[1, :8] = True, True
    points = sample_image_points(coordinates(16, 16), [masks], 100, 1.0)
    rows = points.mask_logits[0][0, 0]
    assert ((rows == 7) | (rows == 8)).float().mean() > 0.98


def test_images_with_different_numbers_of_masks() -> None:
    truths = [torch.ones(3, 4, 4, dtype=torch.bool), torch.zeros(0, 4, 4, dtype=torch.bool)]
    points = sample_image_points([torch.zeros(2, 1, 4, 4)], truths)
    assert points.instance_masks is not None
    assert points.instance_masks.shape == (2, 3, 16)
    assert points.instance_masks[0].all()
    assert not points.instance_masks[1].any()


def test_draws_follow_the_seed() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sample_image_points(coordinates(16, 16), [square(16)], 50).mask_logits[0]

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_as_many_points_as_cells_take_each_once() -> None:
    logits = torch.randn(1, 2, 4, 4)
    for num_points in (16, 100):
        assert torch.equal(sample_image_points([logits], [square(8)], num_points).mask_logits[0], logits.flatten(2))


def test_gradient_reaches_the_drawn_cells() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    sample_image_points([logits], [square(8)], 10).mask_logits[0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.sum() == 20


def test_images_draw_different_cells() -> None:
    torch.manual_seed(0)
    rows = sample_image_points([coordinates(16, 16)[0].expand(2, -1, -1, -1)], [square(16)] * 2, 50).mask_logits[0]
    assert not torch.equal(rows[0], rows[1])
