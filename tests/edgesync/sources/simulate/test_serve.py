"""End to end over real TCP: the simulated site, and a server that is not ours."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edgesync.model import Event, Reading
from edgesync.sources.base import SourceState
from edgesync.sources.modbus.settings import GroupSettings, ModbusDeviceSettings, PointSettings
from edgesync.sources.modbus.source import modbus_source, modbus_sources
from edgesync.sources.simulate.devices import SITE_DEVICES
from edgesync.sources.simulate.serve import SimulatedSite, serve_site
from edgesync.units import Period


class Notes:
    def __init__(self) -> None:
        self.values: list[Reading] = []
        self.calls = 0

    async def readings(self, readings: Sequence[Reading]) -> None:
        self.calls += 1
        self.values.extend(readings)

    async def event(self, event: Event) -> None:
        await trio.lowlevel.checkpoint()

    def latest(self, entity: str) -> dict[str, object]:
        return {r.key: r.value for r in self.values if r.entity == entity}


async def until(claim: Callable[[], bool]) -> None:
    """Wait until `claim` holds; the suite's time limit is what ends a wrong one."""
    while not claim():  # noqa: ASYNC110 - states are looked at, they send no event
        await trio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("separate_ports", [False, True])
@pytest.mark.parametrize("has_holes", [False, True])
@pytest.mark.feature("C17")
async def test_the_site_is_read_over_real_tcp(separate_ports: bool, has_holes: bool) -> None:
    notes = Notes()
    async with trio.open_nursery() as nursery:
        site: SimulatedSite = await nursery.start(
            lambda task_status: serve_site(
                port=0, separate_ports=separate_ports, has_holes=has_holes, speed=60,
                task_status=task_status,
            )
        )  # fmt: skip
        sources = modbus_sources(site.settings(every="100ms"))
        assert len(sources) == (4 if separate_ports else 1)
        for source in sources:
            nursery.start_soon(source.run, notes)
        await until(lambda: notes.calls >= 24)
        statuses = [status for source in sources for status in source.statuses()]
        nursery.cancel_scope.cancel()
    assert {status.name for status in statuses} == {name for name, _, _ in SITE_DEVICES}
    assert all(status.state is SourceState.ONLINE for status in statuses)
    assert all(status.invalid_points == {} for status in statuses)
    keys = {(r.entity, r.key) for r in notes.values}
    assert len(keys) >= 70
    meter, pv = notes.latest("meter0"), notes.latest("pv0")
    assert meter["SerialNumber"] == "ES-METER-0001"
    assert isinstance(meter["VoltageL1"], float)
    assert 215 < meter["VoltageL1"] < 245
    assert len(repr(meter["VoltageL1"])) <= len("231.5")
    assert isinstance(pv["ActivePower"], float)
    assert pv["ActivePower"] >= 0


@pytest.mark.feature("C17")
async def test_a_device_of_the_site_can_be_broken_and_mended_while_it_runs() -> None:
    notes = Notes()
    async with trio.open_nursery() as nursery:
        site: SimulatedSite = await nursery.start(lambda task_status: serve_site(
            port=0, task_status=task_status))  # fmt: skip
        [source] = modbus_sources(site.settings(every="50ms"))
        nursery.start_soon(source.run, notes)

        def states() -> list[SourceState]:
            return [status.state for status in source.statuses()]

        await until(lambda: states() == [SourceState.ONLINE] * 4)
        site.faults[3].exception = 4
        await until(lambda: states()[2] is SourceState.OFFLINE)
        assert [s for i, s in enumerate(states()) if i != 2] == [SourceState.ONLINE] * 3
        site.faults[3].exception = 0
        assert source.retry_now("pv0")
        await until(lambda: states() == [SourceState.ONLINE] * 4)
        nursery.cancel_scope.cancel()


async def test_a_port_in_use_is_an_error_at_once() -> None:
    taken = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = taken.socket.getsockname()[1]
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_site, "127.0.0.1", port)
    assert caught.group_contains(OSError)
    await taken.aclose()


@contextmanager
def foreign_server(device: SimDevice) -> Iterator[int]:
    """Run pymodbus' own server in a thread and give its port."""
    ready: list[int] = []
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        server: Any = ModbusTcpServer(device, address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        ready.append(server.transport.sockets[0].getsockname()[1])
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        started.set()
        await ended.wait()
        await server.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(100)
    try:
        yield ready[0]
    finally:
        stop[0]()
        thread.join()


@pytest.mark.feature("K4")
async def test_a_server_that_is_not_ours_gives_the_same_values() -> None:
    blocks = [
        SimData(0, values=2301, datatype=DataType.UINT16),
        SimData(1, values=-12345678, datatype=DataType.INT32),
        SimData(3, values=230.1, datatype=DataType.FLOAT32),
        SimData(5, values=2**40 + 1, datatype=DataType.UINT64),
        SimData(9, values="edgesync", datatype=DataType.STRING),
    ]
    points = (
        PointSettings(name="U", address=0, scale=0.1),
        PointSettings(name="P", address=1, type="int32"),
        PointSettings(name="F", address=3, type="float32"),
        PointSettings(name="E", address=5, type="uint64"),
        PointSettings(name="S", address=9, type="string", length=4),
    )
    notes = Notes()
    with foreign_server(SimDevice(1, simdata=blocks)) as port:
        settings = ModbusDeviceSettings(
            name="plc", host="127.0.0.1", port=port, points=points,
            poll_groups={"slow": GroupSettings(every=Period("50ms"))},
        )  # fmt: skip
        source = modbus_source(settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, notes)
            await until(lambda: notes.calls >= 3)
            [status] = source.statuses()
            nursery.cancel_scope.cancel()
    assert notes.latest("plc") == {
        "U": 230.1, "P": -12345678, "F": 230.1, "E": 2**40 + 1, "S": "edgesync",
    }  # fmt: skip
    assert status.errors == 0
