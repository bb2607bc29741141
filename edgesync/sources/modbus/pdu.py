"""Requests to bytes, bytes to answers, and back: the one module that knows pymodbus.   [sans-IO]

Every answer is checked against its request (transaction, unit, function, byte count) before
pymodbus decodes it, so a device can be wrong only in ways that have a name here.
Source: Modbus Messaging on TCP/IP Implementation Guide V1.0b, 3.1; Application Protocol V1.1b3.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
)

from edgesync.sources.modbus.settings import Table

HEADER_BYTES: Final = 7
# The length field counts the unit id and a PDU of 2 to 253 bytes.
LENGTHS: Final = range(3, 255)
REQUEST_BYTES: Final = 5  # of the PDU of a read

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, ACKNOWLEDGE, BUSY = 1, 2, 3, 5, 6
# The gateway answers for a device it cannot reach: as good as silence.
GATEWAY_SILENT: Final = frozenset({10, 11})

EXCEPTIONS: Final = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value",
    4: "device failure", 5: "acknowledged, not ready", 6: "device busy", 8: "memory parity error",
    10: "gateway path unavailable", 11: "gateway target failed to respond",
}  # fmt: skip

_REQUESTS: Final = {
    "coil": ReadCoilsRequest, "discrete": ReadDiscreteInputsRequest,
    "holding": ReadHoldingRegistersRequest, "input": ReadInputRegistersRequest,
}  # fmt: skip

_ANSWERS: Final = {
    "coil": ReadCoilsResponse, "discrete": ReadDiscreteInputsResponse,
    "holding": ReadHoldingRegistersResponse, "input": ReadInputRegistersResponse,
}  # fmt: skip

_TABLES: Final[dict[int, Table]] = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}

_framer: Final = FramerSocket(DecodePDU(is_server=False))
_server: Final = DecodePDU(is_server=True)


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


def encode_request(request: Request, transaction: int) -> bytes:
    """Return the request's frame; `transaction` is 1 to 65535."""
    message = _REQUESTS[request.table](
        address=request.address,
        count=request.count,
        dev_id=request.unit_id,
        transaction_id=transaction,
    )
    frame: bytes = _framer.buildFrame(message)
    return frame


def decode_answer(frame: Frame, request: Request, *, any_unit_id: bool = False) -> Sequence[int]:
    """Return exactly `request.count` registers, or bits as 0 and 1.

    Raises DeviceException for the device's "no", BadAnswer for an answer to something else.
    """
    if frame.unit_id != request.unit_id and not any_unit_id:
        raise BadAnswer(f"unit {frame.unit_id} answered for unit {request.unit_id}")
    function = _REQUESTS[request.table].function_code
    pdu = frame.pdu
    if pdu[0] == function | 0x80:
        raise DeviceException(pdu[1])
    if pdu[0] != function:
        raise BadAnswer(f"function {pdu[0]} answered to function {function}")
    bits = request.table in ("coil", "discrete")
    expected = (request.count + 7) // 8 if bits else 2 * request.count
    if pdu[1] != expected or len(pdu) != 2 + expected:
        raise BadAnswer(f"{len(pdu) - 2} data bytes, announced {pdu[1]}, expected {expected}")
    message = _framer.decoder.decode(pdu)
    assert message is not None, "function and length were checked"
    if bits:
        return [int(bit) for bit in message.bits[: request.count]]
    return list(message.registers)


def decode_request(frame: Frame) -> Request:
    """Read a request, as a server does. Raises DeviceException with the code to answer."""
    table = _TABLES.get(frame.pdu[0])
    if table is None:
        raise DeviceException(ILLEGAL_FUNCTION)
    if len(frame.pdu) != REQUEST_BYTES:
        raise DeviceException(ILLEGAL_VALUE)
    message = _server.decode(frame.pdu)
    if message is None:  # a count outside the limits
        raise DeviceException(ILLEGAL_VALUE)
    return Request(frame.unit_id, table, message.address, message.count)


def encode_answer(request: Request, values: Sequence[int], transaction: int) -> bytes:
    """Return the frame that answers `request` with its registers, or bits as 0 and 1."""
    if request.table in ("coil", "discrete"):
        message = _ANSWERS[request.table](bits=[bool(value) for value in values])
    else:
        message = _ANSWERS[request.table](registers=list(values))
    message.dev_id, message.transaction_id = request.unit_id, transaction
    frame: bytes = _framer.buildFrame(message)
    return frame


def encode_exception(frame: Frame, code: int) -> bytes:
    """Return the frame that answers `frame` with exception `code`."""
    message = ExceptionResponse(frame.pdu[0] & 0x7F, code)
    message.dev_id, message.transaction_id = frame.unit_id, frame.transaction
    answer: bytes = _framer.buildFrame(message)
    return answer


class FrameReader:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterable[Frame]:
        """Yield the frames completed by `data`. Raises Garbage when a header is impossible."""
        self._held += data
        while len(self._held) >= HEADER_BYTES + 1:
            protocol = int.from_bytes(self._held[2:4], "big")
            length = int.from_bytes(self._held[4:6], "big")
            if protocol or length not in LENGTHS:
                raise Garbage(f"header with protocol {protocol} and length {length}")
            size = 6 + length
            if len(self._held) < size:
                return
            used, unit_id, transaction, pdu = _framer.decode(bytes(self._held[:size]))
            assert used == size, "the header was checked"
            del self._held[:size]
            yield Frame(transaction, unit_id, pdu)
