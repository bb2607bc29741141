"""Values an edge leaves to the hub: which may go, what works without them, how they come back.

That merging does not miss them is shown by the random schedules (world.py).
"""

from random import Random

import pytest

from edgesync._native import cells
from edgesync._native.cells import Dot
from edgesync._native.commands import EvictedReply
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import HASH, NEVER, STRING
from edgesync._native.resp import encode
from edgesync.cells.commands import Call, carry_out
from edgesync.errors import Evicted, RecordError
from tests.cells.memory import MemoryView
from tests.edgesync.serve.resp.requests import Maker

pytestmark = pytest.mark.feature("L4", "L8")

LONG = b"a value that is worth the way"
NOW_MS = 1_700_000_000_000


class Pair:
    """An edge and its hub, which meet when a test says so."""

    def __init__(self) -> None:
        self.view = MemoryView()
        self.edge, self.hub = EdgeKeys(self.view, may_pack=False), HubKeys(MemoryView())
        self.edge.rejoin(1)
        self.edge.now_ms = self.hub.now_ms = NOW_MS
        self.base = 0

    def sync(self, *wanted: bytes) -> None:
        while ops := self.edge.take():
            for op in ops:
                self.hub.hear(1, op)
        entries, position, is_all = self.hub.page(self.base, self.base, limit_bytes=1 << 30)
        assert is_all
        self.edge.deliver(entries + self.hub.whole(wanted), self.edge.n)
        self.base = position


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_only_the_value_goes(pair: Pair) -> None:
    edge = pair.edge
    edge.put(b"k", b"s", LONG)
    edge.expire(b"k", NOW_MS + 1000)
    pair.sync()
    before, mark = edge.data, edge.digest()
    assert edge.evict_key(b"k") == len(LONG)
    assert edge.data == edge.weigh() == before - len(LONG)
    assert (edge.keys, edge.type_of(b"k"), edge.deadline(b"k")) == (1, STRING, NOW_MS + 1000)
    assert edge.has(b"k", b"s")
    assert edge.digest() == mark
    assert edge.is_evicted(b"k")
    with pytest.raises(Evicted):
        edge.get_string(b"k")
    assert edge.evict_key(b"k") == 0
    assert edge.evicted == 1


def test_what_was_evicted_comes_back_when_it_is_asked_for(pair: Pair) -> None:
    edge = pair.edge
    edge.put_many(b"h", [(b"hone", LONG), (b"htwo", b"2")])
    edge.put(b"k", b"s", LONG * 10)
    pair.sync()
    rows = pair.view.rows()
    for key in (b"h", b"k"):
        assert edge.evict_key(key)
    pair.sync()
    assert edge.is_evicted(b"h")
    pair.sync(b"h", b"k", b"nobody has this one")
    assert edge.get(b"h", b"hone") == LONG
    assert edge.get_string(b"k") == LONG * 10
    assert pair.view.rows() == rows


def test_it_comes_back_when_it_changes(pair: Pair) -> None:
    pair.edge.put(b"k", b"s", LONG)
    pair.sync()
    pair.edge.evict_key(b"k")
    pair.hub.put(b"k", b"s", LONG[::-1])
    pair.sync()
    assert pair.edge.get_string(b"k") == LONG[::-1]


def test_what_the_hub_has_not_confirmed_stays(pair: Pair) -> None:
    edge = pair.edge
    edge.put(b"k", b"s", LONG)
    assert edge.evict_key(b"k") == 0
    pair.sync()
    edge.put_many(b"h", [(b"hnew", b"1")])
    edge.expire(b"k", NOW_MS + 1000)
    assert edge.evict_key(b"k") == 0
    pair.sync()
    assert edge.evict_key(b"k") > 0
    edge.put_many(b"h", [(b"hone", LONG)])
    pair.sync()
    edge.put_many(b"h", [(b"htwo", b"2")])
    assert edge.evict_key(b"h") == 0


def test_what_another_hub_delivered_stays(pair: Pair) -> None:
    """Until it has come once more, nobody knows whether the hub has it."""
    pair.edge.put(b"k", b"s", LONG)
    pair.sync()
    pair.edge.rejoin(2)
    assert pair.edge.evict_key(b"k") == 0


