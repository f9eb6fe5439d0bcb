from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from influencerformer.data.points.room_layout import furnish
from influencerformer.data.points.rooms import ROOM_CLASSES, Room, generate_room
from influencerformer.errors import UserError

SMALL: dict[str, Any] = {"width": (3.2, 4.4), "density": 150.0}


def classes(room: Room) -> list[str]:
    """The class of each instance."""
    first = np.unique(room.instance, return_index=True)[1]
    return [ROOM_CLASSES[c] for c in room.semantic[first]]


def parts(room: Room, name: str) -> list[np.ndarray]:
    """Points of each instance of a class."""
    return [room.points[room.instance == i] for i, c in enumerate(classes(room)) if c == name]


def test_classes_are_those_of_s3dis() -> None:
    assert len(ROOM_CLASSES) == 13
    assert ROOM_CLASSES[:3] == ("ceiling", "floor", "wall")
    assert ROOM_CLASSES[7:] == ("table", "chair", "sofa", "bookcase", "board", "clutter")


def test_same_seed_same_room_and_other_seed_another() -> None:
    one, again, other = generate_room(3, **SMALL), generate_room(3, **SMALL), generate_room(4, **SMALL)
    for field in ("points", "colors", "semantic", "instance"):
        assert np.array_equal(getattr(one, field), getattr(again, field))
    assert one.points.shape != other.points.shape


@pytest.mark.parametrize("seed", range(6))
def test_every_instance_has_points_and_one_class(seed: int) -> None:
    room = generate_room(seed, crowding=2.0, **SMALL)
    count = len(room.points)
    assert room.points.shape == room.colors.shape == (count, 3)
    assert (room.points.dtype, room.colors.dtype) == (np.float32, np.uint8)
    assert (room.semantic.dtype, room.instance.dtype) == (np.int64, np.int64)
    numbers, sizes = np.unique(room.instance, return_counts=True)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert sizes.min() > 0
    pairs = np.unique(np.column_stack([room.instance, room.semantic]), axis=0)
    assert len(pairs) == len(numbers)
    found = classes(room)
    assert (found.count("floor"), found.count("ceiling"), found.count("wall"), found.count("door")) == (1, 1, 4, 1)


def test_chairs_touch_tables_and_each_other() -> None:
    touching, neighbours = 0, 0
    for seed in range(6):
        room = generate_room(seed, **SMALL)
        tables = [cKDTree(points) for points in parts(room, "table")]
        chairs = parts(room, "chair")
        touching += sum(min(tree.query(chair)[0].min() for tree in tables) < 0.06 for chair in chairs if tables)
        trees = [cKDTree(chair) for chair in chairs]
        neighbours += sum(trees[i].query(chairs[j])[0].min() < 0.06 for i in range(len(chairs)) for j in range(i))
    assert touching >= 6
    assert neighbours >= 4


def test_furniture_stays_inside_the_room() -> None:
    for seed in range(6):
        room = generate_room(seed, noise=0.0, **SMALL)
        low, high = room.points.min(0), room.points.max(0)
        walls = np.concatenate(parts(room, "wall"))
        assert np.allclose(walls.min(0)[:2], 0.0, atol=1e-6)
        assert np.all(low >= -0.2)
        assert np.all(high[:2] <= walls.max(0)[:2] + 0.2)


def test_occlusion_thins_what_no_scanner_sees() -> None:
    all_points = len(generate_room(0, scanners=0, **SMALL).points)
    some = len(generate_room(0, scanners=2, hidden_keep=0.3, **SMALL).points)
    seen = generate_room(0, scanners=2, hidden_keep=0.0, **SMALL)
    assert len(seen.points) < some < all_points
    # The undersides of seats are hidden, the floor and the walls are seen for the most part.
    assert len(seen.points) > 0.4 * all_points
    kept = len(generate_room(0, scanners=2, hidden_keep=1.0, **SMALL).points)
    assert kept == all_points


def test_a_box_hides_what_is_behind_it_and_not_its_front() -> None:
    from influencerformer.data.points.room_furniture import clutter_box
    from influencerformer.data.points.room_layout import Layout
    from influencerformer.data.points.rooms import _visible

    layout = Layout(np.random.default_rng(0), (4.0, 4.0, 2.5))
    layout.add(clutter_box(1.0, 0.2, 1.0), 2.0, 2.0, np.pi / 2)
    points = np.array([[3.0, 2.0, 0.5], [1.9, 2.0, 0.5], [2.1, 2.0, 0.5], [3.0, 3.9, 0.5], [1.0, 2.0, 0.5]])
    seen = _visible(points, np.array([[0.5, 2.0, 0.5]]), layout.boxes)
    assert seen.tolist() == [False, True, False, True, True]
    assert _visible(points, np.array([[0.5, 2.0, 0.5], [3.9, 2.0, 0.5]]), layout.boxes).all()


def test_density_noise_and_crowding_do_what_they_say() -> None:
    thin, thick = (len(generate_room(1, width=(3, 4), density=d, scanners=0).points) for d in (50.0, 200.0))
    assert 3.5 < thick / thin < 4.5
    flat = generate_room(1, noise=0.0, **SMALL)
    rough = generate_room(1, noise=0.02, **SMALL)
    assert parts(flat, "floor")[0][:, 2].std() == 0
    assert 0.018 < parts(rough, "floor")[0][:, 2].std() < 0.022
    bare = classes(generate_room(1, crowding=0.0, **SMALL))
    assert sorted(bare) == ["ceiling", "door", "floor", "wall", "wall", "wall", "wall"]
    size = (6.0, 6.0, 2.6)
    few, many = (len(furnish(np.random.default_rng(0), size, c)) for c in (0.5, 3.0))
    assert many > few


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"width": (1.0, 4.0)}, "width"),
        ({"width": (4.0, 3.0)}, "width"),
        ({"height": (2.0, 2.5)}, "height"),
        ({"density": 0.0}, "density"),
        ({"density": 1e9}, "too large"),
        ({"density": float("nan")}, "density"),
        ({"crowding": -1.0}, "crowding"),
        ({"noise": -0.1}, "noise"),
        ({"scanners": -1}, "scanners"),
        ({"hidden_keep": 1.5}, "hidden_keep"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        generate_room(0, **options)


def test_negative_seed() -> None:
    with pytest.raises(UserError, match="seed"):
        generate_room(-1)
