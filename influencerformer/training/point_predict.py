"""`influencerformer predict` on point clouds: a labelled PLY and a page to look around in for each cloud."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import Subset

from influencerformer.data.points.cloud_files import CLOUD_SUFFIXES, read_cloud
from influencerformer.data.points.collate import collate_points
from influencerformer.data.points.datamodule import PointDataModule
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError
from influencerformer.metrics.point_predictions import point_predictions, to_point_labels
from influencerformer.pictures.cloud_instances import Cloud, Instances
from influencerformer.pictures.cloud_page import write_cloud_page
from influencerformer.pictures.cloud_ply import write_ply
from influencerformer.training.config_files import data_of_run
from influencerformer.training.point_module import PointSegmenter

RESULTS_FILE = "results.json"
PREDICTION = "Prediction"
UNSAFE = re.compile(r"[^\w.-]+")


class PointPredictor:
    """Segments single clouds with a trained model.

    Args:
        segmenter: of `load_segmenter`.
        score_threshold: instances with a lower score are left out.
        min_points: instances with fewer points are left out.
        device: where to compute.
    """

    def __init__(
        self,
        segmenter: PointSegmenter,
        score_threshold: float = 0.5,
        min_points: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.score_threshold = score_threshold
        self.min_points = min_points

    @torch.inference_mode()
    def __call__(self, sample: PointSample, most: int | None = None) -> Instances:
        """The instances of one cloud, at most one a point, the best first.

        Args:
            sample: the cloud; its truth is not looked at.
            most: number of instances with the highest scores to keep, whatever the threshold; None keeps those
                above the threshold.
        """
        batch = collate_points([sample])
        device = self.segmenter.device
        names = [name for name in ("coordinates", "features", "superpoints") if name in batch]
        outputs = self.segmenter({name: [value.to(device) for value in batch[name]] for name in names})
        found = point_predictions(
            outputs.class_logits[-1][0],
            outputs.mask_logits[-1][0],
            outputs.token_of_point[0],
            top_k=self.segmenter.hparams["max_detections"],
            min_points=self.min_points,
        )
        threshold = self.score_threshold if most is None else 0.0
        labels, kept = to_point_labels(found["masks"], found["scores"], threshold)
        kept = kept[:most]
        labels = torch.where(labels > len(kept), 0, labels)
        chosen = torch.tensor(kept, dtype=torch.int64)
        return Instances(
            labels.cpu().numpy(), found["labels"].cpu()[chosen].numpy(), found["scores"].cpu()[chosen].numpy()
        )


def truth_of(sample: PointSample) -> Instances:
    """The true instances of a sample."""
    return Instances(sample.instance_labels.numpy(), sample.class_labels.numpy())


def find_clouds(paths: Sequence[Path]) -> list[Path]:
    """The clouds that paths name: files as they are, folders by the clouds directly in them, sorted.

    Raises:
        UserError: a path does not exist, or there is no cloud.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in CLOUD_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--points {path} does not exist: name point-cloud files or a folder of them")
    if not found:
        raise UserError(
            f"there are no point clouds in {', '.join(map(str, paths))}: expected files ending in "
            f"{', '.join(CLOUD_SUFFIXES)}"
        )
    return list(dict.fromkeys(found))


def validation_rooms(checkpoint: Path, config: Path | None, rooms: int | None) -> Subset[PointSample]:
    """The first validation rooms of a run's data, with their truth.

    Raises:
        UserError: there is no configuration, or its data cannot be used.
    """
    data = data_of_run(PointDataModule, checkpoint, config, "point clouds by --points")
    dataset = data.dataset("val")
    return Subset(dataset, range(min(len(dataset), rooms or len(dataset))))