def test_members_elements_and_small_values_stay(pair: Pair) -> None:
    edge = pair.edge
    edge.put(b"set", b"e" + LONG, b"")
    edge.put(b"zset", b"z" + LONG, b"123456789012345678901234.5")
    edge.push(b"list", 1, [LONG])
    edge.put(b"small", b"s", b"23 bytes and not one mo")
    edge.add(b"counter", b"s", b"1")
    pair.sync()
    assert [edge.evict_key(key) for key in edge.names()] == [0] * 5
    assert list(edge.by_score(b"zset"))


def test_writes_need_no_value_that_was_there(pair: Pair) -> None:
    edge, hub = pair.edge, pair.hub
    for key in (b"set anew", b"removed", b"counted"):
        edge.put(key, b"s", b"100000000000000000000000" if key == b"counted" else LONG)
    edge.put_many(b"h", [(b"hone", LONG), (b"htwo", LONG)])
    pair.sync()
    assert all([edge.evict_key(key) for key in edge.names()])
    edge.set_string(b"set anew", b"new")
    edge.delete(b"removed")
    edge.add(b"counted", b"s", b"23")
    edge.remove(b"h", b"hone")
    edge.put(b"h", b"hthree", b"3")
    assert edge.get_string(b"set anew") == b"new"
    assert edge.type_of(b"removed") == 0
    assert list(edge.cell_names(b"h", HASH)) == [b"three", b"two"]
    with pytest.raises(Evicted):
        edge.get_string(b"counted")
    pair.sync(b"counted", b"h")
    for space in (edge, hub):
        assert space.get_string(b"set anew") == b"new"
        assert space.type_of(b"removed") == 0
        assert space.get_string(b"counted") == b"100000000000000000000023"
        assert dict(space.cells(b"h", HASH)) == {b"three": b"3", b"two": LONG}
    assert edge.pending == 0


def test_what_is_restored_before_a_write_is_told_keeps_the_write(pair: Pair) -> None:
    edge = pair.edge
    edge.put_many(b"h", [(b"hone", LONG), (b"htwo", LONG)])
    pair.sync()
    edge.evict_key(b"h")
    edge.put(b"h", b"hone", b"mine")
    # The hub's answer was made before it heard of that.
    edge.deliver(pair.hub.whole([b"h"]), edge.n - 1)
    assert dict(edge.cells(b"h", HASH)) == {b"one": b"mine", b"two": LONG}
    pair.sync()
    assert dict(pair.hub.cells(b"h", HASH)) == {b"one": b"mine", b"two": LONG}


def test_what_the_hub_no_longer_has_goes_like_any_other(pair: Pair) -> None:
    edge = pair.edge
    edge.put(b"k", b"s", LONG)
    pair.sync()
    edge.evict_key(b"k")
    edge.rejoin(2)
    edge.forget_unlisted(edge.n)
    assert edge.type_of(b"k") == 0
    assert edge.names() == []
    assert edge.data == edge.weigh() == 0


def test_a_change_of_strategy_needs_no_values(pair: Pair) -> None:
    edge = pair.edge
    edge.put_many(b"h", [(b"hone", LONG), (b"htwo", b"2")])
    pair.sync()
    edge.evict_key(b"h")
    edge.choose([(b"", 1)])
    assert edge.count(b"h", HASH) == 2


def test_what_was_used_last_goes_last(pair: Pair) -> None:
    edge = pair.edge
    for number in range(10):
        edge.put(b"key%d" % number, b"s", LONG)
    pair.sync()
    edge.remember()
    edge.get_string(b"key3")
    edge.get(b"key5", b"s")
    edge.expire(b"key7", NEVER)
    pair.sync()
    assert edge.evict(7 * len(LONG), looks=10) == 7 * len(LONG)
    there = [key for key in edge.names() if not edge.is_evicted(key)]
    assert there == [b"key3", b"key5", b"key7"]
    # Round by round what was used longer ago is as good as the rest.
    assert edge.evict(1) == len(LONG)
    assert edge.evict(1 << 30) == 2 * len(LONG)
    assert edge.evict(1 << 30) == 0


