"""A full lane: who writes is refused, or the oldest give way and every one is accounted for."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync import EdgeNode, Reading
from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.errors import LaneFull, StoreFull
from edgesync.model import EventType, Lane, RecordKind, ValueType
from edgesync.store.commit import _Request
from edgesync.store.journal import EdgeStore
from edgesync.store.overflow import Overflow, excess
from edgesync.store.series import Series
from edgesync.store.settings import Policy

pytestmark = pytest.mark.feature("L1")

BULK = Lane.BULK


def opened(path: Path, policy: Policy, *, limit: int = 64 << 20) -> EdgeStore:
    return EdgeStore(path, map_bytes=1 << 20, map_bytes_max=limit, overflow={BULK: policy})


def store_readings(edge: EdgeStore, first: int, count: int, *, series: int = 1) -> None:
    """Readings first .. first+count-1, a record each, the number as value and as time."""
    write = Write()
    for n in range(first, first + count):
        body = batch.readings(n, ValueType.F64, list(range(1, series + 1)), [float(n)] * series)
        write.append(BULK, RecordKind.READINGS, body)
    edge.submit_sync(write)


def records(edge: EdgeStore, lane: Lane) -> Iterator[tuple[int, batch.Record]]:
    state = edge.state(lane)
    seq = state.trimmed + 1
    while seq <= state.tail:
        for record in batch.records(edge.read(lane, seq).data):
            yield seq, record
            seq += 1


def values(edge: EdgeStore) -> list[float]:
    found: list[float] = []
    for _, record in records(edge, BULK):
        if record.kind == RecordKind.READINGS:
            found += [float(one) for one in batch.parse_readings(record.body)[3]]
    return found


def losses(edge: EdgeStore) -> list[dict[str, int]]:
    found = [event.decode(record.body) for _, record in records(edge, Lane.CRITICAL)]
    return [json.loads(one[4]) for one in found if one[0] == EventType.LOSS]


class FakeState:
    """What `excess` asks of a lane."""

    def __init__(self, tail: int, floor: int, trimmed: int, stored_bytes: int) -> None:
        self.tail, self.floor, self.trimmed = tail, floor, trimmed
        self.stored_bytes = stored_bytes


def test_a_lane_that_refuses_keeps_what_it_has_and_says_which_key_to_raise(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(records=100)) as edge:
        store_readings(edge, 0, 100)
        with pytest.raises(LaneFull, match=r"100 of 100 records.*sync\.lanes\.bulk\.capacity"):
            store_readings(edge, 100, 1)
        assert values(edge) == [float(n) for n in range(100)]
        assert losses(edge) == []
        assert edge.overflow.refused[BULK] == 1
        edge.acknowledge_sync(BULK, 10, 10)
        store_readings(edge, 100, 10)


def test_what_the_hub_has_gives_way_before_anybody_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(nbytes=10_000)) as edge:
        store_readings(edge, 0, 150)
        with pytest.raises(LaneFull, match=r"bytes.*sync\.lanes\.bulk\.capacity_bytes"):
            store_readings(edge, 150, 50)
        write = Write()
        write.mark(BULK, 100, 100)
        edge.submit_sync(write)
        store_readings(edge, 150, 50)
        assert edge.state(BULK).stored_bytes <= 10_000
        assert values(edge)[-100:] == [float(n) for n in range(100, 200)]
        assert losses(edge) == []


def test_a_full_lane_refuses_one_write_of_a_group_and_not_its_neighbours(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(records=10)) as edge:
        store_readings(edge, 0, 10)
        writes = [Write(), Write(), Write()]
        writes[0].put("meta", b"a", b"1")
        writes[1].append(BULK, RecordKind.EVENT, b"too many")
        writes[2].put("meta", b"b", b"1")
        requests = [_Request(one, lambda _answer: None) for one in writes]
        answers = edge.commit._carry_out(requests)
        refused = [isinstance(getattr(one, "error", None), LaneFull) for one in answers]
        assert refused == [False, True, False]


def test_the_oldest_give_way_and_a_loss_record_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(overflow="drop_oldest", records=1000)) as edge:
        edge.acknowledge_sync(BULK, 0, 0)
        for first in range(0, 5000, 50):
            store_readings(edge, first, 50)
            state = edge.state(BULK)
            assert state.tail - state.trimmed <= 1000
        state, told = edge.state(BULK), losses(edge)
        assert values(edge) == [float(n) for n in range(state.trimmed, 5000)]
        assert state.floor == 0  # nothing was delivered, and nothing says it was
        assert told[0]["first"] == 1
        assert told[-1]["last"] == state.trimmed
        assert all(b["first"] == a["last"] + 1 for a, b in pairwise(told))
        assert sum(one["records"] for one in told) == state.trimmed
        assert sum(one["readings"] for one in told) == state.trimmed
        assert edge.overflow.shed(BULK).records == state.trimmed
        assert len(told) <= 5000 // (1000 // 16)
    with opened(tmp_path / "s", Policy()) as edge:
        assert edge.overflow.shed(BULK).records == state.trimmed


def test_a_drop_and_its_loss_record_are_one_transaction(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(overflow="drop_oldest", records=100)) as edge:
        store_readings(edge, 0, 100)
        write = Write()
        write.append(BULK, RecordKind.EVENT, b"one more")
        write.mark(BULK, 10_000, 0)  # of another history: the transaction fails
        with pytest.raises(ValueError, match="tail"):
            edge.submit_sync(write)
        assert values(edge) == [float(n) for n in range(100)]
        assert losses(edge) == []
        assert edge.overflow.shed(BULK).times == 0


def test_names_of_series_are_never_dropped(tmp_path: Path) -> None:
    policy = Policy(overflow="drop_oldest", records=200)
    with opened(tmp_path / "s", policy) as edge:
        series = Series("meter0", "Power", "W", ValueType.F64)
        write = Write()
        edge.series.stage(write, BULK, series, 0)
        edge.submit_sync(write)
        (_, before), *_ = records(edge, BULK)
        for first in range(0, 3000, 20):
            store_readings(edge, first, 20)
        kept = [one for _, one in records(edge, BULK) if one.kind == RecordKind.EVENT]
        assert [(one.body, one.origin, one.number) for one in kept] == [
            (before.body, before.origin, before.number)
        ]


def test_downsampling_keeps_every_kth_reading_of_each_series(tmp_path: Path) -> None:
    policy = Policy(overflow="downsample", records=1000, keep_every=4)
    with opened(tmp_path / "s", policy) as edge:
        for first in range(0, 2000, 50):
            store_readings(edge, first, 50, series=3)
            assert edge.state(BULK).tail - edge.state(BULK).trimmed <= 1000
        found = Counter(values(edge))
        assert sum(found.values()) + sum(one["readings"] for one in losses(edge)) == 3 * 2000
        assert set(found.values()) == {3}  # the series were read together: they stay together
        thinned = sorted(int(one) for one in found)
        steps = {b - a for a, b in pairwise(thinned)}
        assert {1, 4} <= steps
        assert max(steps) <= 4**3  # what was thinned out comes round again when the rest was
        assert thinned[-50:] == list(range(1950, 2000))


def test_what_cannot_be_thinned_gives_way_whole(tmp_path: Path) -> None:
    policy = Policy(overflow="downsample", records=100, keep_every=4)
    with opened(tmp_path / "s", policy) as edge:
        for n in range(500):
            write = Write()
            write.append(BULK, RecordKind.EVENT, b"no telemetry %d" % n)
            edge.submit_sync(write)
        state = edge.state(BULK)
        assert state.tail - state.trimmed <= 100
        assert sum(one["records"] for one in losses(edge)) == 500 - (state.tail - state.trimmed)


@pytest.mark.parametrize("how", ["drop_oldest", "downsample"])
def test_a_store_that_is_full_goes_on_where_a_lane_may_give_way(how: str, tmp_path: Path) -> None:
    policy = Policy(overflow="drop_oldest" if how == "drop_oldest" else "downsample")
    with opened(tmp_path / "s", policy, limit=2 << 20) as edge:
        for first in range(0, 60_000, 500):
            store_readings(edge, first, 500)
        found = values(edge)
        assert found[-1] == 59_999
        assert len(found) + sum(one["readings"] for one in losses(edge)) == 60_000


def test_a_store_that_is_full_refuses_where_none_may(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(), limit=1 << 20) as edge:
        write = Write()
        write.append_many(BULK, RecordKind.EVENT, [bytes(1000)] * 1200)
        with pytest.raises(StoreFull):
            edge.submit_sync(write)
        assert losses(edge) == []


def test_a_damaged_record_gives_way_like_any_other(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(overflow="drop_oldest", records=100)) as edge:
        store_readings(edge, 0, 100)
        ((key, row),) = edge.store.scan("journal.2", limit=1)
        raw = bytearray(row)
        raw[-1] ^= 1
        write = Write()
        write.put("journal.2", key, bytes(raw))
        edge.submit_sync(write)
        store_readings(edge, 100, 1)
        (told,) = losses(edge)
        assert (told["first"], told["records"]) == (1, edge.state(BULK).trimmed)


@given(
    policy=st.builds(
        Policy,
        records=st.integers(0, 10_000),
        nbytes=st.integers(0, 1 << 24),
    ),
    held=st.integers(0, 20_000),
    delivered=st.integers(0, 20_000),
    coming=st.integers(1, 5000),
    size=st.integers(1, 4000),
)
def test_room_is_what_is_left_after_the_excess(
    policy: Policy, held: int, delivered: int, coming: int, size: int
) -> None:
    state = FakeState(held, min(delivered, held), 0, held * size)
    waiting = state.tail - state.floor
    over = excess(policy, state, coming, coming * size)  # type: ignore[arg-type]
    fits = (not policy.records or waiting + coming <= policy.records) and (
        not policy.nbytes or (held + coming) * size <= policy.nbytes
    )
    assert (over is None) == fits
    if over is not None and policy.records:
        assert waiting + coming - over.records <= policy.records
    if over is not None and policy.nbytes:
        assert (held + coming) * size - over.nbytes <= policy.nbytes


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "ack", "reopen"]), st.integers(1, 60)), max_size=40
)


@settings(max_examples=40)
@given(
    steps=STEPS,
    how=st.sampled_from(["drop_oldest", "downsample"]),
    capacity=st.integers(1, 150),
    keep_every=st.integers(2, 9),
)
def test_every_reading_is_here_delivered_or_told(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int]],
    how: str,
    capacity: int,
    keep_every: int,
) -> None:
    """A hub that takes what is acknowledged, an edge that is too small: nothing goes untold."""
    policy = Policy(
        overflow="drop_oldest" if how == "drop_oldest" else "downsample",
        records=capacity, keep_every=keep_every,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("overflow") / "s"
    at_hub: list[float] = []
    made = 0
    edge = opened(path, policy)
    try:
        for what, amount in steps:
            if what == "append":
                store_readings(edge, made, amount)
                made += amount
            elif what == "ack":
                at_hub += deliver(edge, amount)
            else:
                edge.close()
                edge = opened(path, policy)
            state = edge.state(BULK)
            assert state.tail - max(state.floor, state.trimmed) <= max(capacity, 60)
        here = values_from(edge, edge.state(BULK).floor + 1)
        told = sum(one["readings"] for one in losses(edge))
        assert len(here) + len(at_hub) + told == made
        assert not Counter([*here, *at_hub]) - Counter(range(made))
    finally:
        edge.close()


def deliver(edge: EdgeStore, amount: int) -> list[float]:
    """Take the next records as a hub would: the gap first, and then what is there."""
    state = edge.state(BULK)
    first = max(state.floor, state.trimmed) + 1
    last = min(first + amount - 1, state.tail)
    if last < first:
        return []
    taken = [
        float(value)
        for seq, record in records(edge, BULK)
        if first <= seq <= last
        for value in batch.parse_readings(record.body)[3]
    ]
    edge.acknowledge_sync(BULK, last, last)
    return taken


def values_from(edge: EdgeStore, first: int) -> list[float]:
    return [
        float(value)
        for seq, record in records(edge, BULK)
        if seq >= first
        for value in batch.parse_readings(record.body)[3]
    ]


def test_a_lane_without_a_policy_costs_one_look(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "s", map_bytes=1 << 20) as edge:
        asked = Overflow(edge.store, {})
        write = Write()
        write.append(BULK, RecordKind.EVENT, b"x")
        assert asked.make_room(write) is None
        assert asked.relieve() is None


def test_status_counts_what_gave_way(tmp_path: Path) -> None:
    settings = {
        "edge": {"data_dir": str(tmp_path / "data")},
        "sync": {"lanes": {"bulk": {"overflow": "drop_oldest", "capacity": 100}}},
    }
    with EdgeNode(settings) as node:
        for n in range(300):
            node.ingest_sync([Reading("m", "P", float(n), n)])
        lane = node.status().lanes[BULK]
        assert lane.overflow == "drop_oldest"
        assert lane.dropped == lane.dropped_readings > 0
        # The name of the series was carried over, at the price of a record.
        assert lane.pending + lane.dropped == 301
        assert lane.floor == 0


def test_operations_on_keys_are_never_dropped_and_never_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "s", Policy(overflow="drop_oldest", records=100)) as edge:
        store_readings(edge, 0, 50)
        write = Write()
        write.append(BULK, RecordKind.CELLS, b"operations", essential=True)
        edge.submit_sync(write)
        store_readings(edge, 50, 99)  # what comes before them may go …
        with pytest.raises(LaneFull):
            store_readings(edge, 149, 1)
        kinds = [record.kind for _, record in records(edge, BULK)]
        assert kinds[0] == RecordKind.CELLS
        assert len(kinds) == 100
        write = Write()
        write.append(BULK, RecordKind.CELLS, b"more", essential=True)
        edge.submit_sync(write)
        state = edge.state(BULK)
        edge.acknowledge_sync(BULK, state.trimmed + 1, state.trimmed + 1)
        store_readings(edge, 150, 50)


def test_two_lanes_that_give_way_to_one_write_are_both_counted(tmp_path: Path) -> None:
    policy = Policy(overflow="drop_oldest", records=10)
    both = {BULK: policy, Lane.NORMAL: policy}
    with EdgeStore(tmp_path / "s", map_bytes=1 << 20, overflow=both) as edge:
        for _ in range(3):
            write = Write()
            write.append_many(BULK, RecordKind.EVENT, [b"x"] * 10)
            write.append_many(Lane.NORMAL, RecordKind.EVENT, [b"y"] * 10)
            edge.submit_sync(write)
        assert [edge.overflow.shed(lane).records for lane in Lane] == [0, 20, 20]
        assert sorted(one["lane"] for one in losses(edge)) == [1, 1, 2, 2]
