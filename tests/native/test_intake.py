"""Readings whose series is known are taken by the addresses of its names, and only then."""

import struct

import pytest

from edgesync._native.intake import Ready, ReadyTable
from edgesync.model import Reading, ValueType

HEAD = struct.Struct("<qBxHxxxxQd")


def numbers(table: ReadyTable, *readings: Reading) -> list[int] | None:
    """The series of each reading, as their records have it."""
    found = table.bodies(readings, 120)
    return None if found is None else [HEAD.unpack(body)[3] for body in found]


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


def test_equal_names_are_one_series_wherever_their_strings_are(table: ReadyTable) -> None:
    power, volts = fresh("power"), fresh("volts")
    for at in range(3):
        assert numbers(
            table,
            Reading("meter", power, 1.0, at), Reading("meter", volts, 1.0, at + 10),
            Reading(fresh("meter"), fresh("power"), 1.0, at + 20),
        ) == [1, 2, 1]  # fmt: skip
    assert numbers(table, Reading(power, "meter", 1.0, 1)) is None


def test_a_series_that_is_discarded_or_replaced_is_not_found_by_its_address(
    table: ReadyTable,
) -> None:
    entity, key = fresh("meter"), fresh("power")
    held = (entity, key)  # as a program holds them
    reading = Reading(*held, value=1.0, time_ns=1)
    assert numbers(table, reading) == [1]
    table.add(ready("meter", "power", 7))
    assert numbers(table, reading) == [7]
    table.discard(("meter", "power"))
    assert numbers(table, reading) is None
    assert ("meter", "power") not in table
    assert len(table) == 1
    table.clear()
    assert numbers(table, Reading("meter", "volts", 1.0, 1)) is None


def test_strings_that_come_and_go_leave_nothing_wrong_at_their_address(table: ReadyTable) -> None:
    for number in range(3, 500):
        table.add(ready("meter", f"k{number}", number))
    for _ in range(3):
        for number in range(3, 500):
            assert numbers(table, Reading("meter", f"k{number}", 1.0, 1)) == [number]
            assert numbers(table, Reading("meter", f"l{number}", 1.0, 1)) is None


def test_what_only_looks_like_a_reading_is_taken_as_one(table: ReadyTable) -> None:
    class Alike(Reading, frozen=True):
        pass

    newest: dict[tuple[str, str], Reading | Ready] = {}
    one = Alike("meter", "power", 1.0, 1)
    assert numbers(table, one) == [1]
    table.note_newest(newest, [one])
    (held,) = newest.values()
    assert isinstance(held, Ready)
    assert held.newest is one
