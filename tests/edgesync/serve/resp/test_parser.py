"""Requests out of bytes, however they are cut; limits before memory; replies of both versions."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.resp import (
    TOO_LARGE,
    NullArray,
    Pairs,
    Parser,
    Push,
    ReplyError,
    encode,
    number_text,
)

pytestmark = pytest.mark.feature("L9")

REQUESTS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=5)


def packed(request: list[bytes]) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(one), one) for one in request]
    return b"*%d\r\n" % len(request) + b"".join(parts)


@pytest.mark.slow
@given(REQUESTS, st.lists(st.integers(1, 30), max_size=30))
def test_requests_arrive_whole_however_they_are_cut(
    requests: list[list[bytes]], cuts: list[int]
) -> None:
    raw = b"".join(map(packed, requests))
    parser = Parser()
    found: list[list[bytes]] = []
    for cut in cuts:
        found += parser.feed(raw[:cut])
        raw = raw[cut:]
    found += parser.feed(raw)
    assert found == requests
    assert parser.error == ""
    assert parser.held_bytes == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_an_error(raw: bytes) -> None:
    parser = Parser()
    whole = parser.feed(raw)
    pieces = Parser()
    found: list[list[bytes]] = []
    for at in range(len(raw)):
        found += pieces.feed(raw[at : at + 1])
    assert found == whole
    assert pieces.error == parser.error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"PING\r\n", [b"PING"]),
        (b"  set  a   b \n", [b"set", b"a", b"b"]),
        (b"set \"a b\" 'c d'\r\n", [b"set", b"a b", b"c d"]),
        (b"set \"\\x41\\n\\t\\\"\" 'it\\'s'\r\n", [b"set", b'A\n\t"', b"it's"]),
        (b'set "" x\r\n', [b"set", b"", b"x"]),
    ],
)
def test_a_line_is_a_command_too(line: bytes, words: list[bytes]) -> None:
    assert Parser().feed(line) == [words]


def test_empty_lines_and_empty_arrays_are_nothing() -> None:
    assert Parser().feed(b"\r\n\r\n*0\r\n*-1\r\n*-7\r\nPING\r\n") == [[b"PING"]]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"*4000000000\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$9999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n:5\r\n", "expected '$', got ':'"),
        (b"*1\r\n\x00\r\n", "expected '$', got '?'"),
        (b'get "a\r\n', "unbalanced quotes in request"),
        (b'get "a"b\r\n', "unbalanced quotes in request"),
        (b"x" * 70_000, "too big inline request"),
        (b"*" + b"1" * 70_000, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 70_000, "too big bulk count string"),
    ],
)
def test_nonsense_is_refused_in_the_words_of_redis(raw: bytes, error: str) -> None:
    parser = Parser()
    assert parser.feed(raw) == []
    assert parser.error == f"Protocol error: {error}"
    assert parser.feed(b"PING\r\n") == []
    assert parser.held_bytes == 0


def test_a_huge_announcement_takes_no_memory() -> None:
    parser = Parser()
    parser.feed(b"*1048576\r\n$536870912\r\n")
    assert parser.held_bytes <= 64 * 1024 + (512 << 20)  # counted when announced, held when come
    assert parser.error == ""


def test_who_has_not_said_the_password_may_send_little() -> None:
    parser = Parser()
    parser.is_stranger = True
    assert parser.feed(packed([b"auth", b"x"])) == [[b"auth", b"x"]]
    assert parser.feed(b"*11\r\n") == []
    assert "unauthenticated multibulk" in parser.error
    other = Parser()
    other.is_stranger = True
    assert other.feed(b"*2\r\n$4\r\nauth\r\n$16385\r\n") == []
    assert "unauthenticated bulk" in other.error


def test_a_command_of_too_many_bytes_is_refused() -> None:
    parser = Parser(command_max=100)
    found = parser.feed(packed([b"mset"] + [b"x" * 30] * 4) + packed([b"ping"]))
    assert found == [[TOO_LARGE, b"mset", b"100"], [b"ping"]]
    assert parser.error == ""


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(0, 3))
def test_a_large_argument_costs_its_own_command_alone(cuts: list[int], place: int) -> None:
    parser = Parser(bytes_max=20)
    large = [b"set", b"k", b"v"]
    large.insert(place, b"x" * 50)
    raw = packed([b"get", b"a"]) + packed(large) + packed([b"get", b"b"])
    found: list[list[bytes]] = []
    for cut in cuts:
        found += parser.feed(raw[:cut])
        raw = raw[cut:]
        assert parser.held_bytes < 60
    found += parser.feed(raw)
    name = b"set" if place else b""
    assert found == [[b"get", b"a"], [TOO_LARGE, name, b"20"], [b"get", b"b"]]
    assert parser.held_bytes == 0


REPLIES: list[object] = [
    "OK", b"bulk\r\n\0", 7, -1, None, 1.5, [b"a", [1, None]], {b"k": b"v"}, True,
    Pairs([(b"m", 1.0)]), [],
]  # fmt: skip


@pytest.mark.parametrize("proto", [2, 3])
def test_replies_are_read_by_another_parser(proto: int) -> None:
    reader = hiredis.Reader()
    reader.feed(encode(REPLIES, proto))
    read = [reader.gets() for _ in REPLIES]
    assert read[:5] == [b"OK", b"bulk\r\n\0", 7, -1, None]
    assert read[5] == (1.5 if proto == 3 else b"1.5")
    assert read[6] == [b"a", [1, None]]
    if proto == 3:
        assert read[7] == {b"k": b"v"}
        assert read[8] is True
        assert read[9] == [[b"m", 1.0]]
    else:
        assert read[7:] == [[b"k", b"v"], 1, [b"m", b"1"], []]


def test_errors_pushes_and_nothing() -> None:
    assert encode([ReplyError("ERR no\r\nway")], 2) == b"-ERR no  way\r\n"
    assert encode([Push([b"message", 1])], 3).startswith(b">2\r\n")
    assert encode([Push([b"message", 1])], 2).startswith(b"*2\r\n")
    assert encode([NullArray, None], 2) == b"*-1\r\n$-1\r\n"
    assert encode([NullArray, None], 3) == b"_\r\n_\r\n"
    assert encode([{b"x"}], 3) == b"~1\r\n$1\r\nx\r\n"
    with pytest.raises(TypeError):
        encode([object()], 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, b"3"), (-0.5, b"-0.5"), (float("inf"), b"inf"), (float("-inf"), b"-inf"),
     (1e17, b"1e+17"), (0.1, b"0.1"), (float("nan"), b"nan")],
)  # fmt: skip
def test_numbers_read_as_redis_writes_them(value: float, text: bytes) -> None:
    assert number_text(value) == text
