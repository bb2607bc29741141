"""What a command raises, and what its client is told."""

import logging
from collections.abc import Sequence
from random import Random

import pytest

from edgesync._native.commands import Command, keys_of, run
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.resp import ReplyError
from edgesync.cells.commands import TABLE, Call
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L4")


@pytest.fixture
def call() -> Call:
    return Call(EdgeKeys(MemoryView()), Random(1))


@pytest.mark.parametrize("mistake", [TypeError, KeyError, ZeroDivisionError, AttributeError])
def test_a_mistake_of_ours_is_told_and_logged_as_one(
    call: Call, caplog: pytest.LogCaptureFixture, mistake: type[Exception]
) -> None:
    def broken(_call: Call, _args: Sequence[bytes]) -> object:
        raise mistake("a bug")

    with caplog.at_level(logging.ERROR):
        reply = run(Command("broken", broken, -1, False, (0, 0, 0), False), call, [b"broken"])
    assert isinstance(reply, ReplyError)
    assert str(reply).startswith("ERR internal error")
    assert "a bug" in caplog.text


def test_a_key_of_another_type_is_told_as_that(call: Call) -> None:
    call.space.push(b"l", 1, [b"x"])
    for request in ([b"get", b"l"], [b"incr", b"l"], [b"hget", b"l", b"f"], [b"sadd", b"l", b"m"]):
        reply = run(TABLE[request[0]], call, request)
        assert isinstance(reply, ReplyError)
        assert str(reply).startswith("WRONGTYPE")
    assert run(TABLE[b"mget"], call, [b"mget", b"l"]) == [None]


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        (b"get a", b"a"), (b"mset a 1 b 2", b"a b"), (b"rename a b", b"a b"), (b"dbsize", b""),
        (b"lmpop 2 a b left", b"a b"), (b"lmpop x a b left", b""), (b"lmpop -1 a b left", b""),
    ],
)  # fmt: skip
def test_keys_of_a_request_are_found_wherever_they_stand(request_: bytes, keys: bytes) -> None:
    request = request_.split()
    assert keys_of(TABLE[request[0]], request) == keys.split()


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        (b"zunionstore d 2 a b weights 1 2", b"d a b"), (b"zunion 1 a withscores", b"a"),
        (b"sort a by w_* get x store d", b"a d"), (b"sort a get store", b"a"),
        (b"sort a store b limit 0 store store c", b"a c"), (b"sort a by store store d", b"a d"),
        (b"bitop and d a b", b"d a b"), (b"sintercard 2 a b limit 1", b"a b"),
    ],
)  # fmt: skip
def test_keys_of_what_is_stored_are_found(request_: bytes, keys: bytes) -> None:
    """By them a key that only the hub changes is protected."""
    request = request_.split()
    assert keys_of(TABLE[request[0]], request) == keys.split()
