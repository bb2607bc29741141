"""Hybrid clocks and version vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.clock import Clock, VersionVector, stamp_of, wall_ms_of
from edgesync.errors import RecordError

pytestmark = pytest.mark.feature("L3")

VECTORS = st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=5).map(VersionVector)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 48))))
def test_stamps_only_grow_whatever_the_clock_does(steps: list[tuple[bool, int]]) -> None:
    clock = Clock()
    last = 0
    for is_local, wall_ms in steps:
        if is_local:
            stamp = clock.tick(wall_ms)
            assert stamp > last
            assert wall_ms_of(stamp) >= min(wall_ms, (1 << 48) - 1)
        else:
            clock.hear(stamp_of(wall_ms))
            assert clock.last >= stamp_of(wall_ms)
        assert clock.last >= last
        last = clock.last


def test_what_follows_a_stamp_heard_is_later() -> None:
    clock = Clock()
    clock.tick(1000)
    heard = stamp_of(5000) + 7
    clock.hear(heard)
    assert clock.tick(1001) == heard + 1


def test_more_events_than_a_millisecond_holds_borrow_from_the_next() -> None:
    clock = Clock(stamp_of(1000) + 65535)
    assert clock.tick(1000) == stamp_of(1001)


@given(VECTORS, VECTORS, VECTORS)
def test_merging_vectors(one: VersionVector, two: VersionVector, three: VersionVector) -> None:
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    assert one.merge(one) == one
    assert one.merge(two).descends(one)
    assert VersionVector.decode(one.encode()) == one


@given(VECTORS, VECTORS)
def test_vectors_are_ordered_or_concurrent(one: VersionVector, two: VersionVector) -> None:
    ways = [one.descends(two), two.descends(one)]
    assert one.concurrent(two) == (not any(ways))
    assert all(ways) == (one == two)


def test_a_replica_of_which_nothing_was_seen_is_not_less() -> None:
    vector = VersionVector({1: 0})
    assert vector == VersionVector()
    assert vector[1] == 0
    assert not vector.covers(1, 1)
    assert vector.covers(1, 0)
    vector.advance(1, 5)
    vector.advance(1, 3)
    assert vector.entries() == {1: 5}
    assert len(vector) == 1
    assert "1: 5" in repr(vector)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_vector_or_an_error(raw: bytes) -> None:
    try:
        vector = VersionVector.decode(raw)
    except RecordError:
        return
    assert VersionVector.decode(vector.encode()) == vector


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(RecordError):
        VersionVector({1 << 32: 1})
    with pytest.raises(RecordError):
        VersionVector().advance(-1, 1)


def test_bytes_behind_a_vector_are_refused() -> None:
    raw = VersionVector({1: 5, 2: 7}).encode()
    assert VersionVector.decode(raw).encode() == raw
    with pytest.raises(RecordError, match="bytes follow"):
        VersionVector.decode(raw + b"\0")
