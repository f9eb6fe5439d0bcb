"""Every defect that S3DIS's annotation files are known for, planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influencerformer.data.points.repairs import Repair, from_json, limited, repair_summary, shown_path, to_json
from influencerformer.data.points.s3dis_repairs import read_annotation
from influencerformer.errors import UserError

NAME = "Area_5/hallway_6/Annotations/ceiling_1.txt"
GOOD = b"22.359 6.835 3.050 152 152 162\n"
GOOD_ROW = [22.359, 6.835, 3.05, 152, 152, 162]


def read(tmp_path: Path, data: bytes) -> tuple[list[list[float]], list[str]]:
    """Rows, to 1e-5, and repairs as text without the file's name."""
    path = tmp_path / "ceiling_1.txt"
    path.write_bytes(data)
    table, repairs = read_annotation(path, NAME)
    assert table.dtype == np.float32
    assert table.shape[1:] == (6,)
    assert all(repair.file == NAME for repair in repairs)
    return np.round(table.astype(np.float64), 5).tolist(), [str(repair).removeprefix(NAME) for repair in repairs]


def test_a_clean_file_needs_no_repair(tmp_path: Path) -> None:
    rows, repairs = read(tmp_path, b"1 -2.5 3e-1 0 128 255\r\n+4. .5 6.000000 7.000000 8 9")
    assert rows == [[1, -2.5, 0.3, 0, 128, 255], [4, 0.5, 6, 7, 8, 9]]
    assert repairs == []


@pytest.mark.parametrize(
    ("line", "row", "repair"),
    [
        # The three that the original has: a blank, a "0" and a "6" that lost a bit.
        (b"22.350 6.692 3.048 185\x00187 182", [22.35, 6.692, 3.048, 185, 187, 182], "0x00 read as a blank"),
        (
            b"1.500000 2.500000 3.500000 103.0\x100000 99.000000 98.000000",
            [1.5, 2.5, 3.5, 103, 99, 98],
            "0x10 read as '0'",
        ),
        (b"19.302 -9.1\x160 1.785 146 137 106", [19.302, -9.16, 1.785, 146, 137, 106], "0x16 read as '6'"),
        # Bytes that are too many, or stand for a blank.
        (b"22.3\x1050 6.692 3.048 185 187 182", [22.35, 6.692, 3.048, 185, 187, 182], "0x10 taken out"),
        (b"22.350 6.692 3.048 18\x105 187 182", [22.35, 6.692, 3.048, 185, 187, 182], "0x10 taken out"),
        (b"22.350 6.692 3.048 185\x10187 182", [22.35, 6.692, 3.048, 185, 187, 182], "0x10 read as a blank"),
        (b"22.350 6.692\xa03.048 185 187 182", [22.35, 6.692, 3.048, 185, 187, 182], "0xa0 read as a blank"),
        (b"\xef\xbb\xbf1.0 2.0 3.0 4 5 6", [1, 2, 3, 4, 5, 6], "0xbb and 0xbf and 0xef taken out"),
    ],
)
def test_unprintable_bytes_are_read_as_what_they_stood_for(
    tmp_path: Path, line: bytes, row: list[float], repair: str
) -> None:
    rows, repairs = read(tmp_path, GOOD + line + b"\n" + GOOD)
    assert rows == [GOOD_ROW, row, GOOD_ROW]
    noun = "bytes" if " and 0x" in repair else "byte"
    assert repairs == [f" line 2: unprintable {noun} {repair}"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"1.0 2.0 3.0 4 5", "5 columns instead of 6"),
        (b"1.0 2.0 3.0 4 5 6 7", "7 columns instead of 6"),
        (b"1.0 2.0 abc 4 5 6", "'abc' is no number"),
        (b"1.0 nan 3.0 4 5 6", "'nan' is no number"),
        (b"1.0 2.0 1_0 4 5 6", "'1_0' is no number"),
        (b"1.0 2.0 3e9 4 5 6", "coordinates beyond 1000000 m"),
        (b"1.0 2.0 1e999 4 5 6", "coordinates beyond 1000000 m"),
        (b"1.0 2\x01\x02 5 6", "4 columns instead of 6"),
    ],
)
def test_lines_beyond_repair_are_left_out(tmp_path: Path, line: bytes, why: str) -> None:
    # The blank line counts as one but is no defect.
    rows, repairs = read(tmp_path, GOOD + b"\n" + line + b"\n" + GOOD)
    assert rows == [GOOD_ROW, GOOD_ROW]
    assert repairs == [f" line 3: left out: {why}"]


