"""The newest readings of a series are there, whatever was refused, restarted, or under way."""

import array
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import batch
from edgesync._native.points import Part, Recent, batch_columns, batch_row
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.intake import Intake
from edgesync.model import Lane, RecordKind, series_id
from edgesync.store.journal import EdgeStore
from edgesync.store.point_rows import DATABASE, Kept, Point
from edgesync.store.points import AHEAD_NS, SEAL_POINTS, PointStore, Staged

pytestmark = pytest.mark.feature("L10")

NOW = 1_700_000_000 * 10**9


class Box:
    """A store that can be opened again."""

    def __init__(
        self, path: Path, keep: int = 1000, age_ns: int = 0, series_max: int = 50,
        recent_max: int = 1000,
    ) -> None:  # fmt: skip
        self.path, self.keep, self.age_ns, self.series_max = path, keep, age_ns, series_max
        self.recent_max = recent_max
        self.now_ns = NOW
        self.open()

    def open(self) -> None:
        self.store = EdgeStore(self.path, databases=(DATABASE,))
        self.points = PointStore(
            self.store, Intake(self.store.series, series_max=self.series_max), keep=self.keep,
            age_ns=self.age_ns, recent_max=self.recent_max, wall_ns=lambda: self.now_ns,
        )  # fmt: skip

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def stage(self, *readings: tuple[str, int, float]) -> Staged:
        places = array.array("I", [self.points.place(name, "value") for name, _, _ in readings])
        times = array.array("q", [time_ns for _, time_ns, _ in readings])
        return self.points.stage(places, times, array.array("d", [one[2] for one in readings]))

    def put(self, *readings: tuple[str, int, float]) -> None:
        self.carry_out(self.stage(*readings))
        flushed = self.points.flush()
        if flushed is not None:
            self.carry_out(flushed)

    def carry_out(self, staged: Staged) -> None:
        with self.points.carried_out(staged):
            self.store.submit_sync(staged.write)

    def readings(self, name: str) -> list[Point]:
        kept = self.points.find(name, "value")
        return [] if kept is None else self.points.readings(kept)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "store")
    yield made
    made.store.close()


def summary(box: Box, name: str) -> tuple[object, ...]:
    kept = box.points.find(name, "value")
    assert kept is not None
    window = box.points.aggregate(kept)
    return (
        window.count, window.missing, window.sum, window.mean, window.variance, window.min,
        window.max, window.buckets(), box.points.newest(kept), box.readings(name),
    )  # fmt: skip


