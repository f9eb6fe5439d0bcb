from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from influencerformer.data.files import read_image
from influencerformer.data.label_maps import LabelMapDataset
from influencerformer.errors import UserError


def test_values_are_renumbered(label_map_root: Path) -> None:
    data = LabelMapDataset(label_map_root)
    a, b = data[0], data[1]
    assert [data[i].name for i in range(len(data))] == ["a", "b"]
    assert a.instance_labels is not None
    # 7 comes before 300.
    assert a.instance_labels[0, 0] == 2
    assert a.instance_labels[-1, -1] == 1
    assert a.instance_labels[5, 0] == 0
    assert a.class_labels.tolist() == [0, 0]
    assert b.num_instances == 0
    assert a.image_id != b.image_id


def test_label_map_without_background(label_map_root: Path) -> None:
    Image.fromarray(np.full((12, 10), 9, np.uint8)).save(label_map_root / "labels" / "a.png")
    sample = LabelMapDataset(label_map_root)[0]
    assert sample.instance_labels is not None
    assert sample.instance_labels.unique().tolist() == [1]


def test_classes_by_index_and_name(label_map_root: Path) -> None:
    table = {"a": {"7": "big", "300": 0}, "b": {}}
    (label_map_root / "classes.json").write_text(json.dumps(table))
    data = LabelMapDataset(label_map_root, class_names=["small", "big"])
    assert data[0].class_labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "2 class names but no"),
        ("{", "not valid JSON"),
        ({"a": {"7": "huge"}, "b": {}}, "class 'huge' of a is unknown"),
        ({"a": {"7": 2}, "b": {}}, "class 2 of a is unknown"),
        ({"a": {"seven": 0}, "b": {}}, "label 'seven' of a"),
        ({"a": {}}, "no .* entry for b"),
        ({"a": {"7": 0}, "b": {}}, "no class for label 300 of a"),
    ],
)
def test_errors_of_classes(label_map_root: Path, table: object, message: str) -> None:
    if table is not None:
        text = table if isinstance(table, str) else json.dumps(table)
        (label_map_root / "classes.json").write_text(text)
    with pytest.raises(UserError, match=message):
        LabelMapDataset(label_map_root, class_names=["small", "big"])[0]


def write_labels(values: np.ndarray, suffix: str = ".png") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "labels" / "a.png").unlink()
        Image.fromarray(values).save(root / "labels" / f"a{suffix}")

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (write_labels(np.zeros((12, 10), np.float32), ".tif"), "floating-point values: save integers"),
        (write_labels(np.zeros((12, 10, 3), np.uint8)), "RGB image with 3 channels: expected one"),
        (write_labels(np.full((12, 10), -4, np.int32), ".tif"), "negative"),
        (write_labels(np.zeros((12, 9), np.uint16)), "image is 12 x 10 but its label map 12 x 9"),
        (lambda root: (root / "labels" / "a.png").unlink(), "no file .* for 1 of 2 names of the split: a"),
        (lambda root: (root / "images" / "b.png").unlink(), "no file .* for 1 of 2 names of the split: b"),
        (lambda root: (root / "images" / "b.jpg").touch(), "more than one file for b"),
        (lambda root: (root / "images" / "a.png").write_text("no image"), "cannot be read as an image"),
        (lambda root: (root / "train.txt").write_text("\n \n"), "train.txt is empty"),
        (lambda root: (root / "train.txt").write_text("a\nb\na\n"), "names a more than once"),
        (lambda root: (root / "train.txt").unlink(), r"train.txt does not exist.*val.txt"),
    ],
)
def test_errors_are_one_clear_sentence(label_map_root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(label_map_root)
    with pytest.raises(UserError, match=message) as caught:
        LabelMapDataset(label_map_root)[0]
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        LabelMapDataset(tmp_path / "nowhere")


def test_names_with_suffix_and_split_path(label_map_root: Path) -> None:
    (label_map_root / "some.txt").write_text("b.png\n")
    assert LabelMapDataset(label_map_root, "some.txt")[0].name == "b"


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rgb = np.stack([grey, grey + 1, grey + 2], -1)
    alpha = np.concatenate([rgb, np.zeros((3, 4, 1), np.uint8)], -1)
    for name, values in {"grey.png": grey, "rgb.png": rgb, "rgba.png": alpha, "rgb.tif": rgb}.items():
        Image.fromarray(values).save(tmp_path / name)
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    for name in ("rgb.png", "rgba.png", "rgb.tif"):
        assert torch.equal(read_image(tmp_path / name), expected)
    assert torch.equal(read_image(tmp_path / "grey.png"), torch.from_numpy(grey).expand(3, -1, -1))


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32)])
def test_more_than_8_bits_are_stretched(tmp_path: Path, suffix: str, dtype: type) -> None:
    Image.fromarray(np.array([[100, 600], [1100, 100]], dtype)).save(tmp_path / f"deep{suffix}")
    assert read_image(tmp_path / f"deep{suffix}")[1].tolist() == [[0, 128], [255, 0]]
    Image.fromarray(np.full((2, 2), 9, dtype)).save(tmp_path / f"flat{suffix}")
    assert int(read_image(tmp_path / f"flat{suffix}").max()) == 0


def test_shared_nuclei(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("nuclei_dsb2018")
    train, val = LabelMapDataset(root, "train"), LabelMapDataset(root, "val")
    assert (len(train), len(val)) == (551, 92)
    assert not set(train.names) & set(val.names)
    assert sum(val[i].num_instances for i in range(len(val))) == 3471


def test_a_label_map_of_several_pages(label_map_root: Path) -> None:
    pages = [Image.fromarray(np.full((12, 10), value, np.uint8)) for value in (1, 2)]
    (label_map_root / "labels" / "a.png").unlink()
    pages[0].save(label_map_root / "labels" / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"a.tif has 2 pages: save one page a file"):
        LabelMapDataset(label_map_root)[0]


def test_labels_beyond_16_bits(label_map_root: Path) -> None:
    write_labels(np.repeat([0, 70_000, 2**31 - 1], 40).astype(np.int32).reshape(12, 10), ".tif")(label_map_root)
    sample = LabelMapDataset(label_map_root)[0]
    assert sample.instance_labels is not None
    assert sample.instance_labels.unique(return_counts=True)[1].tolist() == [40, 40, 40]
    assert sample.num_instances == 2


def test_an_image_is_never_handed_to_another_program(label_map_root: Path) -> None:
    """Pillow would start Ghostscript for a PostScript file, whatever its name."""
    (label_map_root / "images" / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 12\n%%EndComments\n"
    )
    with pytest.raises(UserError, match="cannot be read as an image"):
        LabelMapDataset(label_map_root)[0]
