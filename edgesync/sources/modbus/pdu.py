"""Requests to bytes, bytes to answers, and back.   [sans-IO]

Every answer is checked against its request (transaction, unit, function, byte count) before it
is used, so a device can be wrong only in ways that have a name here. The frames are few and fixed,
so they are packed here rather than by a library: one `struct` call each.
Source: Modbus Messaging on TCP/IP Implementation Guide V1.0b, 3.1; Application Protocol V1.1b3.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from edgesync.sources.modbus.settings import Table

HEADER_BYTES: Final = 7
# The length field counts the unit id and a PDU of 2 to 253 bytes.
LENGTHS: Final = range(3, 255)
EXCEPTION_LENGTH: Final = 3  # unit id, function, code
REQUEST_BYTES: Final = 5  # of the PDU of a read

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, ACKNOWLEDGE, BUSY = 1, 2, 3, 5, 6
# The device wants to be asked again later.
NOT_NOW: Final = frozenset({ACKNOWLEDGE, BUSY})
# The gateway answers for a device it cannot reach: as good as silence.
GATEWAY_SILENT: Final = frozenset({10, 11})

EXCEPTIONS: Final = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value",
    4: "device failure", 5: "acknowledged, not ready", 6: "device busy", 8: "memory parity error",
    10: "gateway path unavailable", 11: "gateway target failed to respond",
}  # fmt: skip

FUNCTIONS: Final[dict[Table, int]] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_TABLES: Final = {function: table for table, function in FUNCTIONS.items()}
_MOST: Final[dict[Table, int]] = {"coil": 2000, "discrete": 2000, "holding": 125, "input": 125}

_HEADER: Final = struct.Struct(">HHHB")
_REQUEST: Final = struct.Struct(">HHHBBHH")
_READ: Final = struct.Struct(">BHH")


class Garbage(Exception):
    """The stream is no Modbus TCP (any more): only a new connection helps."""


class BadAnswer(Exception):
    """One answer is not what was asked for; the stream itself is sound."""


class DeviceException(Exception):
    """The device answered with an exception `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code} ({EXCEPTIONS.get(code, 'unknown')})")
        self.code = code


class Request(Struct, frozen=True):
    """A read of `count` registers or bits from `address` on."""

    unit_id: int
    table: Table
    address: int
    count: int


class Frame(Struct, frozen=True):
    """One answer as it came: the PDU begins with the function code."""

    transaction: int
    unit_id: int
    pdu: bytes


def is_bit_table(table: Table) -> bool:
    return table in ("coil", "discrete")


def encode_request(request: Request, transaction: int) -> bytes:
    """Return the request's frame; `transaction` is 1 to 65535."""
    return _REQUEST.pack(
        transaction, 0, 1 + REQUEST_BYTES, request.unit_id,
        FUNCTIONS[request.table], request.address, request.count,
    )  # fmt: skip


def answer_data(frame: Frame, request: Request, *, any_unit_id: bool = False) -> bytes:
    """Return the data bytes of the answer to `request`: registers high byte first, or bits.

    Raises DeviceException for the device's "no", BadAnswer for an answer to something else.
    """
    if frame.unit_id != request.unit_id and not any_unit_id:
        raise BadAnswer(
            f"unit {frame.unit_id} answered for unit {request.unit_id} "
            "(the quirk any_unit_id accepts that)"
        )
    function = FUNCTIONS[request.table]
    pdu = frame.pdu
    if pdu[0] == function | 0x80:
        raise DeviceException(pdu[1])
    if pdu[0] != function:
        raise BadAnswer(f"function {pdu[0]} answered to function {function}")
    bits = is_bit_table(request.table)
    expected = (request.count + 7) // 8 if bits else 2 * request.count
    if pdu[1] != expected or len(pdu) != 2 + expected:
        raise BadAnswer(f"{len(pdu) - 2} data bytes, announced {pdu[1]}, expected {expected}")
    return pdu[2:]


def decode_data(data: bytes, request: Request) -> Sequence[int]:
    """Return the registers in `data`, or its bits as 0 and 1, the first asked for first."""
    if is_bit_table(request.table):
        return [data[bit >> 3] >> (bit & 7) & 1 for bit in range(request.count)]
    return list(struct.unpack(f">{request.count}H", data))


def decode_answer(frame: Frame, request: Request, *, any_unit_id: bool = False) -> Sequence[int]:
    """Return exactly `request.count` registers, or bits as 0 and 1; raises as `answer_data`."""
    return decode_data(answer_data(frame, request, any_unit_id=any_unit_id), request)


def decode_request(frame: Frame) -> Request:
    """Read a request, as a server does. Raises DeviceException with the code to answer."""
    table = _TABLES.get(frame.pdu[0])
    if table is None:
        raise DeviceException(ILLEGAL_FUNCTION)
    if len(frame.pdu) != REQUEST_BYTES:
        raise DeviceException(ILLEGAL_VALUE)
    _, address, count = _READ.unpack(frame.pdu)
    if not 1 <= count <= _MOST[table]:
        raise DeviceException(ILLEGAL_VALUE)
    if address + count > 1 << 16:
        raise DeviceException(ILLEGAL_ADDRESS)
    return Request(frame.unit_id, table, address, count)


def encode_answer(request: Request, values: Sequence[int], transaction: int) -> bytes:
    """Return the frame that answers `request` with its registers, or bits as 0 and 1."""
    if is_bit_table(request.table):
        packed = sum(bool(value) << bit for bit, value in enumerate(values))
        data = packed.to_bytes((len(values) + 7) // 8, "little")
    else:
        data = struct.pack(f">{len(values)}H", *values)
    pdu = bytes((FUNCTIONS[request.table], len(data))) + data
    return _HEADER.pack(transaction, 0, 1 + len(pdu), request.unit_id) + pdu


def encode_exception(frame: Frame, code: int) -> bytes:
    """Return the frame that answers `frame` with exception `code`."""
    header = _HEADER.pack(frame.transaction, 0, EXCEPTION_LENGTH, frame.unit_id)
    return header + bytes((frame.pdu[0] | 0x80, code))


class FrameReader:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._excess = 0  # bytes that the last exception announced beyond its two

    @property
    def held(self) -> bytes:
        """The beginning of a frame that has not come to its end."""
        return bytes(self._held)

    def feed(self, data: bytes | bytearray) -> Iterable[Frame]:
        """Yield the frames completed by `data`. Raises Garbage when a header is impossible."""
        self._held += data
        while len(self._held) > HEADER_BYTES:
            if self._excess and not self._skip_excess():
                return
            held = self._held
            transaction, protocol, length, unit_id = _HEADER.unpack_from(held)
            if protocol or length not in LENGTHS:
                raise Garbage(describe(bytes(held)))
            if held[HEADER_BYTES] & 0x80:
                # An exception has two bytes whatever its header says: some devices count one
                # too many, and waiting for it would take the next answer's first byte.
                self._excess = length - EXCEPTION_LENGTH
                length = EXCEPTION_LENGTH
            size = HEADER_BYTES - 1 + length
            if len(held) < size:
                return
            pdu = bytes(held[HEADER_BYTES:size])
            del held[:size]
            yield Frame(transaction, unit_id, pdu)

    def _skip_excess(self) -> bool:
        """Drop what an exception announced too much, if it was sent; False: more bytes needed."""
        if not _is_header(self._held):
            if len(self._held) <= HEADER_BYTES + self._excess:
                return False
            if _is_header(self._held[self._excess :]):
                del self._held[: self._excess]
        self._excess = 0
        return True


def _is_header(data: bytes | bytearray) -> bool:
    _, protocol, length, _ = _HEADER.unpack_from(data)
    return protocol == 0 and length in LENGTHS


def describe(data: bytes) -> str:
    """Say what came instead of a Modbus TCP header, as far as it can be recognised."""
    if is_rtu(data):
        return (
            "this looks like Modbus RTU over TCP, which is not spoken here: "
            "set the gateway to Modbus TCP"
        )
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in data):
        text = data[:40].decode("ascii").strip()
        return f"text came instead of Modbus TCP: {text!r}; is it the right port?"
    if len(data) < HEADER_BYTES:
        return data.hex(" ")
    _, protocol, length, _ = _HEADER.unpack_from(data)
    return f"no Modbus TCP: header with protocol {protocol} and length {length}"


def is_rtu(data: bytes) -> bool:
    """Tell whether `data` begins with a whole RTU answer: its checksum is right."""
    if len(data) < 5:
        return False
    size = 5 if data[1] & 0x80 else 5 + data[2]
    return len(data) >= size and crc16(data[: size - 2]) == data[size - 2 : size]


def crc16(data: bytes) -> bytes:
    """Return the checksum of a serial frame (Modbus over Serial Line V1.02, 6.2.2)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")
