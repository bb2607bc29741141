"""What windows say is what all readings say, however late and in whatever parts they came."""

import array
import math
from random import Random
from typing import Any

import pytest

from edgesync import EdgeAggregator
from edgesync._native.window import Window
from edgesync.aggregate import SECOND_NS, Bucket

pytestmark = pytest.mark.feature("L11")


def test_the_example_of_the_readme() -> None:
    aggregator = EdgeAggregator(width_s=60, max_pending=100)
    aggregator.add_reading("temp", 22.5, 1_700_000_005 * SECOND_NS)
    aggregator.add_reading("temp", 23.5, 1_700_000_006 * SECOND_NS)
    assert aggregator.flush() == 1
    (bucket,) = aggregator.drain_pending()
    assert bucket.start_ns == 1_699_999_980 * SECOND_NS  # on the grid, not at the first reading
    assert (bucket.window.count, bucket.window.mean, bucket.window.sum) == (2, 23.0, 46.0)
    assert aggregator.drain_pending() == []


@pytest.mark.parametrize("seed", range(20))
def test_the_last_revisions_are_what_one_pass_gives(seed: int) -> None:
    random = Random(seed)
    aggregator = EdgeAggregator(width_s=10, max_pending=10_000, lateness_s=2, allowed_s=1000)
    meant: dict[tuple[str, int], list[tuple[int, float]]] = {}
    newest: dict[tuple[str, int], Bucket] = {}
    for second in range(300):
        series = random.choice(("a", "b"))
        time_ns = int((second - random.choice((0, 0, 0, 1, 5, 30)) + 1000) * SECOND_NS)
        value = random.gauss(20, 5)
        start = time_ns // (10 * SECOND_NS) * 10 * SECOND_NS
        meant.setdefault((series, start), []).append((time_ns, value))
        aggregator.add_reading(series, value, time_ns)
        if random.random() < 0.1:
            for bucket in aggregator.drain_pending():
                key = (bucket.series, bucket.start_ns)
                assert key not in newest or bucket.revision > newest[key].revision
                newest[key] = bucket
    aggregator.flush()
    newest |= {(one.series, one.start_ns): one for one in aggregator.drain_pending()}
    assert set(newest) == set(meant)
    for key, readings in meant.items():
        window = newest[key].window
        assert window.count == len(readings)
        assert math.isclose(window.sum, math.fsum(value for _, value in readings))
        whole = Window()
        for time_ns, value in readings:
            whole.add(time_ns, value)
        assert window.buckets() == whole.buckets()
        assert (window.min, window.max) == (whole.min, whole.max)
    assert aggregator.late == aggregator.dropped == 0


def test_a_window_closes_when_its_own_series_has_moved_on() -> None:
    aggregator = EdgeAggregator(width_s=10, lateness_s=2)
    aggregator.add_reading("a", 1.0, 0)
    aggregator.add_reading("b", 1.0, 100 * SECOND_NS)  # another series: says nothing of a
    aggregator.add_reading("a", 2.0, 11 * SECOND_NS)
    assert aggregator.pending == 0
    aggregator.add_reading("a", 3.0, 12 * SECOND_NS)
    (bucket,) = aggregator.drain_pending()
    assert (bucket.series, bucket.start_ns, bucket.window.count) == ("a", 0, 1)


def test_late_readings_make_a_revision_and_very_late_ones_nothing() -> None:
    aggregator = EdgeAggregator(width_s=10, lateness_s=0, allowed_s=100)
    for second in (5, 15, 50):
        aggregator.add_reading("a", 1.0, second * SECOND_NS)
    assert [one.revision for one in aggregator.drain_pending()] == [1, 1]
    aggregator.add_reading("a", 2.0, 7 * SECOND_NS)
    aggregator.add_reading("a", 3.0, 8 * SECOND_NS)
    (late,) = aggregator.drain_pending()
    assert (late.start_ns, late.revision, late.window.count) == (0, 3, 3)
    aggregator.add_reading("a", 1.0, 500 * SECOND_NS)
    aggregator.drain_pending()
    aggregator.add_reading("a", 9.0, 7 * SECOND_NS)
    assert aggregator.late == 1
    assert aggregator.drain_pending() == []


def test_a_reading_of_tomorrow_closes_nothing() -> None:
    aggregator = EdgeAggregator(width_s=10)
    aggregator.add_reading("a", 1.0, 0, now_ns=0)
    aggregator.add_reading("a", 1.0, 86_400 * SECOND_NS, now_ns=SECOND_NS)
    assert aggregator.set_aside == 1
    assert aggregator.pending == 0


def test_a_silent_series_is_closed_by_the_wall_clock() -> None:
    aggregator = EdgeAggregator(width_s=10, lateness_s=2)
    aggregator.add_reading("a", 1.0, 0)
    assert aggregator.flush(now_ns=16 * SECOND_NS) == 0
    assert aggregator.flush(now_ns=17 * SECOND_NS) == 1
    aggregator.add_reading("a", 2.0, SECOND_NS)  # it was not silent after all
    aggregator.flush()
    (bucket,) = aggregator.drain_pending()
    assert (bucket.revision, bucket.window.count) == (2, 2)


