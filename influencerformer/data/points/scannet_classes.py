"""ScanNet's classes for instance segmentation, its label table and its lists of scenes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influencerformer.data.bad_samples import Defect, Take, refuse
from influencerformer.data.files import examples, read_split
from influencerformer.data.points.label_check import Labels, check_range, number_instances
from influencerformer.errors import UserError

# The 18 instance classes of ScanNet v2's benchmark in its order, and their numbers among NYU40's classes 1..40.
SCANNET_CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk"),
    *("curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "otherfurniture"),
)
NYU40_NUMBERS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
NYU40_WALL, NYU40_FLOOR = 1, 2
TABLE = "scannetv2-labels.combined.tsv"
HOW_TO_GET = (
    "ScanNet is given out by its authors (www.scan-net.org) to who has signed their terms of use; nothing is "
    "downloaded here"
)


def scannet_truth(instance: npt.NDArray[Any], nyu40: npt.NDArray[Any]) -> tuple[Labels, Labels, list[int]]:
    """Instance labels by the conventions of ScanNet's benchmark.

    Points of the 18 classes that belong to an annotated object are its instance. Wall and floor are background, 0:
    a model is to find no instance there. All other points (unannotated, or of a class that is not evaluated) are -1.
    ScanNet's evaluation takes 0 and -1 both as void: a prediction that lies there for the most part is not counted.

    Args:
        instance: (N,) integers, number of the object, 0 or less for none.
        nyu40: (N,) integers, NYU40's class 0..40, 0 for none.

    Returns:
        (N,) int64 -1, 0 or 1..K, (K,) int64 class of each instance, and the object numbers of several classes, which
        are split by class.
    """
    table = np.full(41, -1, dtype=np.int64)
    table[list(NYU40_NUMBERS)] = np.arange(len(SCANNET_CLASSES))
    classes = table[nyu40]
    inside = (instance > 0) & (classes >= 0)
    labels, found, split = number_instances(instance, classes, inside)
    stuff = (nyu40 == NYU40_WALL) | (nyu40 == NYU40_FLOOR)
    labels[~inside] = np.where(stuff[~inside], 0, -1)
    return labels, found, split


def read_label_table(root: Path) -> dict[str, int]:
    """NYU40's class of each label that annotators wrote, from ROOT/scannetv2-labels.combined.tsv or ROOT/meta_data.

    Raises:
        UserError: the file is missing or not of that form.
    """
    paths = (root / TABLE, root / "meta_data" / TABLE)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]} does not exist: {TABLE} comes with ScanNet and belongs there; {HOW_TO_GET}")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            table = {row["raw_category"]: int(row["nyu40id"]) for row in rows if row["nyu40id"]}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not ScanNet's label table ({type(error).__name__}: {error}): expected columns raw_category and "
            "nyu40id, separated by tabs"
        ) from error
    check_range(np.array(list(table.values()), dtype=np.int64), 0, 40, path, "NYU40's classes")
    return table


def choose_scenes(
    root: Path, there: Sequence[str], part: str, split_file: Path | None, folder: Path, take: Take | None = None
) -> list[str]:
    """Names of the scenes to read.

    Args:
        root: the data set's folder.
        there: all scenes it holds.
        part: "all" for those, or a split that ROOT or ROOT/meta_data has a file of: "train" for scannetv2_train.txt.
        split_file: a file of scene names, a line each, in place of `part`'s.
        folder: where scenes were looked for, for messages.
        take: is handed a defect for each scene that is not there, in place of an error.

    Raises:
        UserError: no such file, or scenes that are not there.
    """
    if split_file is None and part == "all":
        return list(there)
    beside = root / "meta_data"
    if split_file is None:
        places = [place / f"scannetv2_{part}.txt" for place in (root, beside)]
        split_file = next((path for path in places if path.is_file()), None)
        if split_file is None:
            raise UserError(f"{places[0]} does not exist: name a file of scene names with the option split_file")
    elif not split_file.is_file() and (beside / split_file.name).is_file():
        raise UserError(f"split file {split_file} does not exist, but {beside / split_file.name} does: name that one")
    names = read_split(split_file)
    missing = sorted(set(names) - set(there))
    refuse(
        [Defect(str(split_file), f"{name} is not in {folder}", name) for name in missing],
        f"{len(missing)} of the {len(names)} scenes of {split_file} are not in {folder}: {examples(missing)}; "
        f"{HOW_TO_GET}",
        take,
    )
    return [name for name in names if name not in set(missing)]
