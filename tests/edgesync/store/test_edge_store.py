"""The edge's store: positions and incarnations that survive, damage that is told, room made."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edgesync._native import event
from edgesync._native.batch import records
from edgesync._native.store import Write
from edgesync.errors import StoreCorrupt, StoreFull
from edgesync.model import EventType, Lane, RecordKind, ValueType
from edgesync.store.commit import Tails
from edgesync.store.journal import EdgeStore, Retain
from edgesync.store.series import DATABASE as SERIES
from edgesync.store.series import Series

BULK = Lane.BULK
POWER = Series("meter0", "ActivePower", "W", ValueType.F64)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeStore]:
    with EdgeStore(tmp_path / "edge", map_bytes=1 << 20, clock_ns=lambda: 42) as edge:
        yield edge


def append(edge: EdgeStore, *bodies: bytes, lane: Lane = BULK) -> None:
    write = Write()
    write.append_many(lane, RecordKind.EVENT, bodies)
    edge.submit_sync(write)


def bodies(edge: EdgeStore, first: int = 1) -> list[bytes]:
    return [one.body for one in records(edge.read(BULK, first).data)]


def flip(edge: EdgeStore, seq: int) -> bytes:
    key = seq.to_bytes(8, "little")
    raw = bytearray(edge.store.get("journal.2", key) or b"")
    raw[-1] ^= 1
    write = Write()
    write.put("journal.2", key, bytes(raw))
    edge.submit_sync(write)
    return bytes(raw)


def test_the_incarnation_is_random_and_stays(tmp_path: Path) -> None:
    seen = []
    for path in ("one", "one", "two"):
        with EdgeStore(tmp_path / path) as edge:
            seen.append(edge.incarnation)
            assert [edge.start(lane).seq for lane in Lane] == [0, 0, 0]
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[0]) == 16


@pytest.mark.feature("S32")
def test_a_fork_keeps_records_and_begins_where_they_begin(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "edge") as edge:
        append(edge, *(b"%d" % n for n in range(10)))
        edge.acknowledge_sync(BULK, 6, 4)
        before = [(one.origin, one.number) for one in records(edge.read(BULK, 5).data)]
        old, origin = edge.incarnation, edge.store.origin
        chain = edge.journal.chain_at(BULK, 4)
        assert edge.fork_sync() == edge.incarnation != old
        assert edge.store.origin != origin
        assert (edge.start(BULK).seq, edge.start(BULK).chain) == (4, chain)
        state = edge.state(BULK)
        assert (state.trimmed, state.floor, state.tail) == (4, 4, 10)
        assert before == [(one.origin, one.number) for one in records(edge.read(BULK, 5).data)]
        incarnation = edge.incarnation
    with EdgeStore(tmp_path / "edge") as edge:
        assert edge.incarnation == incarnation
        assert edge.start(BULK).seq == 4


@pytest.mark.feature("S32")
async def test_what_is_trimmed_meanwhile_is_no_gap_in_the_new_incarnation(
    edge: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(edge, *(b"%d" % n for n in range(10)))
    edge.retain = Retain(records=10)
    edge.acknowledge_sync(BULK, 8, 8)
    edge.retain = Retain()  # the disk is nearly full now, say
    submit_sync = edge.commit.submit_sync
    async with trio.open_nursery() as nursery:

        def submit_behind_a_trim(write: Write) -> Tails:
            trio.from_thread.run_sync(nursery.start_soon, edge.trim)
            trio.from_thread.run(wait_all_tasks_blocked)  # it waits for its turn
            return submit_sync(write)

        monkeypatch.setattr(edge.commit, "submit_sync", submit_behind_a_trim)
        await edge.fork()
    assert edge.state(BULK).trimmed == edge.start(BULK).seq == edge.state(BULK).floor


@pytest.mark.feature("S2")
def test_a_damaged_record_becomes_a_loss_record_and_is_kept_aside(edge: EdgeStore) -> None:
    for one in (b"a", b"b", b"c"):
        append(edge, one)
    raw = flip(edge, 2)
    found = bodies(edge)  # stops before it
    assert found == [b"a"]
    found = bodies(edge, 2)
    assert found[1] == b"c"
    kind, *_, body, time_ns, _created, _hlc = event.decode(found[0])
    assert (kind, time_ns) == (EventType.LOSS, 42)
    assert json.loads(body) == {"lane": 2, "first": 2, "last": 2, "reason": "damaged on disk"}
    assert edge.quarantined() == [(BULK, 2, raw)]
    assert len(bodies(edge)) == 3


def test_many_damaged_records_are_all_told(edge: EdgeStore) -> None:
    for n in range(20):
        append(edge, b"%d" % n)
    for seq in (1, 7, 8, 20):
        flip(edge, seq)
    seen: list[bytes] = []
    while len(seen) < 20:
        seen += bodies(edge, len(seen) + 1)
    assert [n for n in range(20) if seen[n] != b"%d" % n] == [0, 6, 7, 19]
    append(edge, b"after")
    assert len(bodies(edge)) == 21


@pytest.mark.parametrize("first", [1, 8, 11])
def test_a_damaged_row_of_many_records_is_told_record_by_record(
    edge: EdgeStore, first: int
) -> None:
    append(edge, *(b"%d" % n for n in range(5)))
    append(edge, *(b"%d" % n for n in range(5, 12)))  # 6 to 12
    append(edge, *(b"%d" % n for n in range(12, 20)))
    raw = flip(edge, 12)
    seen: list[bytes] = []
    while len(seen) < 21 - first:
        seen += bodies(edge, first + len(seen))
    lost = [n for n in range(first - 1, 20) if seen[n + 1 - first] != b"%d" % n]
    assert lost == list(range(max(first - 1, 5), 12))
    assert edge.quarantined()[-1] == (BULK, 12, raw)
    assert edge.read(BULK, 13).last_chain == edge.state(BULK).tail_chain


def test_what_is_retained_stays_below_safe(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "edge", retain=Retain(records=5)) as edge:
        append(edge, *[b"x"] * 30)
        edge.acknowledge_sync(BULK, 20, 18)
        assert edge.state(BULK).trimmed == 13
        edge.rewind(BULK, 15)
        assert edge.state(BULK).floor == 15
    with EdgeStore(tmp_path / "edge", retain=Retain(nbytes=10 * 33)) as edge:
        edge.acknowledge_sync(BULK, 30, 30)
        assert edge.state(BULK).trimmed == 20


async def test_retained_records_give_way_to_new_ones(tmp_path: Path) -> None:
    with EdgeStore(
        tmp_path / "edge", map_bytes=1 << 18, map_bytes_max=2 << 20, retain=Retain(records=10**6)
    ) as edge:
        with pytest.raises(StoreFull):  # noqa: PT012
            while True:
                append(edge, *[bytes(1000)] * 20)
        tail = edge.state(BULK).tail
        await edge.acknowledge(BULK, tail, tail)
        await edge.trim()
        assert edge.state(BULK).trimmed > 0
        append(edge, *[bytes(1000)] * 20)


async def test_trimming_goes_in_steps_to_the_end(edge: EdgeStore) -> None:
    for _ in range(5):
        append(edge, *[b"x"] * 20_000)
    await edge.acknowledge(BULK, 100_000, 100_000)
    assert edge.state(BULK).trimmed == 65_536
    assert await edge.trim() == 100_000 - 65_536
    assert await edge.trim() == 0
    assert edge.state(BULK).stored_bytes == 0


def test_a_floor_of_another_history_is_an_error(edge: EdgeStore) -> None:
    append(edge, b"a")
    with pytest.raises(ValueError, match="beyond the tail"):
        edge.acknowledge_sync(BULK, 2, 2)
    assert edge.state(BULK).floor == 0


def test_an_unreadable_store_is_moved_aside_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    with EdgeStore(path) as edge:
        append(edge, b"a")
        old = edge.incarnation
    data = path / "data.mdb"
    damaged = data.read_bytes()[:5000]
    data.write_bytes(damaged)
    with pytest.raises(StoreCorrupt):
        EdgeStore(path)
    assert data.read_bytes() == damaged
    with EdgeStore(path, replace_unreadable=True) as edge:
        assert edge.moved_to == tmp_path / "edge.damaged-1"
        assert (tmp_path / "edge.damaged-1" / "data.mdb").read_bytes() == damaged
        assert edge.incarnation != old
        for lane in Lane:
            first = records(edge.read(lane, 1).data)[0]
            assert event.decode(first.body)[0] == EventType.LOSS
            assert b"edge.damaged-1" in event.decode(first.body)[4]
        append(edge, b"new life")
    data.write_bytes(b"")
    with EdgeStore(path, replace_unreadable=True) as edge:
        assert edge.moved_to == tmp_path / "edge.damaged-2"


def test_a_store_can_be_looked_at_while_it_is_closed(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "edge") as edge:
        append(edge, b"a")
        incarnation = edge.incarnation
    with EdgeStore(tmp_path / "edge", readonly=True) as edge:
        assert (edge.incarnation, bodies(edge)) == (incarnation, [b"a"])


def test_a_series_whose_row_is_damaged_is_declared_again(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "edge") as edge:
        write = Write()
        edge.series.stage(write, BULK, POWER, 1)
        write.put(SERIES, POWER.id.to_bytes(8, "little"), b"\xc1damaged")
        edge.submit_sync(write)
    with EdgeStore(tmp_path / "edge") as edge:
        assert edge.series.get(POWER.id) is None
        write = Write()
        assert edge.series.stage(write, BULK, POWER, 1)
        edge.submit_sync(write)
    with EdgeStore(tmp_path / "edge") as edge:
        assert edge.series.get(POWER.id) == POWER


def test_a_series_is_declared_once_an_incarnation(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "edge") as edge:
        failed = Write()
        assert edge.series.stage(failed, BULK, POWER, 1)  # never committed
        write = Write()
        assert edge.series.stage(write, BULK, POWER, 1)
        edge.submit_sync(write)
        edge.series.confirm(POWER)
        assert not edge.series.stage(Write(), BULK, POWER, 1)
        kind, *_, body, _time, _created, _hlc = event.decode(bodies(edge)[0])
        assert kind == EventType.SERIES
        told = {"entity": "meter0", "key": "ActivePower", "unit": "W", "type": "F64"}
        assert json.loads(body) == told
    with EdgeStore(tmp_path / "edge") as edge:
        assert edge.series.get(POWER.id) == POWER
        assert not edge.series.stage(Write(), BULK, POWER, 1)
        kilo = Series("meter0", "ActivePower", "kW", ValueType.F64)
        assert edge.series.stage(Write(), BULK, kilo, 1)
        edge.fork_sync()
        assert edge.series.stage(Write(), BULK, POWER, 1)


def test_thousands_of_series_are_loaded_again(tmp_path: Path) -> None:
    many = [Series("meter0", f"Point{n}", "", ValueType.F64) for n in range(2500)]
    with EdgeStore(tmp_path / "edge") as edge:
        write = Write()
        for one in many:
            edge.series.stage(write, BULK, one, 1)
        edge.submit_sync(write)
    with EdgeStore(tmp_path / "edge") as edge:
        assert set(edge.series.all().values()) == set(many)
