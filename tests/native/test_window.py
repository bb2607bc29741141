"""Parts merge to what the whole gives; what is said of quantiles holds."""

import array
import math
import statistics
import sys
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgesync._native.window import Window, pack_windows, unpack_windows
from edgesync.errors import RecordError

pytestmark = pytest.mark.feature("L11")

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(min_value=-1e12, max_value=1e12)
READINGS = st.lists(st.tuples(st.integers(-(10**6), 10**6), FINITE), max_size=40)


def window(readings: list[tuple[int, float]]) -> Window:
    made = Window()
    for time_ns, value in readings:
        made.add(time_ns, value)
    return made


def exact(one: Window) -> tuple[object, ...]:
    """What must be equal to the bit."""
    return (one.count, one.missing, one.min, one.max, one.first, one.last, one.buckets())


@given(READINGS, st.lists(st.integers(0, 40), max_size=4))
def test_merged_parts_are_the_whole(readings: list[tuple[int, float]], cuts: list[int]) -> None:
    whole, merged = window(readings), Window()
    edges = [0, *sorted(cuts), len(readings)]
    for start, stop in pairwise(edges):
        merged.merge(window(readings[start:stop]))
    assert exact(merged) == exact(whole)
    total = math.fsum(value for _, value in readings)
    assert abs(whole.sum - total) <= math.ulp(total)
    assert abs(merged.sum - total) <= math.ulp(total)
    if readings:
        scale = max(value * value for _, value in readings) or 1.0
        assert merged.variance == pytest.approx(whole.variance, rel=1e-9, abs=1e-12 * scale)
        assert merged.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-12)


@given(READINGS)
def test_a_window_is_the_same_after_its_bytes(readings: list[tuple[int, float]]) -> None:
    made = window(readings)
    again = Window.decode(made.encode())
    assert exact(again) == exact(made)
    assert again.encode() == made.encode()
    assert (again.sum, again.mean, again.variance) == (made.sum, made.mean, made.variance)


# Sizes that 2048 buckets span; beyond, the smallest ones are counted as one.
SPANNED = st.one_of(
    st.just(0.0), st.floats(1e-3, 1e12), st.floats(1e-3, 1e12).map(lambda value: -value)
)


