"""Readings into records: grouped by time and type, each series declared before its first use."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Final, NamedTuple

from edgesync._native import batch, intake
from edgesync._native.intake import Newest, Ready, ReadyTable
from edgesync._native.write import Write
from edgesync.errors import RecordError, TooManySeries
from edgesync.model import (
    I64,
    NAME_CHARS_MAX,
    TEXT_BYTES_MAX,
    Lane,
    Reading,
    RecordKind,
    Value,
    ValueType,
)
from edgesync.store.series import Series, SeriesTable

if TYPE_CHECKING:
    from array import array

# 120 readings are 1,968 bytes with their headers: LMDB keeps up to about 2,000 inside a page, and
# gives anything larger whole pages of its own.
READINGS_PER_RECORD: Final = 120
TEXTS_PER_RECORD: Final = 3
SERIES_MAX: Final = 10_000
# Whole numbers up to here are the same number as a float.
EXACT_FLOAT: Final = 1 << 53

Group = tuple[list[int], list[Value]]


class Staged(NamedTuple):
    """What a write has of readings, to be told once it is committed.

    declared   series for `Intake.confirm`
    newest     readings for the image; None when some needed a look, and it takes them as they came
    """

    declared: Sequence[Series]
    newest: Newest | None = None


class Intake:
    """Turns readings into what one `Write` must do; see the module. One task at a time.

    series_max   names of series that may be known; a reading of one more is refused (I7)
    refused      readings of sources that were left out because of it
    """

    def __init__(self, table: SeriesTable, *, series_max: int = SERIES_MAX) -> None:
        self._table = table
        self._series_max = series_max
        self.refused = 0
        self._ids: dict[tuple[str, str], Series] = {
            (series.entity, series.key): series for series in table.all().values()
        }
        self._numbers: dict[tuple[str, str], int] = {
            (series.entity, series.key): number for number, series in table.all().items()
        }
        # What the hub was told since this beginning of the store's life, of numbers and booleans.
        self.ready = ReadyTable()
        self._ready_of = table.incarnation

    def stage(self, write: Write, readings: Iterable[Reading], lane: Lane = Lane.BULK) -> Staged:
        """Add `readings` to `write`; returns what to tell once it is committed.

        Raises RecordError, naming the reading, for one that cannot be stored, TooManySeries beyond
        the limit; then `write` must not be used.
        """
        with self.all_or_none():
            return self._stage(write, readings, lane)

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Let names of what is staged in the block take up no room if that is refused."""
        known = len(self._ids)
        try:
            yield
        except RecordError:
            for name in list(self._ids)[known:]:
                del self._ids[name], self._numbers[name]
            raise

    def within_limit(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """Return `readings` without those of series beyond the limit, which are counted."""
        return self.within_limit_together([readings])[0]

    def within_limit_together(
        self, groups: Sequence[Sequence[Reading]]
    ) -> Sequence[Sequence[Reading]]:
        """Do as `within_limit` does for groups that are stored at once; the first go before."""
        room = self._series_max - len(self._ids)
        new = {(one.entity, one.key) for some in groups for one in some} - self._ids.keys()
        if len(new) <= room:
            return groups
        admitted: set[tuple[str, str]] = set()
        return [[one for one in some if self._admits(one, new, admitted, room)] for some in groups]

    def _admits(
        self, one: Reading, new: Set[tuple[str, str]], admitted: set[tuple[str, str]], room: int
    ) -> bool:
        name = (one.entity, one.key)
        if name in new and name not in admitted:
            if len(admitted) >= room:
                self.refused += 1
                return False
            admitted.add(name)
        return True

    def stage_names(self, write: Write, readings: Iterable[Reading]) -> list[Series]:
        """Add to `write` what the hub must be told of the series of `readings`, not the readings.

        Returns the series to `confirm`; raises as `stage` does.
        """
        declared: list[Series] = []
        for reading in readings:
            series = self._series(reading, self._kind(reading))
            if series not in declared and self._table.stage(
                write, Lane.BULK, series, reading.time_ns
            ):
                declared.append(series)
        return declared

    def _stage(self, write: Write, readings: Iterable[Reading], lane: Lane) -> Staged:
        if self._ready_of != self._table.incarnation:  # a fork: the hub is told everything again
            self.ready.clear()
            self._ready_of = self._table.incarnation
        readings = readings if isinstance(readings, list | tuple) else list(readings)
        newest = self.ready.stage(write, lane, readings, READINGS_PER_RECORD)
        if newest is None:
            return Staged(self._stage_each(write, readings, lane))
        return Staged((), newest)

    def _stage_each(
        self, write: Write, readings: Iterable[Reading], lane: Lane = Lane.BULK
    ) -> list[Series]:
        """Stage with a look at each; `ReadyTable` makes the same records where none is needed."""
        groups: dict[tuple[int, ValueType], Group] = {}
        declared: list[Series] = []
        told: set[tuple[str, str]] = set()
        for reading in readings:
            name = (reading.entity, reading.key)
            kind = self._kind(reading)
            if name not in told:
                told.add(name)
                series = self._series(reading, kind)
                if self._table.stage(write, lane, series, reading.time_ns):
                    declared.append(series)
                else:
                    self._note_ready(series)
            numbers, values = groups.setdefault((reading.time_ns, kind), ([], []))
            numbers.append(self._numbers[name])
            values.append(float(reading.value) if kind is ValueType.F64 else reading.value)
        write.append_many(lane, RecordKind.READINGS, list(_bodies(groups)))
        return declared

    def stage_columns(
        self,
        write: Write,
        used: Iterable[Series],
        ids: "array[int]",
        places: "array[int]",
        times: "array[int]",
        values: "array[float]",
    ) -> list[Series]:
        """Do as `stage` does, for numbers in columns: some tens of nanoseconds a reading.

        used   the series that occur, from `series_of`
        ids    array("Q"): the id of each series that `places` count
        """
        # A declaration's time tells people when a series began; that of the batch is near enough.
        declared = [one for one in used if self._table.stage(write, Lane.BULK, one, times[0])]
        intake.stage(write, Lane.BULK, places, ids, times, values, READINGS_PER_RECORD)
        return declared

    def series_of(self, entity: str, key: str, unit: str, kind: ValueType) -> Series:
        """Return the series of that name as readings of this kind and unit make it."""
        _check_names(entity, key)
        return self._series(Reading(entity, key, 0.0, 0, unit), kind)

    def known(self, entity: str, key: str) -> Series:
        """Return the series of a reading that has been staged."""
        return self._ids[(entity, key)]

    def confirm(self, declared: Sequence[Series]) -> None:
        for series in declared:
            self._table.confirm(series)
            self._note_ready(series)

    def _note_ready(self, series: Series) -> None:
        kind = ValueType(series.type)
        if kind is not ValueType.TEXT:
            self.ready.add(Ready((series.entity, series.key), series.id, series.unit, kind))

    def _series(self, reading: Reading, kind: ValueType) -> Series:
        name = (reading.entity, reading.key)
        known = self._ids.get(name)
        if known is not None and known.type == kind and known.unit in (reading.unit, ""):
            if known.unit == reading.unit:
                return known
        elif known is not None and not reading.unit and known.type == kind:
            return known
        if known is None and len(self._ids) >= self._series_max:
            raise TooManySeries(reading.entity, reading.key, self._series_max)
        unit = reading.unit or (known.unit if known else "")
        series = Series(reading.entity, reading.key, unit, kind)
        self._ids[name] = series
        self.ready.discard(name)
        self._numbers[name] = series.id
        return series

    def _kind(self, reading: Reading) -> ValueType:
        value = reading.value
        if not -I64 <= reading.time_ns < I64:
            raise RecordError(f"{reading.entity}/{reading.key}: time_ns is not a 64-bit number")
        _check_names(reading.entity, reading.key)
        match value:
            case bool():
                return ValueType.BOOL
            case float():
                return ValueType.F64
            case int():
                return self._whole(reading, value)
            case str():
                if len(value.encode()) > TEXT_BYTES_MAX:
                    raise RecordError(
                        f"{reading.entity}/{reading.key}: text over {TEXT_BYTES_MAX} bytes"
                    )
                return ValueType.TEXT
        raise RecordError(
            f"{reading.entity}/{reading.key}: a value is a number, a boolean or text, "
            f"not {type(value).__name__}"
        )

    def _whole(self, reading: Reading, value: int) -> ValueType:
        """A whole number joins a series of floats, if it is the same number there."""
        known = self._ids.get((reading.entity, reading.key))
        if known is not None and known.type == ValueType.F64 and abs(value) <= EXACT_FLOAT:
            return ValueType.F64
        if not -I64 <= value < I64:
            raise RecordError(
                f"{reading.entity}/{reading.key}: {value} is not a 64-bit number; send a float"
            )
        return ValueType.I64


def _check_names(entity: str, key: str) -> None:
    if not (0 < len(entity) <= NAME_CHARS_MAX and 0 < len(key) <= NAME_CHARS_MAX):
        raise RecordError(
            f"{entity[:40]!r}/{key[:40]!r}: entity and key have 1 to {NAME_CHARS_MAX} characters"
        )


def _bodies(groups: Mapping[tuple[int, ValueType], Group]) -> Iterator[bytes]:
    for (time_ns, kind), (numbers, values) in groups.items():
        step = TEXTS_PER_RECORD if kind is ValueType.TEXT else READINGS_PER_RECORD
        for at in range(0, len(numbers), step):
            yield batch.readings(time_ns, kind, numbers[at : at + step], values[at : at + step])
