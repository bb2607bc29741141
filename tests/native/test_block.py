"""ESB1 blocks: what goes in comes out, the plain Python reader agrees, damage is noticed."""

from __future__ import annotations

import array
import math
import random
import statistics
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgesync._native import block
from edgesync.errors import RecordError
from tests.native import esb1
from tests.native.rowsmith import crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

F64, I64, BOOL, TEXT = range(4)
RAW, CONST, DEC_FOR, DICT, XOR, LZ4_PLANES, LZ4, BITMAP, RUNS = range(9)
T_RAW, T_FIXED, T_LINEAR, T_DELTA = range(4)
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

DECIMALS = st.builds(lambda m, e: m / 10**e, st.integers(-(10**15), 10**15), st.integers(0, 15))
FLOATS = st.lists(DECIMALS, min_size=1, max_size=300) | st.lists(
    st.floats() | st.sampled_from([math.nan, -0.0, math.inf, -math.inf, 5e-324]) | DECIMALS,
    min_size=1,
    max_size=300,
)
WHOLE = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def fixed(n: int, step: int = SECOND) -> array.array[int]:
    return array.array("q", range(START, START + n * step, step))


def bits(values: array.array[float] | array.array[int]) -> list[int]:
    return list(struct.unpack(f"<{len(values)}Q", values.tobytes()))


def check(
    vtype: int,
    times: array.array[int],
    values: array.array[float] | array.array[int] | list[str] | list[bytes],
) -> bytes:
    """Round trip through the compiled decoder and through the oracle; returns the block."""
    packed = block.encode(2**64 - 1, vtype, times, values)
    series, got_vtype, got_times, got = block.decode(packed)
    oracle = esb1.decode(packed)
    assert (series, got_vtype, got_times) == (2**64 - 1, vtype, times)
    assert (oracle.series, oracle.vtype, oracle.times) == (2**64 - 1, vtype, list(times))
    if isinstance(values, list):
        assert got == values
        assert oracle.values == [t.encode() if isinstance(t, str) else t for t in values]
    else:
        assert isinstance(got, array.array)
        assert bits(got) == bits(values) == oracle.values
    return packed


@given(FLOATS)
@example([math.nan])
@example([-0.0] * 300)
@example([0.0, -0.0] * 80)
@example([2.0**51 - 1, 2.0**51, 2.0**53, -(2.0**53), 2.0**53 + 2] * 40)
def test_floats_come_back_bit_for_bit(values: list[float]) -> None:
    check(F64, fixed(len(values)), array.array("d", values))


@given(st.lists(WHOLE, min_size=1, max_size=300))
def test_integers_come_back(values: list[int]) -> None:
    check(I64, fixed(len(values)), array.array("q", values))


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_bools_come_back(values: list[bool]) -> None:
    check(BOOL, fixed(len(values)), array.array("q", values))


@given(st.lists(NAMES, min_size=1, max_size=100))
def test_texts_come_back(values: list[str]) -> None:
    check(TEXT, fixed(len(values)), values)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=100))
def test_bytes_come_back_as_bytes(values: list[bytes]) -> None:
    check(TEXT, fixed(len(values)), values)


@given(st.lists(WHOLE, min_size=1, max_size=300))
@example([-(2**63), 2**63 - 1, 0])
@example([5, 5, 5])
def test_any_times_come_back(times: list[int]) -> None:
    check(F64, array.array("q", times), array.array("d", [1.5] * len(times)))


