"""Series: what an id in a reading means, and whether the hub has been told.

A reading carries only the 64-bit id of its series. The name, unit and type behind it travel once
per incarnation, as an event in the same lane before the first use. It
travels again when the hub has lost something (declare.py). A declaration is staged into
the very write that needs it and becomes true only with its commit.
"""

import logging
from typing import Final

import msgspec

from edgesync._native import event
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.model import EventType, RecordKind, ValueType, series_id

log = logging.getLogger(__name__)

DATABASE: Final = "series"


class Series(msgspec.Struct, frozen=True):
    """The series that an id stands for."""

    entity: str
    key: str
    unit: str
    type: int

    @property
    def id(self) -> int:
        return series_id(self.entity, self.key)


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    entity: str
    key: str
    unit: str
    type: int
    incarnation: bytes


class SeriesTable:
    """All series of a store, in memory and in its database `series`.

    Used by one thread or task at a time. `stage` before the commit, `confirm` after it: what was
    staged in a write that failed is staged again in the next one.
    """

    def __init__(self, store: Store, incarnation: bytes) -> None:
        self._incarnation = incarnation
        self._known: dict[int, Series] = {}
        self._told: set[int] = set()
        start = b""
        while rows := store.scan(DATABASE, start, limit=1000):
            for key, value in rows:
                self._load(int.from_bytes(key, "little"), value)
            start = (int.from_bytes(rows[-1][0], "little") + 1).to_bytes(9, "little")[:8]
            if not any(start):
                break

    def _load(self, number: int, value: bytes) -> None:
        try:
            stored = msgspec.msgpack.decode(value, type=_Stored)
        except (ValueError, msgspec.MsgspecError) as error:
            # It is declared again at its next reading, which writes the row anew.
            log.error("a series in a damaged row is not known: id=%d %s", number, error)
            return
        self._known[number] = Series(stored.entity, stored.key, stored.unit, stored.type)
        if stored.incarnation == self._incarnation:
            self._told.add(number)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, number: int) -> Series | None:
        return self._known.get(number)

    def all(self) -> dict[int, Series]:
        return dict(self._known)

    def is_told(self, series: Series) -> bool:
        """Return whether the hub knows `series` as it is."""
        number = series.id
        return number in self._told and self._known[number] == series

    def stage(self, write: Write, lane: int, series: Series, time_ns: int) -> bool:
        """Add what the hub must be told of `series` to `write`; False if it knows already."""
        if self.is_told(series):
            return False
        self.declare(write, lane, series, time_ns)
        return True

    def declare(self, write: Write, lane: int, series: Series, time_ns: int) -> None:
        """Add what the hub must be told of `series` to `write`, whether or not it was told."""
        body = msgspec.json.encode(
            {
                "entity": series.entity,
                "key": series.key,
                "unit": series.unit,
                "type": ValueType(series.type).name,
            }
        )
        record = event.encode(EventType.SERIES, 0, 0, series.entity, body, time_ns, time_ns, 0)
        write.append(lane, RecordKind.EVENT, record)
        stored = _Stored(series.entity, series.key, series.unit, series.type, self._incarnation)
        write.put(DATABASE, series.id.to_bytes(8, "little"), msgspec.msgpack.encode(stored))

    @property
    def incarnation(self) -> bytes:
        """The incarnation under which series are declared to the hub."""
        return self._incarnation

    def confirm(self, series: Series) -> None:
        """The write `series` was staged in has been committed."""
        self._known[series.id] = series
        self._told.add(series.id)

    def forget_told(self, incarnation: bytes) -> None:
        """After a fork, declare every series again under the new incarnation when it is used."""
        self._incarnation = incarnation
        self._told.clear()
