"""Batches: any rows come back byte for byte, columns say what the rows said, lies are refused."""

from __future__ import annotations

import math
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import batch, pack
from edgesync.errors import RecordError
from tests.native.rowsmith import Draft, chain_after, make_rows

ROWS, COLUMNS = 0, 1
EVENT, READINGS = 1, 2
F64, I64, BOOL, TEXT = range(4)
START = 1_700_000_000_000_000_000

SERIES = st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 1000).map(lambda s: START + s * 10**9)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
Value = bytes | float | int | str
Some = float | int | bool | str
VALUES: dict[int, st.SearchStrategy[Some]] = {
    F64: st.floats() | st.integers(-1000, 1000).map(lambda m: m / 10),
    I64: st.integers(-(2**63), 2**63 - 1),
    BOOL: st.booleans(),
    TEXT: NAMES,
}
LISTS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    vtype = draw(st.sampled_from([F64, F64, F64, I64, BOOL, TEXT]))
    series = draw(LISTS | st.lists(SERIES, min_size=1, max_size=3))
    values = [draw(VALUES[vtype]) for _ in series]
    return batch.readings(draw(TIMES), vtype, series, values)


@st.composite
def drafts(draw: st.DrawFn) -> list[Draft]:
    out, number = [], draw(st.integers(0, 2**63))
    for _ in range(draw(st.integers(0, 30))):
        kind, body = draw(
            st.tuples(st.just(READINGS), bodies())
            | st.tuples(st.just(READINGS), bodies())
            | st.tuples(st.sampled_from([EVENT, READINGS, 9]), st.binary(max_size=60))
        )
        flags = 1 if draw(st.integers(0, 9)) == 0 else 0
        number = (
            (number + 1) % 2**64 if draw(st.integers(0, 9)) else draw(st.integers(0, 2**64 - 1))
        )
        chain = None if draw(st.integers(0, 9)) else draw(st.integers(1, 2**64 - 1))
        body = pack.pack(body) if flags else body
        out.append(Draft(kind, body, draw(st.sampled_from([99, 2**64 - 1])), number, flags, chain))
    return out


@pytest.mark.slow
@given(drafts(), st.integers(0, 2), st.integers(1, 2**40), st.integers(0, 2**64 - 1))
@pytest.mark.feature("S13")
def test_any_rows_come_back(made: list[Draft], lane: int, first: int, prev: int) -> None:
    rows = make_rows(made, lane, first, prev)
    for columns in (True, False):
        codec, payload = batch.pack(rows, columns=columns, prev_chain=prev)
        assert codec in ((ROWS, COLUMNS) if columns else (ROWS,))
        assert batch.unpack(codec, payload, lane, first, prev) == rows
        chains = [prev, *(r.chain for r in batch.records(batch.unpack(codec, payload, 0, 1, prev)))]
        assert batch.last_chain(codec, payload, prev) == chains[-1]
        ids = [
            (origin, (number + i) % 2**64)
            for origin, number, count in batch.ids(codec, payload)
            for i in range(count)
        ]
        assert ids == [(d.origin, d.number) for d in made]


def polls(count: int, width: int = 5, seed: int = 1) -> list[Draft]:
    rng = random.Random(seed)
    at = [rng.uniform(0, 100) for _ in range(width)]
    out = []
    for i in range(count):
        at = [v + rng.gauss(0, 0.1) for v in at]
        time_ns = START + (i * 1000 + rng.randint(-5, 5)) * 10**6
        body = batch.readings(time_ns, F64, range(width), [round(v, 2) for v in at])
        out.append(Draft(READINGS, body, number=i + 1))
    return out


def table(made: list[Draft]) -> dict[tuple[int, int], tuple[list[int], list[Value]]]:
    """The columns in plain Python, from one record after the other."""
    out: dict[tuple[int, int], tuple[list[int], list[Value]]] = {}
    for draft in made:
        if draft.kind == READINGS:
            body = pack.unpack(draft.body) if draft.flags else draft.body
            time_ns, vtype, series, values = batch.parse_readings(body)
            for one, value in zip(series, values, strict=True):
                times, column = out.setdefault((one, vtype), ([], []))
                times.append(time_ns)
                column.append(struct.pack("<d", value) if vtype == F64 else value)
    return out


def seen(columns: list[batch.Column]) -> dict[tuple[int, int], tuple[list[int], list[Value]]]:
    out: dict[tuple[int, int], tuple[list[int], list[Value]]] = {}
    for c in columns:
        values: list[Value] = [struct.pack("<d", v) if c.vtype == F64 else v for v in c.values]
        out[c.series, c.vtype] = (list(c.times), values)
    return out