@given(st.lists(SPANNED, min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    made = window(list(enumerate(values)))
    meant = sorted(values)[int(q * (len(values) - 1))]
    found = made.quantile(q)
    assert found is not None
    assert abs(found - meant) <= 0.0100001 * abs(meant) + 1e-300


@given(st.lists(NUMBERS, max_size=20))
def test_what_is_no_number_is_counted_apart(values: list[float]) -> None:
    made = window(list(enumerate(values)))
    finite = [value for value in values if math.isfinite(value)]
    assert (made.count, made.missing) == (len(finite), len(values) - len(finite))
    if finite:
        assert made.min is not None
        assert made.max is not None
        assert (made.min[0], made.max[0]) == (min(finite), max(finite))


def test_a_variance_on_a_large_offset_keeps_its_digits() -> None:
    random = Random(1)
    values = [1e9 + random.gauss(0, 1e-3) for _ in range(10_000)]
    made = Window()
    made.add_many(array.array("q", range(len(values))), array.array("d", values))
    assert made.variance == pytest.approx(statistics.pvariance(values), rel=1e-4)


@given(READINGS, st.lists(st.sampled_from([math.nan, math.inf]), max_size=1))
def test_many_at_once_are_as_one_by_one(
    readings: list[tuple[int, float]], odd: list[float]
) -> None:
    readings = [*readings, *((7, value) for value in odd)] * 5
    made = Window()
    times = array.array("q", [time_ns for time_ns, _ in readings])
    made.add_many(times, array.array("d", [value for _, value in readings]))
    single = window(readings)
    assert exact(made) == exact(single)
    assert made.sum == pytest.approx(single.sum, rel=1e-15, abs=1e-9)
    scale = max((value * value for _, value in readings if math.isfinite(value)), default=0.0)
    assert (made.variance or 0.0) == pytest.approx(single.variance or 0.0, abs=1e-9 * scale + 1e-9)


def test_of_equal_times_the_first_came_first_and_the_last_last() -> None:
    made = window([(5, 1.0), (5, 2.0), (3, 3.0), (3, 4.0)])
    assert made.first == (3.0, 3)
    assert made.last == (2.0, 5)
    assert window([(9, 1.0), (4, 1.0)]).min == (1.0, 4)


def test_the_lowest_buckets_are_given_up_when_there_are_too_many() -> None:
    values = [10.0**e for e in range(-300, 300)]
    made = window(list(enumerate(values)))
    assert len(made.buckets()) <= 2048
    assert made.quantile(1.0) == 1e299
    top = made.quantile(0.99)
    assert top is not None
    assert top == pytest.approx(sorted(values)[int(0.99 * 599)], rel=0.011)
    shuffled = list(enumerate(values))
    Random(3).shuffle(shuffled)
    assert window(shuffled).buckets() == made.buckets()
    halves = Window()
    halves.merge(window(shuffled[:300]))
    halves.merge(window(shuffled[300:]))
    assert halves.buckets() == made.buckets()
    assert Window.decode(made.encode()).buckets() == made.buckets()


def test_nothing_is_nothing() -> None:
    made = Window()
    assert (made.count, made.sum, made.mean, made.variance, made.deviation) == (
        0,
        0,
        None,
        None,
        None,
    )
    assert (made.min, made.max, made.first, made.last, made.quantile(0.5)) == (None,) * 5
    assert Window.decode(made.encode()).count == 0
    assert "empty" in repr(made)
    with pytest.raises(ValueError, match="between 0 and 1"):
        made.quantile(1.5)
    with pytest.raises(ValueError, match="times for"):
        made.add_many(array.array("q", [1]), array.array("d"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_window_or_an_error(raw: bytes) -> None:
    try:
        made = Window.decode(raw)
    except RecordError:
        return
    made.quantile(0.5)
    assert Window.decode(made.encode()).count == made.count


def test_damaged_bytes_are_an_error_or_another_window() -> None:
    random = Random(9)
    raw = window([(n, random.uniform(-50, 50)) for n in range(100)]).encode()
    for size in range(len(raw)):
        with pytest.raises(RecordError):
            Window.decode(raw[:size])
    for _ in range(2000):
        broken = bytearray(raw)
        broken[random.randrange(len(raw))] = random.randrange(256)
        try:
            Window.decode(bytes(broken)).quantile(0.9)
        except RecordError:
            continue


@pytest.mark.parametrize("seed", range(60))
def test_values_of_any_size_are_counted_alike_in_any_parts(seed: int) -> None:
    random = Random(seed)
    sizes = [10.0 ** random.uniform(-300, 300) for _ in range(random.randrange(1, 400))]
    values = [random.choice((1, -1)) * size for size in sizes]
    cut = random.randrange(len(values))
    whole, single = Window(), window(list(enumerate(values)))
    parts = [Window(), Window()]
    for made, first, last in ((whole, 0, len(values)), (parts[0], 0, cut), (parts[1], cut, None)):
        chosen = values[first:last]
        made.add_many(array.array("q", range(first, first + len(chosen))), array.array("d", chosen))
    parts[0].merge(parts[1])
    assert whole.buckets() == single.buckets() == parts[0].buckets()
    assert Window.decode(whole.encode()).buckets() == whole.buckets()


WIDTH = 60 * 10**9
DECIMALS = st.decimals(-1000, 1000, places=2).map(float)
INSIDE = st.lists(
    st.tuples(st.one_of(st.integers(0, 59).map(lambda s: s * 10**9), st.integers(0, WIDTH - 1)),
              st.one_of(DECIMALS, FINITE, NUMBERS)), max_size=30)  # fmt: skip


@pytest.mark.slow
@example([[(0, 0.0), (0, 1.5786271112507106e-156)]], 0, False)
@given(st.lists(INSIDE, min_size=1, max_size=5), st.integers(-5, 10**7), st.booleans())
def test_packed_windows_come_back(
    contents: list[list[tuple[int, float]]], place: int, has_sketch: bool
) -> None:
    start = place * WIDTH
    windows = [
        (2**64 - 1 - n, window([(start + at, value) for at, value in readings]))
        for n, readings in enumerate(contents)
    ]
    packed = pack_windows(WIDTH, start, 3, windows, sketch=has_sketch)
    width, came_start, revision, found = unpack_windows(packed)
    assert (width, came_start, revision) == (WIDTH, start, 3)
    assert [series for series, _ in found] == [series for series, _ in windows]
    for (_, before), (_, after) in zip(windows, found, strict=True):
        assert exact(after)[:-1] == exact(before)[:-1]
        assert after.sum == before.sum or math.isnan(before.sum)
        if before.count:
            variances = after.variance or 0, before.variance or 0
            # Below the least normal number a double has fewer digits than it takes.
            close = math.isclose(*variances, rel_tol=1e-9, abs_tol=sys.float_info.min)
            assert close or not math.isfinite(variances[1])
            if has_sketch:
                assert after.buckets() == before.buckets()
                assert after.quantile(0.99) == before.quantile(0.99)
            else:
                assert after.quantile(0.99) is None
                assert Window.decode(after.encode()).quantile(0.5) is None


@pytest.mark.slow
@given(st.lists(INSIDE, min_size=2, max_size=8))
def test_packed_parts_merge_to_the_whole(contents: list[list[tuple[int, float]]]) -> None:
    merged = Window()
    for readings in contents:
        (_, part) = unpack_windows(pack_windows(WIDTH, 0, 1, [(1, window(readings))]))[3][0]
        merged.merge(part)
    everything = [reading for readings in contents for reading in readings]
    whole = window(everything)
    assert exact(merged) == exact(whole)
    finite = [value for _, value in everything if math.isfinite(value)]
    if finite:
        # Beside the last place of the sum, that of the largest: what the parts were rounded to.
        slack = math.ulp(max(abs(value) for value in finite)) * 2**-14 * len(contents)
        try:
            total = math.fsum(finite)
        except OverflowError:
            return
        assert abs(merged.sum - total) <= math.ulp(total) + slack


def test_a_merge_with_one_without_a_sketch_has_none() -> None:
    body = pack_windows(WIDTH, 0, 1, [(1, window([(5, 1.0)]))], sketch=False)
    bare, too = (unpack_windows(body)[3][0][1] for _ in range(2))
    for one, other in ((bare, window([(6, 2.0)])), (window([(6, 2.0)]), too)):
        one.merge(other)
        assert one.count == 2
        assert one.quantile(0.5) is None
        assert one.quantile(1) == 2.0


def test_windows_of_a_minute_are_small() -> None:
    """What travels of 1,000 sensors at 1 Hz: with and without the sketch, whatever the times."""
    chance = Random(7)
    for jitter in (0, 1):
        windows = [(chance.getrandbits(64), Window()) for _ in range(400)]
        for _, one in windows:
            value = chance.uniform(10, 30)
            for second in range(60):
                value += chance.gauss(0, 0.2)
                at = second * 10**9 + jitter * chance.randrange(1000) * 10**6
                one.add(at, round(value, 1))
        with_sketch = sum(len(pack_windows(WIDTH, 0, 1, [one])) for one in windows) / 400
        without = sum(len(pack_windows(WIDTH, 0, 1, [one], sketch=False)) for one in windows) / 400
        assert without < 60
        assert with_sketch < 120


@pytest.mark.parametrize(
    "body",
    [b"", b"\2", b"\1\0\0\1\1", b"\1\5\0\1\0", b"\1\5\0\1\1" + bytes(9)],
)
def test_what_is_no_windows_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError):
        unpack_windows(body)
    good = pack_windows(WIDTH, 0, 1, [(1, window([(5, 1.0), (6, 2.5)]))])
    for cut in range(len(good)):
        with pytest.raises(RecordError):
            unpack_windows(good[:cut])
    with pytest.raises(RecordError, match="bytes follow"):
        unpack_windows(good + b"x")


def test_windows_off_the_grid_and_readings_outside_are_refused() -> None:
    with pytest.raises(RecordError, match="on the grid"):
        pack_windows(WIDTH, 1, 1, [(1, Window())])
    with pytest.raises(RecordError, match="with a reading at"):
        pack_windows(WIDTH, 0, 1, [(1, window([(WIDTH, 1.0)]))])


@pytest.mark.parametrize("value", [8.9e307, 9.023314602099935e307, 1.2e308, 1.797e308])
def test_a_quantile_of_the_largest_numbers_is_a_number(value: float) -> None:
    for sign in (1, -1):
        low, high = sorted((sign * value, sign * value / 2))
        found = window([(0, low), (1, high)])
        for q in (0.0, 0.4, 0.99, 1.0):
            assert low <= (found.quantile(q) or math.nan) <= high
