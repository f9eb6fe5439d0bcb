"""PointAP against mmdetection3d's port of the ScanNet evaluator, and against OneFormer3D's where it is given."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from influencerformer.metrics.point_ap import PointAP

pytest.importorskip("mmengine")
REAL = os.environ.get("ONEFORMER3D_ROOT")
SEEDS = 20

# Number of each class in the data set's own annotations, by which the evaluators name instances.
LABEL_SETS = {
    "s3dis": tuple(range(1, 14)),
    "scannet": (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39),
}
# The evaluators' names of the values: overall, and of a class.
NAMES = {"AP": ("all_ap", "ap"), "AP50": ("all_ap_50%", "ap50%"), "AP25": ("all_ap_25%", "ap25%")}
ONEFORMER3D_NAMES = {**NAMES, "Prec50": ("all_prec_50%", "prec50%"), "Rec50": ("all_rec_50%", "rec50%")}


@dataclass
class Scene:
    """Truth and predictions as PointAP takes them."""

    masks: Tensor
    scores: Tensor
    labels: Tensor
    instance_labels: Tensor
    class_labels: Tensor


@pytest.fixture(scope="module")
def evaluator() -> Iterator[ModuleType]:
    """mmdet3d's instance_seg_eval.py alone: by its name it would bring all of mmdet3d and mmcv's operators."""
    found = importlib.util.find_spec("mmdet3d")
    if found is None or found.origin is None:
        pytest.skip("mmdet3d is not installed")
    package = ModuleType("mmdet3d_functional")
    package.__path__ = [str(Path(found.origin).parent / "evaluation" / "functional")]
    sys.modules[package.__name__] = package
    yield importlib.import_module("mmdet3d_functional.instance_seg_eval")
    for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
        del sys.modules[name]


def own(scenes: list[Scene], num_classes: int, min_points: int) -> dict[str, Any]:
    metric = PointAP([f"class {c}" for c in range(num_classes)], min_points)
    for i, s in enumerate(scenes):
        metric.update(str(i), s.masks, s.scores, s.labels, s.instance_labels, s.class_labels)
    return metric.compute()


def named_truth(scene: Scene, ids: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """(N,) 1000 x class id + instance, 0 on void."""
    number = np.array([0, *(1000 * ids[c] + k for k, c in enumerate(scene.class_labels.tolist(), start=1))])
    return number[scene.instance_labels.clamp(min=0).numpy()]


def judged(module: Any, scenes: list[Scene], ids: tuple[int, ...], min_points: int) -> dict[str, Any]:
    """An evaluator's scannet_eval, which takes masks that overlap."""
    names = [f"class {c}" for c in range(len(ids))]
    predictions = [
        {
            f"{i}_{p}": {"mask": mask.numpy(), "label_id": ids[label], "conf": score}
            for p, (mask, label, score) in enumerate(zip(s.masks, s.labels.tolist(), s.scores.numpy(), strict=True))
        }
        for i, s in enumerate(scenes)
    ]
    return module.scannet_eval(
        preds=predictions,
        gts=[named_truth(s, ids) for s in scenes],
        options={"min_region_sizes": np.array([min_points])},
        valid_class_ids=ids,
        class_labels=names,
        id_to_label=dict(zip(ids, names, strict=True)),
    )


def assert_equal(found: dict[str, Any], expected: dict[str, Any], names: dict[str, tuple[str, str]] = NAMES) -> None:
    for own_name, (overall, name) in names.items():
        assert found[own_name] == pytest.approx(float(expected[overall]), abs=1e-9, nan_ok=True), own_name
        by_class = {label: float(values[name]) for label, values in expected["classes"].items()}
        found_by_class = {label: values[own_name] for label, values in found["per_class"].items()}
        assert found_by_class == pytest.approx(by_class, abs=1e-9, nan_ok=True), own_name