@pytest.mark.slow
@given(st.lists(bodies(), max_size=40), st.booleans())
def test_columns_say_what_the_records_said(made: list[bytes], packed: bool) -> None:
    rows = [Draft(READINGS, body, number=i) for i, body in enumerate(made)]
    rows.insert(len(rows) // 2, Draft(EVENT, b"an event", number=5000))
    if packed and made:
        rows.append(Draft(READINGS, pack.pack(made[0]), number=6000, flags=1))
    for columns in (True, False):
        codec, payload = batch.pack(make_rows(rows), columns=columns)
        got, events = batch.columns(codec, payload)
        assert seen(got) == table(rows)
        assert [(i, r.kind, r.body, r.number) for i, r in events] == [
            (i, d.kind, d.body, d.number) for i, d in enumerate(rows) if d.kind == EVENT
        ]


def test_more_points_than_a_piece_holds() -> None:
    made = [
        Draft(READINGS, batch.readings(START + i * i, I64, [7], [i % 97]), number=i)
        for i in range(20_000)
    ]
    rows = make_rows(made)
    codec, payload = batch.pack(rows)
    assert codec == COLUMNS
    assert batch.unpack(codec, payload, 2, 1, 0) == rows
    (column,), events = batch.columns(codec, payload)
    assert list(column.values) == [i % 97 for i in range(20_000)]
    assert list(column.times) == [START + i * i for i in range(20_000)]
    assert events == []


def test_hundreds_of_shapes() -> None:
    rng = random.Random(5)
    made = []
    for i in range(3000):
        names = rng.sample(range(300), rng.randint(1, 4))
        body = batch.readings(
            START + i * 10**9, F64, names, [rng.randint(0, 99) / 10 for _ in names]
        )
        made.append(Draft(READINGS, body, number=i))
    codec, payload = batch.pack(make_rows(made))
    assert codec == COLUMNS
    assert batch.unpack(codec, payload, 2, 1, 0) == make_rows(made)
    assert seen(batch.columns(codec, payload)[0]) == table(made)


@pytest.mark.slow
def test_columns_beat_rows_on_telemetry() -> None:
    """50 decimal sensors at 1 Hz: 0.85 bytes a reading when measured, also one reading a record."""
    made = polls(1000, width=50)
    codec, payload = batch.pack(make_rows(made))
    assert codec == COLUMNS
    assert len(payload) <= 1.2 * 50_000
    singles: list[Draft] = []
    for draft in made[:200]:
        time_ns, vtype, series, values = batch.parse_readings(draft.body)
        for one, value in zip(series, values, strict=True):
            body = batch.readings(time_ns, vtype, [one], [value])
            singles.append(Draft(READINGS, body, number=len(singles)))
    codec, payload = batch.pack(make_rows(singles))
    assert codec == COLUMNS
    assert len(payload) <= 1.6 * 10_000


def test_events_alone_stay_rows() -> None:
    rows = make_rows([Draft(EVENT, b"started", number=i) for i in range(10)])
    assert batch.pack(rows)[0] == ROWS


def test_an_empty_batch() -> None:
    codec, payload = batch.pack(b"")
    assert batch.unpack(codec, payload, 2, 1, 0) == b""
    assert batch.columns(codec, payload) == ([], [])
    assert batch.ids(codec, payload) == []


def test_a_loss_record_in_place_keeps_the_chain_after_it() -> None:
    """The record that was damaged is gone; those after it still carry the hash it had."""
    made = [Draft(EVENT, b"event %d" % i, number=i) for i in range(6)]
    chain, chains = 0, []
    for draft in made:
        chain = chain_after(chain, draft)
        chains.append(chain)
    made[3] = Draft(EVENT, b"loss", number=3, chain=chains[3])
    rows = make_rows(made)
    codec, payload = batch.pack(rows, prev_chain=0)
    assert batch.unpack(codec, payload, 2, 1, 0) == rows
    assert [r.chain for r in batch.records(rows)] == chains


def test_another_lane_seq_or_chain_makes_other_rows() -> None:
    """Checksum and chain bind a record to its place (I14)."""
    rows = make_rows(polls(3))
    codec, payload = batch.pack(rows)
    others = [
        batch.unpack(codec, payload, 1, 1, 0),
        batch.unpack(codec, payload, 2, 2, 0),
        batch.unpack(codec, payload, 2, 1, 5),
    ]
    assert all(len(other) == len(rows) and other != rows for other in others)


def test_records_are_unpacked() -> None:
    text = b"a long text " * 20
    rows = make_rows([Draft(EVENT, pack.pack(text), flags=1, number=4)])
    (record,) = batch.records(rows)
    assert (record.kind, record.origin, record.number, record.body) == (EVENT, 99, 4, text)
    codec, payload = batch.pack(rows)
    assert batch.columns(codec, payload)[1][0][1].body == text


def test_threads_do_not_share_what_they_work_on() -> None:
    """The GIL is away while a batch or a block is packed, and one scratch is kept for reuse."""
    samples = [make_rows(polls(60, width=8, seed=seed)) for seed in range(4)]
    alone = [batch.pack(rows) for rows in samples]

    def work(n: int) -> bool:
        codec, payload = batch.pack(samples[n % 4])
        rows = batch.unpack(codec, payload, 2, 1, 0)
        return (codec, payload) == alone[n % 4] and rows == samples[n % 4]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(400)))


