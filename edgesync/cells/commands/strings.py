"""Strings and counters."""

import decimal
from collections.abc import Sequence

from edgesync._native import cells
from edgesync._native.keyspace import NEVER, STRING_CELL, WrongType
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.keys import deadline_of
from edgesync.cells.commands.table import (
    COUNTER_MAX,
    FLOAT,
    INFINITY,
    INTEGER,
    NOT_A_FLOAT,
    NOT_AN_INTEGER,
    SYNTAX,
    Call,
    command,
    fitting,
    integer,
    sized,
)

TOO_LARGE = "ERR increment would produce NaN or Infinity"
OVERFLOW = "ERR increment or decrement would overflow"
EXPIRES = (b"ex", b"px", b"exat", b"pxat")
# What a sum keeps exactly: 17 digits after the point, 18 before it.
PLACES = decimal.Decimal(1).scaleb(-17)
FLOAT_MAX = decimal.Decimal(10) ** 18


@command("get", 2)
def get(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.get_string(args[0])


@command("set", -3, writes=True)
def set_(call: Call, args: Sequence[bytes]) -> Reply:
    key, value = args[0], args[1]
    if len(value) > call.value_max:
        sized(call, value)
    if len(args) == 2:
        call.space.set_string(key, value)
        return "OK"
    return _set_with(call, key, value, [one for one in args[2:]])


def _set_with(call: Call, key: bytes, value: bytes, options: list[bytes]) -> Reply:
    condition, wants_old, keeps, deadline = b"", False, False, 0
    while options:
        option = options.pop(0).lower()
        if option in (b"nx", b"xx") and not condition:
            condition = option
        elif option == b"get":
            wants_old = True
        elif option == b"keepttl" and not deadline:
            keeps = True
        elif option in EXPIRES and options and not deadline and not keeps:
            deadline = deadline_of(call, "set", option, options.pop(0))
        else:
            raise ReplyError(SYNTAX)
    old = call.space.get_string(key) if wants_old else None
    is_there = call.space.type_of(key) != 0
    if condition and is_there != (condition == b"xx"):
        return old
    call.space.set_string(key, value, keeps)
    if deadline:
        _end(call, key, deadline)
    return old if wants_old else "OK"


def _end(call: Call, key: bytes, deadline: int) -> None:
    if deadline <= call.space.now_ms:
        call.space.delete(key)
    else:
        call.space.expire(key, deadline)


@command("setnx", 3, writes=True)
def setnx(call: Call, args: Sequence[bytes]) -> Reply:
    sized(call, args[1])
    if call.space.type_of(args[0]):
        return 0
    call.space.set_string(args[0], args[1])
    return 1


@command("setex", 4, writes=True)
def setex(call: Call, args: Sequence[bytes]) -> Reply:
    deadline = deadline_of(call, "setex", b"ex", args[1])
    sized(call, args[2])
    call.space.set_string(args[0], args[2])
    call.space.expire(args[0], deadline)
    return "OK"


@command("psetex", 4, writes=True)
def psetex(call: Call, args: Sequence[bytes]) -> Reply:
    deadline = deadline_of(call, "psetex", b"px", args[1])
    sized(call, args[2])
    call.space.set_string(args[0], args[2])
    call.space.expire(args[0], deadline)
    return "OK"


@command("getset", 3, writes=True)
def getset(call: Call, args: Sequence[bytes]) -> Reply:
    sized(call, args[1])
    old = call.space.get_string(args[0])
    call.space.set_string(args[0], args[1])
    return old


@command("getdel", 2, writes=True)
def getdel(call: Call, args: Sequence[bytes]) -> Reply:
    old = call.space.get_string(args[0])
    if old is not None:
        call.space.delete(args[0])
    return old


@command("getex", -2, writes=True)
def getex(call: Call, args: Sequence[bytes]) -> Reply:
    key, options = args[0], [one.lower() for one in args[1:]]
    deadline = 0
    is_known = options in ([], [b"persist"]) or (len(options) == 2 and options[0] in EXPIRES)
    if not is_known:
        raise ReplyError(SYNTAX)
    value = call.space.get_string(key)
    if value is not None and len(options) == 2:
        deadline = deadline_of(call, "getex", options[0], args[2])
    if value is not None and deadline:
        _end(call, key, deadline)
    elif value is not None and options and call.space.deadline(key) != NEVER:
        call.space.expire(key, NEVER)
    return value


@command("mget", -2, keys=(1, -1, 1))
def mget(call: Call, args: Sequence[bytes]) -> Reply:
    values = [_string_or_none(call, key) for key in args]
    fitting(call, values)
    return values


def _string_or_none(call: Call, key: bytes) -> bytes | None:
    try:
        return call.space.get_string(key)
    except WrongType:
        return None


@command("mset", -3, writes=True, keys=(1, -1, 2))
def mset(call: Call, args: Sequence[bytes]) -> Reply:
    _pairs(call, "mset", args)
    for key, value in zip(args[::2], args[1::2], strict=True):
        call.space.set_string(key, value)
    return "OK"


@command("msetnx", -3, writes=True, keys=(1, -1, 2))
def msetnx(call: Call, args: Sequence[bytes]) -> Reply:
    _pairs(call, "msetnx", args)
    if any(call.space.type_of(key) for key in args[::2]):
        return 0
    mset(call, args)
    return 1


def _pairs(call: Call, name: str, args: Sequence[bytes]) -> None:
    if len(args) % 2:
        raise ReplyError(f"ERR wrong number of arguments for '{name}' command")
    sized(call, *args[1::2])


@command("append", 3, writes=True)
def append(call: Call, args: Sequence[bytes]) -> Reply:
    value = (call.space.get_string(args[0]) or b"") + args[1]
    sized(call, value)
    call.space.set_string(args[0], value, True)
    return len(value)


@command("strlen", 2)
def strlen(call: Call, args: Sequence[bytes]) -> Reply:
    return len(call.space.get_string(args[0]) or b"")


@command("getrange", 4)
def getrange(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    value = call.space.get_string(args[0]) or b""
    size = len(value)
    if start < 0 and stop < 0 and start > stop:
        return b""
    first = max(start + size, 0) if start < 0 else start
    last = max(stop + size, 0) if stop < 0 else min(stop, size - 1)
    return value[first : last + 1] if size else b""


@command("substr", 4)
def substr(call: Call, args: Sequence[bytes]) -> Reply:
    return getrange(call, args)


@command("setrange", 4, writes=True)
def setrange(call: Call, args: Sequence[bytes]) -> Reply:
    offset, part = integer(args[1]), args[2]
    if offset < 0:
        raise ReplyError("ERR offset is out of range")
    old = call.space.get_string(args[0])
    if not part:
        return len(old or b"")
    if offset + len(part) > call.value_max:
        raise ReplyError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    value = (old or b"").ljust(offset, b"\0")
    value = value[:offset] + part + value[offset + len(part) :]
    call.space.set_string(args[0], value, True)
    return len(value)


@command("incr", 2, writes=True)
def incr(call: Call, args: Sequence[bytes]) -> Reply:
    return _add(call, args[0], 1)


@command("decr", 2, writes=True)
def decr(call: Call, args: Sequence[bytes]) -> Reply:
    return _add(call, args[0], -1)


@command("incrby", 3, writes=True)
def incrby(call: Call, args: Sequence[bytes]) -> Reply:
    return _add(call, args[0], integer(args[1]))


@command("decrby", 3, writes=True)
def decrby(call: Call, args: Sequence[bytes]) -> Reply:
    amount = integer(args[1])
    if amount == -(1 << 63):
        raise ReplyError("ERR decrement would overflow")
    return _add(call, args[0], -amount)


def _add(call: Call, key: bytes, amount: int) -> int:
    total = counted(call.space.get_string(key), amount, NOT_AN_INTEGER)
    call.space.add(key, STRING_CELL, b"%d" % amount)
    return total


def counted(old: bytes | None, amount: int, problem: str) -> int:
    """Return what a counter will be; raises when it is none, or would leave its range."""
    if old is not None and (INTEGER.fullmatch(old) is None or int(old).bit_length() > 63):
        raise ReplyError(problem)
    total = (0 if old is None else int(old)) + amount
    # What two sites added up to may be beyond: from there it can only come back.
    if not -COUNTER_MAX < total < COUNTER_MAX and abs(total) >= abs(total - amount):
        raise ReplyError(OVERFLOW)
    return total


@command("incrbyfloat", 3, writes=True)
def incrbyfloat(call: Call, args: Sequence[bytes]) -> Reply:
    old = call.space.get_string(args[0])
    if old is not None and FLOAT.fullmatch(old) is None:
        raise ReplyError(NOT_A_FLOAT)
    amount = exact(args[1])
    total = summed(old, amount, NOT_A_FLOAT)
    call.space.add(args[0], STRING_CELL, amount)
    return total


def exact(raw: bytes, infinite: str = TOO_LARGE) -> bytes:
    """Return an amount in plain decimal; raises when it is no number a sum keeps exactly."""
    if INFINITY.fullmatch(raw) is not None:
        raise ReplyError(infinite)
    if FLOAT.fullmatch(raw) is None:
        raise ReplyError(NOT_A_FLOAT)
    value = decimal.Decimal(raw.decode())
    if abs(value) >= FLOAT_MAX:
        raise ReplyError(TOO_LARGE)
    rounded = value.quantize(PLACES, context=decimal.Context(prec=60))
    return cells.add_up(b"0", [f"{rounded:f}".encode()])


def summed(old: bytes | None, amount: bytes, problem: str) -> bytes:
    """Return what a number will be with that amount; raises when it is none."""
    if old is not None and FLOAT.fullmatch(old) is None:
        raise ReplyError(problem)
    return cells.add_up(b"0" if old is None else old, [amount])