def test_it_goes_round_in_bounded_steps(pair: Pair) -> None:
    edge = pair.edge
    for number in range(100):
        edge.put(b"key%02d" % number, b"s", LONG)
    pair.sync()
    assert [edge.evict(1 << 30, looks=40) for _ in range(4)] == [
        40 * len(LONG), 40 * len(LONG), 20 * len(LONG), 0,
    ]  # fmt: skip


def test_what_is_not_asked_for_from_the_hub_stays(pair: Pair) -> None:
    edge = pair.edge
    for key in (b"mine:1", b"shared:1"):
        edge.put(key, b"s", LONG)
    pair.sync()
    assert edge.evict(1 << 30, scope=[(b"mine:", False)]) == len(LONG)
    assert not edge.is_evicted(b"mine:1")


def test_a_damaged_row_costs_its_key_and_no_other(pair: Pair) -> None:
    edge = pair.edge
    for key in (b"a", b"b", b"c"):
        edge.put(key, b"s", LONG)
    pair.sync()
    pair.view.put(b"kb", b"\xff")
    assert edge.evict(1 << 30) == 2 * len(LONG)


def test_a_hash_of_very_many_fields_or_bytes_stays(pair: Pair) -> None:
    """It would come back whole while somebody waits for one field."""
    edge = pair.edge
    edge.put_many(b"many", [(b"h%d" % number, LONG) for number in range(4097)])
    edge.put_many(b"large", [(b"h%d" % number, b"x" * (1 << 20)) for number in range(4)])
    edge.put_many(b"less", [(b"h%d" % number, b"x" * (1 << 20)) for number in range(3)])
    pair.sync()
    assert edge.pending == 0
    assert [edge.evict_key(key) for key in (b"many", b"large", b"less")] == [0, 0, 3 << 20]


def test_a_dot_that_was_evicted_keeps_all_but_its_value() -> None:
    dot = Dot(3, 7, 99, 0, LONG)
    left = dot.left_to_hub()
    assert cells.decode(cells.encode([left])) == [left] != [dot]
    assert repr(left) == "Dot(3, 7, hlc=99, VALUE evicted)"
    for same in (left.at(5, False), left.stamped(1), left.by(2)):
        assert same.evicted
    assert left.with_payload(LONG) == dot
    with pytest.raises(Evicted):
        _ = left.payload


@pytest.mark.parametrize(
    "dot",
    [
        Dot(1, 1, 1, 0, pending=True),
        Dot(1, 1, 1, 0, b"value"),
        Dot(1, 1, 1, 1, b"1"),
        Dot(1, 1, 1, 2),
    ],
)
def test_what_is_no_confirmed_value_cannot_be_evicted(dot: Dot) -> None:
    raw = bytearray(cells.encode([dot]))
    raw[1] |= 64
    with pytest.raises(RecordError, match="evicted"):
        cells.decode(bytes(raw))


def test_a_hub_cannot_tell_of_values_it_does_not_have() -> None:
    entry = cells.Entry(b"k", 1, True, [], [(b"s", [Dot(1, 1, 1, 0, LONG).left_to_hub()])])
    with pytest.raises(RecordError):
        cells.decode_entries(cells.encode_entries([entry]))


@pytest.mark.parametrize("seed", range(3))
def test_commands_wait_for_values_before_they_change_anything(seed: int) -> None:
    """Refused for a missing value, a command has done nothing; with the value it does the same."""
    maker, pairs = Maker(Random(seed)), [Pair(), Pair()]
    calls = [Call(pair.edge, Random(seed)) for pair in pairs]
    waited = 0
    for number in range(2000):
        request = [LONG if part == b"hello" else part for part in maker.one()]
        meant = carry_out(calls[0], request)
        before = pairs[1].view.rows()
        reply = carry_out(calls[1], request)
        if isinstance(reply, EvictedReply):
            waited += 1
            assert pairs[1].view.rows() == before
            assert set(reply.keys) <= set(request)
            pairs[1].sync(*reply.keys)
            reply = carry_out(calls[1], request)
        assert encode([reply], 3) == encode([meant], 3), request
        if number % 5 == 0:
            for pair in pairs:
                pair.sync()
            for key in pairs[1].edge.names():
                pairs[1].edge.evict_key(key)
    assert waited > 20
