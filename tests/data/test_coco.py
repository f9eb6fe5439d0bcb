from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle_api

from influencerformer.data.coco import CocoDataset, encode, encode_labels, ground_truth
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.errors import UserError

H, W = 20, 30
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
FAR = [[20.5, 3.2, 28.1, 4.0, 24.0, 15.7]]


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = rle_api.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {"size": list(mask.shape), "counts": np.diff(borders, prepend=0).tolist()}


def annotation(number: int, segmentation: Any, category: int = 7, image: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "segmentation": segmentation,
    } | more


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "one.png", "height": H, "width": W},
            {"id": 12, "file_name": "two.png", "height": H, "width": W},
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}],
        "annotations": list(annotations),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a json beside two images; gives its path."""
    for name in ("one", "two"):
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / f"{name}.png")

    def save(value: Any) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return save


def load(path: Path, split_file: Path | None = None) -> CocoDataset:
    return CocoDataset(path, path.parent, split_file)


def test_polygons_and_both_rles(write: Callable[[Any], Path]) -> None:
    first, second = box(0, 0, 5, 5), box(14, 20, 6, 10)
    data = load(
        write(
            content(
                annotation(1, uncompressed(first), 90),
                annotation(2, [SQUARE]),
                annotation(3, compressed(second)),
                annotation(4, FAR, 90, image=12),
            )
        )
    )
    assert data.class_names == ["early", "late"]
    sample = data[0]
    polygon = rle_api.decode(rle_api.merge(rle_api.frPyObjects([SQUARE], H, W)))
    assert sample.class_labels.tolist() == [1, 0, 0]
    expected = np.stack([first, polygon, second]).astype(bool)
    assert np.array_equal(sample.masks().numpy(), expected)
    # The first two overlap, so the masks are kept; the other image's truth is a partition.
    assert sample.instance_labels is None
    assert data[1].instance_labels is not None
    far = rle_api.decode(rle_api.merge(rle_api.frPyObjects(FAR, H, W))).astype(bool)
    assert np.array_equal(data[1].masks()[0].numpy(), far)


@pytest.mark.parametrize("overlapping", [False, True])
def test_crowd_is_ignored_but_not_under_instances(write: Callable[[Any], Path], overlapping: bool) -> None:
    crowd, instance = box(0, 0, 10, 10), box(5, 5, 10, 10)
    annotations = [annotation(1, compressed(instance)), annotation(2, uncompressed(crowd), iscrowd=1)]
    if overlapping:
        annotations.append(annotation(3, compressed(box(6, 6, 3, 3)), 90))
    data = load(write(content(*annotations)))
    sample = data[0]
    assert (sample.instance_labels is None) == overlapping
    assert sample.num_instances == 1 + overlapping
    assert np.array_equal(sample.ignored().numpy(), (crowd == 1) & (instance == 0))
    truth = ground_truth(data)
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 1] + [0] * overlapping
    assert np.array_equal(rle_api.decode(truth["annotations"][1]["segmentation"]), crowd)


def test_image_without_annotation_and_degenerate_masks(write: Callable[[Any], Path]) -> None:
    bad = [[], [[1, 1, 5, 5]], None, compressed(box(0, 0, 0, 0)), {"size": [H, W], "counts": [H * W]}]
    path = write(content(annotation(9, [SQUARE]), *(annotation(i, s) for i, s in enumerate(bad, start=10))))
    with pytest.warns(UserWarning, match="left out 5 of 6 annotations") as caught:
        data = load(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert data[0].num_instances == 1
        empty = data[1]
    assert empty.num_instances == 0
    assert empty.instance_labels is not None
    assert int(empty.instance_labels.abs().max()) == 0


def test_split_file_by_id_name_or_stem(write: Callable[[Any], Path], tmp_path: Path) -> None:
    path = write(content(annotation(1, [SQUARE], image=12)))
    for entry in ("12", "two", "two.png"):
        (tmp_path / "part.txt").write_text(f"{entry}\n")
        data = load(path, tmp_path / "part.txt")
        assert [data[i].image_id for i in range(len(data))] == [12]
    (tmp_path / "part.txt").write_text("12\n13\n")
    with pytest.raises(UserError, match=r"names 1 of 2 images .* does not list .*: 13"):
        load(path, tmp_path / "part.txt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not valid JSON"),
        ({"images": []}, "not in COCO form: expected an object with a list 'annotations'"),
        ([], "not in COCO form"),
        (content() | {"images": []}, "the data set is empty"),
        (content() | {"categories": []}, "no category"),
        (content() | {"categories": [{"id": 1}, {"id": 1}]}, "category id twice"),
        (content() | {"images": [{"id": 1, "file_name": "one.png"}]}, "lacks id, height, width"),
        (content() | {"images": content()["images"][:1] * 2}, "image id 1 twice"),
        (
            content() | {"images": [{"id": 1, "file_name": "gone.png", "height": H, "width": W}]},
            "1 of 1 images .* are not in .*: gone.png",
        ),
        (
            content(annotation(1, [SQUARE], 8)),
            "1 annotations have a category that is not listed: category_id 8",
        ),
        (content(annotation(1, [SQUARE], image=2)), "images that are not listed: image_id 2"),
        (
            content(annotation(1, {"size": [W, H], "counts": compressed(box(0, 0, 2, 2))["counts"]})),
            "1 RLE masks do not have the size",
        ),
        (content(annotation(1, {"size": [H, W], "counts": [3, 4]})), "1 RLE masks do not"),
        (content(annotation(1, None)), "none of the 1 annotations has a mask"),
        (content(annotation(1, {"size": [H, W], "counts": "nnY1`0i84G8L40001O0"})), "is broken"),
    ],
)
def test_errors(write: Callable[[Any], Path], value: Any, message: str) -> None:
    path = write(value)
    with pytest.raises(UserError, match=message) as caught:
        load(path)[0]
    assert "\n" not in str(caught.value)


def test_image_of_another_size(write: Callable[[Any], Path], tmp_path: Path) -> None:
    path = write(content())
    Image.fromarray(np.zeros((W, H, 3), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"one.png is 30 x 20 \(height x width\) but .* says 20 x 30"):
        load(path)[0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_label_map_encoding_equals_mask_encoding(seed: int, height: int, width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, count + 1, (height, width), generator=generator)
    masks = labels[None] == torch.arange(1, count + 1)[:, None, None]
    rles = encode_labels(labels, count)
    assert rles == encode(masks)
    if count:
        decoded = rle_api.decode(rles).transpose(2, 0, 1)
        assert np.array_equal(decoded.astype(bool), masks.numpy())


def test_ground_truth_of_label_maps(label_map_root: Path) -> None:
    data = LabelMapDataset(label_map_root, class_names=["cell"])
    truth = ground_truth(data)
    assert truth["categories"] == [{"id": 1, "name": "cell"}]
    assert [image["id"] for image in truth["images"]] == [0, 1]
    assert [(a["area"], a["bbox"]) for a in truth["annotations"]] == [
        (30.0, [5, 6, 5, 6]),
        (16.0, [0, 0, 4, 4]),
    ]
    assert json.loads(json.dumps(truth)) == truth


def test_ground_truth_keeps_ids_and_areas_of_coco(write: Callable[[Any], Path]) -> None:
    truth = ground_truth(load(write(content(annotation(5, [SQUARE], 90, image=12, area=99.5)))))
    assert [c["id"] for c in truth["categories"]] == [7, 90]
    (only,) = truth["annotations"]
    assert (only["image_id"], only["category_id"], only["area"]) == (12, 90, 99.5)


def test_shared_coco(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco_subset")
    data = CocoDataset(root / "instances.json", root / "images", root / "val.txt")
    assert len(data) == 21
    assert len(data.class_names) == 80
    truth = ground_truth(data)
    samples = [data[i] for i in range(len(data))]
    plain = [a for a in truth["annotations"] if not a["iscrowd"]]
    assert sum(s.num_instances for s in samples) == len(plain)
    assert any(s.instance_masks is not None for s in samples)
