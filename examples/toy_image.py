"""Condensation on COCO: a small CNN maps pixels to embeddings, and InfluencerLoss shapes them.

Every pixel of a grid of half the resolution gets a follower and an influencer embedding. The loss draws the followers
of an instance to one of its influencers, and pushes background, other instances' followers and duplicate influencers
away. An instance then is an influencer with the followers around it: no class, no query, no matching.

    python examples/toy_image.py                             # drawn scenes of discs, squares and triangles
    python examples/toy_image.py --data COCO --size 128      # your own copy, or any folder of that form
    python examples/toy_image.py --data COCO --download      # val2017: 1.1 GB

A folder holds one of
    instances_train.json, instances_val.json, images/
    instances.json, images/, train.txt, val.txt
    annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/, val2017/
    annotations/instances_val2017.json, val2017/             # the last fifth is held out

Images are brought to --size x --size pixels. Where instances overlap a pixel is the smaller one's; those with fewer
than --min-pixels on the grid are ignored, and classes are not used. The radius of inference is chosen on training
images; all figures are of held-out ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import embedding_tools as tools
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from influencerformer import InfluencerLoss
from influencerformer.data.coco import CocoDataset, ground_truth
from influencerformer.data.download import download_coco
from influencerformer.data.download.disk import make_folder
from influencerformer.data.sample import Sample
from influencerformer.data.scenes import generate_scenes
from influencerformer.losses.influencer_choice import choose_influencers
from influencerformer.metrics.condensation import CondensationQuality
from influencerformer.metrics.mask_ap import MaskAP

STRIDE = 2  # of the grid
# Low: repelling all duplicates of smooth influencers drives them off their followers; `find_instances` sorts them out.
INFLUENCER_WEIGHT = 0.3
WIDEST = 4.0  # embedding units from the middle of the image to its border, before training
RADIUS_IMAGES = 40  # training images that the radius is chosen on
PICTURED = 4


def grid(labels: Tensor) -> Tensor:
    """The labels (H, W) at the pixels of the grid, (H / 2 * W / 2,)."""
    return labels[::STRIDE, ::STRIDE].flatten()


def convolution(inlets: int, outlets: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inlets, outlets, 3, stride, 1, bias=False), nn.GroupNorm(8, outlets), nn.GELU())


def places(like: Tensor) -> Tensor:
    """Rows and columns in -1..1 as two channels: without them equal shapes have equal embeddings."""
    batch, _, height, width = like.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([rows, columns]).expand(batch, -1, -1, -1)


class Embedder(nn.Module):
    """A small U-Net from images to follower and influencer embeddings on the grid.

    Args:
        width: features of the finest level.
        dimensions: D of the embeddings.
    """

    def __init__(self, width: int = 32, dimensions: int = 8) -> None:
        super().__init__()
        steps = [(5, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 2 * width)]
        self.down = nn.ModuleList(nn.Sequential(convolution(a, b, 2), convolution(b, b)) for a, b in steps)
        self.up = nn.ModuleList(
            [convolution(4 * width, 2 * width), convolution(4 * width, 2 * width), convolution(3 * width, width)]
        )
        # Both embeddings start as the place in the image.
        self.heads = nn.ModuleList(nn.Conv2d(width + 2, dimensions, 1) for _ in range(2))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.02)
            with torch.no_grad():
                head.weight[:, width:, 0, 0] = WIDEST * torch.eye(dimensions, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in -1..1 to followers and influencers (B, H / 2 * W / 2, D)."""
        h, finer = torch.cat([images, places(images)], dim=1), []
        for layer in self.down:
            h = layer(h)
            finer.append(h)
        for layer, skip in zip(self.up, finer[-2::-1], strict=True):
            h = layer(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], dim=1))
        h = torch.cat([h, places(h)], dim=1)
        followers, influencers = (head(h).flatten(2).transpose(1, 2) for head in self.heads)
        return followers, influencers


def train(model: Embedder, images: tools.SmallImages, options: argparse.Namespace) -> None:
    """A few images a step, each with the loss of its own."""
    loss = InfluencerLoss(influencer_weight=INFLUENCER_WEIGHT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps + 1, pct_start=0.1)
    for _, show in tools.show_steps(options.steps):
        samples = [images[int(index)] for index in torch.randint(len(images), (options.batch,))]
        flips = [(-1,) if flip else () for flip in torch.rand(options.batch) < 0.5]
        pictures = torch.stack([s.image.flip(flip) for s, flip in zip(samples, flips, strict=True)])
        labels = [grid(s.instance_labels.flip(flip)) for s, flip in zip(samples, flips, strict=True)]
        # The loss looks at all pairs of pixels for those that are near: some of the pixels are enough for it.
        some = torch.randperm(len(labels[0]))[: options.loss_pixels]
        embeddings = zip(*model(pictures / 127.5 - 1), labels, strict=True)
        results = [
            loss(followers[some], influencers[some], known[some]) for followers, influencers, known in embeddings
        ]
        parts = {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}
        optimizer.zero_grad()
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        show({name: value.detach() for name, value in parts.items()})


@torch.no_grad()
def embed(model: Embedder, images: tools.SmallImages) -> list[tuple[Sample, Tensor, Tensor]]:
    """Each image with its followers and influencers (N, D)."""
    samples = [images[index] for index in range(len(images))]
    embeddings = [model(sample.image[None] / 127.5 - 1) for sample in samples]
    return [(sample, *(e[0] for e in pair)) for sample, pair in zip(samples, embeddings, strict=True)]


