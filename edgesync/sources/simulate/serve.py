"""Runs the simulated site: one gateway port with four unit ids, or a port for each device."""

import random
from collections.abc import Sequence
from typing import Final

import trio

from edgesync.sources.modbus.settings import GroupSettings, ModbusDeviceSettings
from edgesync.sources.simulate.devices import SHOW, SITE_DEVICES, SimulatedDevice, site_layouts
from edgesync.sources.simulate.server import Faults, ModbusServer
from edgesync.sources.simulate.site import Site
from edgesync.units import Period

# Faster than anybody polls, slow enough to cost nothing (one step of the site is about 0.2 ms).
STEP_S: Final = 0.25


class SimulatedSite:
    """A running site. `faults` and `server` change how its devices behave, at any time."""

    def __init__(self, site: Site, server: ModbusServer) -> None:
        self.site = site
        self.server = server
        self.addresses: dict[int, tuple[str, int]] = {}  # unit id → host and port

    @property
    def faults(self) -> dict[int, Faults]:
        return self.server.faults

    def settings(self, *, every: float | str = 1.0) -> tuple[ModbusDeviceSettings, ...]:
        """Return what an edge puts into its configuration to poll this site."""
        return tuple(
            ModbusDeviceSettings(
                name=name,
                host=self.addresses[unit_id][0],
                port=self.addresses[unit_id][1],
                unit_id=unit_id,
                profile=profile,
                poll_groups={"fast": GroupSettings(every=Period(every))},
            )
            for name, unit_id, profile in SITE_DEVICES
        )

    def show(self) -> None:
        """Write the site's state into the devices' registers."""
        for unit_id, show in SHOW.items():
            self.server.devices[unit_id].set(show(self.site))


def make_site(seed: int = 0, *, start_h: float = 11.0, has_holes: bool = False) -> SimulatedSite:
    """Return a site that is not served yet; the same seed gives the same site."""
    chance = random.Random(seed)
    devices = {
        unit_id: SimulatedDevice(layout, has_holes=has_holes)
        for unit_id, layout in site_layouts().items()
    }
    simulated = SimulatedSite(Site(chance, start_h=start_h), ModbusServer(devices, chance))
    simulated.show()
    return simulated


async def serve_site(
    host: str = "127.0.0.1",
    port: int = 5020,
    *,
    seed: int = 0,
    speed: float = 1.0,
    start_h: float = 11.0,
    separate_ports: bool = False,
    has_holes: bool = False,
    task_status: trio.TaskStatus[SimulatedSite] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the site over Modbus TCP until cancelled; started with the `SimulatedSite`.

    port            of the gateway; 0 takes a free one
    speed           seconds of the site for each real second
    start_h         the site's time of day at the start, in hours
    separate_ports  each device on a port of its own (port, port + 1 …), still with its unit id
    has_holes       addresses between points are illegal

    Raises OSError when a port is taken.
    """
    simulated = make_site(seed, start_h=start_h, has_holes=has_holes)
    listeners = await _listen(simulated, host, port, separate_ports)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_advance, simulated, speed)
        for listener in listeners:
            nursery.start_soon(trio.serve_listeners, simulated.server.serve_stream, [listener])
        task_status.started(simulated)


async def _listen(
    simulated: SimulatedSite, host: str, port: int, separate: bool
) -> Sequence[trio.SocketListener]:
    unit_ids = [unit_id for _, unit_id, _ in SITE_DEVICES]
    listeners: list[trio.SocketListener] = []
    for index, unit_id in enumerate(unit_ids):
        if separate or not listeners:
            wanted = port + index if port else 0
            listeners.append((await trio.open_tcp_listeners(wanted, host=host))[0])
        simulated.addresses[unit_id] = (host, listeners[-1].socket.getsockname()[1])
    return listeners


async def _advance(simulated: SimulatedSite, speed: float) -> None:
    """Step the site by the time that passed, however late we wake up."""
    before_s = trio.current_time()
    while True:
        await trio.sleep(STEP_S)
        now_s = trio.current_time()
        simulated.site.step((now_s - before_s) * speed)
        before_s = now_s
        simulated.show()
