"""Condensation on S3DIS: a small network maps the points of a room to embeddings, and InfluencerLoss shapes them.

Every point gets a follower and an influencer embedding. The loss draws the followers of an instance to one of its
influencers, and pushes other instances' followers and duplicate influencers away. An instance then is an influencer
with the followers around it: no class, no query, no matching.

    python examples/toy_pointcloud.py                                  # generated rooms, an MLP of x y z r g b
    python examples/toy_pointcloud.py --neighbours 16                  # with local context
    python examples/toy_pointcloud.py --data S3DIS --neighbours 16     # your own copy: as given out, or Pointcept's
    python examples/toy_pointcloud.py --data S3DIS --download          # 2 GB, under the licence of its authors

An MLP of six numbers sees each point alone: it can learn what is alike in all rooms, such as low floors and high
ceilings, but not whether a point is of a chair or of the table over it. With --neighbours K each layer also pools over
the K nearest of all points, then of every 4th, 16th and 64th, so that a point sees first its surroundings and in the
end most of the room.

Rooms are thinned at random, in training and in the test alike; what then has fewer than --min-points is ignored. The
radius of inference is chosen on training rooms; all figures are of held-out ones (Area_5).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import embedding_tools as tools
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy.spatial import KDTree
from torch import Tensor, nn

from influencerformer import InfluencerLoss
from influencerformer.data.download import download_s3dis
from influencerformer.data.download.disk import make_folder
from influencerformer.data.points.formats import open_points
from influencerformer.data.points.room_dataset import RoomDataset
from influencerformer.data.points.sample import PointSample
from influencerformer.errors import UserError
from influencerformer.losses.influencer_choice import choose_influencers
from influencerformer.metrics.condensation import CondensationQuality
from influencerformer.metrics.point_ap import PointAP
from influencerformer.pictures import render_cloud

LAYERS = 4
METRES = 3.0  # embedding units a metre, before training
# Low: repelling all duplicates of smooth influencers drives them off their followers; `find_instances` sorts them out.
INFLUENCER_WEIGHT = 0.1
RADIUS_ROOMS = 12  # training rooms that the radius is chosen on
PICTURED = 3


class Embedder(nn.Module):
    """From points to follower and influencer embeddings.

    Args:
        neighbours: points that each layer pools over; 0 for a plain MLP.
        width: features a point.
        dimensions: D of the embeddings.
    """

    def __init__(self, neighbours: int, width: int = 64, dimensions: int = 8) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.inlet = nn.Linear(6, width)
        wide = 2 * width if neighbours else width
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(LAYERS)
        )
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS if neighbours else 0))
        self.offsets = nn.ModuleList(nn.Linear(3, width, bias=False) for _ in range(LAYERS if neighbours else 0))
        # Both embeddings start as the place in the room. The gates let a point forget its place (a floor), the shifts
        # let it move (to the middle of its chair).
        self.place = nn.Linear(3, dimensions, bias=False)
        nn.init.eye_(self.place.weight).data.mul_(METRES)
        self.gates = nn.ModuleList(nn.Linear(width, dimensions) for _ in range(2))
        self.shifts = nn.ModuleList(nn.Linear(width, dimensions) for _ in range(2))
        for layer in self.shifts:
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, coordinates: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3) metres and (N, 3) in -1..1, points in random order, to followers and influencers (N, D)."""
        h = self.inlet(torch.cat([coordinates, colors], dim=1))
        for level, layer in enumerate(self.layers):
            h = h + layer(torch.cat([h, self.context(h, coordinates, level)], dim=1) if self.neighbours else h)
        place = self.place(coordinates)
        followers, influencers = (
            place * (gate(h) + 1).sigmoid() + shift(h) for gate, shift in zip(self.gates, self.shifts, strict=True)
        )
        return followers, influencers

    def context(self, h: Tensor, coordinates: Tensor, level: int) -> Tensor:
        """The largest of value(h_j) + offset(x_j - x_i) over the nearest of every 4^level-th point j, (N, width)."""
        some = coordinates[: max(1, len(coordinates) >> 2 * level)].numpy()
        nearest = KDTree(some).query(coordinates.numpy(), k=range(1, min(self.neighbours, len(some)) + 1))[1]
        offset = self.offsets[level](coordinates)
        return F.embedding_bag(torch.from_numpy(nearest), self.values[level](h) + offset, mode="max") - offset


