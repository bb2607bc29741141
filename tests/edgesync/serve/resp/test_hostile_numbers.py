"""Numbers nobody means, in every place of every command: refused, or answered at their worth."""

import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import hiredis
import pytest

from edgesync._native.commands import TABLE
from edgesync._native.glob import PATTERN_MAX, Glob
from tests.edgesync.serve.resp.requests import ALL_SHAPES, HOSTILE, hostile_requests
from tests.edgesync.serve.resp.sessions import Ours

pytestmark = pytest.mark.feature("L4", "L9")

# A value of the largest size (1 MiB), some copies of it, and what the store holds meanwhile.
PEAK_MAX = 16 << 20


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    made = Ours(tmp_path / "store")
    yield made
    made.close()


def test_every_command_on_keys_is_made_by_some_shape() -> None:
    made = {shape.split()[0].encode() for shape in ALL_SHAPES}
    assert {name for name in TABLE if name.islower()} <= made


@pytest.mark.slow
def test_hostile_numbers_take_no_more_than_what_they_touch(ours: Ours) -> None:
    tracemalloc.start()
    try:
        for request in islice(hostile_requests(Random(1)), 0, None, 3):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            reply = ours.ask(request)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < PEAK_MAX, [one[:50] for one in request]
            assert "internal" not in str(reply), [one[:50] for one in request]
        ours.cells.commit()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "request_",
    [
        b"srandmember k6 -9223372036854775808",
        b"srandmember k6 -3000000",
        b"hrandfield k4 -9223372036854775808",
        b"hrandfield k4 -9223372036854775807",
        b"hrandfield k4 -9223372036854775807 withvalues",
        b"hrandfield k4 -3000000",
    ],
)
def test_more_random_picks_than_a_reply_may_have_are_refused(ours: Ours, request_: bytes) -> None:
    ours.ask([b"sadd", b"k6", b"m"])
    ours.ask([b"hset", b"k4", b"f", b"v"])
    reply = ours.ask(request_.split())
    assert isinstance(reply, hiredis.ReplyError)
    assert "value is out of range" in str(reply)


def test_the_same_large_value_many_times_is_refused(ours: Ours) -> None:
    ours.ask([b"set", b"s", b"x" * (1 << 20)])
    ours.ask([b"hset", b"h", b"f", b"x" * (1 << 20)])
    for request in (
        [b"mget", *[b"s"] * 100],
        [b"hmget", b"h", *[b"f"] * 100],
        [b"hrandfield", b"h", b"-100", b"withvalues"],
    ):
        assert "a reply of more than" in str(ours.ask(request))


PATTERNS = [
    ("*", "", True), ("*", "abc", True), ("a*c", "abbc", True), ("a*c", "abbd", False),
    ("a?c", "abc", True), ("a?c", "ac", False), ("[a-c]x", "bx", True), ("[c-a]x", "bx", True),
    ("[^a]", "a", False), ("[^a]", "b", True), ("[ab", "b", True), ("[]", "a", False),
    ("[^]", "a", True), (r"\*", "*", True), (r"\*", "a", False), (r"[\]]", "]", True),
    ("a\\", "a\\", True), ("**b**", "abc", True), ("", "", True), ("", "a", False),
    ("*a*b*c", "xaybzc", True), ("*a*b*c", "xbyazc", False), ("h[a-]llo", "hbllo", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "name", "fits"), PATTERNS)
def test_patterns_mean_what_they_do_for_redis(pattern: str, name: str, fits: bool) -> None:
    assert Glob(pattern.encode()).matches(name.encode()) is fits


def test_stars_cost_no_more_than_other_characters(ours: Ours) -> None:
    """With what a backtracking matcher tries, none of these would ever end."""
    ours.ask([b"mset", b"a" * 500, b"", b"b", b""])
    ours.ask([b"hset", b"h", b"a" * 400, b""])
    ours.ask([b"sadd", b"e", b"a" * 400])
    ours.ask([b"zadd", b"z", b"1", b"a" * 400])
    ours.ask([b"psubscribe", b"a*" * 200 + b"b"])
    ours.ask([b"punsubscribe"])
    pattern = b"a*" * 200 + b"b"
    assert ours.ask([b"keys", pattern]) == []
    for request in ([b"scan"], [b"hscan", b"h"], [b"sscan", b"e"], [b"zscan", b"z"]):
        assert ours.ask([*request, b"0", b"match", pattern]) == [b"0", []]
    assert ours.ask([b"config", b"get", pattern]) == []
    assert "at most" in str(ours.ask([b"keys", b"a" * (PATTERN_MAX + 1)]))
    assert "at most" in str(ours.ask([b"publish", b"a" * 2000, b""]))


def test_hostile_requests_are_hostile() -> None:
    """What the walk above is made of: each shape, each place, each number."""
    some = list(hostile_requests(Random(1)))
    assert len(some) > 20 * len(ALL_SHAPES)
    assert {number for request in some for number in request} >= set(HOSTILE)
