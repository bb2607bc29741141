"""Strings as rows of bits. Who sets a bit writes the string: of two sites' bits one write stays."""

from collections.abc import Sequence
from typing import NamedTuple

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import INTEGER, SYNTAX, Call, command, integer

BAD_OFFSET = "ERR bit offset is not an integer or out of range"
BAD_TYPE = (
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 "
    "is."
)
UNITS = (b"bit", b"byte")


def _offset(call: Call, raw: bytes, bits: int = 0) -> int:
    """Return a bit's number; `#2` is the third of so many bits each."""
    is_field = bits > 0 and raw.startswith(b"#")
    offset = integer(raw[is_field:], BAD_OFFSET) * (bits if is_field else 1)
    if offset < 0 or offset >> 3 >= call.value_max:
        raise ReplyError(BAD_OFFSET)
    return offset


@command("setbit", 4, writes=True)
def setbit(call: Call, args: Sequence[bytes]) -> Reply:
    problem = "ERR bit is not an integer or out of range"
    offset, bit = _offset(call, args[1]), integer(args[2], problem)
    if bit not in (0, 1):
        raise ReplyError(problem)
    at, mask = offset >> 3, 0x80 >> (offset & 7)
    before = call.space.get_string(args[0]) or b""
    value = bytearray(before.ljust(at + 1, b"\0"))
    old = int(value[at] & mask != 0)
    value[at] = value[at] | mask if bit else value[at] & ~mask
    if value != before:
        call.space.set_string(args[0], bytes(value), True)
    return old


@command("getbit", 3)
def getbit(call: Call, args: Sequence[bytes]) -> Reply:
    offset = _offset(call, args[1])
    value = call.space.get_string(args[0]) or b""
    at = offset >> 3
    return int(at < len(value) and value[at] & 0x80 >> (offset & 7) != 0)


def _is_bits(unit: bytes) -> bool:
    if unit.lower() not in UNITS:
        raise ReplyError(SYNTAX)
    return unit.lower() == b"bit"


def _part(value: bytes, start: int, end: int, is_bits: bool) -> tuple[int, int, int, int]:
    """Return the first and last byte of a range, and masks of bits in them that are not in it."""
    size = len(value) * 8 if is_bits else len(value)
    start = max(start + size, 0) if start < 0 else start
    end = min(max(end + size, 0) if end < 0 else end, size - 1)
    if start > end or not is_bits:
        return start, end, 0, 0
    return start >> 3, end >> 3, 0xFF & ~(0xFF >> (start & 7)), 0x7F >> (end & 7)


@command("bitcount", -2)
def bitcount(call: Call, args: Sequence[bytes]) -> Reply:
    value = call.space.get_string(args[0])
    if value is None:
        return 0
    if len(args) not in (1, 3, 4):
        raise ReplyError(SYNTAX)
    if len(args) == 1:
        return int.from_bytes(value, "big").bit_count()
    start, end = integer(args[1]), integer(args[2])
    if start < 0 and end < 0 and start > end:
        return 0
    first, last, before, behind = _part(value, start, end, len(args) == 4 and _is_bits(args[3]))
    if first > last:
        return 0
    count = int.from_bytes(value[first : last + 1], "big").bit_count()
    return count - (value[first] & before).bit_count() - (value[last] & behind).bit_count()


@command("bitpos", -3)
def bitpos(call: Call, args: Sequence[bytes]) -> Reply:
    bit = integer(args[1])
    if bit not in (0, 1):
        raise ReplyError("ERR The bit argument must be 1 or 0.")
    value = call.space.get_string(args[0])
    if value is None:
        return -1 if bit else 0
    if len(args) > 5:
        raise ReplyError(SYNTAX)
    start = integer(args[2]) if len(args) > 2 else 0
    is_bits = len(args) == 5 and _is_bits(args[4])
    end = integer(args[3]) if len(args) > 3 else -1
    first, last, before, behind = _part(value, start, end, is_bits)
    if first > last:
        return -1
    part = bytearray(value[first : last + 1])
    if bit:
        part[0] &= ~before & 0xFF
        part[-1] &= ~behind & 0xFF
    else:
        part[0] |= before
        part[-1] |= behind
    skipped = len(part) - len(part.lstrip(b"\0" if bit else b"\xff"))
    if skipped == len(part):
        # Behind a string without an end there are zeros.
        return -1 if bit or len(args) > 3 else (first + skipped) * 8
    here = part[skipped] if bit else ~part[skipped] & 0xFF
    return (first + skipped) * 8 + 8 - here.bit_length()