def test_readings_go_to_the_journal_and_stay_when_it_is_trimmed(box: Box) -> None:
    box.put(("t1", NOW, 1.5), ("t2", NOW, 2.5), ("t1", NOW + 1, 3.5))
    rows = batch.records(box.store.read(Lane.BULK, 1).data)
    told = [batch.parse_readings(row.body) for row in rows if row.kind == RecordKind.READINGS]
    one, two = series_id("t1", "value"), series_id("t2", "value")
    assert told == [(NOW, 0, [one, two], [1.5, 2.5]), (NOW + 1, 0, [one], [3.5])]
    tail = box.store.state(Lane.BULK).tail
    box.store.acknowledge_sync(Lane.BULK, tail, tail)
    assert box.store.state(Lane.BULK).trimmed == tail
    assert box.readings("t1") == [(NOW, 1.5), (NOW + 1, 3.5)]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_answered_is_what_was_committed(tmp_path: Path, seed: int) -> None:
    """Writes are under way beside each other, some are refused, the node is restarted."""
    random = Random(seed)
    keep = random.choice((5, 100, 600, 5000))
    box = Box(tmp_path / "store", keep=keep, recent_max=random.choice((1, 50, 400, 10_000)))
    stored: dict[str, list[Point]] = {"a": [], "b": []}
    under_way: list[tuple[Staged, list[tuple[str, int, float]]]] = []

    def check() -> None:
        for name in stored:
            wanted = stored[name] + [
                Point(time_ns, value)
                for _, readings in under_way for one, time_ns, value in readings if one == name
            ]  # fmt: skip
            kept = box.points.find(name, "value")
            if kept is None:
                assert not wanted
                continue
            found = box.points.readings(kept)
            assert found == sorted(wanted[-keep:], key=lambda point: point.time_ns)
            window = box.points.aggregate(kept)
            assert window.count == len(wanted)
            assert math.isclose(window.sum, math.fsum(point.value for point in wanted))
            newest = max(wanted, key=lambda point: point.time_ns, default=None)
            times = [point for point in wanted if newest and point.time_ns == newest.time_ns]
            assert box.points.newest(kept) == (times[-1] if times else None)

    for _ in range(60):
        chance = random.random()
        if chance < 0.5:
            size = random.choice((1, 3, 50, SEAL_POINTS, 3000))
            readings = [
                (random.choice("ab"), NOW + random.randrange(10**6), random.gauss(20, 5))
                for _ in range(random.randrange(1, size + 1))
            ]
            under_way.append((box.stage(*readings), readings))
        elif chance < 0.6 and under_way:
            # One that is refused, and not the oldest: others were staged on either side of it.
            staged, _ = under_way.pop(random.randrange(len(under_way)))
            box.points.withdraw(staged)
        elif under_way:
            staged, readings = under_way.pop(0)
            box.store.submit_sync(staged.write)
            under_way.insert(0, (staged, readings))
            check()  # committed, and not confirmed
            under_way.pop(0)
            box.points.confirm(staged)
            for name, time_ns, value in readings:
                stored[name].append(Point(time_ns, value))
        elif chance > 0.9:
            box.reopen()
        if random.random() < 0.5 and (flushed := box.points.flush()) is not None:
            check()
            if random.random() < 0.3:
                box.points.withdraw(flushed)
            else:
                box.store.submit_sync(flushed.write)
                check()
                if random.random() < 0.3 and not under_way:
                    box.reopen()
                else:
                    box.points.confirm(flushed)
        check()
    for staged, _ in under_way:
        box.points.withdraw(staged)
    under_way.clear()
    check()
    before = [summary(box, name) for name in stored if box.points.find(name, "value")]
    box.reopen()
    assert [summary(box, name) for name in stored if box.points.find(name, "value")] == before
    box.store.close()


def test_old_blocks_go(tmp_path: Path) -> None:
    box = Box(tmp_path / "store", keep=1000)
    for at in range(100):
        box.put(*[("t", NOW + at * 100 + n, float(n)) for n in range(100)])
    assert box.store.store.count(DATABASE) < 20
    assert len(box.readings("t")) == 1000
    kept = box.points.find("t", "value")
    assert kept is not None
    assert box.points.aggregate(kept).count == 10_000
    box.store.close()


def test_a_batch_larger_than_what_is_kept_is_added_up_and_cut(box: Box) -> None:
    box.put(*[("t", NOW + n, 1.0) for n in range(20_000)])
    assert [point.time_ns for point in box.readings("t")] == [
        NOW + n for n in range(19_000, 20_000)
    ]
    assert box.points.aggregate(box.points.kept_at(0)).sum == 20_000
    assert box.store.store.count(DATABASE) < 5


def test_readings_grow_old(tmp_path: Path) -> None:
    box = Box(tmp_path / "store", age_ns=10**9)
    box.put(("t", NOW - 5, 1.0), ("t", NOW + 5, 2.0))
    assert len(box.readings("t")) == 2
    box.now_ns += 10**9
    assert box.readings("t") == [(NOW + 5, 2.0)]
    box.store.close()


def test_a_reading_of_the_future_is_kept_aside_and_counted(box: Box) -> None:
    box.put(("t", NOW, 1.0), ("t", NOW + AHEAD_NS + 1, 9.0), ("t", NOW + AHEAD_NS, 2.0))
    box.put(("t", NOW + 2 * AHEAD_NS, 8.0))
    for _ in range(2):
        kept = box.points.find("t", "value")
        assert kept is not None
        assert box.points.newest(kept) == (NOW + AHEAD_NS, 2.0)
        assert kept.set_aside == 2
        assert [point.value for point in box.points.set_aside(kept)] == [9.0, 8.0]
        assert box.points.aggregate(kept).count == 2
        box.reopen()
    # The hub gets all of them: what was acknowledged is not lost.
    rows = batch.records(box.store.read(Lane.BULK, 1).data)
    assert sum(row.kind == RecordKind.READINGS for row in rows) == 4