def thin(room: PointSample, points: int, min_points: int, generator: torch.Generator | None = None) -> PointSample:
    """The room at a random choice of its points; what is left of instances with too few is ignored."""
    room = room.select(torch.randperm(room.num_points, generator=generator)[:points])
    return replace(room, instance_labels=tools.ignore_small(room.instance_labels, room.instance_labels, min_points))


def network_input(room: PointSample) -> tuple[Tensor, Tensor]:
    """Coordinates around the room's middle with z from the floor, and colours in -1..1."""
    low, high = room.coordinates.amin(0), room.coordinates.amax(0)
    origin = torch.cat([(low + high)[:2] / 2, low[2:]])
    return room.coordinates - origin, room.colors / 127.5 - 1


def augment(coordinates: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """A random turn around z, mirrored half of the time, and a shift of each colour channel."""
    turn = torch.rand(()) * 2 * torch.pi
    cos, sin, mirror = turn.cos(), turn.sin(), float(torch.randint(2, ())) * 2 - 1
    matrix = torch.tensor([[cos, -sin * mirror, 0], [sin, cos * mirror, 0], [0, 0, 1]])
    return coordinates @ matrix.T, colors + 0.1 * torch.randn(3)


def train(model: Embedder, rooms: RoomDataset, options: argparse.Namespace) -> None:
    """One room a step."""
    loss = InfluencerLoss(influencer_weight=INFLUENCER_WEIGHT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps + 1, pct_start=0.1)
    for _, show in tools.show_steps(options.steps):
        room = thin(rooms[int(torch.randint(len(rooms), ()))], options.points, options.min_points)
        followers, influencers = model(*augment(*network_input(room)))
        # The loss looks at all pairs of points for those that are near: some of the points are enough for it.
        some = slice(options.loss_points)
        result = loss(followers[some], influencers[some], room.instance_labels[some])
        optimizer.zero_grad()
        result["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        show({name: value.detach() for name, value in result.items()})


@torch.no_grad()
def embed(
    model: Embedder, rooms: RoomDataset, count: int, options: argparse.Namespace
) -> list[tuple[PointSample, Tensor, Tensor]]:
    """Up to `count` rooms, spread over the data set, each thinned and with its embeddings."""
    generator = torch.Generator().manual_seed(options.seed)
    chosen = tools.spread(range(len(rooms)), count)
    thinned = [thin(rooms[index], options.points, options.min_points, generator) for index in chosen]
    return [(room, *model(*network_input(room))) for room in thinned]


def evaluate(
    embedded: list[tuple[PointSample, Tensor, Tensor]], radius: float, min_points: int, choose: bool = True
) -> dict[str, float]:
    """Purity, efficiency, duplicate rate, and AP without classes, over all rooms."""
    quality, ap = CondensationQuality(), PointAP(["instance"], min_points)
    for room, followers, influencers in embedded:
        labels, scores = tools.find_instances(followers, influencers, radius, min_points, choose)
        quality.update(labels, room.instance_labels)
        masks = labels == torch.arange(1, len(scores) + 1)[:, None]
        one_class = torch.zeros(len(scores), dtype=torch.int64)
        ap.update(room.name, masks, scores, one_class, room.instance_labels, torch.zeros_like(room.class_labels))
    return {**quality.compute(), **ap.compute()}


def draw(embedded: list[tuple[PointSample, Tensor, Tensor]], radius: float, min_points: int, path: Path) -> None:
    """Truth, found instances and embedding of the first rooms."""
    figure = Figure(figsize=(15, 4 * len(embedded)), layout="constrained")
    axes = figure.subplots(len(embedded), 3, squeeze=False)
    titles = ("Truth", "Found, in the colour of the true one (dark grey: wrong)", "Followers, influencers (x)")
    for row, (room, followers, influencers) in zip(axes, embedded, strict=True):
        labels, _ = tools.find_instances(followers, influencers, radius, min_points)
        truth, found = tools.instance_colours(labels, room.instance_labels)
        for axis, title, colours in zip(row, titles, (truth, found, None), strict=True):
            axis.set_title(f"{title}\n{room.name}" if colours is truth else title, fontsize=10)
            if colours is not None:
                axis.imshow(render_cloud(room.coordinates.numpy(), colours, (640, 480)))
                axis.axis("off")
        chosen = choose_influencers(followers, influencers, radius, min_points)
        tools.draw_embedding(row[2], followers, influencers[chosen], truth)
    figure.savefig(path, dpi=80)


def open_rooms(options: argparse.Namespace) -> tuple[RoomDataset, RoomDataset]:
    """Training rooms and held-out rooms, of whichever kind `--data` is."""
    if options.data == "generated":
        root = options.out / f"rooms_{options.rooms}_seed{options.seed}"
        rooms = {"train": options.rooms, "val": max(1, options.rooms // 5), "seed": options.seed, "density": 60}
        return open_points("rooms", root, "train", rooms=rooms), open_points("rooms", root, "val")
    root = Path(options.data)
    if options.download:
        download_s3dis(root)
    if not root.is_dir():
        raise UserError(
            f"there is no S3DIS in {root}: give a folder with Area_1, Area_2, ..., add --download to have it fetched "
            "there, or leave --data out for generated rooms"
        )
    kind = "pointcept" if next(root.glob("Area_*/*/coord.npy"), None) else "s3dis"
    return open_points(kind, root, "train"), open_points(kind, root, "val")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="generated", help="folder of S3DIS, or `generated` (default): rooms made for the purpose")
    add("--download", action="store_true", help="fetch S3DIS (2 GB) to the folder --data first")
    add("--neighbours", type=int, default=0, metavar="K", help="pool over the K nearest points (default: 0, an MLP)")
    add("--steps", type=int, default=1000, help="training steps, one room each (default: 1000)")
    add("--lr", type=float, default=4e-3, help="largest learning rate of the cycle (default: 0.004)")
    add("--points", type=int, default=2048, help="points that a room is thinned to (default: 2048)")
    add("--loss-points", type=int, default=1024, help="of these, points in the loss (default: 1024)")
    add("--min-points", type=int, default=10, help="smallest instance that counts (default: 10)")
    add("--rooms", type=int, default=50, help="generated rooms to train on (default: 50)")
    add("--seed", type=int, default=0, help="of weights, order, thinning, generated rooms (default: 0)")
    add("--out", type=Path, default=Path("runs/toy_pointcloud"), help="folder for the picture and generated rooms")
    options = tools.parse(parser, arguments, ("steps", "points", "loss_points", "min_points", "rooms"))
    if options.neighbours < 0:
        parser.error(f"--neighbours must be 0 or more, got {options.neighbours}")
    return options


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, prints the figures of held-out rooms, writes the picture; returns the figures."""
    options = parse(arguments)
    make_folder(options.out)
    torch.manual_seed(options.seed)
    training, held_out = open_rooms(options)
    for rooms in (training, held_out):
        rooms.prepare()
    model = Embedder(options.neighbours)
    train(model, training, options)
    model.eval()
    known = [(f, g, room.instance_labels) for room, f, g in embed(model, training, RADIUS_ROOMS, options)]
    radius = tools.best_radius(known, options.min_points)
    embedded = embed(model, held_out, len(held_out), options)
    result = evaluate(embedded, radius, options.min_points)
    alone = evaluate(embedded, radius, options.min_points, choose=False)
    tools.print_figures(f"{len(embedded)} held-out rooms, radius {radius} chosen on training rooms", result, alone)
    picture = options.out / "rooms.png"
    draw(embedded[:PICTURED], radius, options.min_points, picture)
    print(f"picture: {picture}")
    return result


if __name__ == "__main__":
    with tools.one_sentence_errors("toy_pointcloud"):
        main()
