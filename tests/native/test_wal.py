"""What the write-ahead log has taken is found again; nothing else is, however the file was torn."""

import resource
import select
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.wal import Wal, replay, unread
from edgesync.store.directory import WAL, make_wal
from tests.native.rowsmith import crc32c

pytestmark = pytest.mark.feature("S2", "L14")

ONE, TWO = b"lap-one!", b"lap-two!"
SIZE = 4096
ROWS = st.dictionaries(st.binary(min_size=1, max_size=9), st.none() | st.binary(max_size=40))


@contextmanager
def opened(folder: Path, lap: bytes = ONE, size: int = SIZE) -> Iterator[Wal]:
    make_wal(folder, size)
    wal = Wal(str(folder / WAL))
    wal.begin(lap)
    try:
        yield wal
    finally:
        wal.close()


def add(wal: Wal, rows: dict[bytes, bytes | None]) -> bool:
    if not wal.append(rows):
        return False
    select.select([wal], [], [])
    return wal.landed()


def merged(entries: list[dict[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
    return {key: value for rows in entries for key, value in rows.items()}


@pytest.mark.slow
@given(st.lists(ROWS, max_size=8), st.data())
def test_a_torn_file_has_all_entries_before_the_tear(
    entries: list[dict[bytes, bytes | None]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / WAL
        with opened(Path(name)) as wal:
            for count, rows in enumerate(entries, start=1):
                assert add(wal, rows)
                assert replay(path.read_bytes(), ONE) == merged(entries[:count])
        raw = path.read_bytes()
        assert len(raw) == SIZE
        assert replay(raw, ONE) == merged(entries)
        assert replay(raw, TWO) == {}
        torn = bytearray(raw)
        at = data.draw(st.integers(0, SIZE - 1))
        torn[at] ^= data.draw(st.integers(1, 255))
        found = replay(bytes(torn), ONE)
        assert found in [merged(entries[:count]) for count in range(len(entries) + 1)]
        cut = replay(raw[:at], ONE)
        assert cut in [merged(entries[:count]) for count in range(len(entries) + 1)]


def test_a_new_lap_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        for number in range(20):
            assert add(wal, {b"k%d" % number: b"old"})
        wal.begin(TWO)
        assert replay((tmp_path / WAL).read_bytes(), TWO) == {}
        assert add(wal, {b"k0": b"new"})
        raw = (tmp_path / WAL).read_bytes()
        assert replay(raw, TWO) == {b"k0": b"new"}
        # The others are there still; without the first one of their lap none of them counts.
        assert b"k19" in raw
        assert replay(raw, ONE) == {}


def test_an_entry_that_has_no_room_is_not_taken(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        assert not wal.append({b"large": bytes(SIZE)})
        assert not wal.append({b"much larger": bytes(64 << 20)})
        assert add(wal, {b"k": bytes(SIZE - 100)})
        assert not wal.append({b"k": bytes(100)})
        assert add(wal, {b"k": b"last"})
        wal.begin(TWO)
        assert add(wal, {b"k": bytes(100)})


def test_an_entry_on_its_way_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        logged: dict[bytes, bytes] = {}
        for number in range(99):
            assert wal.append({b"a": b"%d" % number})
            logged[b"a"] = b"%d" % number
            if number % 3:
                select.select([wal], [], [])
            # One at a time, also when the other has landed and nobody has asked.
            assert not wal.append({b"b": b"%d" % number})
            assert wal.landed()
            assert select.select([wal], [], [], 5) == ([wal], [], [])
            assert replay((tmp_path / WAL).read_bytes(), ONE) == logged
        assert wal.append({b"a": b"last"})
        wal.landed()
        wal.begin(TWO)
        assert add(wal, {b"d": b"4"})
        assert replay((tmp_path / WAL).read_bytes(), TWO) == {b"d": b"4"}


def test_an_entry_on_its_way_when_the_log_is_closed_is_written(tmp_path: Path) -> None:
    for number in range(50):
        lap = b"lap %04d" % number
        with opened(tmp_path, lap) as wal:
            assert wal.append({b"k": b"%d" % number})
        assert replay((tmp_path / WAL).read_bytes(), lap) == {b"k": b"%d" % number}


def test_a_log_that_cannot_be_written_says_so_and_takes_no_more(tmp_path: Path) -> None:
    make_wal(tmp_path, SIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with opened(tmp_path) as wal:
            assert add(wal, {b"a": b"1"})
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
            assert not add(wal, {b"b": b"2"})
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert not wal.is_usable
            assert not wal.append({b"c": b"3"})
            assert replay((tmp_path / WAL).read_bytes(), ONE) == {b"a": b"1"}
            wal.begin(TWO)
            assert add(wal, {b"c": b"3"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Wal(str(tmp_path / "nothing"))
    with opened(tmp_path) as wal:
        with pytest.raises(ValueError, match="a lap is 8 bytes"):
            wal.begin(b"lap")
        with pytest.raises(TypeError):
            wal.append({b"k": "text"})  # type: ignore[dict-item]
        assert add(wal, {b"k": b"v"})
    assert not wal.append({b"k": b"v"})
    wal.close()
    with pytest.raises(ValueError, match="a lap is 8 bytes"):
        replay(b"", b"")


def test_a_lap_and_the_one_after_it_have_half_of_the_file_each(tmp_path: Path) -> None:
    three, four = b"lap-3333", b"lap-4444"
    with opened(tmp_path, ONE + TWO) as wal:
        path = tmp_path / WAL
        assert add(wal, {b"a": b"1", b"b": b"1"})
        assert not wal.append({b"large": bytes(SIZE // 2)})
        with pytest.raises(ValueError, match="another lap"):
            wal.turn(three + four)
        wal.turn(TWO + three)
        assert add(wal, {b"b": b"2"})
        assert replay(path.read_bytes(), ONE + TWO) == {b"a": b"1", b"b": b"2"}
        assert replay(path.read_bytes(), TWO + three) == {b"b": b"2"}
        assert replay(path.read_bytes(), ONE + three) == {b"a": b"1", b"b": b"1"}
        wal.turn(three + four)  # the first half again
        assert add(wal, {b"c": None})
        assert replay(path.read_bytes(), TWO + three) == {b"b": b"2", b"c": None}
        # What comes after entries that are gone says nothing without them.
        assert replay(path.read_bytes(), ONE + TWO) == {}
        wal.begin(four + ONE)
        assert replay(path.read_bytes(), four + ONE) == {}


@pytest.mark.parametrize(
    ("damaged", "whole", "behind"),
    [
        ({0}, {}, 2),
        ({1}, {b"a": b"1"}, 1),
        ({2}, {b"a": b"2"}, 0),
        ({0, 1, 2}, {}, 0),
        ({3}, {b"a": b"3"}, 0),
    ],
)
def test_nothing_is_read_behind_a_damaged_entry(
    damaged: set[int], whole: dict[bytes, bytes], behind: int, tmp_path: Path
) -> None:
    """An entry says nothing of rows that it did not change: those before it must be there."""
    with opened(tmp_path, ONE + TWO) as wal:
        for value in (b"1", b"2", b"3"):
            assert add(wal, {b"a": value})
        wal.turn(TWO + b"lap-3333")
        assert add(wal, {b"b": b"4"})
        raw = bytearray((tmp_path / WAL).read_bytes())
    assert unread(bytes(raw), ONE + TWO) == []
    entry_bytes = raw.index(b"\x01a\x021") + 4
    starts = [0, entry_bytes, 2 * entry_bytes, SIZE // 2]
    for number in damaged:
        raw[starts[number] + entry_bytes - 1] ^= 1
    at = starts[min(damaged)]
    assert replay(bytes(raw), ONE + TWO) == whole
    found = {place: count for place, lap, count, _ in unread(bytes(raw), ONE + TWO) if not lap}
    assert found[at] == behind
    assert replay(bytes(raw[: at + 5]), ONE + TWO) == whole


def test_a_file_cut_short_has_the_entries_before_the_cut(tmp_path: Path) -> None:
    with opened(tmp_path, ONE + TWO) as wal:
        assert add(wal, {b"a": b"1"})
        wal.turn(TWO + b"lap-3333")
        for number in range(3):
            assert add(wal, {b"b": b"%d" % number})
        raw = (tmp_path / WAL).read_bytes()
    entry = raw.index(b"\x01a\x021") + 4
    assert replay(raw[: SIZE // 2 + 2 * entry + 1], ONE + TWO) == {b"a": b"1", b"b": b"1"}


@pytest.mark.slow
def test_a_full_log_with_a_damaged_head_is_read_in_bounded_steps() -> None:
    """A hundred thousand entries behind the damage are each looked at once."""

    def entry(lap: bytes, number: int) -> bytes:
        head = struct.pack("<I8sQ", 4, lap, number) + b"\x01k\x02v"
        return struct.pack("<I", crc32c(head)) + head

    half = 28 * 100_000
    first = entry(ONE, 1).ljust(half, b"\0")
    after = bytearray(b"".join(entry(TWO, number) for number in range(2, 100_002)))
    after[27] ^= 1
    assert replay(first + after, ONE + TWO) == {b"k": b"v"}
    assert [(at, count) for at, _, count, _ in unread(first + after, ONE + TWO)] == [
        (half, 0), (28, 99_999),
    ]  # fmt: skip


def test_entries_of_another_state_are_told_apart(tmp_path: Path) -> None:
    three = b"lap-3333"
    with opened(tmp_path, ONE + TWO) as wal:
        assert add(wal, {b"a": b"1"})
        wal.turn(TWO + three)
        assert add(wal, {b"b": b"2"})
        assert add(wal, {b"c": b"3"})
        raw = (tmp_path / WAL).read_bytes()
    assert unread(raw, TWO + three) == [(0, ONE, 1, {b"a": b"1"})], "an earlier one"
    assert unread(raw, three + ONE) == [
        (0, ONE, 1, {b"a": b"1"}), (SIZE // 2, TWO, 2, {b"b": b"2", b"c": b"3"}),
    ]  # fmt: skip
    assert replay(raw, three + ONE) == {}