def test_only_so_many_of_the_future_are_kept(box: Box) -> None:
    for n in range(100):
        box.put(("t", NOW + 2 * AHEAD_NS + n, float(n)))
    kept = box.points.find("t", "value")
    assert kept is not None
    assert kept.set_aside == 100
    assert [point.value for point in box.points.set_aside(kept)] == [
        float(n) for n in range(36, 100)
    ]


def test_series_are_limited(tmp_path: Path) -> None:
    box = Box(tmp_path / "store", series_max=2)
    box.put(("a", NOW, 1.0), ("b", NOW, 1.0))
    with pytest.raises(RecordError, match="2 series already"):
        box.put(("c", NOW, 1.0))
    box.store.close()


def test_what_is_kept_stays_where_the_limit_is_lowered_below_it(tmp_path: Path) -> None:
    box = Box(tmp_path / "store")
    box.put(("a", NOW, 1.0), ("b", NOW, 1.0), ("c", NOW, 1.0))
    box.series_max = 2
    box.reopen()
    box.put(("a", NOW + 1, 2.0), ("c", NOW + 1, 2.0))
    assert box.readings("c") == [(NOW, 1.0), (NOW + 1, 2.0)]
    with pytest.raises(RecordError):
        box.put(("d", NOW, 1.0))
    box.store.close()


def test_a_series_of_a_refused_write_is_not_there(box: Box) -> None:
    staged = box.stage(("t", NOW, 1.0))
    assert box.points.find("t", "value") is not None
    box.points.withdraw(staged)
    assert box.points.find("t", "value") is None
    box.put(("t", NOW, 2.0))
    box.reopen()
    assert box.readings("t") == [(NOW, 2.0)]


def test_a_write_adds_one_row_however_many_series_it_has(tmp_path: Path) -> None:
    box = Box(tmp_path / "store")
    names = [f"t{n}" for n in range(40)]
    box.put(*[(name, NOW, 1.0) for name in names])
    before = box.store.store.count(DATABASE)
    box.put(*[(name, NOW + 1, 2.0) for name in names])
    assert box.store.store.count(DATABASE) == before + 1
    box.reopen()
    assert [box.readings(name) for name in names] == [[(NOW, 1.0), (NOW + 1, 2.0)]] * 40
    box.store.close()


def test_recent_readings_take_bounded_memory_and_rows(tmp_path: Path) -> None:
    box = Box(tmp_path / "store", recent_max=100)
    for at in range(500):
        box.put(("a", NOW + at, float(at)), ("b", NOW + at, float(at)))
        rows = box.store.store.scan(DATABASE, b"b", b"c")
        assert len(rows) <= 51
    assert box.readings("a") == [(NOW + at, float(at)) for at in range(500)]
    box.store.close()


def test_a_damaged_row_is_left_out_and_the_others_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = Box(tmp_path / "store", recent_max=3)
    for at in range(3):
        box.put(("t", NOW + at, float(at)))
        if at == 1:
            (key, row), *_ = box.store.store.scan(DATABASE, b"b", b"c")
            write = Write()
            write.put(DATABASE, key, row[:-1] + bytes([row[-1] ^ 1]))
            box.store.submit_sync(write)
            box.reopen()
            assert "damaged row" in caplog.text
            assert box.readings("t") == [(NOW + 1, 1.0)]
    box.put(("t", NOW + 3, 3.0))
    assert box.readings("t") == [(NOW + at, float(at)) for at in (1, 2, 3)]
    assert box.store.store.scan(DATABASE, b"b", b"c") == []
    box.store.close()


def _short(row: bytes) -> bytes:
    return row[:3]


def _cut(row: bytes) -> bytes:
    return row[:-3]


