"""A Modbus TCP server made of bytes, in virtual time: devices as awkward as a test wants them.

Each register shows the tenths of a second at which its answer was made, unless `fixed` says
otherwise: a reading's time can be compared with its value.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import trio
from trio.testing import memory_stream_pair

from edgesync.sources.base import SourceStatus
from edgesync.sources.modbus.layout import resolve
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.sources.modbus.source import ModbusSource
from tests.edgesync.sources.modbus.lab import START_NS, Notes

# What follows a request: pairs of seconds to wait and bytes to send.
Script = Iterable[tuple[float, bytes]]


class Asked:
    """A request as it came: when, on which connection, and its fields."""

    def __init__(self, connection: int, header: bytes, pdu: bytes) -> None:
        self.at_s = trio.current_time()
        self.connection = connection
        self.transaction, _, _, self.unit_id = struct.unpack(">HHHB", header)
        self.function, self.address, self.count = struct.unpack(">BHH", pdu)


class Gateway:
    """Serves registers of `there` to every unit, and is polled by one source.

    hook    what to answer to a request instead of `[(0, gateway.answer(asked))]`
    """

    def __init__(
        self,
        there: Collection[int],
        *devices: ModbusDeviceSettings,
        hook: "Callable[[Gateway, Asked], Script] | None" = None,
        fixed: Mapping[int, int] | None = None,
    ) -> None:
        self._there = frozenset(there)
        self._hook = hook
        self.fixed = dict(fixed or {})
        self.start_ns = START_NS
        self._nursery: trio.Nursery | None = None
        self.asked: list[Asked] = []
        self.connections = 0
        self.notes = Notes()
        self.source = ModbusSource(
            "lab", 502, [resolve(device, None) for device in devices],
            wall_ns=lambda: START_NS + round(trio.current_time() * 1e9), connect=self._connect,
        )  # fmt: skip

    def answer(self, asked: Asked, *, transaction: int | None = None, code: int = 2) -> bytes:
        """Return the plain answer, or exception `code` where a register is not there."""
        registers = range(asked.address, asked.address + asked.count)
        if not self._there.issuperset(registers):
            return self.refuse(asked, code)
        tenths = round(trio.current_time() * 10) % 10_000
        words = [self.fixed.get(register, tenths) for register in registers]
        pdu = struct.pack(f">BB{len(words)}H", asked.function, 2 * len(words), *words)
        number = asked.transaction if transaction is None else transaction
        return struct.pack(">HHHB", number, 0, len(pdu) + 1, asked.unit_id) + pdu

    def refuse(self, asked: Asked, code: int, *, length: int = 3) -> bytes:
        head = struct.pack(">HHHB", asked.transaction, 0, length, asked.unit_id)
        return head + bytes((asked.function | 0x80, code))

    async def run(self, seconds: float) -> SourceStatus:
        """Poll for `seconds`; returns how the first device is then."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.source.run, self.notes)
            await trio.sleep(seconds)
            status = self.source.statuses()[0]
            nursery.cancel_scope.cancel()
        return status

    def times(self, address: int) -> list[float]:
        """Return when register `address` was asked for."""
        return [one.at_s for one in self.asked if one.address <= address < one.address + one.count]

    def values(self, key: str) -> Sequence[object]:
        return [reading.value for reading in self.notes.values if reading.key == key]

    def lags_s(self, key: str) -> list[float]:
        """Return by how much the times of `key` are later than the answers they came in."""
        found = []
        for reading in self.notes.values:
            if reading.key == key:
                assert isinstance(reading.value, int)
                found.append((reading.time_ns - START_NS) / 1e9 - reading.value / 10)
        return found

    async def _connect(self, host: str, port: int) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, theirs)
        await trio.lowlevel.checkpoint()
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        connection = self.connections
        held = b""
        try:
            while data := await stream.receive_some(4096):
                held += data
                while len(held) >= 12:
                    asked = Asked(connection, held[:7], held[7:12])
                    held = held[12:]
                    self.asked.append(asked)
                    script = self._hook(self, asked) if self._hook else [(0.0, self.answer(asked))]
                    for delay_s, answer in script:
                        await trio.sleep(delay_s)
                        await stream.send_all(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # who asked is gone