def test_colours_are_clipped_and_may_be_floats(tmp_path: Path) -> None:
    rows, repairs = read(tmp_path, GOOD + b"1 2 3 -4 256.5 300\n" + b"1 2 3 10.4 20.0 30\n")
    assert rows == [GOOD_ROW, [1, 2, 3, 0, 255, 255], [1, 2, 3, pytest.approx(10.4), 20, 30]]
    assert repairs == [" line 2: colours clipped to 0..255: -4 and 256.5 and 300"]


def test_a_stray_byte_and_a_colour_in_one_line(tmp_path: Path) -> None:
    rows, repairs = read(tmp_path, GOOD + b"1 2\xff 3 4 5 256\n")
    assert rows == [GOOD_ROW, [1, 2, 3, 4, 5, 255]]
    assert repairs == [" line 2: unprintable byte 0xff taken out; colours clipped to 0..255: 256"]


@pytest.mark.parametrize("data", [b"", b"\n \r\n"])
def test_an_empty_file_has_no_points(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == ([], [": left out: it is empty"])


def test_a_file_of_a_few_broken_lines_has_no_points(tmp_path: Path) -> None:
    rows, repairs = read(tmp_path, b"1 2 3\n")
    assert rows == []
    assert repairs == [" line 1: left out: 3 columns instead of 6", ": left out: no line of it can be read"]


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    rows, repairs = read(tmp_path, GOOD * 60 + b"1 2 3\n" * 30)
    assert len(rows) == 60
    assert repairs[0] == " line 61: left out: 3 columns instead of 6"
    assert len(repairs) == 11
    assert repairs[-1] == ": 20 more: left out"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ceiling_1.txt does not hold lines.*20 of its 21 lines.*line 2 is 'v 1 2 3'"):
        read(tmp_path, GOOD + b"v 1 2 3\n" * 20)
    with pytest.raises(UserError, match=r"colours from 0 to 255: 20 of its 20 lines are unfit"):
        read(tmp_path, b"1 2 3 65535 0 0\n" * 20)
    with pytest.raises(UserError, match=r"nothing.txt cannot be read \(No such file"):
        read_annotation(tmp_path / "nothing.txt", NAME)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-99_999, 99_999)] * 3, *[st.integers(0, 255)] * 3), min_size=1, max_size=8),
    st.data(),
)
def test_a_lost_bit_in_a_number_costs_no_point(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """A decimal with bit 0x20 cleared is found again, by the number of decimals beside it."""
    lines = [b"%.3f %.3f %.3f %d %d %d" % (*(v / 1000 for v in row[:3]), *row[3:]) for row in rows]
    number = data.draw(st.integers(0, len(lines) - 1))
    digits = [i for i in range(lines[number].index(b".") + 1, lines[number].index(b".") + 4)]
    at = data.draw(st.sampled_from(digits))
    broken = bytearray(lines[number])
    broken[at] &= ~0x20
    lines[number] = bytes(broken)
    path = tmp_path_factory.mktemp("lost") / "a.txt"
    path.write_bytes(b"\n".join(lines))
    table, repairs = read_annotation(path, NAME)
    expected = np.array(rows, dtype=np.float64) / [1000, 1000, 1000, 1, 1, 1]
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert [repair.line for repair in repairs] == [number + 1]


def test_repairs_as_text_and_json(tmp_path: Path) -> None:
    one = Repair(NAME, 180389, "unprintable byte 0x00 read as a blank")
    whole = Repair("Area_5/office_1/Annotations/.DS_Store", None, "left out: a stray file")
    assert str(one) == f"{NAME} line 180389: unprintable byte 0x00 read as a blank"
    assert from_json(to_json([one, whole])) == [one, whole]
    assert repair_summary([]) == "Nothing had to be repaired."
    assert repair_summary([one]) == f"1 repair in 1 file:\n  {one}"
    assert repair_summary([one, whole, whole], limit=1) == f"3 repairs in 2 files:\n  {one}\n  and 2 more"
    assert shown_path(tmp_path / "a" / "Icon\r", tmp_path) == r"a/Icon\r"


def test_limited_keeps_the_first_of_each_kind() -> None:
    repairs = [Repair("f", line, f"left out: {line}") for line in range(4)] + [Repair("f", 9, "clipped")]
    assert limited(repairs, 2) == [*repairs[:2], Repair("f", None, "2 more: left out"), repairs[4]]