def _flipped(row: bytes) -> bytes:
    return row[:40] + b"\xff" * (len(row) - 40)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("damage", "is_block", "lost"),
    [(_short, False, 20), (_cut, False, 20), (_short, True, 260), (_flipped, True, 260)],
)
def test_a_damaged_row_of_a_series_costs_what_was_in_it(
    tmp_path: Path, damage: Callable[[bytes], bytes], is_block: bool, lost: int, is_open: bool,
) -> None:  # fmt: skip
    """A flush that met one was under way for ever: its readings were seen no more, nor flushed."""
    box = Box(tmp_path / "store", recent_max=100)
    names = [f"t{number}" for number in range(5)]

    def put(first: int, last: int) -> None:
        for start in range(first, last, 20):
            box.put(*[(name, NOW + at, 1.0) for at in range(start, start + 20) for name in names])

    before = 280 if is_block else 40
    put(0, before)
    start = b"p" + series_id("t2", "value").to_bytes(8, "big")
    (key, row) = box.store.store.scan(DATABASE, start, start + b"\xff" * 9)[0]
    write = Write()
    write.put(DATABASE, key, damage(row))
    box.store.submit_sync(write)
    if not is_open:
        box.reopen()
    put(before, 560)
    wanted = [560, 560, 560 - lost, 560, 560]
    assert [len(box.readings(name)) for name in names] == wanted
    assert box.store.store.scan(DATABASE, b"b", b"c") == []
    box.reopen()
    assert [len(box.readings(name)) for name in names] == wanted
    box.store.close()


@pytest.mark.parametrize("kind", [b"s", b"m", b"q"])
def test_another_row_of_a_series_that_is_damaged_stops_nothing(box: Box, kind: bytes) -> None:
    staged = box.stage(*[("t", NOW + at, 1.0) for at in range(1000)])
    box.points.stage_metadata(staged, 0, {"room": "north"})
    box.carry_out(staged)
    box.put(("t", NOW + 2 * AHEAD_NS, 1.0))
    write = Write()
    start = kind + series_id("t", "value").to_bytes(8, "big")
    ((key, _),) = box.store.store.scan(DATABASE, start, start + b"\xff" * 9)
    write.put(DATABASE, key, b"\xc1")
    box.store.submit_sync(write)
    box.reopen()
    box.put(*[("t", NOW + 1000 + at, 1.0) for at in range(1000)])
    kept = box.points.find("t", "value")
    assert kept is not None
    assert box.points.newest(kept) == (NOW + 1999, 1.0)
    assert len(box.readings("t")) == 1000
    assert box.points.aggregate(kept).count >= 1000
    assert len(box.points.set_aside(kept)) == (0 if kind == b"q" else 1)


def test_what_an_older_version_left_is_gone_on_with(tmp_path: Path) -> None:
    """It wrote a row for each series of a batch, raw, and blocks."""
    box = Box(tmp_path / "store", recent_max=1)
    for at in range(SEAL_POINTS + 10):
        box.put(("t", NOW + at, float(at)))
    assert box.store.store.scan(DATABASE, b"b", b"c") == []
    box.recent_max = 1000
    box.reopen()
    box.put(("t", NOW + 1000, 5.0))
    kept = box.points.find("t", "value")
    assert kept is not None
    assert box.points.aggregate(kept).count == SEAL_POINTS + 11
    assert box.points.newest(kept) == (NOW + 1000, 5.0)
    assert len(box.readings("t")) == SEAL_POINTS + 11
    box.store.close()


def test_series_that_are_read_at_one_pace_are_not_sealed_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "store", recent_max=400)
    seal, sealed = box.points._seal, list[int]()

    def counting(*arguments: Any) -> Any:
        sealed[-1] += 1
        return seal(*arguments)

    monkeypatch.setattr(box.points, "_seal", counting)
    names = [f"t{n}" for n in range(40)]
    for at in range(400):
        sealed.append(0)
        box.put(*[(name, NOW + at, float(at)) for name in names])
    assert sum(sealed) == 40
    assert max(sealed) <= 15
    assert len(box.readings("t39")) == 400
    box.store.close()


