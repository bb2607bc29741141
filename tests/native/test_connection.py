"""A client's connection: requests in pieces, replies in order and behind their commits."""

import socket
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.commands import TABLE, Command, EvictedReply, Runner
from edgesync._native.connection import GONE, HELD, LEFT, OPEN, SERVED, Connection
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.points import Columns
from edgesync._native.resp import Parser, ReplyError, encode
from edgesync.cells.commands import Call
from tests.cells.memory import MemoryView
from tests.edgesync.serve.resp.test_parser import packed

pytestmark = pytest.mark.feature("L1", "L14")

WALL_NS = 17 * 10**17 + 10**15


def plain(_call: Call, args: Sequence[bytes]) -> object:
    """A command that answers with its last argument, or as that says."""
    match args[-1]:
        case b"bad":
            raise ZeroDivisionError
        case b"odd":
            return object()
        case b"away":
            return EvictedReply([args[-1]])
    return args[-1] * int(args[0]) if args[0].isdigit() else args[-1]


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"GET", b"SET"):
        row = Command(name.decode().lower(), plain, -2, False, (1, 1, 1), False)
        monkeypatch.setitem(TABLE, name, row)


class Runs(Runner):
    """Commands on keys in no store."""

    def __init__(self) -> None:
        space = EdgeKeys(MemoryView())
        super().__init__(space, Call(space, Random(1)), lambda: WALL_NS)


