"""Arguments of programs: those of redis-py, and what to pass in place of what has no plain form."""

import inspect
from random import Random
from typing import Any

import pytest

from edgesync._native.edgekeys import EdgeKeys
from edgesync.cells import Argument, Reply, as_bytes
from edgesync.cells.commands import Call, carry_out
from edgesync.cells.methods import KeyMethods
from hubd.client import HubClient
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L4")


class Keys(KeyMethods):
    def __init__(self) -> None:
        self.call = Call(EdgeKeys(MemoryView()), Random(1))

    def command(self, name: str, *args: Argument) -> Reply:
        return carry_out(self.call, [name.encode(), *map(as_bytes, args)])


def test_hashes_are_set_in_every_way_redis_py_has() -> None:
    keys = Keys()
    assert keys.hset("h", "a", 1) == 1
    assert keys.hset("h", mapping={"a": 1, "b": 2}) == 1
    assert keys.hset("h", {"c": 3}) == 1
    assert keys.hset("h", "d", 4, mapping={"e": 5.5}) == 2
    assert keys.hgetall("h") == {b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4", b"e": b"5.5"}
    for wrong in ((), ("field",)):
        with pytest.raises(TypeError, match="hset\\(key, field, value\\)"):
            keys.hset("h", *wrong)


def test_counters_go_down_as_well() -> None:
    keys = Keys()
    assert keys.incr("n", 10) == 10
    assert keys.decr("n") == 9
    assert keys.decr("n", 4) == 5


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        (None, "delete the key"), ({"a": 1}, "mapping="), ([1, 2], "one by one"),
        ((1,), "one by one"), (True, "pass 1 or 0"), (object(), "bytes or text"),
    ],
)  # fmt: skip
def test_what_has_no_plain_form_is_refused_with_what_to_pass(argument: Any, remedy: str) -> None:
    keys = Keys()
    with pytest.raises(TypeError, match=remedy):
        keys.set("k", argument)
    assert keys.get("k") is None


@pytest.mark.parametrize("kind", [KeyMethods, HubClient])
def test_every_public_method_says_what_it_does(kind: type) -> None:
    public = [one for name, one in vars(kind).items() if not name.startswith("_")]
    assert [one for one in public if inspect.isfunction(one) and not one.__doc__] == []