def instances(rng: np.random.Generator, num_classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs of points, each an instance or void, from one point to a hundred; few classes, so that they meet."""
    classes = rng.choice(num_classes, size=3, replace=False)
    runs, chosen = [], []
    for _ in range(rng.integers(0, 14)):
        size = int(rng.choice([1, 4, 9, 10, 11, 20, 40, 100]))
        kind = rng.random()
        if kind < 0.15:
            runs.append(np.full(size, -1))
        elif kind < 0.3:
            runs.append(np.zeros(size, dtype=np.int64))
        else:
            chosen.append(rng.choice(classes))
            runs.append(np.full(size, len(chosen)))
    labels = np.concatenate([*runs, np.zeros(30, dtype=np.int64)]).astype(np.int64)
    return (labels if rng.random() < 0.5 else rng.permutation(labels)), np.array(chosen, dtype=np.int64)


def prediction(rng: np.random.Generator, truth: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """A mask that hits, halves, merges or misses instances."""
    kind = rng.integers(0, 7)
    numbers = rng.choice(np.arange(-1, count + 1), size=rng.integers(1, 4))
    mask = np.isin(truth, numbers[:1])
    if kind == 0:  # perfect
        return mask
    if kind == 1:  # an exact part of it: IoUs at and around the thresholds
        points = np.flatnonzero(mask)
        return np.isin(np.arange(len(truth)), points[: int(len(points) * rng.choice([0.25, 0.3, 0.5, 0.6, 0.75, 0.9]))])
    if kind == 2:  # noisy
        return mask ^ (rng.random(len(truth)) < rng.choice([0.02, 0.1, 0.3]))
    if kind == 3:  # several together
        return np.isin(truth, numbers)
    if kind == 4:  # mostly on void
        return (truth <= 0) & (rng.random(len(truth)) < 0.6) | (mask & (rng.random(len(truth)) < 0.3))
    if kind == 5:  # a point or none
        return np.arange(len(truth)) == rng.integers(0, 2 * len(truth))
    return rng.random(len(truth)) < rng.random()


def random_scene(rng: np.random.Generator, num_classes: int, ties: bool) -> Scene:
    truth, classes = instances(rng, num_classes)
    masks, labels = [], []
    for _ in range(rng.integers(0, 18)):
        if masks and rng.random() < 0.25:
            masks.append(masks[rng.integers(0, len(masks))])  # a duplicate, perhaps of another class
        else:
            masks.append(prediction(rng, truth, len(classes)))
        seen = classes[truth[masks[-1] & (truth > 0)] - 1]
        right = len(seen) and rng.random() < 0.8
        labels.append(int(np.bincount(seen).argmax()) if right else int(rng.integers(0, num_classes)))
    scores = rng.integers(0, 4, len(masks)) / 4 if ties else rng.random(len(masks))
    return Scene(
        torch.from_numpy(np.array(masks).reshape(-1, len(truth))).bool(),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        torch.from_numpy(truth),
        torch.from_numpy(classes),
    )


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("ties", [False, True], ids=["scores differ", "scores tie"])
@pytest.mark.parametrize("data", LABEL_SETS)
def test_random_scenes_with_overlapping_masks(evaluator: ModuleType, data: str, ties: bool) -> None:
    ids = LABEL_SETS[data]
    different = set()
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        scenes = [random_scene(rng, len(ids), ties) for _ in range(rng.integers(1, 5))]
        min_points = int(rng.choice([1, 10, 20]))
        expected = judged(evaluator, scenes, ids, min_points)
        assert_equal(own(scenes, len(ids), min_points), expected)
        different.add(round(float(expected["all_ap"]), 6))
    # The comparison is of many values, not of many zeros.
    assert len(different) > SEEDS / 2


@pytest.mark.parametrize("data", LABEL_SETS)
def test_instance_seg_eval_itself_on_label_maps(evaluator: ModuleType, data: str) -> None:
    """Its own way in: truth as semantic and instance labels, predictions as one label a point; 100 points at least."""
    ids = LABEL_SETS[data]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scenes, maps, semantics = [], [], []
        for _ in range(3):
            sizes = rng.integers(60, 400, size=rng.integers(1, 8))
            truth = np.repeat(np.arange(len(sizes)), sizes)  # 0 is void
            classes = rng.choice(rng.choice(len(ids), 3), size=len(sizes) - 1)
            points = np.concatenate([[len(ids)], classes])[truth]
            predicted = np.where(rng.random(len(truth)) < 0.1, -1, np.roll(truth, rng.integers(0, 150)))
            count = int(predicted.max()) + 1
            at_home = [int(points[predicted == p].min()) if (predicted == p).any() else 0 for p in range(count)]
            labels = torch.tensor([c if c < len(ids) else 0 for c in at_home], dtype=torch.int64)
            masks = torch.from_numpy(predicted[None] == np.arange(count)[:, None])
            scores = torch.rand(count, generator=torch.Generator().manual_seed(seed))
            scenes.append(Scene(masks, scores, labels, torch.from_numpy(truth), torch.from_numpy(classes)))
            maps.append(torch.from_numpy(predicted))
            semantics.append(torch.from_numpy(points))
        expected = evaluator.instance_seg_eval(
            semantics,
            [scene.instance_labels for scene in scenes],
            maps,
            [scene.labels for scene in scenes],
            [scene.scores for scene in scenes],
            ids,
            [f"class {c}" for c in range(len(ids))],
        )
        assert_equal(own(scenes, len(ids), 100), expected)


def scene(truth: list[tuple[int, int]], predicted: list[tuple[int, float, slice]], void: int = 0) -> Scene:
    """Instances of (class, points) one after the other, then void; predictions of (class, score, points)."""
    labels = torch.cat([torch.full((size,), k) for k, (_, size) in enumerate(truth, start=1)] + [torch.zeros(void)])
    masks = torch.zeros(len(predicted), len(labels), dtype=torch.bool)
    for mask, (*_, points) in zip(masks, predicted, strict=True):
        mask[points] = True
    return Scene(
        masks,
        torch.tensor([score for _, score, _ in predicted]),
        torch.tensor([label for label, *_ in predicted], dtype=torch.int64),
        labels.long(),
        torch.tensor([label for label, _ in truth], dtype=torch.int64),
    )


ADVERSARIAL = {
    "one prediction over three instances: above 0.25 with each": [
        scene([(0, 10), (0, 10), (0, 10)], [(0, 0.9, slice(0, 30)), (0, 0.8, slice(0, 10)), (0, 0.7, slice(10, 20))])
    ],
    "the first free prediction is taken, not the best": [
        scene([(0, 10), (0, 10)], [(0, 0.2, slice(0, 20)), (0, 0.9, slice(0, 10)), (0, 0.5, slice(0, 20))])
    ],
    "IoU exactly at a threshold": [
        scene([(0, 20)], [(0, 0.9, slice(0, points))]) for points in (5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    ],
    "equal scores, right and wrong, over scenes": [
        scene([(0, 10), (1, 10)], [(0, 0.5, slice(0, 10)), (1, 0.5, slice(0, 10)), (0, 0.5, slice(0, 9))], void=20),
        scene([(1, 10)], [(0, 0.5, slice(0, 10)), (1, 0.5, slice(0, 10)), (1, 0.5, slice(5, 20))], void=20),
    ],
    "one name of a prediction in every scene": [
        scene([(0, 12)], [(0, 0.9, slice(0, 12))]),
        scene([(0, 12)], [(0, 0.8, slice(0, 12)), (0, 0.7, slice(0, 12))]),
        scene([(0, 12)], []),
    ],
    "void holds exactly the threshold's part": [
        scene([(0, 40)], [(0, 0.9, slice(40 - inside, 60 - inside)), (0, 0.5, slice(0, 40))], void=20)
        for inside in (4, 5, 6, 9, 10, 11, 15)
    ],
    "small instances of the class excuse, those of another do not": [
        scene([(0, 9), (1, 9), (0, 20)], [(0, 0.9, slice(0, 12)), (0, 0.8, slice(6, 18)), (0, 0.7, slice(18, 38))])
    ],
    "a class that only the truth has, one that only the predictions have": [
        scene([(2, 10)], [(3, 0.9, slice(0, 10))]),
        scene([(1, 10)], [(1, 0.9, slice(0, 10))]),
    ],
    "predictions and instances are there, but nothing is judged": [
        scene([(0, 10)], [(0, 0.9, slice(10, 30))], void=20)
    ],
    "points alone": [scene([(0, 1), (0, 1)], [(0, 0.9, slice(0, 1)), (0, 0.8, slice(0, 2))], void=1)],
    "no truth": [scene([], [(0, 0.9, slice(0, 12))], void=12)],
    "no prediction": [scene([(0, 10)], [])],
}


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("min_points", [1, 10])
@pytest.mark.parametrize("data", LABEL_SETS)
@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_cases(evaluator: ModuleType, case: str, data: str, min_points: int) -> None:
    ids, scenes = LABEL_SETS[data], ADVERSARIAL[case]
    assert_equal(own(scenes, len(ids), min_points), judged(evaluator, scenes, ids, min_points))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_classes_numbered_from_zero_lose_the_first_one_there_and_not_here(evaluator: ModuleType) -> None:
    scenes = [scene([(0, 10), (1, 10)], [(0, 0.9, slice(0, 10)), (1, 0.9, slice(10, 20))])]
    expected = judged(evaluator, scenes, tuple(range(13)), 10)["classes"]
    found = own(scenes, 13, 10)["per_class"]
    assert np.isnan(expected["class 0"]["ap"])
    assert found["class 0"]["AP"] == pytest.approx(1)
    assert found["class 1"]["AP"] == pytest.approx(expected["class 1"]["ap"])


@pytest.mark.skipif(not REAL, reason="OneFormer3D is not given")
def test_precision_and_recall_are_those_of_oneformer3d(evaluator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = importlib.import_module("mmdet3d_functional.scannet_utils")
    monkeypatch.setitem(sys.modules, "mmdet3d.evaluation.functional.scannet_utils", tools)
    path = Path(str(REAL)) / "oneformer3d" / "evaluate_semantic_instance.py"
    spec = importlib.util.spec_from_file_location("oneformer3d_evaluator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ids = LABEL_SETS["s3dis"]
    for seed in range(SEEDS // 2):
        rng = np.random.default_rng(seed)
        scenes = [random_scene(rng, len(ids), ties=seed % 2 == 0) for _ in range(3)]
        expected = judged(module, scenes, ids, 10)
        assert_equal(own(scenes, len(ids), 10), expected, ONEFORMER3D_NAMES)
