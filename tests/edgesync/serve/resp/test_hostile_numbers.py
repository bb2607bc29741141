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


@pytest.mark.parametrize("request_", [b"get s", b"rpoplpush l l", b"hgetall h", b"lrange l 0 -1"])
def test_replies_of_a_transaction_are_bounded(ours: Ours, request_: bytes) -> None:
    large = b"x" * (1 << 20)
    ours.ask([b"set", b"s", large])
    ours.ask([b"rpush", b"l", large])
    ours.ask([b"hset", b"h", b"f", large])
    ours.ask([b"multi"])
    for _ in range(80):
        ours.ask(request_.split())
    ours.ask([b"set", b"last", b"1"])
    replies = ours.ask([b"exec"])
    assert isinstance(replies, list)
    assert len(replies) == 81
    given = [one for one in replies if not isinstance(one, hiredis.ReplyError)]
    assert 60 <= len(given) <= 65
    assert replies[: len(given)] == given
    assert "ERR replies of a transaction" in str(replies[-1])
    assert ours.ask([b"exists", b"last"]) == 0, "what is answered by an error is not carried out"
    assert ours.ask([b"llen", b"l"]) == 1


def test_what_a_transaction_takes_away_is_given(ours: Ours) -> None:
    for _ in range(70):
        ours.ask([b"rpush", b"l", b"x" * (1 << 20)])
    ours.ask([b"multi"])
    for _ in range(70):
        ours.ask([b"lpop", b"l"])
    replies = ours.ask([b"exec"])
    assert isinstance(replies, list)
    given = [one for one in replies if isinstance(one, bytes)]
    assert ours.ask([b"llen", b"l"]) == 70 - len(given) > 0


@pytest.mark.parametrize(
    "request_", [[b"set", b"k", b"x" * (1 << 20)], [b"del", *[b"k"] * (1 << 14)]]
)
def test_what_waits_for_an_exec_is_bounded(ours: Ours, request_: list[bytes]) -> None:
    ours.ask([b"multi"])
    replies = [ours.ask(request_) for _ in range(100)]
    assert 60 <= replies.count(b"QUEUED") <= 90
    assert "ERR a transaction of more than" in str(replies[-1])
    assert "EXECABORT" in str(ours.ask([b"exec"]))
    ours.ask([b"multi"])
    assert ours.ask(request_) == b"QUEUED"
    ours.ask([b"discard"])


@pytest.mark.parametrize(
    ("request_", "undo"),
    [(b"subscribe", b"unsubscribe"), (b"psubscribe", b"punsubscribe"), (b"watch", b"unwatch")],
)
def test_what_one_client_listens_to_is_bounded(ours: Ours, request_: bytes, undo: bytes) -> None:
    names = [b"%d" % number for number in range(1001)]
    for one in names[:1000]:
        assert not isinstance(ours.ask([request_, one]), hiredis.ReplyError)
    refused = str(ours.ask([request_, names[1000]]))
    assert refused.startswith("ERR ")
    assert "at most 1000" in refused
    assert not isinstance(ours.ask([request_, *names[:3], names[0]]), hiredis.ReplyError)
    ours.ask([undo])
    assert "at most 1000" in str(ours.ask([request_, *names])), "all of them or none"
    session = ours.session
    assert not [*session.subscribed, *session.patterns, *session.watched]
    assert not isinstance(ours.ask([request_, names[1000]]), hiredis.ReplyError)


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
