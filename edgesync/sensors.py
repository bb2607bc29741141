"""Readings of sensors: stored, added up, kept for questions here, and on their way to the hub.

    sensors = SensorIngestion(node, SensorConfig(max_readings_per_sensor=1000))
    await sensors.ingest(SensorReading("temp-001", 22.5, unit="celsius"))
    stats = sensors.aggregate("temp-001")

One commit stores a reading for the hub and for questions here (I2), and it is on disk when the call
returns (I1). At the hub a sensor is the series ("temp-001", "value").
"""

import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from edgesync.errors import RecordError
from edgesync.intake import SERIES_MAX
from edgesync.store.point_rows import Kept, Point
from edgesync.store.points import Staged

if TYPE_CHECKING:
    from edgesync.node import EdgeNode

KEY: Final = "value"


class SensorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a `SensorIngestion` keeps.

    max_readings_per_sensor   newest readings for `readings`; None: as `[series] keep` says
    auto_aggregate            False: `aggregate` is not asked, and refuses
    max_sensors               beyond, a reading of another one is refused (I7)
    """

    max_readings_per_sensor: int | None = None
    auto_aggregate: bool = True
    max_sensors: int = SERIES_MAX


class SensorReading(msgspec.Struct, frozen=True):
    """One reading; `timestamp` is in ns since 1970, None for now."""

    sensor_id: str
    value: float
    unit: str = ""
    timestamp: int | None = None
    metadata: dict[str, str] = {}


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """What all readings of a sensor add up to, since its first one.

    count     finite readings; avg, min and max are None without any
    missing   readings that were no number: NaN, infinities
    ahead     readings more than 5 minutes in the future, which are in none of the others
    last      of the latest time, with that time
    """

    count: int
    sum: float
    avg: float | None
    min: float | None
    max: float | None
    deviation: float | None
    last: Point | None
    missing: int
    ahead: int


class SensorIngestion:
    """See the module. Every method raises StoreError when nothing could be stored.

    A reading that cannot be stored, RecordError: then none of its batch is.
    """

    def __init__(self, node: "EdgeNode", config: SensorConfig | None = None) -> None:
        self._node = node
        self._points = node.points
        self._config = config or SensorConfig()
        self._places: dict[str, int] = {}
        self._units: dict[str, str] = {}

    # -- in ------------------------------------------------------------------------------------

    async def ingest(self, reading: SensorReading) -> None:
        """Store one reading."""
        await self._node.record(self._stage_readings([reading]))

    async def ingest_batch(self, readings: Sequence[SensorReading]) -> None:
        """Store readings with one commit; all or none."""
        if readings:
            await self._node.record(self._stage_readings(readings))

    async def ingest_columns(
        self,
        sensor_ids: Sequence[str],
        times_ns: "array.array[int] | Iterable[int]",
        values: "array.array[float] | Iterable[float]",
    ) -> None:
        """Store readings given as columns of the same length; all or none.

        The quickest way in: half a million a second and more. Units are those the sensors have.
        """
        if sensor_ids:
            await self._node.record(self._stage_columns(sensor_ids, times_ns, values))

    def ingest_sync(self, reading: SensorReading) -> None:
        """Do as `ingest` does, from a plain program."""
        self._node.record_sync(self._stage_readings([reading]))

    def ingest_batch_sync(self, readings: Sequence[SensorReading]) -> None:
        """Do as `ingest_batch` does, from a plain program."""
        if readings:
            self._node.record_sync(self._stage_readings(readings))

    def ingest_columns_sync(
        self,
        sensor_ids: Sequence[str],
        times_ns: "array.array[int] | Iterable[int]",
        values: "array.array[float] | Iterable[float]",
    ) -> None:
        """Do as `ingest_columns` does, from a plain program."""
        if sensor_ids:
            self._node.record_sync(self._stage_columns(sensor_ids, times_ns, values))

    def _stage_readings(self, readings: Sequence[SensorReading]) -> Staged:
        for sensor_id, unit in {(one.sensor_id, one.unit) for one in readings}:
            if unit and self._units.get(sensor_id) != unit:
                self._places[sensor_id] = self._enter(sensor_id, unit)
                self._units[sensor_id] = unit
        now = self._node.wall_ns()
        times = (now if one.timestamp is None else one.timestamp for one in readings)
        staged = self._stage_columns(
            [one.sensor_id for one in readings], times, (one.value for one in readings)
        )
        try:
            for one in readings:
                if one.metadata:
                    self._points.stage_metadata(staged, self._places[one.sensor_id], one.metadata)
        except RecordError:
            self._points.withdraw(staged)
            raise
        return staged

    def _stage_columns(
        self,
        sensor_ids: Sequence[str],
        times_ns: "array.array[int] | Iterable[int]",
        values: "array.array[float] | Iterable[float]",
    ) -> Staged:
        known = self._places
        try:
            places = array.array("I", map(known.__getitem__, sensor_ids))
        except KeyError:
            for sensor_id in dict.fromkeys(sensor_ids):
                if sensor_id not in known:
                    known[sensor_id] = self._enter(sensor_id, "")
            places = array.array("I", map(known.__getitem__, sensor_ids))
        try:
            times = array.array("q", times_ns)
            return self._points.stage(places, times, array.array("d", values))
        except (TypeError, OverflowError) as error:
            raise RecordError(
                f"a column of readings: {error}; times are 64-bit ns, values are floats"
            ) from error

    def _enter(self, sensor_id: str, unit: str) -> int:
        if sensor_id not in self._places and len(self._places) >= self._config.max_sensors:
            raise RecordError(f"more than {self._config.max_sensors} sensors; raise max_sensors")
        place = self._points.place(sensor_id, KEY, unit)
        if self._config.max_readings_per_sensor is not None:
            self._points.kept_at(place).keep = self._config.max_readings_per_sensor
        return place

    # -- out -----------------------------------------------------------------------------------

    def aggregate(self, sensor_id: str) -> Aggregate | None:
        """Return what all readings of a sensor add up to; None for one never heard of.

        It survives a restart unchanged. Sums are compensated (Neumaier).
        """
        if not self._config.auto_aggregate:
            raise ValueError("auto_aggregate is off, so nothing is to be asked for")
        kept = self._points.find(sensor_id, KEY)
        if kept is None:
            return None
        window = self._points.aggregate(kept)
        count = window.count
        return Aggregate(
            count=count,
            sum=window.sum,
            avg=window.sum / count if count else None,
            min=window.min[0] if window.min else None,
            max=window.max[0] if window.max else None,
            deviation=window.deviation,
            last=self._points.newest(kept),
            missing=window.missing,
            ahead=kept.set_aside,
        )

    def latest(self, sensor_id: str) -> Point | None:
        """Return the reading of the latest time; None without any."""
        kept = self._points.find(sensor_id, KEY)
        return None if kept is None else self._points.newest(kept)

    def readings(
        self,
        sensor_id: str,
        from_ns: int = -(1 << 63),
        to_ns: int = (1 << 63) - 1,
        *,
        limit: int | None = None,
    ) -> list[Point]:
        """Return the readings that are kept, by time: the newest `max_readings_per_sensor`."""
        kept = self._points.find(sensor_id, KEY)
        return [] if kept is None else self._points.readings(kept, from_ns, to_ns, limit=limit)

    def ahead(self, sensor_id: str) -> list[Point]:
        """Return the newest readings whose time was more than 5 minutes in the future."""
        kept = self._points.find(sensor_id, KEY)
        return [] if kept is None else self._points.set_aside(kept)

    def metadata(self, sensor_id: str) -> Mapping[str, str]:
        """Return what was told of a sensor, and its unit."""
        kept = self._points.find(sensor_id, KEY)
        return {} if kept is None else {**kept.metadata, "unit": kept.series.unit}

    def sensors(self) -> list[str]:
        """Return the ids of all sensors."""
        return sorted(one.series.entity for one in self._points.all() if _is_sensor(one))


def _is_sensor(kept: Kept) -> bool:
    return kept.series.key == KEY
