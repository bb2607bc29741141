"""What does a Modbus poll cost, decoded and over the wire?

Decides how many points one edge can poll a second beside everything else, and whether a request
may carry unused registers (`max_gap`) rather than be parted: decoding skips those for free, a
request costs a round trip.
"""

import random
import time
from collections.abc import Sequence

import trio

from edgesync.model import Event, Reading
from edgesync.sources.modbus.layout import Limits, resolve
from edgesync.sources.modbus.pdu import FrameReader, Request, answer_data, encode_answer
from edgesync.sources.modbus.planner import Planner
from edgesync.sources.modbus.settings import GroupSettings, ModbusDeviceSettings, PointSettings
from edgesync.sources.modbus.source import ModbusSource
from edgesync.sources.modbus.tcp import Line
from edgesync.sources.simulate.devices import SimulatedDevice
from edgesync.sources.simulate.server import ModbusServer
from edgesync.units import Period

REGISTERS = [1, 10, 50, 125]


def settings(registers: int, port: int = 502, every: float = 1.0) -> ModbusDeviceSettings:
    """One device with a scaled 16-bit point in each register."""
    points = tuple(
        PointSettings(name=f"P{i}", address=i, scale=0.1, group="fast") for i in range(registers)
    )
    groups = {"fast": GroupSettings(every=Period(every))}
    return ModbusDeviceSettings(
        name="d", host="127.0.0.1", port=port, points=points, poll_groups=groups
    )


class Decode:
    """Seconds for one answer, from bytes to values."""

    params = REGISTERS
    param_names = ("registers",)

    def setup(self, registers: int) -> None:
        self.block = Planner(resolve(settings(registers), None)).plan(["fast"])[0]
        self.request = Request(1, "holding", 0, registers)
        self.frame = encode_answer(self.request, list(range(2000, 2000 + registers)), 1)

    def time_answer(self, registers: int) -> None:
        [frame] = FrameReader().feed(self.frame)
        self.block.decode(answer_data(frame, self.request))


class RoundTrip:
    """Seconds for one request and its answer over TCP on this machine, the server included."""

    params = REGISTERS
    param_names = ("registers",)
    number = 1
    requests = 500

    def track_request(self, registers: int) -> float:
        return trio.run(self._measure, registers)

    track_request.unit = "s"  # type: ignore[attr-defined]

    async def _measure(self, registers: int) -> float:
        layout = resolve(settings(registers), None)
        server = ModbusServer({1: SimulatedDevice(layout)}, random.Random(0))
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server.serve_stream, listeners)
            line = Line("127.0.0.1", listeners[0].socket.getsockname()[1])
            await nursery.start(line.serve)
            request = Request(1, "holding", 0, registers)
            started = time.perf_counter()
            for _ in range(self.requests):
                await line.ask(request, Limits(), urgency=0.0, patience_s=1.0)
            took = time.perf_counter() - started
            nursery.cancel_scope.cancel()
        return took / self.requests


class Nothing:
    """A sink that keeps only the count."""

    def __init__(self) -> None:
        self.count = 0

    async def readings(self, readings: Sequence[Reading]) -> None:
        self.count += len(readings)

    async def event(self, event: Event) -> None:
        return


class Busy:
    """Share of one core that 50 points a second take, the server not included."""

    seconds = 3.0

    def track_share_of_a_core(self) -> float:
        return trio.run(self._measure)

    track_share_of_a_core.unit = "%"  # type: ignore[attr-defined]

    async def _measure(self) -> float:
        """Answer from a task that only copies one prepared answer."""
        layout = resolve(settings(50), None)
        prepared = encode_answer(Request(1, "holding", 0, 50), [2301] * 50, 0)

        async def serve(stream: trio.SocketStream) -> None:
            while request := await stream.receive_some(64):
                await stream.send_all(bytes(request[:2]) + prepared[2:])

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            source = ModbusSource("127.0.0.1", port, [layout])
            sink = Nothing()
            nursery.start_soon(source.run, sink)
            await trio.sleep(0.5)
            before = time.process_time()
            await trio.sleep(self.seconds)
            share = (time.process_time() - before) / self.seconds
            nursery.cancel_scope.cancel()
        assert sink.count >= 50 * self.seconds
        return 100 * share
