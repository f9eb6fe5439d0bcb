from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from influencerformer.data.augment import EvalTransform, TrainTransform
from influencerformer.data.sample import Sample
from influencerformer.errors import UserError

REAL = 255


def traced_sample(height: int, width: int, count: int, seed: int, as_masks: bool) -> Sample:
    """A sample whose image says where each pixel came from: red the row, green the column, blue REAL."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, REAL)]).to(torch.uint8)
    # Rectangles over one another, so that instances have all kinds of sizes; some end up hidden.
    labels = torch.zeros(height, width, dtype=torch.int64)
    for number in range(1, count + 1):
        top = int(torch.randint(height, (), generator=generator))
        left = int(torch.randint(width, (), generator=generator))
        labels[top : top + 1 + number % 5, left : left + 1 + number % 7] = number
    labels[0, 0] = -1
    sample = Sample(
        name="traced",
        image=image,
        class_labels=torch.randint(0, 4, (count,), generator=generator),
        instance_labels=labels,
        instance_masks=None,
        ignore=None,
        image_id=3,
    )
    if not as_masks:
        return sample
    masks = sample.masks().clone()
    if count > 1:
        masks[0] |= masks[1]
    return replace(sample, instance_labels=None, instance_masks=masks, ignore=labels == -1)


def source_of(sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns in the source of all real pixels, and which pixels are real."""
    real = sample.image[2] == REAL
    return sample.image[0][real].long(), sample.image[1][real].long(), real


samples = st.builds(
    traced_sample, st.integers(3, 40), st.integers(3, 40), st.integers(0, 12), st.integers(0, 10**6), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(
    samples,
    st.integers(4, 32),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1, 4, 100]),
    st.integers(0, 10**6),
)
def test_crop_keeps_every_instance_with_its_class(
    sample: Sample, crop: int, flip: bool, vertical: bool, rot90: bool, min_area: int, seed: int
) -> None:
    transform = TrainTransform(
        crop, scale_jitter=(1.0, 1.0), flip=flip, vertical_flip=vertical, rot90=rot90, min_area=min_area
    )
    result = transform(sample, torch.Generator().manual_seed(seed))

    assert result.size == (crop, crop)
    assert (result.instance_labels is None) == (sample.instance_labels is None)
    rows, columns, real = source_of(result)
    assert int(real.sum()) == min(crop, sample.size[0]) * min(crop, sample.size[1])
    # Padding is ignored and belongs to no instance.
    assert bool(result.ignored()[~real].all())
    assert not bool(result.masks()[:, ~real].any())

    before = sample.masks()[:, rows, columns]
    after = result.masks()[:, real]
    visible = before.sum(1)
    cut = visible < sample.masks().sum((1, 2))
    sliver = cut & (visible < min_area) & (visible > 0)
    kept = (visible > 0) & ~sliver
    assert torch.equal(after, before[kept])
    assert torch.equal(result.class_labels, sample.class_labels[kept])
    slivers = before[sliver].any(0) & ~before[kept].any(0)
    assert torch.equal(result.ignored()[real], sample.ignored()[rows, columns] | slivers)


@settings(max_examples=60, deadline=None)
@given(samples, st.integers(4, 32), st.floats(0.3, 3.0), st.integers(0, 10**6))
def test_any_scale_gives_a_consistent_sample(sample: Sample, crop: int, scale: float, seed: int) -> None:
    transform = TrainTransform(crop, scale=scale, scale_jitter=(0.5, 2.0), rot90=True, color_jitter=0.3)
    result = transform(sample, torch.Generator().manual_seed(seed))
    again = transform(sample, torch.Generator().manual_seed(seed))
    assert result.size == (crop, crop)
    assert bool(result.masks().any((1, 2)).all())
    assert torch.equal(result.image, again.image)
    assert torch.equal(result.masks(), again.masks())
    assert torch.equal(result.ignored(), again.ignored())


@pytest.mark.parametrize("as_masks", [False, True])
def test_enlarging_repeats_labels_and_shrinking_undoes_it(as_masks: bool) -> None:
    sample = traced_sample(9, 13, 5, 0, as_masks)
    shown = replace(sample, class_labels=sample.class_labels)
    double = EvalTransform(scale=2.0)(shown)
    assert double.size == (18, 26)
    present = sample.masks().any((1, 2))
    expected = sample.masks()[present].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(double.masks(), expected)
    back = EvalTransform(scale=0.5)(double)
    assert torch.equal(back.masks(), sample.masks()[present])
    assert torch.equal(back.ignored(), sample.ignored())


def test_image_and_labels_are_scaled_alike() -> None:
    labels = torch.zeros(60, 60, dtype=torch.int64)
    labels[17:43, 8:31] = 1
    image = (labels * 200).to(torch.uint8).expand(3, -1, -1)
    sample = Sample("square", image, torch.tensor([0]), labels, None, None, 0)
    transform = TrainTransform(40, scale_jitter=(0.6, 1.7))
    for seed in range(20):
        result = transform(sample, torch.Generator().manual_seed(seed))
        real = ~result.ignored()
        # Interpolated edges may fall either way, by less than a pixel on each side.
        wrong = (result.image[0] > 100) != result.masks().any(0)
        assert int((wrong & real).sum()) <= 40


def test_jitter_covers_its_range_and_the_crop_every_place() -> None:
    sample = traced_sample(50, 50, 3, 0, False)
    transform = TrainTransform(10, scale_jitter=(1.0, 1.0), flip=False)
    corners = set()
    for seed in range(200):
        rows, columns, _ = source_of(transform(sample, torch.Generator().manual_seed(seed)))
        corners |= {("row", int(rows.min())), ("column", int(columns.min()))}
    assert {("row", 0), ("row", 40), ("column", 0), ("column", 40)} <= corners
    assert max(place for _, place in corners) == 40


def test_options_do_not_shift_each_others_draws() -> None:
    sample = traced_sample(50, 50, 3, 0, False)
    plain = TrainTransform(16, scale_jitter=(1.0, 1.0), flip=False)
    flipped = replace(plain, flip=True)
    for seed in range(10):
        a, b = (t(sample, torch.Generator().manual_seed(seed)) for t in (plain, flipped))
        assert torch.equal(a.image, b.image) or torch.equal(a.image, b.image.flip(-1))


def test_color_jitter_changes_colours_only() -> None:
    sample = traced_sample(16, 16, 3, 0, False)
    plain = TrainTransform(16, scale_jitter=(1.0, 1.0), flip=False)
    result = replace(plain, color_jitter=0.4)(sample, torch.Generator().manual_seed(1))
    assert not torch.equal(result.image, sample.image)
    assert result.instance_labels is not None
    assert torch.equal(result.masks(), plain(sample, torch.Generator().manual_seed(1)).masks())


def test_evaluation_crops_the_centre_and_limits_the_size() -> None:
    sample = traced_sample(20, 31, 4, 2, False)
    assert torch.equal(source_of(EvalTransform()(sample))[0], source_of(sample)[0])
    rows, columns, real = source_of(EvalTransform(crop_size=10)(sample))
    assert bool(real.all())
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (5, 14, 10, 19)
    assert EvalTransform(crop_size=25)(sample).size == (20, 25)
    assert EvalTransform(max_size=16)(sample).size == (10, 16)
    assert EvalTransform(max_size=99)(sample).size == (20, 31)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be positive, got 0"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale_jitter": (1.2, 0.8)}, "scale_jitter must be a range"),
        ({"min_area": -1}, "min_area must be 0 or larger"),
        ({"color_jitter": 1.5}, "color_jitter must be in"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainTransform(**({"crop_size": 8} | options))