class Pair:
    """A connection and the client at its other end."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.client, self.socket = socket.socketpair()
        self.client.setblocking(False)
        self.socket.setblocking(False)
        self.connection = Connection(self.socket.fileno(), Parser())

    def ask(self, *requests: list[bytes]) -> None:
        self.client.sendall(b"".join(map(packed, requests)))
        assert self.connection.receive()

    def answer(self, gates: tuple[int, int] = OPEN, unsent_max: int = 1 << 20) -> int:
        return self.connection.answer(self.runs, 2, unsent_max, lambda: gates)

    def read(self) -> bytes:
        assert self.connection.send()
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.client.close()
        self.socket.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_what_is_in_the_table_is_answered_and_the_rest_is_left(pair: Pair) -> None:
    pair.ask([b"GET", b"a"], [b"GET", b"b"], [b"MULTI"], [b"GET", b"c"])
    assert pair.answer() == 2
    assert pair.read() == encode([b"a", b"b"], 2)
    assert pair.answer() == 0
    assert pair.connection.take() == [b"MULTI"]
    assert pair.answer() == 1
    assert not pair.connection.has_requests
    assert pair.read() == encode([b"c"], 2)


def test_a_request_in_pieces(pair: Pair) -> None:
    for piece in packed([b"SET", b"k", b"v" * 300]):
        assert not pair.connection.has_requests
        pair.client.sendall(bytes([piece]))
        assert pair.connection.receive()
    assert pair.answer() == 1
    assert pair.read() == encode([b"v" * 300], 2)


def test_nothing_there_is_no_end_but_a_closed_socket_is(pair: Pair) -> None:
    assert pair.connection.receive()
    pair.client.close()
    assert not pair.connection.receive()
    pair.connection.owe([b"x"], 2, OPEN)
    assert not pair.connection.send()


def test_a_reply_waits_for_its_commit_and_later_ones_behind_it(pair: Pair) -> None:
    pair.ask([b"SET", b"k", b"1"])
    pair.answer((3, 0))
    pair.connection.owe([b"2"], 2, OPEN)
    pair.connection.owe([b"3"], 2, (3, 1))
    assert pair.connection.is_waiting
    assert not pair.connection.has_due
    assert pair.connection.unsent == len(encode([b"1", b"2", b"3"], 2))
    pair.connection.open([2, 9])
    assert pair.read() == b""
    pair.connection.open([3, 0])
    assert pair.read() == encode([b"1", b"2"], 2)
    pair.connection.open([3, 1])
    assert pair.read() == encode([b"3"], 2)
    assert pair.connection.unsent == 0


def test_replies_to_a_commit_that_was_refused_are_errors(pair: Pair) -> None:
    pair.ask([b"SET", b"k", b"1"], [b"SET", b"k", b"2"])
    pair.answer((2, 0))
    pair.connection.owe([b"of points"], 2, (0, 5))
    pair.ask([b"SET", b"k", b"3"])
    pair.answer((3, 0))
    refused = ReplyError("OOM nothing was stored")
    pair.connection.refuse(0, 2, refused, 2)
    pair.connection.open([2, 5])
    assert pair.read() == encode([b"1", b"2", b"of points", refused], 2)


def test_a_command_that_fails_costs_an_answer_and_nothing_more(pair: Pair) -> None:
    pair.ask([b"GET", b"a"], [b"GET", b"bad"], [b"GET", b"odd"], [b"GET", b"b"])
    assert pair.answer() == 4
    failed = ReplyError("ERR internal error at this command; the log says why")
    assert pair.read() == encode([b"a", failed, failed, b"b"], 2)


def test_most_clients_are_served_in_one_go(pair: Pair) -> None:
    def serve(*requests: list[bytes], gates: tuple[int, int] = OPEN) -> int:
        pair.client.sendall(b"".join(map(packed, requests)))
        return pair.connection.serve(pair.runs, 2, 1 << 20, lambda: gates)

    assert serve([b"GET", b"a"]) == SERVED
    assert pair.client.recv(100) == encode([b"a"], 2)
    assert serve([b"SET", b"k", b"1"], gates=(4, 0)) == HELD
    assert serve([b"GET", b"b"]) == HELD
    assert not pair.connection.release([3, 0])
    assert pair.connection.release([4, 0])
    assert pair.client.recv(100) == encode([b"1", b"b"], 2)
    assert serve([b"GET", b"c"], [b"MULTI"]) == LEFT
    assert pair.connection.take() == [b"MULTI"]
    assert serve([b"SET", b"k", b"2"], gates=(5, 0)) == HELD
    assert serve([b"MULTI"], gates=(5, 0)) == LEFT
    assert not pair.connection.release([5, 0])
    assert not pair.connection.is_waiting
    pair.connection.take()
    pair.client.sendall(b"*1\r\n$-5\r\n")
    assert pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN) == LEFT
    pair.client.close()
    assert pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN) == GONE


def test_who_does_not_read_is_not_done_with(pair: Pair) -> None:
    """Neither where its replies are due at once, nor where they were waiting for a commit."""
    big = [b"GET", b"900000", b"x"]
    pair.client.sendall(packed(big))
    assert pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN) == LEFT
    assert pair.connection.has_due
    pair.connection.owe([b"y" * 900_000], 2, (1, 0))
    assert not pair.connection.release([1, 0])
    assert pair.connection.has_due


def test_a_request_that_may_be_waited_for_is_left_where_it_is(pair: Pair) -> None:
    pair.ask([b"GET", b"here"], [b"GET", b"away"], [b"GET", b"after"])
    assert pair.answer() == 1
    assert pair.answer() == 0
    assert pair.read() == encode([b"here"], 2)
    assert pair.connection.take() == [b"GET", b"away"]
    assert pair.answer() == 1
    assert pair.read() == encode([b"after"], 2)
    pair.client.sendall(packed([b"GET", b"away"]))
    assert pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN) == LEFT


def test_a_reply_that_is_none_leaves_what_was_there(pair: Pair) -> None:
    pair.connection.owe([b"a"], 2, OPEN)
    with pytest.raises(TypeError, match="object is no reply"):
        pair.connection.owe([b"b", object()], 2, OPEN)
    assert pair.read() == encode([b"a"], 2)


def test_who_does_not_read_is_answered_no_more_and_loses_nothing(pair: Pair) -> None:
    asked = [[b"GET", b"300000", b"%d" % number] for number in range(10)]
    pair.ask(*asked)
    while pair.answer():
        assert pair.connection.send()
    assert pair.connection.has_requests
    assert pair.connection.unsent < (1 << 20) + 300_000 + 100
    got = bytearray()
    want = encode([name * 300_000 for _, _, name in asked], 2)
    while len(got) < len(want):
        got += pair.read()
        pair.answer()
    assert got == want


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("owe"), st.integers(0, 2), st.integers(0, 2)),
            st.tuples(st.just("open"), st.integers(0, 3), st.integers(0, 3)),
            st.tuples(st.just("send"), st.just(0), st.just(0)),
        )
    )
)
def test_replies_keep_their_order_whatever_waits_for_what(
    steps: list[tuple[str, int, int]],
) -> None:
    pair = Pair()
    done = [0, 0]
    gates: list[tuple[int, int]] = []
    let_go = 0
    got = b""
    try:
        for what, first, second in steps:
            if what == "owe":
                # As generations come: what is owed later never rests on less.
                gate = (done[0] + first, done[1] + second)
                gate = OPEN if (first, second) == OPEN else gate
                pair.connection.owe([b"%d" % len(gates)], 2, gate)
                gates.append(gate)
            elif what == "open":
                done = [done[0] + first, done[1] + second]
                pair.connection.open(done)
            else:
                got += pair.read()
            while let_go < len(gates) and all(
                wanted <= reached for wanted, reached in zip(gates[let_go], done, strict=True)
            ):
                let_go += 1
        got += pair.read()
        assert got == encode([b"%d" % number for number in range(let_go)], 2)
    finally:
        pair.close()


TIMES = st.sampled_from([b"1700000000000", b"*", b"0", b"17", b"-1", b"9999999999999", b"", b"x"])
VALUES = st.one_of(
    st.sampled_from([b"1.5", b"-0", b"1e3", b"1" * 16, b"1" * 70, b"nan", b"", b"1\r\n2"]),
    st.floats(allow_nan=False).map(lambda one: repr(one).encode()),
)
ADDS = st.tuples(
    st.sampled_from([b"TS.ADD", b"ts.add", b"Ts.Add"]),
    st.sampled_from([b"t", b"u", b"t" * 300, b"stranger"]), TIMES, VALUES,
).map(lambda words: packed(list(words)))  # fmt: skip
KNOWN_ADDS = st.integers(0, 10**6).map(
    lambda n: packed([b"TS.ADD", b"tu"[n % 2 :][:1], b"%d" % (17 * 10**11 + n), b"%.2f" % (n / 7)])
)
OTHERS = st.sampled_from([
    packed([b"SET", b"k", b"1"]), packed([b"TS.ADD", b"t", b"1"]), packed([b"PING"]),
    packed([b"TS.MADD", b"t", b"3", b"1"]),
    packed([b"TS.MADD", b"t", b"3", b"1", b"u", b"4", b"2"]),
    packed([b"TS.ADD", b"t", b"1", b"1", b"LABELS"]), b"TS.ADD t 5 6\r\n", b"*0\r\n", b"*-1\r\n",
    b"*4\r\n$06\r\nTS.ADD\r\n$1\r\nt\r\n$1\r\n1\r\n$1\r\n1\r\n", b"*04\r\n",
    b"*4\r\n:6\r\n", b"*4\r\n$\r\n",
    packed([b"GET", b"a", b"b", b"v" * 600]),
])  # fmt: skip


def run_all(pair: Pair, *, quick: bool, stream: bytes, cuts: list[int]) -> tuple[object, ...]:
    """All replies, in which a request that is left is its own; the readings; how it ended."""
    columns = Columns()
    columns.add(0, 0, 0.0)
    columns.names.update({b"t": 0, b"u": 1, b"t" * 300: 2})
    pair.runs.columns = columns
    found = b""
    for start, end in pairwise([0, *sorted(cuts), len(stream)]):
        pair.client.sendall(stream[start:end])
        if quick:
            pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN)
        else:
            assert pair.connection.receive()
            pair.answer()
        while pair.connection.has_requests:
            pair.connection.owe([b" ".join(pair.connection.take())], 2, OPEN)
            pair.answer()
        found += pair.read()
    taken = [one.tobytes() for one in columns.take()]
    return found, taken, pair.runs.commands, pair.connection.last, pair.connection.parser.error


@pytest.mark.slow
@pytest.mark.feature("L9")
@given(st.lists(st.one_of(KNOWN_ADDS, ADDS, OTHERS), max_size=12), st.data())
def test_points_read_off_the_socket_are_those_of_requests(some: list[bytes], data: Any) -> None:
    """However a stream is cut, it is what reading it request by request makes of it."""
    stream = b"".join(some)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    seen = []
    for quick in (True, False):
        pair = Pair()
        try:
            seen.append(run_all(pair, quick=quick, stream=stream, cuts=cuts))
        finally:
            pair.close()
    assert seen[0] == seen[1]


def test_points_of_series_that_are_known_make_no_request(pair: Pair) -> None:
    pair.runs.columns = Columns()
    pair.runs.columns.names[b"t"] = 7
    adds = b"".join(packed([b"TS.ADD", b"t", b"%d" % n, b"1.5"]) for n in range(1, 5))
    for start in range(0, len(adds), 50):
        pair.client.sendall(adds[start : start + 50])
        assert pair.connection.serve(pair.runs, 2, 1 << 20, lambda: OPEN) == SERVED
    assert pair.client.recv(1000) == b":1\r\n:2\r\n:3\r\n:4\r\n"
    assert pair.runs.columns.take()[1].tolist() == [n * 10**6 for n in range(1, 5)]
    # Whoever does not read what it is answered has to wait.
    pair.client.sendall(adds)
    assert pair.connection.serve(pair.runs, 2, 5, lambda: (1, 1)) == LEFT
    assert len(pair.runs.columns) == 2
    assert pair.connection.has_requests
