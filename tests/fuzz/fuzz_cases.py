"""What the fuzz tests share: how many cases a profile makes, spoilt files, and what an outcome may be."""

from __future__ import annotations

import copy
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from influencerformer.errors import UserError

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
LONGEST = 300
"""Seconds after which a case counts as hanging."""
Value = TypeVar("Value")


def cases(default: int, nightly: int) -> settings:
    """Numbers of cases of a test in the two profiles; by default they are the same ones every time."""
    return settings(
        max_examples=nightly if NIGHTLY else default,
        deadline=None,
        derandomize=not NIGHTLY,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def no_hang() -> Iterator[None]:
    """Fails where the block takes longer than LONGEST."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], Value]) -> Value | None:
    """What `read` gives, None where it raises a UserError of one printable line; anything else goes through."""
    with no_hang(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except UserError as error:
            sentence = str(error)
            assert sentence.strip()
            assert "\n" not in sentence, sentence
            return None


NUMBERS = (b"0", b"-1", b"2147483648", b"99999999999999999999", b"1e400", b"-1e39", b"nan", b"inf", b"0x10", b"")


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with one to four things done to it: bits flipped, parts cut, doubled, swapped or overwritten, numbers
    replaced."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        length = len(data)
        if not length:
            break
        place = draw(st.integers(0, length - 1))
        size = min(draw(st.sampled_from([1, 2, 4, 8, 64])), length - place)
        kind = draw(st.sampled_from(["flip", "cut", "delete", "double", "swap", "overwrite", "number", "insert"]))
        if kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place:]
        elif kind == "delete":
            del data[place : place + size]
        elif kind == "double":
            data[place:place] = data[place : place + size]
        elif kind == "swap":
            other = draw(st.integers(0, length - size))
            first, second = bytes(data[place : place + size]), bytes(data[other : other + size])
            data[place : place + size], data[other : other + size] = second, first
        elif kind == "overwrite":
            data[place : place + size] = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b" ", b"\n"])) * size
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            end = place
            while end < len(data) and chr(data[end]) in "0123456789.-+eE":
                end += 1
            data[place:end] = draw(st.sampled_from(NUMBERS))
    return bytes(data)


ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 2**31, 2**63, -(2**64), 10**30, 0.5, -0.25, 1e308, float("nan"), float("inf")),
    *("", "1", "nan", "..", "a/../../b", "/", "line\u2028", "\ud800", "\x00", "0", "~", "P" * 40),
    *([], [[]], [None], {}, {"size": [2, 2], "counts": "04"}, [[0, 0, 1e9, 0, 0, 1e9]], [1, [2, [3]]]),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


@st.composite
def spoilt_json(draw: st.DrawFn, content: Any) -> str:
    """A json with one to three of its values replaced by odd ones, left out, doubled or swapped."""
    value = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(value))))
        if not path:
            value = copy.deepcopy(draw(st.sampled_from(ODD))) if draw(st.integers(0, 9)) == 0 else value
            if not isinstance(value, (dict, list)):
                break
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "leave out", "double", "swap"]))
        if kind == "replace":
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "leave out":
            del parent[path[-1]]
        elif kind == "double" and isinstance(parent, list):
            parent.insert(path[-1], parent[path[-1]])
        elif kind == "swap":
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            other = draw(st.sampled_from(keys))
            parent[path[-1]], parent[other] = parent[other], parent[path[-1]]
    return json.dumps(value)