@command("bitop", -4, writes=True, keys=(2, -1, 1))
def bitop(call: Call, args: Sequence[bytes]) -> Reply:
    word, target, sources = args[0].lower(), args[1], args[2:]
    if word not in (b"and", b"or", b"xor", b"not"):
        raise ReplyError(SYNTAX)
    if word == b"not" and len(sources) != 1:
        raise ReplyError("ERR BITOP NOT must be called with a single source key.")
    # The same one twice changes nothing, or for XOR takes itself away.
    values = {key: call.space.get_string(key) or b"" for key in dict.fromkeys(sources)}
    size = max(map(len, values.values()))
    numbers = [int.from_bytes(value.ljust(size, b"\0"), "big") for value in values.values()]
    out = numbers[0]
    if word == b"not":
        out ^= (1 << size * 8) - 1
    elif word == b"xor":
        out = 0
        for key, number in zip(values, numbers, strict=True):
            out ^= number if sources.count(key) % 2 else 0
    for number in numbers[1:] if word in (b"and", b"or") else ():
        out = out & number if word == b"and" else out | number
    if size:
        call.space.set_string(target, out.to_bytes(size, "big"))
    else:
        call.space.delete(target)
    return size


# -- BITFIELD --------------------------------------------------------------------------------


class _Field(NamedTuple):
    """One operation of a BITFIELD."""

    word: bytes
    is_signed: bool
    bits: int
    offset: int
    number: int
    overflow: bytes


def _fields(call: Call, args: Sequence[bytes]) -> list[_Field]:
    rest, fields, overflow = list(args[::-1]), [], b"wrap"
    while rest:
        word = rest.pop().lower()
        if word == b"overflow" and rest:
            overflow = rest.pop().lower()
            if overflow not in (b"wrap", b"sat", b"fail"):
                raise ReplyError("ERR Invalid OVERFLOW type specified")
            continue
        if word not in (b"get", b"set", b"incrby") or len(rest) < (2 if word == b"get" else 3):
            raise ReplyError(SYNTAX)
        is_signed, bits = _type(rest.pop())
        offset = _offset(call, rest.pop(), bits)
        if word != b"get" and (offset + bits - 1) >> 3 >= call.value_max:
            raise ReplyError(BAD_OFFSET)
        number = 0 if word == b"get" else integer(rest.pop())
        fields.append(_Field(word, is_signed, bits, offset, number, overflow))
    return fields


def _type(raw: bytes) -> tuple[bool, int]:
    """`i16` and its like: whether it has a sign, and how many bits."""
    sign, digits = raw[:1], raw[1:]
    bits = int(digits) if INTEGER.fullmatch(digits) else 0
    if sign not in (b"i", b"u") or not 1 <= bits <= (64 if sign == b"i" else 63):
        raise ReplyError(BAD_TYPE)
    return sign == b"i", bits


def _wrapped(number: int, field: _Field) -> int:
    number &= (1 << field.bits) - 1
    is_negative = field.is_signed and number >> (field.bits - 1)
    return number - (1 << field.bits) if is_negative else number


def _read(value: bytes | bytearray, field: _Field) -> int:
    at, skipped = divmod(field.offset, 8)
    around = int.from_bytes(value[at : at + 9].ljust(9, b"\0"), "big")
    return _wrapped(around >> (72 - skipped - field.bits), field)


def _write(value: bytearray, field: _Field, number: int) -> None:
    at, skipped = divmod(field.offset, 8)
    size = (skipped + field.bits + 7) // 8
    shift = size * 8 - skipped - field.bits
    mask = ((1 << field.bits) - 1) << shift
    around = int.from_bytes(value[at : at + size], "big")
    around = around & ~mask | (number << shift) & mask
    value[at : at + size] = around.to_bytes(size, "big")


def _settled(number: int, field: _Field) -> int | None:
    """Return what fits the field, by its rule for an overflow; None when it fails."""
    low = -(1 << (field.bits - 1)) if field.is_signed else 0
    high = (1 << (field.bits - 1 if field.is_signed else field.bits)) - 1
    if low <= number <= high:
        return number
    if field.overflow == b"fail":
        return None
    if field.overflow == b"wrap":
        return _wrapped(number, field)
    return low if number < low else high


def _bitfield(call: Call, args: Sequence[bytes], *, may_write: bool) -> Reply:
    fields = _fields(call, args[1:])
    writing = [field for field in fields if field.word != b"get"]
    if writing and not may_write:
        raise ReplyError("ERR BITFIELD_RO only supports the GET subcommand")
    before = call.space.get_string(args[0]) or b""
    end = max(((field.offset + field.bits + 7) // 8 for field in writing), default=0)
    value = bytearray(before.ljust(end, b"\0"))
    replies: list[int | None] = []
    for field in fields:
        old = _read(value, field)
        if field.word == b"get":
            replies.append(old)
            continue
        wanted = field.number if field.word == b"set" else old + field.number
        if field.word == b"set" and not field.is_signed:
            wanted &= (1 << 64) - 1  # below 0 is beyond every field
        new = _settled(wanted, field)
        if new is not None:
            _write(value, field, new)
        replies.append(None if new is None else old if field.word == b"set" else new)
    if value != before:
        call.space.set_string(args[0], bytes(value), True)
    return replies


@command("bitfield", -2, writes=True)
def bitfield(call: Call, args: Sequence[bytes]) -> Reply:
    return _bitfield(call, args, may_write=True)


@command("bitfield_ro", -2)
def bitfield_ro(call: Call, args: Sequence[bytes]) -> Reply:
    return _bitfield(call, args, may_write=False)
