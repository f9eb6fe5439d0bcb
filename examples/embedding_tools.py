"""What the examples of the embedding loss need around it: inference and its radius, figures, progress, images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from influencerformer.data.coco import CocoDataset
from influencerformer.data.points.sample import compact_labels
from influencerformer.data.sample import InstanceDataset, Sample
from influencerformer.errors import UserError
from influencerformer.losses.embedding import condense
from influencerformer.losses.influencer_choice import choose_influencers
from influencerformer.metrics.condensation import CondensationQuality
from influencerformer.pictures import Instances
from influencerformer.pictures.cloud_colours import prediction_palette, truth_palette
from influencerformer.pictures.cloud_instances import match_instances

# Radii that are tried, in units of the margin of training.
RADII = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# Of COCO data: annotations, images and split file; {} is train or val.
LAYOUTS = (
    ("instances_{}.json", "images", None),
    ("instances.json", "images", "{}.txt"),
    ("annotations/instances_{}2017.json", "{}2017", None),
)


def find_instances(
    followers: Tensor, influencers: Tensor, radius: float, min_points: int, choose: bool = True
) -> tuple[Tensor, Tensor]:
    """Inference: every influencer with followers within the radius is an instance.

    Args:
        followers, influencers: (N, D).
        radius: in units of the embedding.
        min_points: smaller instances are no instance.
        choose: leave out duplicate influencers first; False shows what `condense` alone makes of them.

    Returns:
        labels (N,) int64, 0 none, 1..m; scores (m,) in 0..1: how tightly each instance's followers have condensed.
    """
    if choose:
        influencers = influencers[choose_influencers(followers, influencers, radius, min_points)]
    if not len(influencers):
        return torch.zeros(len(followers), dtype=torch.int64), torch.zeros(0)
    labels = condense(followers, influencers, radius)
    labels = torch.where(labels.bincount()[labels] < min_points, 0, labels)
    labels = torch.cat([labels.new_zeros(1), labels]).unique(return_inverse=True)[1][1:]
    of = [followers[labels == number] for number in range(1, int(labels.max()) + 1)]
    spread = torch.tensor([float((f - f.mean(0)).norm(dim=1).mean()) for f in of])
    return labels, (1 - spread / radius).clamp(min=0)


def best_radius(embedded: Sequence[tuple[Tensor, Tensor, Tensor]], min_points: int) -> float:
    """The radius with most right instances for those found and those there (F1), on clouds of the training data.

    Args:
        embedded: followers (N, D), influencers (N, D) and instance labels (N,) of each cloud.
        min_points: see :func:`find_instances`.
    """
    scores = []
    for radius in RADII:
        quality = CondensationQuality()
        for followers, influencers, labels in embedded:
            quality.update(find_instances(followers, influencers, radius, min_points)[0], labels)
        values = quality.compute()
        right = values["efficiency"] * values["instances"] if values["instances"] else 0.0
        scores.append(2 * right / max(1, values["found"] + values["instances"]))
    return RADII[int(np.argmax(scores))]


def instance_colours(found: Tensor, truth: Tensor) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Colours of points by true and by found instance, (N, 3) each; what is found has the colour of what it finds.

    Grey: found, but no instance is covered well enough. Light grey: none.
    """
    real, guess = (Instances(v.numpy(), np.zeros(max(0, int(v.max())), dtype=np.int64)) for v in (truth, found))
    return truth_palette(real)[real.labels], prediction_palette(guess, real, match_instances(guess, real))[guess.labels]


def draw_embedding(axes: Axes, followers: Tensor, influencers: Tensor, colours: npt.NDArray[np.uint8]) -> None:
    """Followers in the plane of their two principal components, with the chosen influencers as crosses.

    Args:
        axes: to draw on.
        followers: (N, D).
        influencers: (M, D), the chosen ones.
        colours: (N, 3) uint8.
    """
    centre = followers.mean(0)
    plane = torch.linalg.svd(followers - centre, full_matrices=False)[2][:2].T
    x, y = ((followers - centre) @ plane).T.numpy()
    axes.scatter(x, y, s=4, c=colours / 255, linewidths=0)
    x, y = ((influencers - centre) @ plane).T.numpy()
    axes.scatter(x, y, s=30, c="black", marker="x", linewidths=0.8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])


def show_steps(steps: int) -> Iterator[tuple[int, Callable[[dict[str, Tensor]], None]]]:
    """The numbers 0..steps-1 with a progress bar, and a function that shows the parts of the loss beside it."""
    columns = (TextColumn("Step"), BarColumn(8), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[parts]}"), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=steps, parts="")

        def show(parts: dict[str, Tensor]) -> None:
            text = " ".join(f"{name} {float(value):.2f}" for name, value in parts.items() if name != "loss")
            progress.update(task, parts=text)

        for step in range(steps):
            yield step, show
            progress.advance(task)


