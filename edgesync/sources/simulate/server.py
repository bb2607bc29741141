"""A Modbus TCP server for simulated devices, with the faults real ones have.   [shell]"""

import random
from collections.abc import Mapping
from typing import Final

import trio
from msgspec import Struct

from edgesync.sources.modbus.pdu import (
    DeviceException,
    Frame,
    FrameReader,
    Garbage,
    decode_request,
    encode_answer,
    encode_exception,
)
from edgesync.sources.simulate.devices import SimulatedDevice

GATEWAY_FAILED: Final = 11
# A slow device sends this much, then waits.
DRIBBLE_BYTES: Final = 3


class Faults(Struct, kw_only=True):
    """How a device misbehaves now; change it at any time, `Faults()` is a healthy one.

    silent       reads requests and never answers
    delay_s      answers that much later (late, if longer than the client's time-out)
    hold_s       keeps the whole gateway waiting that long first, as a serial line behind it does
    dribble_s    pause after every few bytes of an answer
    exception    answers this exception code instead
    busy         answers "busy" this many times, then serves again
    drop         closes the connection instead of answering
    garbage      answers random bytes
    wrong_unit   answers in the name of another unit
    wrong_count  answers with one register too few
    wrong_id     answers with another transaction's id
    long_no      announces an exception as a byte longer than it is
    """

    silent: bool = False
    delay_s: float = 0.0
    hold_s: float = 0.0
    dribble_s: float = 0.0
    exception: int = 0
    busy: int = 0
    drop: bool = False
    garbage: bool = False
    wrong_unit: bool = False
    wrong_count: bool = False
    wrong_id: bool = False
    long_no: bool = False


class _Hangup(Exception):
    """The fault asks to close the connection."""


class ModbusServer:
    """Serves devices by unit id; an unknown unit answers like a gateway that finds nobody."""

    def __init__(self, devices: Mapping[int, SimulatedDevice], chance: random.Random) -> None:
        self.devices = dict(devices)
        self.faults = {unit_id: Faults() for unit_id in devices}
        self.requests = dict.fromkeys(devices, 0)
        self.connections = 0
        self._chance = chance
        self._open: set[trio.abc.Stream] = set()

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Answer on one connection until it ends."""
        self.connections += 1
        self._open.add(stream)
        lock = trio.Lock()
        reader = FrameReader()
        try:
            async with trio.open_nursery() as nursery:
                while data := await stream.receive_some(4096):
                    for frame in reader.feed(bytes(data)):
                        await self._take(frame, stream, lock, nursery)
                nursery.cancel_scope.cancel()
        except* (Garbage, _Hangup, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._open.discard(stream)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def drop_all(self) -> None:
        """Close every connection, as after a power cut."""
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def _take(
        self, frame: Frame, stream: trio.abc.Stream, lock: trio.Lock, nursery: trio.Nursery
    ) -> None:
        faults = self.faults.get(frame.unit_id, Faults())
        if frame.unit_id in self.requests:
            self.requests[frame.unit_id] += 1
        if faults.hold_s:
            await trio.sleep(faults.hold_s)
        if faults.silent:
            return
        if faults.drop:
            raise _Hangup
        answer = self._answer(frame, faults)
        if faults.delay_s:
            nursery.start_soon(_send_later, stream, lock, answer, faults.delay_s)
        else:
            await _send(stream, lock, answer, faults.dribble_s)

    def _answer(self, frame: Frame, faults: Faults) -> bytes:
        if faults.garbage:
            return self._chance.randbytes(self._chance.randrange(1, 300))
        try:
            answer = self._sound_answer(frame, faults)
        except DeviceException as refusal:
            answer = encode_exception(frame, refusal.code)
            if faults.long_no:
                answer = answer[:5] + b"\4" + answer[6:]
        if faults.wrong_unit:
            answer = answer[:6] + bytes([(frame.unit_id + 1) % 256]) + answer[7:]
        if faults.wrong_id:
            answer = (frame.transaction ^ 0x5555).to_bytes(2, "big") + answer[2:]
        return answer

    def _sound_answer(self, frame: Frame, faults: Faults) -> bytes:
        if faults.exception:
            raise DeviceException(faults.exception)
        if faults.busy:
            faults.busy -= 1
            raise DeviceException(6)
        device = self.devices.get(frame.unit_id)
        if device is None:
            raise DeviceException(GATEWAY_FAILED)
        request = decode_request(frame)
        values = device.read(request)
        return encode_answer(request, values[faults.wrong_count :], frame.transaction)


async def _send(stream: trio.abc.Stream, lock: trio.Lock, data: bytes, dribble_s: float) -> None:
    async with lock:
        if not dribble_s:
            await stream.send_all(data)
            return
        for at in range(0, len(data), DRIBBLE_BYTES):
            await stream.send_all(data[at : at + DRIBBLE_BYTES])
            await trio.sleep(dribble_s)


async def _send_later(
    stream: trio.abc.Stream, lock: trio.Lock, data: bytes, delay_s: float
) -> None:
    await trio.sleep(delay_s)
    try:
        await _send(stream, lock, data, 0.0)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # who asked is gone
