"""A laboratory in virtual time: devices behind an in-memory stream, and a sink that takes notes."""

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import trio
from trio.testing import memory_stream_pair

from edgesync.model import Event, Reading
from edgesync.sources.modbus.layout import Layout, resolve
from edgesync.sources.modbus.settings import GroupSettings, ModbusDeviceSettings, PointSettings
from edgesync.sources.modbus.source import ModbusSource
from edgesync.sources.simulate.devices import SimulatedDevice
from edgesync.sources.simulate.server import ModbusServer
from edgesync.units import Period

START_NS = 1_700_000_000_000_000_000

POINTS = tuple(
    PointSettings(name=f"P{i}", address=10 * i, type="int32", group="fast") for i in range(5)
)


def device(unit_id: int, **fields: Any) -> ModbusDeviceSettings:
    """Return settings of a device with five points polled every second."""
    fields.setdefault("points", POINTS)
    fields.setdefault("poll_groups", {"fast": GroupSettings(every=Period(1))})
    return ModbusDeviceSettings(name=f"d{unit_id}", host="lab", unit_id=unit_id, **fields)


class Notes:
    """A sink that remembers when what arrived, in virtual seconds."""

    def __init__(self) -> None:
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self.values: list[Reading] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.commit_s = 0.0
        self.refuse: Exception | None = None

    async def readings(self, readings: Sequence[Reading]) -> None:
        if self.refuse is not None:
            raise self.refuse
        await trio.sleep(self.commit_s)
        assert len({r.entity for r in readings}) == 1
        self.arrivals[readings[0].entity].append(trio.current_time())
        self.values.extend(readings)

    async def event(self, event: Event) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.events.append((event.entity_id, json.loads(event.body)))

    def states(self, name: str) -> list[str]:
        return [body["state"] for entity, body in self.events if entity == name]

    def oldest(self, name: str, start_s: float, end_s: float) -> float:
        """Return the greatest age a value of `name` reached between two instants."""
        times = [start_s, *(t for t in self.arrivals[name] if start_s < t <= end_s), end_s]
        return max(after - before for before, after in itertools.pairwise(times))


class Lab:
    """Devices on one gateway, polled by one source."""

    def __init__(self, *devices: ModbusDeviceSettings, has_holes: bool = False) -> None:
        self.layouts: list[Layout] = [resolve(settings, None) for settings in devices]
        simulated = {
            layout.unit_id: SimulatedDevice(layout, has_holes=has_holes) for layout in self.layouts
        }
        self.server = ModbusServer(simulated, random.Random(0))
        self.notes = Notes()
        self.is_reachable = True
        self.source = ModbusSource(
            "lab", 502, self.layouts, wall_ns=self._wall_ns, connect=self._connect
        )
        self._nursery: trio.Nursery | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        nursery.start_soon(self.source.run, self.notes)

    def _wall_ns(self) -> int:
        return START_NS + 123_456_789 + int(trio.current_time() * 1e9)

    async def _connect(self, host: str, port: int) -> trio.abc.Stream:
        assert (host, port) == ("lab", 502)
        await trio.sleep(0.001)
        if not self.is_reachable:
            raise ConnectionRefusedError("connection refused")
        ours, theirs = memory_stream_pair()
        assert self._nursery is not None
        self._nursery.start_soon(self.server.serve_stream, theirs)
        return ours