def test_a_flush_that_was_refused_is_tried_again_after_some_more(tmp_path: Path) -> None:
    """Not with each write: it is large, and on a full disk refused again."""
    box = Box(tmp_path / "store", recent_max=16)
    box.carry_out(box.stage(*[("t", NOW + at, 1.0) for at in range(16)]))
    refused = box.points.flush()
    assert refused is not None
    box.points.withdraw(refused)
    box.carry_out(box.stage(("t", NOW + 16, 1.0)))
    assert box.points.flush() is None
    box.carry_out(box.stage(("t", NOW + 17, 1.0)))
    flushed = box.points.flush()
    assert flushed is not None
    box.carry_out(flushed)
    assert len(box.readings("t")) == 18
    box.store.close()


def test_a_flush_that_cannot_be_prepared_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "store", recent_max=6)
    box.carry_out(box.stage(*[(name, NOW + at, 1.0) for at in range(2) for name in "abc"]))
    move = box.points._move

    def fail(write: Write, kept: Kept, part: Part) -> None:
        if kept.series.entity == "b":
            raise MemoryError
        move(write, kept, part)

    with monkeypatch.context() as patch:
        patch.setattr(box.points, "_move", fail)
        with pytest.raises(MemoryError):
            box.points.flush()
    assert [len(box.readings(name)) for name in "abc"] == [2, 2, 2]
    box.put(("a", NOW + 2, 1.0))
    assert [len(box.readings(name)) for name in "abc"] == [3, 2, 2]
    box.reopen()
    assert [len(box.readings(name)) for name in "abc"] == [3, 2, 2]
    box.store.close()


def test_a_fork_tells_the_hub_of_series_again(box: Box) -> None:
    box.put(("t", NOW, 1.0))
    before = box.store.state(Lane.BULK).tail
    box.put(("t", NOW + 1, 1.0))
    assert box.store.state(Lane.BULK).tail == before + 1
    box.store.fork_sync()
    box.put(("t", NOW + 2, 1.0))
    assert box.store.state(Lane.BULK).tail == before + 3


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-5, 5), st.floats(allow_nan=False)), max_size=8
)


def columns(
    rows: Sequence[tuple[int, int, float]],
) -> "tuple[array.array[int], array.array[int], array.array[float]]":
    places = array.array("I", [row[0] for row in rows])
    times = array.array("q", [row[1] for row in rows])
    return places, times, array.array("d", [row[2] for row in rows])


@given(st.lists(st.tuples(ROWS, st.booleans()), max_size=8))
def test_recent_readings_are_those_that_were_not_taken_back(
    batches: list[tuple[list[tuple[int, int, float]], bool]],
) -> None:
    recent, plain = Recent(), list[tuple[int, int, float]]()
    for rows, is_refused in batches:
        first = recent.append(*columns(rows), 5)
        if is_refused:
            recent.drop(first, len(rows))
        else:
            plain += rows
    assert recent.live == len(plain)
    assert len(recent) == sum(len(rows) for rows, _ in batches)
    assert list(zip(*recent.all(), strict=True)) == plain
    for place in range(6):
        mine = [(at, value) for one, at, value in plain if one == place]
        times, values = recent.columns(place)
        assert list(zip(times, values, strict=True)) == mine
        newest = max((at for at, _ in mine), default=None)
        last = [one for one in mine if one[0] == newest]
        assert recent.newest(place) == (last[-1] if last else None)


@given(ROWS, st.binary(min_size=1, max_size=9), st.integers(0, 10_000))
def test_rows_of_batches_are_read_as_written_or_not_at_all(
    rows: list[tuple[int, int, float]], key: bytes, bit: int
) -> None:
    ids = array.array("Q", [7, 5, 1 << 63, 4, 3])
    row = batch_row(key, ids, *columns(rows))
    known = {ids[place]: place for place in range(4)}
    found = batch_columns(key, row, known)
    assert found is not None
    assert list(zip(*found, strict=True)) == [one for one in rows if one[0] in known.values()]
    assert batch_columns(key + b"x", row, known) is None
    assert batch_columns(key, row[:-1], known) is None
    bit %= 8 * len(row)
    wrong = bytearray(row)
    wrong[bit // 8] ^= 1 << bit % 8
    assert batch_columns(key, bytes(wrong), known) is None
