"""Readings whose series is known are taken by the addresses of its names, and only then."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesync._native.intake import Ready, ReadyTable
from edgesync._native.write import Write
from edgesync.model import Lane, Reading, Value, ValueType
from edgesync.store.journal import EdgeStore
from tests.native.journalled import bodies

HEAD = struct.Struct("<qBxHxxxxQd")


Numbers = Callable[..., list[int] | None]


def fresh(text: str) -> str:
    """A string of its own, equal to `text`."""
    return "".join(list(text))


def ready(entity: str, key: str, number: int) -> Ready:
    return Ready((entity, key), number, "", ValueType.F64)


@pytest.fixture
def table() -> ReadyTable:
    table = ReadyTable()
    table.add(ready("meter", "power", 1))
    table.add(ready("meter", "volts", 2))
    return table


@pytest.fixture
def numbers(table: ReadyTable, tmp_path: Path) -> Iterator[Numbers]:
    """The series of each reading, as their records have it."""
    with EdgeStore(tmp_path / "store", sync="none") as store:

        def found(*readings: Reading) -> list[int] | None:
            write = Write()
            if table.stage(write, Lane.BULK, readings, 120) is None:
                return None
            return [HEAD.unpack(one)[3] for one in bodies(store, write)]

        yield found


def test_equal_names_are_one_series_wherever_their_strings_are(numbers: Numbers) -> None:
    power, volts = fresh("power"), fresh("volts")
    for at in range(3):
        assert numbers(
            Reading("meter", power, 1.0, at), Reading("meter", volts, 1.0, at + 10),
            Reading(fresh("meter"), fresh("power"), 1.0, at + 20),
        ) == [1, 2, 1]  # fmt: skip
    assert numbers(Reading(power, "meter", 1.0, 1)) is None


def test_a_series_that_is_discarded_or_replaced_is_not_found_by_its_address(
    table: ReadyTable, numbers: Numbers
) -> None:
    entity, key = fresh("meter"), fresh("power")
    held = (entity, key)  # as a program holds them
    reading = Reading(*held, value=1.0, time_ns=1)
    assert numbers(reading) == [1]
    table.add(ready("meter", "power", 7))
    assert numbers(reading) == [7]
    table.discard(("meter", "power"))
    assert numbers(reading) is None
    assert ("meter", "power") not in table
    assert len(table) == 1
    table.clear()
    assert numbers(Reading("meter", "volts", 1.0, 1)) is None


def test_strings_that_come_and_go_leave_nothing_wrong_at_their_address(
    table: ReadyTable, numbers: Numbers
) -> None:
    for number in range(3, 500):
        table.add(ready("meter", f"k{number}", number))
    for _ in range(3):
        for number in range(3, 500):
            assert numbers(Reading("meter", f"k{number}", 1.0, 1)) == [number]
            assert numbers(Reading("meter", f"l{number}", 1.0, 1)) is None


def test_what_only_looks_like_a_reading_is_taken_as_one(table: ReadyTable) -> None:
    class Alike(Reading, frozen=True):
        pass

    assert noted(table, {}, Alike("meter", "power", 1.0, 1)) == Reading("meter", "power", 1.0, 1)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueType.F64, [1.5, -0.0, 3, -(1 << 53), float("inf")]),
        (ValueType.I64, [3, -1, (1 << 63) - 1, -(1 << 63)]),
        (ValueType.BOOL, [True, False]),
    ],
)
def test_the_newest_reading_is_the_one_that_came(kind: ValueType, values: list[Value]) -> None:
    table = ReadyTable()
    table.add(Ready(("meter", "x"), 3, "W", kind))
    newest: dict[tuple[str, str], Reading | Ready] = {}
    for at, value in enumerate(values, -2):
        found = noted(table, newest, Reading("meter", "x", value, at))
        assert found == Reading("meter", "x", value, at, "W")
        assert repr(found.value) == repr(value)


def noted(
    table: ReadyTable, newest: dict[tuple[str, str], Reading | Ready], one: Reading
) -> Reading:
    """What `newest` has of the one series in it, once it has taken a reading."""
    taken = table.stage(Write(), Lane.BULK, [one], 120)
    assert taken is not None
    taken.note(newest)
    (held,) = newest.values()
    assert isinstance(held, Ready)
    assert held.newest is not None
    return held.newest
