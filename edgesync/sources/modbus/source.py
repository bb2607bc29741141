"""Makes sources of device settings: one a connection, with every device behind it.

for source in modbus_sources(settings.modbus):
    nursery.start_soon(source.run, sink)
"""

import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from edgesync.errors import ConfigError, gathered
from edgesync.sources.base import Sink, SourceStatus
from edgesync.sources.modbus.hosts import canonical_host, checked_host
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.profile import load_layout
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.sources.modbus.tcp import Connect, Line, open_tcp
from edgesync.sources.modbus.unit import Unit

# So many devices are asked, and stored, together: waking up for each of thirty devices alone costs
# three times the CPU (bench/benchmarks/modbus_site.py).
TOGETHER_MAX: Final = 15


class ModbusSource:
    """The devices behind one host and port."""

    def __init__(
        self,
        host: str,
        port: int,
        layouts: Sequence[Layout],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        connect: Connect = open_tcp,
        phases: Sequence[float] = (),
    ) -> None:
        self._key = (host, port, msgspec.json.encode(layouts, enc_hook=str, order="deterministic"))
        self._line = Line(host, port, connect)
        self._line.on_up = self._line_is_up
        self._line.connect_delay_s = max(layout.limits.connect_delay for layout in layouts)
        phases = phases or [0.0] * len(layouts)
        self._units = tuple(
            Unit(layout, self._line, wall_ns, phase)
            for layout, phase in zip(layouts, phases, strict=True)
        )
        for unit in self._units:
            unit.is_line_away = lambda: all(one.is_away for one in self._units)
        self._line.is_shared = len(self._units) > 1
        if self._line.is_shared:
            period_s = min(unit.shortest_period_s for unit in self._units)
            for rank, unit in enumerate(self._units):
                unit.share(period_s, len(self._units), rank)

    @property
    def name(self) -> str:
        return self._line.address

    @property
    def key(self) -> Hashable:
        """What the settings say of this connection: equal keys are polled alike."""
        return self._key

    async def run(self, sink: Sink) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._line.serve)
            for unit in self._units:
                nursery.start_soon(unit.run, sink)

    def statuses(self) -> Sequence[SourceStatus]:
        return [unit.status() for unit in self._units]

    def retry_now(self, name: str) -> bool:
        for unit in self._units:
            if unit.name == name:
                unit.retry_now()
                return True
        return False

    def _line_is_up(self) -> None:
        for unit in self._units:
            unit.line_is_up()


def modbus_sources(
    devices: Iterable[ModbusDeviceSettings],
    *,
    folder: Path | None = None,
    wall_ns: Callable[[], int] = time.time_ns,
    connect: Connect = open_tcp,
) -> tuple[ModbusSource, ...]:
    """Return one source for each host and port among the enabled `devices`.

    folder   where relative paths of profiles start; usually that of the settings file

    Raises ConfigError for a name used twice or a profile that does not fit.
    """
    lines = modbus_lines(devices, folder)
    # Devices are asked one after the other through the period, not all in the same instant.
    phases = spread(sum(len(layouts) for layouts in lines.values()))
    return tuple(
        ModbusSource(
            host, port, layouts, wall_ns=wall_ns, connect=connect,
            phases=list(itertools.islice(phases, len(layouts))),
        )
        for (host, port), layouts in lines.items()
    )  # fmt: skip


def modbus_lines(
    devices: Iterable[ModbusDeviceSettings], folder: Path | None = None
) -> dict[tuple[str, int], list[Layout]]:
    """Return the enabled `devices` by host and port. Raises ConfigError with every mistake."""
    lines: dict[tuple[str, int], list[Layout]] = {}
    hosts: dict[tuple[str, int], str] = {}
    names: set[str] = set()
    mistakes: list[ConfigError] = []
    for device in devices:
        if device.name in names:
            mistakes.append(ConfigError(
                file="modbus", field=device.name, problem="two devices have this name",
                remedy="a device's name is its entity in the hub: give each its own",
            ))  # fmt: skip
        names.add(device.name)
        try:
            host = checked_host(device.host, device.name)
        except ConfigError as mistake:
            mistakes.append(mistake)
            host = device.host
        try:
            layout = load_layout(device, folder)
        except ConfigError as mistake:
            mistakes.append(mistake)
            continue
        if device.enabled:
            # As the first of them writes it: of two names it may be the one that works.
            first = hosts.setdefault((canonical_host(host), device.port), host)
            lines.setdefault((first, device.port), []).append(layout)
    if mistakes:
        raise gathered(mistakes)
    return lines


def spread(devices: int) -> Iterator[float]:
    """Yield where in its period each device is polled, from 0 to 1: many devices in turns."""
    slots = -(-devices // TOGETHER_MAX)
    return (index * slots // devices / slots for index in range(devices))


def modbus_source(
    device: ModbusDeviceSettings,
    *,
    folder: Path | None = None,
    wall_ns: Callable[[], int] = time.time_ns,
    connect: Connect = open_tcp,
) -> ModbusSource:
    """Return the source of a single device. Raises ConfigError."""
    layout = load_layout(device, folder)
    return ModbusSource(
        checked_host(device.host, device.name),
        device.port,
        [layout],
        wall_ns=wall_ns,
        connect=connect,
    )
