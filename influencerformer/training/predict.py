"""`influencerformer predict`: a checkpoint and images, point clouds or events in, pictures, labels and results out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle_api
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Subset

from influencerformer.data.augment import EvalTransform
from influencerformer.data.coco import encode
from influencerformer.data.collate import collate
from influencerformer.data.files import IMAGE_SUFFIXES, read_image
from influencerformer.data.sample import Sample
from influencerformer.errors import UserError
from influencerformer.metrics.predictions import instance_predictions, to_label_map
from influencerformer.training.module import InstanceSegmenter
from influencerformer.training.overlays import draw_instances, label_masks
from influencerformer.training.point_module import PointSegmenter
from influencerformer.training.point_predict import (
    add_point_options,
    find_clouds,
    predict_points,
    validation_rooms,
)
from influencerformer.training.tasks import load_segmenter
from influencerformer.training.track_module import TrackSegmenter
from influencerformer.training.track_predict import (
    add_track_options,
    find_event_folder,
    predict_tracks,
    validation_events,
)

RESULTS_FILE = "results.json"
DEFAULT_MAX_SIZE = 2048
DEFAULT_THRESHOLD = 0.5
TRACK_OPTIONS = ("events", "max_events")
MAX_CAPTIONS = 40


@dataclass
class ImagePrediction:
    """Instances of one image at its own size, best first.

    masks: (n, H, W) bool; they may overlap.
    scores: (n,) float32, 0 to 1.
    labels: (n,) int64, classes 0..C-1.
    """

    masks: Tensor
    scores: Tensor
    labels: Tensor


class Predictor:
    """Segments single images of any size with a trained model.

    Images are scaled as in the validation of the run, and results brought back to the image's own size.

    Args:
        segmenter: of `load_segmenter`.
        score_threshold: instances with a lower score are left out.
        max_size: shrink larger images to this longest side in pixels; the run's own limit (`eval_max_size`)
            unless given, or 2048 where it had none.
        device: where to compute.
    """

    def __init__(
        self,
        segmenter: InstanceSegmenter,
        score_threshold: float = 0.5,
        max_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.score_threshold = score_threshold
        options = segmenter.image_options
        self.transform = EvalTransform(
            scale=options["scale"], max_size=max_size or options["max_size"] or DEFAULT_MAX_SIZE
        )
        self.size_divisor: int = options["size_divisor"]

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ImagePrediction:
        """Segment one image, (3, H, W) uint8 RGB."""
        size = image.shape[1], image.shape[2]
        nothing = torch.zeros(0, dtype=torch.int64)
        sample = self.transform(Sample("", image, nothing, None, torch.zeros(0, *size, dtype=torch.bool), None, 0))
        batch = collate([sample], self.size_divisor)
        device = self.segmenter.device
        outputs = self.segmenter({k: batch[k].to(device) for k in ("pixel_values", "pixel_mask")})
        class_logits = outputs.class_queries_logits[0]
        # A score is at most its class probability: what cannot reach the threshold is not made at full size.
        possible = int((class_logits.float().softmax(-1)[:, :-1] >= self.score_threshold).sum())
        found = instance_predictions(
            class_logits,
            outputs.masks_queries_logits[0],
            sample.size,
            padded_size=(batch["pixel_values"].shape[2], batch["pixel_values"].shape[3]),
            output_size=size,
            top_k=min(possible, self.segmenter.hparams["max_detections"]),
        )
        keep = found["scores"] >= self.score_threshold
        return ImagePrediction(*(found[name][keep].cpu() for name in ("masks", "scores", "labels")))


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images that paths name: files as they are, folders by the images directly in them, sorted.

    Raises:
        UserError: a path does not exist, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--images {path} does not exist: name image files or a folder of images")
    if not found:
        raise UserError(
            f"there are no images in {', '.join(map(str, paths))}: expected files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return list(dict.fromkeys(found))


def output_names(paths: Sequence[Path]) -> list[str]:
    """One name an image for its output files: its stem, made unique where stems repeat."""
    names: list[str] = []
    taken: set[str] = set()
    stems = [path.stem for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else path.name.replace(".", "_")
        number = 2
        while name in taken:
            name = f"{path.name.replace('.', '_')}_{number}"
            number += 1
        taken.add(name)
        names.append(name)
    return names


def image_ids(paths: Sequence[Path]) -> list[int]:
    """COCO image ids: the file stems where all are distinct numbers, as in COCO, or else 1, 2, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def coco_results(
    prediction: ImagePrediction, image_id: int, file_name: str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Entries of a COCO results file, with the image's file name besides."""
    results = []
    for rle, score, label in zip(
        encode(prediction.masks), prediction.scores.tolist(), prediction.labels.tolist(), strict=True
    ):
        results.append(
            {
                "image_id": image_id,
                "file_name": file_name,
                "category_id": category_ids[label],
                "segmentation": rle,
                "bbox": [float(v) for v in rle_api.toBbox(rle)],
                "score": score,
            }
        )
    return results


def write_images(
    out: Path, name: str, image: Tensor, prediction: ImagePrediction, class_names: Sequence[str], threshold: float
) -> int:
    """Writes NAME_labels.png (16 bit) and NAME_overlay.png; returns the number of instances in them."""
    labels, kept = to_label_map(prediction.masks, prediction.scores, threshold)
    Image.fromarray(labels.astype(np.uint16)).save(out / f"{name}_labels.png")
    captions = None
    if len(kept) <= MAX_CAPTIONS:
        captions = [
            (f"{class_names[int(prediction.labels[i])]} " if len(class_names) > 1 else "")
            + f"{float(prediction.scores[i]):.2f}"
            for i in kept
        ]
    draw_instances(image, label_masks(labels), captions=captions).save(out / f"{name}_overlay.png")
    return len(kept)


def predict_images(
    segmenter: InstanceSegmenter,
    paths: Sequence[Path],
    out: Path,
    score_threshold: float = 0.5,
    max_size: int | None = None,
    device: str = "auto",
) -> list[str]:
    """Segments images and writes the results.

    Args:
        segmenter: of `load_segmenter`.
        paths: the images.
        out, score_threshold, max_size, device: as on the command line.

    Returns:
        One sentence for each image that could not be used; the others are done.

    Raises:
        UserError: the paths or options cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(segmenter, score_threshold, max_size, device)
    categories = segmenter.categories
    out.mkdir(parents=True, exist_ok=True)

    console = Console(stderr=True)
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    instances = 0
    jobs = list(zip(paths, output_names(paths), image_ids(paths), strict=True))
    try:
        for path, name, image_id in track(jobs, "Segmenting", console=console, disable=not console.is_terminal):
            try:
                image = read_image(path)
                prediction = predictor(image)
            except (UserError, Image.DecompressionBombError) as error:
                problems.append(f"{error}" if str(path) in str(error) else f"{path}: {error}")
            except (MemoryError, RuntimeError) as error:
                if not isinstance(error, MemoryError) and "memory" not in str(error):
                    raise
                problems.append(f"{path}: not enough memory at this size: set a smaller --max-size")
            else:
                instances += write_images(
                    out, name, image, prediction, [c["name"] for c in categories], score_threshold
                )
                results += coco_results(prediction, image_id, path.name, [c["id"] for c in categories])
                continue
            console.print(f"skipped: {problems[-1]}", markup=False, highlight=False, soft_wrap=True)
    finally:
        (out / RESULTS_FILE).write_text(json.dumps(results), encoding="utf-8")
    done = len(paths) - len(problems)
    print(f"{done} of {len(paths)} images segmented, {instances} instances: {out}")
    return problems


def make_parser() -> argparse.ArgumentParser:
    """The options of `influencerformer predict`."""
    parser = argparse.ArgumentParser(
        prog="influencerformer predict",
        description="Segment images or point clouds, or find tracks, with a checkpoint of `fit`. What cannot be "
        "used is reported and skipped; the exit code is then 1.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--score-threshold", type=float, help="least score of an instance (default: 0.5); not for tracks"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group = parser.add_argument_group(
        "images",
        "For a checkpoint of images. Writes for each image NAME_overlay.png and NAME_labels.png (16 bit, 0 background, "
        "1.. instances, best first), and results.json for all (COCO results).",
    )
    group.add_argument("--images", type=Path, nargs="+", help="image files, or folders with images")
    group.add_argument(
        "--max-size",
        type=int,
        help="shrink larger images to this longest side in pixels (default: as in the run's validation, or "
        f"{DEFAULT_MAX_SIZE} where it had no limit); results have the image's own size",
    )
    add_point_options(parser)
    add_track_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 1 where something was skipped."""
    args = make_parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
    threshold = DEFAULT_THRESHOLD if args.score_threshold is None else args.score_threshold
    if not 0.0 <= threshold <= 1.0:
        raise UserError(f"--score-threshold must be in 0..1, got {args.score_threshold}")
    if args.max_size is not None and args.max_size < 1:
        raise UserError(f"--max-size must be positive, got {args.max_size}")
    if args.max_events is not None and args.max_events < 1:
        raise UserError(f"--max-events must be 1 or more, got {args.max_events}")
    _check_device(args.device)
    # before the checkpoint is read, which takes longer
    images = find_images(args.images) if args.images is not None else None
    clouds: Any = find_clouds(args.points) if args.points is not None else None
    events: Any = find_event_folder(args.events) if args.events is not None else None
    segmenter = load_segmenter(args.checkpoint)
    problems: list[str] = []
    if isinstance(segmenter, InstanceSegmenter):
        _refuse(args, "images", ("points", "config", "rooms", *TRACK_OPTIONS))
        if images is None:
            raise UserError("--images is missing: name image files or a folder of images")
        problems = predict_images(segmenter, images, args.out, threshold, args.max_size, args.device)
    elif isinstance(segmenter, PointSegmenter):
        _refuse(args, "point clouds", ("images", "max_size", *TRACK_OPTIONS))
        clouds = validation_rooms(args.checkpoint, args.config, args.rooms) if clouds is None else clouds
        problems = predict_points(segmenter, clouds, args.out, threshold, args.device)
    elif isinstance(segmenter, TrackSegmenter):
        _refuse(args, "tracks", ("images", "max_size", "points", "rooms", "score_threshold"))
        events = validation_events(args.checkpoint, args.config) if events is None else events
        chosen = Subset(events, range(min(len(events), args.max_events or len(events))))
        problems = predict_tracks(segmenter, chosen, args.out, device=args.device)
    return 1 if problems else 0


def _check_device(name: str) -> None:
    """Raises a UserError where there is no such device."""
    if name == "auto":
        return
    try:
        torch.zeros(1, device=name)
    except Exception as error:  # what torch raises depends on what the name is
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
        raise UserError(f"--device {name!r} cannot be used ({reason}): expected auto, cpu, cuda, cuda:1, ...") from None


def _refuse(args: argparse.Namespace, inputs: str, names: Sequence[str]) -> None:
    """Options of another kind of input are an error, not ignored."""
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} does not go with {args.checkpoint}: its model is for {inputs}")