def test_limits_hold() -> None:
    rows = make_rows(polls(100))
    for columns in (True, False):
        codec, payload = batch.pack(rows, columns=columns)
        with pytest.raises(RecordError, match="limits"):
            batch.unpack(codec, payload, 2, 1, 0, limit_records=99)
        with pytest.raises(RecordError, match="limits"):
            batch.unpack(codec, payload, 2, 1, 0, limit_bytes=len(rows) - 1)
        with pytest.raises(RecordError, match="limits"):
            batch.columns(codec, payload, limit_bytes=len(rows) - 1)
        assert (
            batch.unpack(codec, payload, 2, 1, 0, limit_bytes=len(rows), limit_records=100) == rows
        )
    row = make_rows([Draft(EVENT, b"")])
    with pytest.raises(RecordError, match="65537 records"):
        batch.pack(row * 65537)


def test_a_malformed_readings_record_travels_but_has_no_columns() -> None:
    rows = make_rows([*polls(5), Draft(READINGS, b"short", number=9)])
    codec, payload = batch.pack(rows)
    assert batch.unpack(codec, payload, 2, 1, 0) == rows
    with pytest.raises(RecordError, match="record 5"):
        batch.columns(codec, payload)


@pytest.mark.parametrize("cut", [1, 3, 4, 39, 40])
def test_rows_cut_short_are_refused(cut: int) -> None:
    rows = make_rows(polls(1))
    for bad in (rows[:-cut], rows + rows[:cut]):
        with pytest.raises(RecordError):
            batch.pack(bad)
        with pytest.raises(RecordError):
            batch.records(bad)


def test_truncated_payloads_are_refused() -> None:
    rows = make_rows([*polls(20), Draft(EVENT, b"event")])
    for columns in (True, False):
        codec, payload = batch.pack(rows, columns=columns)
        for size in range(len(payload)):
            with pytest.raises(RecordError):
                batch.unpack(codec, payload[:size], 2, 1, 0)
        with pytest.raises(RecordError):
            batch.unpack(codec, payload + b"\0", 2, 1, 0)
        for function in (batch.columns, batch.ids):
            with pytest.raises(RecordError):
                function(7, payload)


@pytest.mark.slow
@given(TIMES, st.sampled_from(list(VALUES)), st.data())
def test_readings_round_trip(time_ns: int, vtype: int, data: st.DataObject) -> None:
    series = data.draw(st.lists(SERIES, min_size=1, max_size=20))
    values = [data.draw(VALUES[vtype]) for _ in series]
    got = batch.parse_readings(batch.readings(time_ns, vtype, series, values))
    assert got[:3] == (time_ns, vtype, series)
    assert repr(got[3]) == repr(values)


@pytest.mark.parametrize(
    ("vtype", "series", "values"),
    [
        (F64, [], []),
        (F64, [1], [1.0, 2.0]),
        (F64, list(range(1025)), [0.0] * 1025),
        (F64, [1], ["a"]),
        (I64, [1], [2**63]),
        (I64, [1], [1.5]),
        (TEXT, [1], [5]),
        (TEXT, [1], ["\ud800"]),
        (TEXT, [1], ["a" * 65536]),
        (TEXT, [1, 2], ["a" * 40000] * 2),
        (F64, [2**64], [0.0]),
        (4, [1], [1.0]),
    ],
)
def test_what_is_no_reading_is_refused(vtype: int, series: list[int], values: list[object]) -> None:
    with pytest.raises(RecordError):
        batch.readings(0, vtype, series, values)  # type: ignore[arg-type]


def test_malformed_readings_bodies_are_refused() -> None:
    good = batch.readings(1, TEXT, [1, 2], ["a", "bc"])
    for size in range(len(good)):
        with pytest.raises(RecordError):
            batch.parse_readings(good[:size])
    with pytest.raises(RecordError):
        batch.parse_readings(good + b"\0")
    with pytest.raises(RecordError, match="UTF-8"):
        batch.parse_readings(good.replace(b"bc", b"\xff\xff"))
    two = bytearray(batch.readings(1, BOOL, [1], [True]))
    two[-8] = 2
    with pytest.raises(RecordError):
        batch.parse_readings(bytes(two))
    assert math.isnan(float(batch.parse_readings(batch.readings(1, F64, [1], [math.nan]))[3][0]))