def write_results(
    out: Path, name: str, sample: PointSample, found: Instances, class_names: Sequence[str], with_truth: bool
) -> dict[str, Any]:
    """Writes NAME.ply and NAME.html; returns the cloud's entry in the results file."""
    classes = np.concatenate([[-1], found.classes])
    assert found.scores is not None
    scores = np.concatenate([[0.0], found.scores])
    coordinates, colors = sample.coordinates.numpy(), sample.colors.numpy()
    write_ply(out / f"{name}.ply", coordinates, colors, found.labels, classes[found.labels], scores[found.labels])
    cloud = Cloud(sample.name, coordinates, colors, truth_of(sample) if with_truth else None, {PREDICTION: found})
    write_cloud_page(out / f"{name}.html", [cloud], class_names, title=sample.name)
    instances = [
        {"instance": i, "class": class_names[int(c)], "score": round(float(s), 4), "points": int(n)}
        for i, (c, s, n) in enumerate(zip(found.classes, found.scores, found.sizes(), strict=True), start=1)
    ]
    return {"name": sample.name, "ply": f"{name}.ply", "page": f"{name}.html", "instances": instances}


def predict_points(
    segmenter: PointSegmenter,
    clouds: Sequence[Path] | Subset[PointSample],
    out: Path,
    score_threshold: float = 0.5,
    device: str = "auto",
) -> list[str]:
    """Segments clouds and writes the results.

    Args:
        segmenter: of `load_segmenter`.
        clouds: files, or samples with their truth.
        out: folder for NAME.ply and NAME.html of each, and results.json for all.
        score_threshold: least score of an instance.
        device: auto, cpu, cuda, ...

    Returns:
        One sentence for each cloud that could not be used; the others are done.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = PointPredictor(segmenter, score_threshold, device=device)
    class_names = [category["name"] for category in segmenter.categories]
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    names = _names()
    try:
        for index in track(range(len(clouds)), "Segmenting", console=console, disable=not console.is_terminal):
            try:
                given = clouds[index]
                sample = read_cloud(given) if isinstance(given, Path) else given
                found = predictor(sample)
            except UserError as error:
                problems.append(str(error))
            except (MemoryError, RuntimeError) as error:
                if not isinstance(error, MemoryError) and "memory" not in str(error):
                    raise
                problems.append(f"{clouds[index]}: not enough memory for a cloud of this size: cut it into parts")
            else:
                with_truth = not isinstance(given, Path)
                results.append(write_results(out, names(sample.name), sample, found, class_names, with_truth))
                continue
            console.print(f"skipped: {problems[-1]}", markup=False, highlight=False, soft_wrap=True)
    finally:
        (out / RESULTS_FILE).write_text(json.dumps(results, indent=1), encoding="utf-8")
    instances = sum(len(result["instances"]) for result in results)
    print(f"{len(results)} of {len(clouds)} clouds segmented, {instances} instances: {out}")
    return problems


def _names() -> Any:
    """A function that makes a file name of a cloud's name, another one at every call."""
    taken: set[str] = set()

    def unique(name: str) -> str:
        stem = UNSAFE.sub("_", name).strip(".") or "cloud"
        candidates: Iterator[str] = (stem if n == 1 else f"{stem}_{n}" for n in range(1, len(taken) + 2))
        chosen = next(c for c in candidates if c not in taken)
        taken.add(chosen)
        return chosen

    return unique


def add_point_options(parser: argparse.ArgumentParser) -> None:
    """The options of `predict` that are for point clouds alone."""
    group = parser.add_argument_group(
        "point clouds",
        "For a checkpoint of point clouds. Writes for each cloud NAME.ply (with instance, semantic and score of every "
        "point) and NAME.html, a page to look around in, and results.json for all.",
    )
    group.add_argument(
        "--points",
        type=Path,
        nargs="+",
        help=f"files ({', '.join(CLOUD_SUFFIXES)}) or folders of them; without it the validation rooms of the run's "
        "data, whose pages show truth and errors too",
    )
    group.add_argument(
        "--config", type=Path, help="configuration whose validation rooms, or events, are taken (default: the run's)"
    )
    group.add_argument("--rooms", type=int, help="number of validation rooms (default: all)")
