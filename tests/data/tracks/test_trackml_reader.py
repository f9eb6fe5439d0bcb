"""TrackML's files: what is read of them, and one sentence with file and line for each way they can be wrong."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_events import FILES, NAME, write_files

from influencerformer.data.tracks.cuts import Cuts
from influencerformer.data.tracks.trackml import find_events, read_event, read_tables
from influencerformer.errors import UserError

ALL = Cuts(min_hits=1)


def test_an_event_is_read_whole(tmp_path: Path) -> None:
    event = read_event(write_files(tmp_path), NAME, ALL)
    assert (event.name, len(event), event.num_particles, event.has_truth) == (NAME, 5, 2, True)
    assert event.hit_ids.tolist() == [3, 5, 6, 9, 12]
    assert event.positions.tolist()[1] == [0.0, 72.0, -2.0]
    assert event.detector.tolist() == [[8, 2], [8, 4], [8, 6], [9, 2], [8, 2]]
    assert event.particle_labels.tolist() == [2, 1, 2, 0, 1]
    assert event.particle_ids.tolist() == [9007199254740993, 4, 9007199254740993, 0, 4]
    assert event.weights.tolist() == [0.25, 0.125, 0.5, 0.0, 0.0625]
    assert event.cells is not None
    assert event.cells.tolist() == [[2.0, 0.75], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1.0, 0.125]]
    particles = event.particles
    assert particles.ids.tolist() == [4, 9007199254740993]
    assert particles.pt.tolist() == pytest.approx([0.6, 5.0])
    assert particles.eta.tolist() == pytest.approx([-math.asinh(0.8 / 0.6), 0.0])
    assert particles.phi.tolist() == pytest.approx([math.pi / 2, math.atan2(4, 3)])
    assert particles.vertex.tolist()[0] == pytest.approx([0.1, 0.2, 5.5])
    assert particles.charge.tolist() == [-1, 1]
    assert particles.num_hits.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("cuts", "kept"),
    [
        (Cuts(min_hits=2), [4, 9007199254740993]),
        (Cuts(min_hits=3), []),
        (Cuts(min_hits=1, min_pt=0.7), [9007199254740993]),
        (Cuts(min_hits=1, max_eta=1.0), [9007199254740993]),
        (Cuts(min_hits=1, max_eta=1.2), [4, 9007199254740993]),
    ],
)
def test_hits_of_particles_that_fail_the_cuts_are_background_with_their_ids(
    tmp_path: Path, cuts: Cuts, kept: list[int]
) -> None:
    event = read_event(write_files(tmp_path), NAME, cuts)
    assert event.particles.ids.tolist() == kept
    numbers = [kept.index(i) + 1 if i in kept else 0 for i in event.particle_ids.tolist()]
    assert event.particle_labels.tolist() == numbers
    assert event.particle_ids.tolist() == [9007199254740993, 4, 9007199254740993, 0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_pt": -0.1}, "cuts.min_pt must be 0 or larger, got -0.1"),
        ({"min_pt": math.nan}, "cuts.min_pt must be 0 or larger, got nan"),
        ({"max_eta": 0.0}, "cuts.max_eta must be larger than 0 or null, got 0.0"),
        ({"min_hits": 0}, "cuts.min_hits must be 1 or larger, got 0"),
    ],
)
def test_cuts_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        Cuts(**options)  # type: ignore[arg-type]


def test_compressed_files_give_the_same_event(tmp_path: Path) -> None:
    plain = read_event(write_files(tmp_path), NAME, ALL)
    for path in list(tmp_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert find_events(tmp_path) == [NAME]
    packed = read_event(tmp_path, NAME, ALL)
    assert torch.equal(plain.positions, packed.positions)
    assert torch.equal(plain.particle_labels, packed.particle_labels)


def test_columns_in_another_order_and_windows_line_ends(tmp_path: Path) -> None:
    moved = "".join(",".join(reversed(line.split(","))) + "\r\n" for line in FILES["hits"].splitlines())
    event = read_event(write_files(tmp_path, hits=moved), NAME, ALL)
    assert event.positions.tolist()[0] == [32.0, 0.0, 1.5]


def test_truth_in_another_order_is_joined_by_hit(tmp_path: Path) -> None:
    header, *rows = FILES["truth"].splitlines()
    event = read_event(write_files(tmp_path, truth="\n".join([header, *rows[::-1]])), NAME, ALL)
    assert event.particle_labels.tolist() == [2, 1, 2, 0, 1]
    assert event.weights.tolist() == [0.25, 0.125, 0.5, 0.0, 0.0625]


@pytest.mark.parametrize("missing", [{"truth": None}, {"particles": None}, {"truth": None, "particles": None}])
def test_truth_may_be_absent_where_it_is_not_needed(tmp_path: Path, missing: dict[str, None]) -> None:
    event = read_event(write_files(tmp_path, cells=None, **missing), NAME, need_truth=False)
    assert not event.has_truth
    assert event.cells is None
    assert event.num_particles == 0
    assert not event.particle_labels.any()
    kind = "truth" if "truth" in missing else "particles"
    with pytest.raises(UserError, match=rf"{NAME}-{kind}\.csv is missing, also as \.csv\.gz: training and validation"):
        read_event(tmp_path, NAME)


def replaced(kind: str, old: str, new: str) -> dict[str, str]:
    assert old in FILES[kind]
    return {kind: FILES[kind].replace(old, new, 1)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (replaced("hits", ",volume_id", ",volume"), r"hits\.csv has no column volume_id: its first line is 'hit_id,x,"),
        (replaced("truth", ",weight", ""), r"truth\.csv has no column weight: its first line is"),
        (replaced("particles", "px", "p"), r"particles\.csv has no column px"),
        ({"hits": ""}, r"hits\.csv is empty: expected a line with the names of its columns"),
        ({"particles": "\n\n"}, r"particles\.csv is empty: expected a line with the names"),
        ({"hits": FILES["hits"].splitlines()[0]}, r"hits\.csv holds no hits: it ends after the line with the names"),
        (
            {"truth": FILES["truth"].rsplit("12,", 1)[0]},
            rf"truth\.csv has 4 rows, but {NAME}-hits\.csv has 5: they must be of one event",
        ),
        (replaced("hits", "\n9,", "\n5,"), r"hits\.csv, line 5: hit_id 5 is there twice, first in line 3$"),
        (replaced("truth", "\n9,", "\n5,"), r"truth\.csv, line 5: hit_id 5 is there twice, first in line 3$"),
        (replaced("truth", "\n9,", "\n8,"), rf"truth\.csv, line 5: hit_id must be one of {NAME}-hits\.csv, got 8$"),
        (replaced("cells", "\n6,", "\n8,"), rf"cells\.csv, line 4: hit_id must be one of {NAME}-hits\.csv, got 8$"),
        (replaced("hits", "116.0", "nan"), r"hits\.csv, line 4: x must be a finite number, got nan$"),
        (replaced("hits", "116.0", "-inf"), r"hits\.csv, line 4: x must be a finite number, got -inf$"),
        (replaced("hits", "116.0", "1e300"), r"hits\.csv, line 4: x must be a finite number, got 1e\+300$"),
        (replaced("hits", "116.0", "abc"), r"hits\.csv, line 4: x must be a number, got 'abc'$"),
        (replaced("hits", "116.0", ""), r"hits\.csv, line 4: x must be a number, got ''$"),
        (replaced("hits", "\n9,", "\n9.5,"), r"hits\.csv, line 5: hit_id must be a whole number, got '9\.5'$"),
        (
            replaced("truth", "\n5,4,", "\n5,99999999999999999999,"),
            r"truth\.csv, line 3: particle_id must be a whole number, got '99999999999999999999'$",
        ),
        (replaced("hits", ",8,6,2", ",8,6"), r"hits\.csv, line 4: expected 7 values, got 6$"),
        (replaced("hits", ",8,6,2", ",8,6,2,1"), r"hits\.csv, line 4: expected 7 values, got 8$"),
        (replaced("hits", "\n6,", "\n\n6,"), r"hits\.csv, line 4: expected 7 values, got 0$"),
        ({"truth": FILES["truth"][:-8]}, r"truth\.csv, line 6: expected 9 values, got 8$"),
        (
            replaced("hits", ",8,6,", ",8,7,"),
            r"hits\.csv, line 4: volume_id and layer_id must be a layer of .* \[8 7\]$",
        ),
        (replaced("hits", ",8,6,", ",-1,6,"), r"hits\.csv, line 4: volume_id and layer_id .* got \[-1  6\]$"),
        (replaced("hits", ",8,6,", ",8,99,"), r"hits\.csv, line 4: volume_id and layer_id .* got \[ 8 99\]$"),
        (
            replaced("truth", "\n5,4,", "\n5,44,"),
            rf"truth\.csv, line 3: particle_id must be 0 or one of {NAME}-particles\.csv, got 44$",
        ),
        (replaced("truth", "0.125", "-0.125"), r"truth\.csv, line 3: weight must not be negative, got -0\.125$"),
        (
            replaced("particles", "\n7,", "\n4,"),
            r"particles\.csv, line 3: particle_id 4 is there twice, first in line 2$",
        ),
        (replaced("particles", "\n7,", "\n0,"), r"particles\.csv, line 3: particle_id must not be 0, which stands for"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_event(write_files(tmp_path, **files), NAME)
    assert str(caught.value).startswith(str(tmp_path / NAME))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-20], r"hits\.csv\.gz is cut off or no gzip file"),
        (lambda data: b"hit_id" + data, r"hits\.csv\.gz is cut off or no gzip file"),
        (lambda data: data[:40] + bytes(8) + data[48:], r"hits\.csv\.gz is cut off or no gzip file"),
        (lambda data: b"", r"hits\.csv\.gz is empty"),
        (lambda data: gzip.compress(b"\xff\xfe\x00"), r"hits\.csv\.gz is not text, byte 0 cannot be read"),
    ],
)
def test_damaged_compressed_files(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write_files(tmp_path, hits=None)
    (tmp_path / f"{NAME}-hits.csv.gz").write_bytes(damage(gzip.compress(FILES["hits"].encode())))
    with pytest.raises(UserError, match=message):
        read_event(tmp_path, NAME)


def test_files_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder"):
        find_events(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no events: expected files such as event000000001-hits\.csv"):
        find_events(tmp_path)
    write_files(tmp_path)
    with pytest.raises(UserError, match=r"event000000002-hits\.csv is missing, also as \.csv\.gz"):
        read_event(tmp_path, "event000000002")
    (tmp_path / f"{NAME}-truth.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"truth\.csv is there twice, plain and as \.gz: delete one of them"):
        read_event(tmp_path, NAME)
    (tmp_path / f"{NAME}-truth.csv.gz").unlink()
    (tmp_path / f"{NAME}-hits.csv").unlink()
    (tmp_path / f"{NAME}-hits.csv").mkdir()
    with pytest.raises(UserError, match=r"hits\.csv cannot be read \(Is a directory\)"):
        read_event(tmp_path, NAME)


def test_an_event_without_particles(tmp_path: Path) -> None:
    lines = FILES["truth"].splitlines()
    noise = "\n".join([lines[0], *(f"{line.split(',')[0]},0,0,0,0,0,0,0,0" for line in lines[1:])])
    event = read_event(write_files(tmp_path, truth=noise, particles=FILES["particles"].splitlines()[0]), NAME)
    assert event.num_particles == 0
    assert event.has_truth


def test_the_public_event(shared_data: Callable[[str], Path]) -> None:
    """Counts as in the data set's description."""
    root = shared_data("trackml_event")
    assert find_events(root) == [NAME]
    event = read_event(root, NAME)
    assert len(event) == 5527
    assert int((event.particle_ids == 0).sum()) == 829
    assert event.num_particles == 431
    assert read_event(root, NAME, ALL).num_particles == 468
    tables = read_tables(root, NAME)
    assert tables.particles is not None
    assert len(tables.particles["particle_id"]) == 548
