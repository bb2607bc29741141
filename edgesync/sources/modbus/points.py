"""From registers to values and back, exactly: 2301 tenths are 230.1.   [sans-IO]

A register is 16 bits sent high byte first (Modbus Application Protocol V1.1b3, 4.2). How a device
spreads 32 and 64 bits over several registers is its own choice: `Point.order` says where the
bytes of the big-endian value are found. What a device marks as "not available", and what lies
outside the declared range, has no value: None, never 6553.5 V.
"""

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from edgesync.model import Value
from edgesync.sources.modbus.settings import PointType, Table

INTEGERS: Final = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
}  # fmt: skip
FLOATS: Final = {"float16": ">e", "float32": ">f", "float64": ">d"}
WORDS: Final = {
    "int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4,
    "float16": 1, "float32": 2, "float64": 4, "bool": 1,
}  # fmt: skip

# SunSpec's "not implemented", as unsigned patterns (Device Information Model 1.1, table 4).
SUNSPEC_INVALID: Final[dict[str, int]] = {
    "int16": 0x8000, "uint16": 0xFFFF, "int32": 0x8000_0000, "uint32": 0xFFFF_FFFF,
    "int64": 1 << 63, "uint64": (1 << 64) - 1, "enum": 0xFFFF, "bits": 0xFFFF,
}  # fmt: skip

# SunSpec: a scale factor is an exponent of ten within this range; anything else is no factor.
SF_RANGE: Final = range(-10, 11)
_I64: Final = range(-(1 << 63), 1 << 63)


class _Span(Protocol):
    """Registers of one table."""

    @property
    def table(self) -> Table: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Point(Struct, frozen=True, kw_only=True):
    """One value, resolved. `address` counts from 0; `words` are registers (bits in bit tables)."""

    name: str
    table: Table
    address: int
    words: int
    type: PointType
    group: str
    order: tuple[int, ...] = ()  # byte i of the big-endian value is byte order[i] of the registers
    bit: int | None = None
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    # (a, b, c) of value = (raw * a + b) / c, or None when the value is the raw number. Integers,
    # because one division rounds once, and at a tenth of the cost of Fraction's arithmetic
    # (bench/benchmarks/modbus.py, Decode).
    linear: tuple[int, int, int] | None = None
    sf: str | None = None
    unit: str = ""
    invalid: frozenset[int | str] = frozenset()  # patterns of the registers, or texts
    low: float | None = None
    high: float | None = None
    symbols: tuple[tuple[int, str], ...] = ()

    @property
    def end(self) -> int:
        return self.address + self.words

    @property
    def is_bit_table(self) -> bool:
        return self.table in ("coil", "discrete")

    def series(self) -> tuple[str, ...]:
        """Return the series this point makes: one, or one for each named bit."""
        if self.type == "bits" and self.symbols:
            return tuple(f"{self.name}.{label}" for _, label in self.symbols)
        return (self.name,)


def byte_order(words: int, *, word: str, dword: str, byte: str) -> tuple[int, ...]:
    """Return where the bytes of a big-endian value are; () when they are in order already.

    With ABCD the value's bytes from the highest, big/big gives ABCD, word little CDAB, byte
    little BADC, both DCBA; `dword` exchanges the halves of 64 bits only.
    """
    places: list[int] = []
    for index in range(words):
        half, within = divmod(index, 2)
        if words == 4 and dword == "little":
            half = 1 - half
        if words in (2, 4) and word == "little":
            within = 1 - within
        register = half * 2 + within
        if words not in (2, 4) and word == "little":
            register = words - 1 - index  # the lowest register of the value comes first
        pair = (register * 2, register * 2 + 1)
        places.extend(pair if byte == "big" else reversed(pair))
    return () if places == sorted(places) else tuple(places)


def is_beside(point: Point, span: _Span) -> bool:
    """Tell whether the registers of `point` lie within `span`."""
    return point.table == span.table and span.start <= point.address and point.end <= span.end


