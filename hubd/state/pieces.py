"""A piece: consecutive points of one series, in the order they arrived.

A fresh piece is raw, 16 bytes a point, because most have one point and live until their series has
a thousand; then they become one ESB1 block.
"""

import array
import sys
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from edgesync._native import block
from edgesync.errors import RecordError
from edgesync.model import Value, ValueType
from hubd.state.damage import StateDamaged

Times: TypeAlias = "array.array[int]"
Values: TypeAlias = "array.array[float] | array.array[int] | list[str]"

# A block's limit is 8192 points; half of it keeps what a page must unpack small.
BLOCK_POINTS: Final = 4096
BLOCK_CHARS: Final = 1 << 18


class Piece(NamedTuple):
    """`times` and `values` are equally long and never empty."""

    vtype: int
    times: Times
    values: Values

    def join(self, other: "Piece") -> None:
        """Append the points of `other`, which must be of the same type."""
        self.times.extend(other.times)
        self.values.extend(other.values)  # type: ignore[arg-type]  # same vtype, same container


def new_piece(vtype: int) -> Piece:
    times: Times = array.array("q")
    if vtype == ValueType.TEXT:
        return Piece(vtype, times, [])
    return Piece(vtype, times, array.array("d" if vtype == ValueType.F64 else "q"))


def cut(piece: Piece, points: int = BLOCK_POINTS) -> list[Piece]:
    """Split into as few pieces of at most `points` as possible, about equally long.

    Long texts make more: a page unpacks whole blocks.
    """
    total = len(piece.times)
    parts = -(-total // points)
    if isinstance(piece.values, list):
        parts = max(parts, min(total, -(-sum(map(len, piece.values)) // BLOCK_CHARS)))
    if parts <= 1:
        return [piece]
    size = -(-total // parts)
    return [
        Piece(piece.vtype, piece.times[i : i + size], piece.values[i : i + size])
        for i in range(0, total, size)
    ]


def to_raw(piece: Piece) -> bytes:
    """Times, then values, 8 bytes each and little-endian; texts as one msgpack array."""
    if isinstance(piece.values, list):
        return _little(piece.times) + msgspec.msgpack.encode(piece.values)
    return _little(piece.times) + _little(piece.values)


def from_raw(vtype: int, count: int, data: bytes) -> Piece:
    piece = new_piece(vtype)
    split = 8 * count
    if isinstance(piece.values, list):
        piece.values.extend(msgspec.msgpack.decode(data[split:], type=list[str]))
    else:
        piece.values.frombytes(data[split:])
        _from_little(piece.values)
    piece.times.frombytes(data[:split])
    _from_little(piece.times)
    if len(piece.times) != count or len(piece.values) != count:
        raise RecordError(f"a raw piece of {count} points has {len(data)} bytes")
    return piece


def to_block(series: int, piece: Piece) -> bytes:
    return block.encode(series, piece.vtype, piece.times, piece.values)


def from_block(data: bytes) -> Piece:
    _series, vtype, times, values = block.decode(data)
    # Texts are only ever packed as str here, so they come back as str.
    return Piece(vtype, times, cast("Values", values))


def load(vtype: int, count: int, is_sealed: bool, data: bytes) -> Piece:
    """Return the points of a row of `history`; raises StateDamaged."""
    try:
        return from_block(data) if is_sealed else from_raw(vtype, count, data)
    except ValueError as error:
        raise StateDamaged(f"a piece of {count} points is damaged: {error}") from error


def to_bits(vtype: int, value: Value) -> tuple[int, str | None]:
    """A value as the columns (bits, text): SQL has no NaN and its floats lose none of the bits."""
    if isinstance(value, str):
        return 0, value
    if vtype == ValueType.F64:
        return int.from_bytes(array.array("d", [value]).tobytes(), sys.byteorder, signed=True), None
    return int(value), None


def from_bits(vtype: int, bits: int, text: str | None) -> Value:
    if vtype == ValueType.TEXT:
        return text or ""
    if vtype == ValueType.F64:
        return array.array("d", bits.to_bytes(8, sys.byteorder, signed=True))[0]
    return bool(bits) if vtype == ValueType.BOOL else bits


def _little(numbers: "array.array[int] | array.array[float]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _from_little(numbers: "array.array[int] | array.array[float]") -> None:
    if sys.byteorder == "big":
        numbers.byteswap()
