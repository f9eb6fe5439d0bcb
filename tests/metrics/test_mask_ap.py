from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from influencerformer.data.coco import ground_truth
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.metrics.mask_ap import MaskAP

SIZE = 40


def box(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


class Memory(InstanceDataset):
    """Images given as lists of (class, mask)."""

    def __init__(self, images: list[list[tuple[int, Tensor]]], num_classes: int = 2, **ignore: Tensor) -> None:
        self.images = images
        self.ignore = ignore.get("ignore")
        self.class_names = [f"class {i}" for i in range(num_classes)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        instances = self.images[index]
        masks = torch.stack([m for _, m in instances]) if instances else torch.zeros(0, SIZE, SIZE, dtype=torch.bool)
        return Sample(
            name=str(index),
            image=torch.zeros(3, SIZE, SIZE, dtype=torch.uint8),
            class_labels=torch.tensor([c for c, _ in instances], dtype=torch.int64),
            instance_labels=None,
            instance_masks=masks,
            ignore=self.ignore,
            image_id=10 + index,
        )


def add(metric: MaskAP, image_id: int, predictions: list[tuple[int, float, Tensor]]) -> None:
    masks = torch.stack([m for *_, m in predictions]) if predictions else torch.zeros(0, SIZE, SIZE, dtype=torch.bool)
    scores = torch.tensor([s for _, s, _ in predictions])
    metric.update(image_id, masks, scores, torch.tensor([c for c, *_ in predictions], dtype=torch.int64))


def approx(values: dict[str, float]) -> Any:
    return pytest.approx(values, abs=1e-6, nan_ok=True)


PERFECT = {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "APs": 1.0, "APm": math.nan, "APl": math.nan}


def test_perfect_predictions() -> None:
    data = Memory([[(0, box(0, 0, 9, 9)), (1, box(5, 5, 9, 9))], [], [(1, box(20, 20, 5, 5))]])
    metric = MaskAP(ground_truth(data))
    for index in range(len(data)):
        sample = data[index]
        metric.update(sample.image_id, sample.masks(), torch.ones(sample.num_instances), sample.class_labels)
    assert metric.compute() == approx(PERFECT)
    assert metric.compute_per_class() == approx({"class 0": 1.0, "class 1": 1.0})
    # Asking twice changes nothing, and the results are plain json.
    assert metric.compute() == approx(PERFECT)
    assert json.loads(json.dumps(metric.results)) == metric.results


def test_a_case_by_hand() -> None:
    """Right at 0.9, wrong at 0.8, right at 0.7 with IoU 13/15.

    Up to threshold 0.85 (8 of 10) precision is 1 for recall to 1/2 (51 of 101 points) and 2/3 beyond (50 points);
    above, the last one is wrong too: 1 to recall 1/2 and 0 beyond.
    """
    data = Memory([[(0, box(0, 0, 10, 10)), (0, box(20, 0, 15, 10))]], num_classes=1)
    metric = MaskAP(ground_truth(data))
    predictions = [(0, 0.7, box(20, 0, 13, 10)), (0, 0.9, box(0, 0, 10, 10)), (0, 0.8, box(0, 20, 10, 10))]
    add(metric, 10, predictions)
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    expected = 0.8 * low + 0.2 * high
    assert metric.compute() == approx(
        {"AP": expected, "AP50": low, "AP75": low, "APs": expected, "APm": math.nan, "APl": math.nan}
    )


def test_classes_are_averaged_and_wrong_class_is_wrong() -> None:
    data = Memory([[(0, box(0, 0, 9, 9)), (1, box(20, 20, 9, 9))]])
    metric = MaskAP(ground_truth(data))
    add(metric, 10, [(0, 0.9, box(0, 0, 9, 9)), (0, 0.8, box(20, 20, 9, 9))])
    assert metric.compute()["AP"] == pytest.approx(0.5)
    assert metric.compute_per_class() == approx({"class 0": 1.0, "class 1": 0.0})


def test_no_predictions_and_no_truth() -> None:
    data = Memory([[(0, box(0, 0, 9, 9))], []])
    metric = MaskAP(ground_truth(data))
    assert all(math.isnan(v) for v in metric.compute().values())
    add(metric, 11, [])
    assert math.isnan(metric.compute()["AP"])
    add(metric, 10, [])
    assert metric.compute()["AP"] == 0.0
    metric.reset()
    add(metric, 11, [(0, 0.9, box(0, 0, 3, 3))])
    assert math.isnan(metric.compute()["AP"])
    add(metric, 10, [(0, 0.8, box(0, 0, 9, 9))])
    # The false positive on the empty image comes first.
    assert metric.compute()["AP"] == pytest.approx(0.5)


def test_only_images_seen_count() -> None:
    data = Memory([[(0, box(0, 0, 9, 9))], [(0, box(0, 0, 9, 9))]])
    metric = MaskAP(ground_truth(data))
    add(metric, 11, [(0, 0.5, box(0, 0, 9, 9))])
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_ignored_regions_take_no_side() -> None:
    data = Memory([[(0, box(0, 0, 9, 9))]], ignore=box(20, 20, 20, 20))
    metric = MaskAP(ground_truth(data))
    add(metric, 10, [(0, 0.9, box(25, 25, 5, 5)), (1, 0.9, box(25, 25, 5, 5)), (0, 0.5, box(0, 0, 9, 9))])
    assert metric.compute()["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(("limit", "expected"), [(5, 6 / 101), (100, 1.0), (1000, 1.0)])
def test_detection_limit(limit: int, expected: float) -> None:
    cells = [(0, box(2 * row, 2 * column, 1, 1)) for row in range(10) for column in range(10)]
    data = Memory([cells], num_classes=1)
    metric = MaskAP(ground_truth(data), max_detections=limit)
    add(metric, 10, [(c, 0.9, m) for c, m in cells])
    assert metric.compute()["AP"] == pytest.approx(expected)


def test_more_than_100_instances_need_a_higher_limit() -> None:
    cells = [(0, box(2 * row, 2 * column, 1, 1)) for row in range(20) for column in range(10)]
    data = Memory([cells], num_classes=1)
    for limit, expected in ((100, 51 / 101), (200, 1.0)):
        metric = MaskAP(ground_truth(data), max_detections=limit)
        add(metric, 10, [(c, 0.9, m) for c, m in cells])
        assert metric.compute()["AP"] == pytest.approx(expected)


def test_category_ids_are_those_of_the_truth() -> None:
    truth = ground_truth(Memory([[(1, box(0, 0, 9, 9))]]))
    truth["categories"] = [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}]
    truth["annotations"][0]["category_id"] = 90
    metric = MaskAP(truth)
    add(metric, 10, [(1, 0.5, box(0, 0, 9, 9))])
    assert metric.results[0]["category_id"] == 90
    assert metric.compute_per_class() == approx({"early": math.nan, "late": 1.0})


def test_merge_of_processes() -> None:
    data = Memory([[(0, box(0, 0, 9, 9))], [(0, box(0, 0, 9, 9))]])
    a, b = MaskAP(ground_truth(data)), MaskAP(ground_truth(data))
    add(a, 10, [(0, 0.9, box(0, 0, 9, 9))])
    for image in (10, 11):
        add(b, image, [(0, 0.9, box(0, 0, 9, 9))])
    a.merge(b.state())
    assert len(a.results) == 2
    assert a.compute()["AP"] == pytest.approx(1.0)


def test_misuse() -> None:
    metric = MaskAP(ground_truth(Memory([[]])))
    with pytest.raises(ValueError, match="image 3 is not in the ground truth"):
        add(metric, 3, [])
    with pytest.raises(ValueError, match=r"masks of image 10 are \(4, 4\), its truth \(40, 40\)"):
        metric.update(10, torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0), torch.zeros(0))
    add(metric, 10, [])
    with pytest.raises(ValueError, match="image 10 was added before"):
        add(metric, 10, [])
    with pytest.raises(ValueError, match="max_detections"):
        MaskAP(metric.ground_truth, max_detections=0)