def decode_point(
    point: Point, data: bytes, start: int, sf: Point | None = None, far: bytes | None = None
) -> Iterator[tuple[str, Value | None]]:
    """Yield (series key, value) of `point`; None where the device has no valid value.

    data    the reply's registers as bytes, high byte first
    start   address of the reply's first register
    sf      the point that holds the exponent
    far     its registers, if they came in another reply; otherwise they are in this one
    """
    chunk = _cut(point, data, start)
    if point.type == "bits" and point.symbols:
        flags = int.from_bytes(chunk, "big")
        known = flags not in point.invalid
        for bit, label in point.symbols:
            yield f"{point.name}.{label}", bool(flags >> bit & 1) if known else None
        return
    if sf is not None:
        factor = _cut(sf, data, start) if far is None else _ordered(sf, far)
        yield point.name, _scaled_by_register(point, chunk, factor, sf)
        return
    yield point.name, _VALUES.get(point.type, _plain)(point, chunk)


def missing_reason(
    point: Point, data: bytes, start: int, sf: Point | None, far: bytes | None
) -> str:
    """Say why `decode_point` found no value."""
    if sf is not None:
        if far is None and not start * 2 <= sf.address * 2 < start * 2 + len(data):
            return f"its scale factor {sf.name} was not read with it, or has just changed"
        factor = _cut(sf, data, start) if far is None else _ordered(sf, far)
        if int.from_bytes(factor, "big", signed=True) not in SF_RANGE:
            return f"its scale factor {sf.name} is not available: 0x{factor.hex()}"
    chunk = _cut(point, data, start)
    marker = f"0x{chunk[:16].hex()}"
    # What would have a value without the range was outside it.
    free = msgspec.structs.replace(point, low=None, high=None)
    values = [value for _, value in decode_point(free, data, start, sf, far)]
    if values and values[0] is not None:
        low = "" if point.low is None else f"{point.low:g}"
        high = "" if point.high is None else f"{point.high:g}"
        return f"{values[0]} is outside {low} … {high}"
    return f"the device says that it is not available: {marker}"


def decode_bit(point: Point, data: bytes, start: int) -> tuple[str, Value | None]:
    """Return (series key, value) of a coil or discrete input: bits, the lowest first."""
    place = point.address - start
    return point.name, bool(data[place >> 3] >> (place & 7) & 1)


def _cut(point: Point, data: bytes, start: int) -> bytes:
    at = (point.address - start) * 2
    chunk = data[at : at + point.words * 2]
    assert len(chunk) == point.words * 2, "the planner never splits a point"
    return _ordered(point, chunk)


def _ordered(point: Point, chunk: bytes) -> bytes:
    return bytes([chunk[i] for i in point.order]) if point.order else chunk


def _plain(point: Point, chunk: bytes) -> Value | None:
    """An integer with constant scale and offset: one exact division, rounded once."""
    if int.from_bytes(chunk, "big") in point.invalid:
        return None
    raw: int = struct.unpack(INTEGERS[point.type], chunk)[0]
    return _linear(point, raw)


def _linear(point: Point, raw: int) -> Value | None:
    value: float | int = raw
    if point.linear is not None:
        factor, shift, divisor = point.linear
        value = raw * factor + shift
        # The type of a series must not depend on its value: only the constants decide it.
        if divisor != 1:
            value = value / divisor
    if isinstance(value, int) and value not in _I64:
        return None
    return value if _in_range(point, value) else None


def linear(scale: Fraction, offset: Fraction) -> tuple[int, int, int] | None:
    """Return `Point.linear` of a scale and an offset."""
    if scale == 1 and not offset:
        return None
    divisor = math.lcm(scale.denominator, offset.denominator)
    return int(scale * divisor), int(offset * divisor), divisor


def _scaled_by_register(point: Point, chunk: bytes, factor: bytes, sf: Point) -> Value | None:
    exponent = int.from_bytes(factor, "big", signed=True)
    if exponent not in SF_RANGE or int.from_bytes(factor, "big") in sf.invalid:
        return None
    if int.from_bytes(chunk, "big") in point.invalid:
        return None
    raw: int = struct.unpack(INTEGERS[point.type], chunk)[0]
    value = raw / 10**-exponent if exponent < 0 else float(raw * 10**exponent)
    return value if _in_range(point, value) else None


