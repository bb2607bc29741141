"""Readings that an edge sends once more: those that the state has are counted, not added (S30).

Two readings of a series are the same when their times and values are. Numbers are compared as
floats, for an edge keeps them as such: the 1 of a counter is the 1.0 that comes back.
"""

import array
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync import resend
from edgesync._native import batch
from edgesync.errors import RecordError
from edgesync.model import RecordKind, Value, ValueType
from edgesync.resend import Run
from hubd.state import points
from hubd.state.fresh import EdgeFresh

# nan is not equal to itself, and yet the same reading.
_NAN: Final = "nan", 0
Known = set[tuple[int, object]]


class Columns(msgspec.Struct, frozen=True):
    """What a `batch.Table` is, made here."""

    series: "array.array[int]"
    vtypes: "array.array[int]"
    counts: "array.array[int]"
    times: "array.array[int]"
    values: "array.array[int]"
    texts: list[str]


class Count(msgspec.Struct):
    """Of an edge, since the start: readings sent once more, and how many of them were known."""

    readings: int = 0
    known: int = 0


def runs_of(record: batch.Record) -> Sequence[Run]:
    """Return the runs of a RESENT record, none of another and of one that cannot be read."""
    if record.kind != RecordKind.RESENT:
        return ()
    try:
        return resend.decode(record.body)
    except RecordError:
        return ()  # the events projector lists it


def stored(
    connection: sa.Connection, edge: str, runs: Sequence[Run], refs: Mapping[int, int]
) -> dict[int, Known]:
    """Return which readings the pages of the state have at the times of `runs`, by series."""
    wanted = {refs[series]: times for series, times in _times(runs).items() if series in refs}
    found: dict[int, Known] = {series: set() for series in _times(runs)}
    series_of = {ref: series for series, ref in refs.items()}
    for ref, piece in points.pieces_at(connection, edge, wanted):
        _note(found[series_of[ref]], wanted[ref], piece.times, piece.values)
    return found


def unknown(runs: Sequence[Run], known: Mapping[int, Known], fresh: EdgeFresh) -> Columns:
    """Return the readings of `runs` that are neither known nor fresh."""
    seen = {series: set(some) for series, some in known.items()}
    for series, times in _times(runs).items():
        for _, _, its_times, values in fresh.table.runs(series):
            if not times.isdisjoint(its_times):
                _note(seen[series], times, its_times, values)
    columns = Columns(
        array.array("Q"), array.array("B"), array.array("I"), array.array("q"), array.array("Q"), []
    )
    for run in runs:
        known_here, count = seen[run.series], 0
        its_values: Iterable[Value] = run.values
        for time_ns, value in zip(run.times, its_values, strict=True):
            name = time_ns, _key(value)
            if name not in known_here:
                known_here.add(name)
                count += 1
                columns.times.append(time_ns)
                columns.values.append(_bits(run.vtype, value, columns.texts))
        if count:
            columns.series.append(run.series)
            columns.vtypes.append(run.vtype)
            columns.counts.append(count)
    return columns


def _times(runs: Sequence[Run]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for run in runs:
        found.setdefault(run.series, set()).update(run.times)
    return found


def _note(known: Known, wanted: set[int], times: Iterable[int], values: Iterable[Value]) -> None:
    for time_ns, value in zip(times, values, strict=True):
        if time_ns in wanted:
            known.add((time_ns, _key(value)))


def _key(value: Value) -> object:
    if isinstance(value, str):
        return value
    number = float(value)
    return number if number == number else _NAN


def _bits(vtype: int, value: Value, texts: list[str]) -> int:
    if isinstance(value, str):
        texts.append(value)
        return len(texts) - 1
    if vtype == ValueType.F64:
        return int.from_bytes(struct.pack("<d", value), "little")
    return int(value) & 0xFFFF_FFFF_FFFF_FFFF