def evaluate(
    embedded: list[tuple[Sample, Tensor, Tensor]], ap: MaskAP, radius: float, min_pixels: int, choose: bool = True
) -> dict[str, float]:
    """Purity, efficiency and duplicate rate on the grid, COCO AP at the size of the images, without classes."""
    quality = CondensationQuality()
    ap.reset()
    for sample, followers, influencers in embedded:
        labels, scores = tools.find_instances(followers, influencers, radius, min_pixels, choose)
        quality.update(labels, grid(sample.instance_labels))
        masks = full_size(labels, sample) == torch.arange(1, len(scores) + 1)[:, None, None]
        ap.update(sample.image_id, masks, scores, torch.zeros(len(scores), dtype=torch.int64))
    return {**quality.compute(), **ap.compute()}


def full_size(labels: Tensor, sample: Sample) -> Tensor:
    """Labels of the grid (N,) at the size of the image (H, W)."""
    height, width = sample.size
    labels = labels.view(height // STRIDE, width // STRIDE)
    return labels.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)


def draw(embedded: list[tuple[Sample, Tensor, Tensor]], radius: float, min_pixels: int, path: Path) -> None:
    """Image, truth, found instances and embedding of some images."""
    figure = Figure(figsize=(13, 3.3 * len(embedded)), layout="constrained")
    titles = (
        "Image",
        "Truth",
        "Found, in the colour of\nthe true one (dark grey: wrong)",
        "Followers, influencers (x)",
    )
    axes = figure.subplots(len(embedded), len(titles), squeeze=False)
    for row, (sample, followers, influencers) in zip(axes, embedded, strict=True):
        labels, _ = tools.find_instances(followers, influencers, radius, min_pixels)
        truth, found = tools.instance_colours(full_size(labels, sample).flatten(), sample.instance_labels.flatten())
        shape = (*sample.size, 3)
        pictures = (sample.image.permute(1, 2, 0), truth.reshape(shape), found.reshape(shape))
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture)
            axis.axis("off")
        chosen = influencers[choose_influencers(followers, influencers, radius, min_pixels)]
        tools.draw_embedding(row[3], followers, chosen, truth.reshape(shape)[::STRIDE, ::STRIDE].reshape(-1, 3))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=80)


def open_images(options: argparse.Namespace) -> tuple[tuple[CocoDataset, range], tuple[CocoDataset, range]]:
    """Training and held-out images: each a data set and which of its images."""
    root = Path(options.data)
    if options.data == "generated":
        root = generate_scenes(options.out / "scenes", train=800, val=100, size=options.size, seed=options.seed)
    elif options.download:
        download_coco(root, ("val2017",))
    return tools.open_coco(root)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="generated", help="folder in COCO form, or `generated` (default): drawn scenes")
    add("--download", action="store_true", help="fetch COCO val2017 and the annotations (1.1 GB) to --data first")
    add("--size", type=int, default=64, help="height and width of images, a multiple of 16 (default: 64)")
    add("--steps", type=int, default=700, help="training steps (default: 700)")
    add("--batch", type=int, default=8, help="images a step (default: 8)")
    add("--lr", type=float, default=4e-3, help="largest learning rate of the cycle (default: 0.004)")
    add("--loss-pixels", type=int, default=512, help="pixels of an image in the loss (default: 512)")
    add("--min-pixels", type=int, default=8, help="smallest instance that counts, on the grid (default: 8)")
    add("--test-images", type=int, default=100, help="held-out images that figures are of (default: 100)")
    add("--seed", type=int, default=0, help="of weights, order, drawn scenes (default: 0)")
    add("--out", type=Path, default=Path("runs/toy_image"), help="folder for the picture and drawn scenes")
    options = tools.parse(parser, arguments, ("size", "steps", "batch", "loss_pixels", "min_pixels", "test_images"))
    if options.size % 16:
        parser.error(f"--size must be a multiple of 16, got {options.size}")
    return options


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, prints the figures of held-out images, writes the picture; returns the figures."""
    options = parse(arguments)
    make_folder(options.out)
    torch.manual_seed(options.seed)
    (source, those), (held_out, others) = open_images(options)
    training = tools.SmallImages(source, those, options.size, STRIDE, options.min_pixels)
    known_images = tools.SmallImages(
        source, tools.spread(those, RADIUS_IMAGES), options.size, STRIDE, options.min_pixels
    )
    test = tools.SmallImages(
        held_out, tools.spread(others, options.test_images), options.size, STRIDE, options.min_pixels
    )
    model = Embedder()
    train(model, training, options)
    model.eval()
    known = [(f, g, grid(sample.instance_labels)) for sample, f, g in embed(model, known_images)]
    radius = tools.best_radius(known, options.min_pixels)
    embedded, ap = embed(model, test), MaskAP(ground_truth(test))
    result = evaluate(embedded, ap, radius, options.min_pixels)
    alone = evaluate(embedded, ap, radius, options.min_pixels, choose=False)
    tools.print_figures(f"{len(test)} held-out images, radius {radius} chosen on training images", result, alone)
    picture = options.out / "images.png"
    draw(embedded[:PICTURED], radius, options.min_pixels, picture)
    print(f"picture: {picture}")
    return result


if __name__ == "__main__":
    with tools.one_sentence_errors("toy_image"):
        main()
