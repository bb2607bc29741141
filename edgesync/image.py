"""The process image: the newest reading of each series, for questions at the edge."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgesync._native.intake import Newest, Ready, put_newest
from edgesync.model import I64, Reading, Value
from edgesync.status import LatestView

if TYPE_CHECKING:
    from edgesync.store.point_rows import Point
    from edgesync.store.series import Series

    Supplier = Callable[[], Iterable[tuple[Series, Point]]]


class LatestValue(msgspec.Struct, frozen=True):
    value: Value
    unit: str
    time_ns: int


class ProcessImage:
    """Holds the newest reading of each series, in the order of arrival and not of time.

    limit      series held; values of further series are not, and are counted in `refused` (I7)
    suppliers  of values that are held elsewhere, asked when the image is read: the later time wins,
               but for one that is still to come
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self.suppliers: list[Supplier] = []
        self._values: dict[tuple[str, str], LatestValue | Reading | Ready] = {}

    def __len__(self) -> int:
        return len(self._values)

    def update(self, readings: Sequence[Reading], newest: Newest | None = None) -> None:
        """Take readings that are stored; `newest` are the same, if none needed a look."""
        if newest is not None and len(self._values) + len(readings) <= self.limit:
            newest.note(self._values)
            return
        for reading in readings:
            self.put(reading.entity, reading.key, reading)

    def put(self, entity: str, key: str, value: LatestValue | Reading) -> None:
        """Set the newest value of a series."""
        name = (entity, key)
        if name in self._values or len(self._values) < self.limit:
            put_newest(self._values, name, value)
        else:
            self.refused += 1

    def newest(self, entity: str, key: str) -> LatestValue | Reading | None:
        """Return the newest value of a series that came here, None if there is none."""
        one = self._values.get((entity, key))
        return one.newest if isinstance(one, Ready) else one

    def load(self, views: Iterable[LatestView]) -> None:
        """Take values that were read from a journal."""
        for view in views:
            self.put(view.entity, view.key, LatestValue(view.value, view.unit, view.time_ns))

    def views(self, until_ns: int = I64 - 1) -> list[LatestView]:
        """Return all values, sorted by entity and key; times after `until_ns` are still to come."""
        values: dict[tuple[str, str], LatestValue | Reading] = {}
        for name, one in self._values.items():
            value = one.newest if isinstance(one, Ready) else one
            if value is not None:
                values[name] = value
        for supplier in self.suppliers:
            for series, point in supplier():
                held = values.get((series.entity, series.key))
                if held is None or held.time_ns < point.time_ns <= until_ns:
                    newer = LatestValue(point.value, series.unit, point.time_ns)
                    values[(series.entity, series.key)] = newer
        return [
            LatestView(entity=entity, key=key, value=one.value, unit=one.unit, time_ns=one.time_ns)
            for (entity, key), one in sorted(values.items())
        ]