@given(
    st.integers(-(2**40), 2**40),
    st.integers(-(10**12), 10**12),
    st.sampled_from([1, 7, 1000, 10**6]),
    st.lists(st.integers(-20, 20), min_size=2, max_size=300),
)
def test_periodic_times_come_back(first: int, step: int, unit: int, jitter: list[int]) -> None:
    times = array.array("q", [first + (i * step // unit + j) * unit for i, j in enumerate(jitter)])
    check(I64, times, array.array("q", jitter))


def walk(n: int, digits: int = 2, seed: int = 1) -> array.array[float]:
    rng, at, out = random.Random(seed), 20.0, array.array("d")
    for _ in range(n):
        at += rng.gauss(0, 0.05)
        out.append(round(at, digits))
    return out


def noisy(values: Sequence[float], each: int, odd: float) -> array.array[float]:
    return array.array("d", [odd if i % each == 0 else v for i, v in enumerate(values)])


RNG = random.Random(7)
WORDS = [RNG.getrandbits(64) - 2**63 for _ in range(3000)]
CASES: list[tuple[str, int, int, array.array[float] | array.array[int]]] = [
    ("constant", CONST, F64, array.array("d", [230.1] * 1000)),
    ("decimals", DEC_FOR, F64, walk(1000)),
    ("decimals with nan", DEC_FOR, F64, noisy(walk(1000), 30, math.nan)),
    ("decimals with -0.0", DEC_FOR, F64, noisy(walk(1000), 30, -0.0)),
    ("one value", CONST, F64, array.array("d", [math.inf])),
    (
        "few levels",
        DICT,
        F64,
        array.array("d", [RNG.randint(0, 60) * 3.3 / 4096 for _ in range(999)]),
    ),
    ("doubles of one size", XOR, F64, array.array("d", [RNG.uniform(1, 2) for _ in range(1000)])),
    ("counter", DEC_FOR, I64, array.array("q", [i * 17 + RNG.randint(0, 9) for i in range(8192)])),
    ("noise", RAW, I64, array.array("q", [RNG.getrandbits(64) - 2**63 for _ in range(500)])),
    ("coin", BITMAP, BOOL, array.array("q", [RNG.getrandbits(1) for _ in range(500)])),
    ("switch", RUNS, BOOL, array.array("q", [i // 100 % 2 for i in range(1000)])),
    ("off", CONST, BOOL, array.array("q", [0] * 1000)),
    ("a sine", LZ4_PLANES, F64, array.array("d", [math.sin(i / 100) for i in range(1000)])),
    ("a repeated noise", LZ4, I64, array.array("q", [WORDS[i % 3000] for i in range(8192)])),
]


@pytest.mark.parametrize(
    ("codec", "vtype", "values"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_chooser_takes(
    codec: int, vtype: int, values: array.array[float] | array.array[int]
) -> None:
    packed = check(vtype, fixed(len(values)), values)
    assert packed[7] == codec


def test_texts_choose_between_a_dictionary_and_a_run() -> None:
    assert check(TEXT, fixed(1000), ["open", "closed"] * 500)[7] == DICT
    assert check(TEXT, fixed(1000), [f"batch {i}" for i in range(1000)])[7] == LZ4


def jittered(n: int, unit: int = 10**6) -> array.array[int]:
    rng = random.Random(3)
    return array.array("q", [START + (i * 1000 + rng.randint(-5, 5)) * unit for i in range(n)])


def events(n: int) -> array.array[int]:
    rng = random.Random(4)
    return array.array("q", sorted(START + rng.randint(0, 10**7) * 10**6 for _ in range(n)))


@pytest.mark.parametrize(
    ("codec", "times"),
    [
        (T_FIXED, fixed(1000)),
        (T_FIXED, array.array("q", [5])),
        (T_LINEAR, jittered(1000)),
        (T_DELTA, events(1000)),
        (T_RAW, array.array("q", [-(2**63), 2**63 - 1, 0])),
    ],
    ids=["fixed", "single", "linear", "events", "raw"],
)
def test_the_time_codec(codec: int, times: array.array[int]) -> None:
    assert check(I64, times, array.array("q", range(len(times))))[6] == codec


def test_decimal_sensors_take_about_a_byte_a_point() -> None:
    """Limits with room over what was measured: 0.9 and 1.5 bytes, with header and stats."""
    assert len(block.encode(1, F64, fixed(1024), walk(1024))) < 1.0 * 1024
    assert len(block.encode(1, F64, jittered(1024), walk(1024))) < 1.6 * 1024


def test_stats_are_those_of_the_points() -> None:
    values = walk(1001)
    packed = block.encode(1, F64, fixed(1001), values)
    got = block.stats(packed)
    assert got is not None
    assert (got.count, got.time_first, got.time_last) == (1001, START, START + 1000 * SECOND)
    assert (got.first, got.last, got.min, got.max) == (
        values[0],
        values[-1],
        min(values),
        max(values),
    )
    assert got.sum == math.fsum(values)
    assert got.mean == pytest.approx(statistics.fmean(values), rel=1e-15)
    assert got.m2 == pytest.approx(statistics.pvariance(values) * 1001, rel=1e-9)
    oracle = esb1.decode(packed).stats
    assert oracle is not None
    assert oracle[0] == got.time_last


def test_stats_are_left_out_where_they_would_lie() -> None:
    with_nan = array.array("d", [1.0, math.nan])
    assert block.stats(block.encode(1, F64, fixed(2), with_nan)) is None
    assert block.stats(block.encode(1, TEXT, fixed(1), ["a"])) is None
    assert (
        block.stats(block.encode(1, F64, fixed(2), array.array("d", [1, 2]), stats=False)) is None
    )


def rolled(times: Sequence[int], values: Sequence[float], width: int) -> list[tuple[float, ...]]:
    buckets: dict[int, list[tuple[int, int, float]]] = {}
    for i, (t, v) in enumerate(zip(times, values, strict=True)):
        if not math.isnan(v):
            buckets.setdefault(t // width * width, []).append((t, i, v))
    out: list[tuple[float, ...]] = []
    for start, points in sorted(buckets.items()):
        held = [p[2] for p in points]
        ends = (min(points)[2], max(points)[2])
        out.append((start, len(held), min(held), max(held), sum(held), *ends))
    return out


@given(
    st.lists(st.tuples(st.integers(-500, 500), st.integers(-(10**6), 10**6)), max_size=60),
    st.integers(1, 200),
)
def test_rollup_in_any_order_of_time(points: list[tuple[int, int]], width: int) -> None:
    times, values = (
        array.array("q", [p[0] for p in points]),
        array.array("q", [p[1] for p in points]),
    )
    floats = array.array("d", values)
    assert block.rollup(times, values, width) == rolled(times, values, width)
    assert block.rollup(times, floats, width) == rolled(times, floats, width)


def test_rollup_leaves_nan_out_and_bears_the_ends_of_time() -> None:
    times = array.array("q", [-(2**63), 0, 1, 2**63 - 1])
    got = block.rollup(times, array.array("d", [1, math.nan, 2, 3]), 10**9)
    assert [row[1] for row in got] == [1, 1, 1]
    with pytest.raises(RecordError):
        block.rollup(times, array.array("d", [1, 2, 3, 4]), 0)


@pytest.mark.parametrize(
    ("vtype", "times", "values"),
    [
        (F64, array.array("q"), array.array("d")),
        (F64, fixed(8193), array.array("d", [0.0] * 8193)),
        (F64, fixed(2), array.array("d", [1.0])),
        (F64, fixed(1), array.array("q", [1])),
        (F64, fixed(1), [1.0]),
        (F64, array.array("d", [1.0]), array.array("d", [1.0])),
        (BOOL, fixed(1), array.array("q", [2])),
        (TEXT, fixed(2), ["a", b"b"]),
        (TEXT, fixed(1), [7]),
        (TEXT, fixed(1), ["\ud800"]),
        (4, fixed(1), array.array("q", [1])),
    ],
)
def test_what_is_no_block_is_not_encoded(vtype: int, times: object, values: object) -> None:
    with pytest.raises(RecordError):
        block.encode(1, vtype, times, values)  # type: ignore[arg-type]


def test_every_flipped_bit_and_every_truncation_is_noticed() -> None:
    packed = block.encode(1, F64, jittered(50), walk(50))
    for i in range(len(packed) * 8):
        bad = bytearray(packed)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(RecordError):
            block.decode(bytes(bad))
    for size in range(len(packed)):
        with pytest.raises(RecordError):
            block.decode(packed[:size])


def test_a_long_text_named_8192_times_is_refused() -> None:
    """A few bytes must not become gigabytes."""
    bomb = bytearray(block.encode(1, TEXT, fixed(2), ["a" * 60_000] * 2))
    struct.pack_into("<I", bomb, 8, 8192)
    struct.pack_into("<I", bomb, 60, crc32c(bytes(bomb[:60])))
    with pytest.raises(RecordError, match="more than"):
        block.decode(bytes(bomb))