def test_series_are_looked_at_only_when_one_may_have_fallen_silent() -> None:
    aggregator, looks = EdgeAggregator(width_s=10, lateness_s=2), [0]

    class Counted(dict[str, Any]):
        def items(self) -> Any:
            looks[0] += 1
            return super().items()

    aggregator._series = Counted()
    for second in range(0, 100, 2):
        for series in "abc":
            aggregator.add_reading(series, 1.0, second * SECOND_NS)
        assert aggregator.flush(now_ns=second * SECOND_NS) == 0
    assert looks[0] <= 10  # once a width
    assert aggregator.flush(now_ns=107 * SECOND_NS) == 3
    assert {one.start_ns for one in aggregator.drain_pending()} >= {90 * SECOND_NS}
    before = looks[0]
    assert aggregator.flush(now_ns=10**6 * SECOND_NS) == 0
    assert looks[0] == before


def test_windows_that_may_change_no_more_are_forgotten() -> None:
    aggregator = EdgeAggregator(width_s=1, lateness_s=0, allowed_s=5, max_pending=10**6)
    for second in range(100):
        aggregator.add_reading("a", 1.0, second * SECOND_NS)
        if second > 4:
            aggregator.add_reading("a", 2.0, (second - 4) * SECOND_NS)
        known = aggregator._series["a"]
        assert len(known.closed) <= 2 * 7
        assert known.closed.keys() == known.revisions.keys()


def test_what_nobody_drains_is_bounded_and_the_loss_is_counted() -> None:
    aggregator = EdgeAggregator(width_s=1, max_pending=3, lateness_s=0)
    for second in range(10):
        aggregator.add_reading("a", 1.0, second * SECOND_NS)
    assert (aggregator.pending, aggregator.dropped) == (3, 6)
    assert [one.start_ns // SECOND_NS for one in aggregator.drain_pending()] == [6, 7, 8]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        EdgeAggregator(width_s=0)


def drained(aggregator: EdgeAggregator) -> list[tuple[object, ...]]:
    return [
        (one.series, one.start_ns, one.revision, one.window.count, one.window.buckets(),
         one.window.first, one.window.last)
        for one in aggregator.drain_pending()
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_many_at_once_are_as_one_by_one(seed: int) -> None:
    random = Random(seed)
    options = {"width_s": 10, "max_pending": 10_000, "lateness_s": 2, "allowed_s": 100}
    one, many = EdgeAggregator(**options), EdgeAggregator(**options)
    second = 1000
    for _ in range(30):
        times, values = array.array("q"), array.array("d")
        for _ in range(random.randrange(20)):
            second += random.choice((0, 1, 1, 1, 7, -3, -150))
            times.append(second * SECOND_NS)
            values.append(random.gauss(20, 5))
        second = max([second, *(at // SECOND_NS for at in times)])
        many.add_many("t", times, values)
        for at, value in zip(times, values, strict=True):
            one.add_reading("t", value, at)
        assert drained(many) == drained(one)
        assert many.late == one.late
    assert (many.flush(), one.flush()) == (1, 1) or many.pending == one.pending
    assert drained(many) == drained(one)


def test_what_could_not_be_stored_is_drained_again_unless_there_is_newer() -> None:
    aggregator = EdgeAggregator(width_s=10, max_pending=2)
    aggregator.add_reading("t", 1.0, 1000 * SECOND_NS)
    aggregator.add_reading("t", 1.0, 1020 * SECOND_NS)
    taken = aggregator.drain_pending()
    aggregator.add_reading("t", 2.0, 1001 * SECOND_NS)
    aggregator.put_back(taken)
    (again,) = aggregator.drain_pending()
    assert (again.revision, again.window.count) == (2, 2)
    buckets = [Bucket("t", n * 10 * SECOND_NS, 10 * SECOND_NS, 1, Window()) for n in range(3)]
    aggregator.put_back(buckets)
    assert (aggregator.pending, aggregator.dropped) == (2, 1)


def test_a_window_of_an_earlier_life_is_revised_not_begun_anew() -> None:
    aggregator = EdgeAggregator(width_s=10)
    before = Window()
    before.add(1000 * SECOND_NS, 1.0)
    aggregator.restore("t", 1000 * SECOND_NS, 3, before)
    aggregator.add_reading("t", 2.0, 1001 * SECOND_NS)
    aggregator.add_reading("t", 5.0, 1012 * SECOND_NS)  # the next window is open
    (revised,) = aggregator.drain_pending()
    assert (revised.start_ns, revised.revision, revised.window.sum) == (1000 * SECOND_NS, 4, 3.0)
    assert aggregator.flush() == 1