def print_figures(title: str, result: dict[str, float], alone: dict[str, float]) -> None:
    """Prints the figures of held-out data and what they mean.

    Args:
        title: what they are of.
        result: purity, efficiency, duplicate_rate, found, instances, AP and AP50.
        alone: the same where duplicate influencers were left in.
    """
    rows = (
        ("purity", result["purity"], "of the points found, those of the instance that most of theirs are of"),
        ("efficiency", result["efficiency"], f"of {result['instances']} true instances, those found (IoU above 0.5)"),
        (
            "duplicate rate",
            result["duplicate_rate"],
            f"of {result['found']} found instances, those that repeat another",
        ),
        ("AP", result["AP"], "average precision without classes, IoU from 0.5 to 0.9 or 0.95"),
        ("AP50", result["AP50"], "the same at IoU 0.5"),
        ("condense alone", alone["efficiency"], f"efficiency with all influencers: {alone['found']} found instances"),
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "value", "meaning"):
        table.add_column(column)
    for name, value, meaning in rows:
        table.add_row(name, f"{value:.3f}", meaning)
    Console(width=100).print(table)


def ignore_small(labels: Tensor, seen: Tensor, least: int) -> Tensor:
    """Labels (any shape) with -1 in place of instances that have fewer than `least` of the labels `seen`."""
    few = seen.clamp(min=0).bincount(minlength=int(labels.max()) + 1) < least
    few[0] = False
    return torch.where(few[labels.clamp(min=0)], -1, labels)


def spread(items: range, count: int) -> range:
    """Up to `count` of the items, evenly spread."""
    return items[:: max(1, len(items) // count)][:count]


class SmallImages(InstanceDataset):
    """Images of any data set at one size, with instances as one label a pixel and without classes.

    Args:
        source: the data set.
        chosen: indices of its images.
        size: height and width in pixels.
        stride: of the grid.
        min_pixels: instances with fewer on the grid are ignored.
    """

    def __init__(self, source: InstanceDataset, chosen: range, size: int, stride: int, min_pixels: int) -> None:
        self.source, self.chosen, self.size, self.stride, self.min_pixels = source, chosen, size, stride, min_pixels
        self.class_names = ["instance"]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[self.chosen[index]]
        size = (self.size, self.size)
        image = F.interpolate(sample.image[None].float(), size, mode="bilinear", antialias=True)[0]
        masks = torch.cat([sample.ignored()[None], sample.masks()])[None].float()
        ignored, *instances = F.interpolate(masks, size, mode="nearest-exact")[0] > 0
        labels = -ignored.long()
        for number, mask in enumerate(sorted(instances, key=lambda mask: -int(mask.sum())), start=1):
            labels[mask] = number
        labels = ignore_small(labels, labels[:: self.stride, :: self.stride].flatten(), self.min_pixels)
        labels, classes = compact_labels(labels, torch.zeros(len(instances), dtype=torch.int64))
        return Sample(sample.name, image.round().byte(), classes, labels, None, None, sample.image_id)


def open_coco(root: Path) -> tuple[tuple[CocoDataset, range], tuple[CocoDataset, range]]:
    """Training and held-out images of a folder in any of `LAYOUTS`, or of val2017 alone with the last fifth held out.

    Raises:
        UserError: a folder that is none of these.
    """
    for json, images, split in LAYOUTS:
        paths = [(root / json.format(part), root / images.format(part), part) for part in ("train", "val")]
        if all(file.is_file() and folder.is_dir() for file, folder, _ in paths):
            train, val = (CocoDataset(a, i, split and root / split.format(part)) for a, i, part in paths)
            return (train, range(len(train))), (val, range(len(val)))
    if not (root / "annotations/instances_val2017.json").is_file():
        raise UserError(
            f"there is no data set in COCO form in {root}: give a folder with annotations/instances_val2017.json and "
            "val2017/ or another layout that --help lists, add --download to have COCO fetched there, or leave --data "
            "out for drawn scenes"
        )
    both = CocoDataset(root / "annotations/instances_val2017.json", root / "val2017")
    border = len(both) * 4 // 5
    return (both, range(border)), (both, range(border, len(both)))


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None, positive: Sequence[str]) -> argparse.Namespace:
    """The options, of which `positive` must be 1 or more."""
    options = parser.parse_args(arguments)
    for name in positive:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(options, name)}")
    if options.download and options.data == "generated":
        parser.error("--download needs a folder: name it with --data")
    return options


@contextmanager
def one_sentence_errors(program: str) -> Iterator[None]:
    """Input that cannot be used ends the program with code 2 and one sentence, an interrupt with 130."""
    try:
        yield
    except UserError as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