def _float(point: Point, chunk: bytes) -> Value | None:
    raw: float = struct.unpack(FLOATS[point.type], chunk)[0]
    if not math.isfinite(raw) or int.from_bytes(chunk, "big") in point.invalid:
        return None
    if point.type != "float64":
        raw = _shortest(raw, FLOATS[point.type], chunk)
    if point.scale != 1 or point.offset:
        exact = Fraction(repr(raw)) * point.scale + point.offset
        try:
            raw = exact.numerator / exact.denominator
        except OverflowError:
            return None
    return raw if _in_range(point, raw) else None


def _shortest(value: float, fmt: str, chunk: bytes) -> float:
    """Return the shortest decimal that is this float: 230.1, not 230.10000610351562.

    A float16 has 3 to 5 significant digits, a float32 has 6 to 9.
    """
    for digits in (3, 4, 5) if len(chunk) == 2 else (6, 7, 8):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack(fmt, short) == chunk:
                return short
        except OverflowError:  # rounded up past the largest
            continue
    return value


def _bool(point: Point, chunk: bytes) -> Value | None:
    word = int.from_bytes(chunk, "big")
    if word in point.invalid:
        return None
    return bool(word >> point.bit & 1) if point.bit is not None else word != 0


def _string(point: Point, chunk: bytes) -> Value | None:
    """Text up to the first zero byte; all zeros, or all ones, means that there is none."""
    if not any(chunk) or chunk.count(0xFF) == len(chunk):  # never written
        return None
    raw = chunk.split(b"\0", 1)[0]
    try:
        text = raw.decode().rstrip()
    except UnicodeDecodeError:
        text = raw.decode("latin-1").rstrip()  # what most devices mean that are not UTF-8
    return None if text in point.invalid else text


def _bcd(point: Point, chunk: bytes) -> Value | None:
    digits = chunk.hex()
    if int.from_bytes(chunk, "big") in point.invalid or not digits.isdecimal():
        return None
    return _linear(point, int(digits))


def _enum(point: Point, chunk: bytes) -> Value | None:
    """Return the symbol's name; a number without one is kept as text rather than lost."""
    raw = int.from_bytes(chunk, "big")
    if raw in point.invalid:
        return None
    return next((label for number, label in point.symbols if number == raw), str(raw))


def _bits(point: Point, chunk: bytes) -> Value | None:
    raw = int.from_bytes(chunk, "big")
    return None if raw in point.invalid or raw not in _I64 else raw


_VALUES: Final = {
    "float16": _float, "float32": _float, "float64": _float, "bool": _bool,
    "string": _string, "bcd": _bcd, "enum": _enum, "bits": _bits,
}  # fmt: skip


def _in_range(point: Point, value: float) -> bool:
    return (point.low is None or value >= point.low) and (point.high is None or value <= point.high)


def encode_point(point: Point, value: Value, exponent: int = 0) -> list[int]:
    """Return the registers a device would show for `value`; the inverse of `decode_point`.

    A named-bits point takes the whole word. Raises ValueError or struct.error when it cannot
    hold the value.
    """
    chunk = _pack(point, value, exponent)
    if point.order:
        placed = bytearray(len(chunk))
        for index, place in enumerate(point.order):
            placed[place] = chunk[index]
        chunk = bytes(placed)
    return list(struct.unpack(f">{len(chunk) // 2}H", chunk))


def _pack(point: Point, value: Value, exponent: int) -> bytes:
    size = point.words * 2
    if point.type == "string":
        return str(value).encode()[:size].ljust(size, b"\0")
    if point.type == "enum":
        number = next((n for n, label in point.symbols if label == value), None)
        return int(value if number is None else number).to_bytes(size, "big")
    if point.type == "bool":
        return (int(bool(value)) << (point.bit or 0)).to_bytes(size, "big")
    if point.type == "bits":
        return int(value).to_bytes(size, "big")
    if point.type in FLOATS and point.scale == 1 and not point.offset:
        return struct.pack(FLOATS[point.type], float(value))
    exact = Fraction(value) if isinstance(value, int) else Fraction(repr(float(value)))
    raw = (exact - point.offset) / point.scale
    if point.type in FLOATS:
        return struct.pack(FLOATS[point.type], float(raw))
    whole = round(raw / Fraction(10) ** exponent)
    if point.type == "bcd":
        return bytes.fromhex(f"{whole:0{size * 2}d}")
    return struct.pack(INTEGERS[point.type], whole)
