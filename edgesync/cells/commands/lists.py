"""Lists. Elements stand in the order of their time, whichever edge pushed them."""

from collections.abc import Iterator, Sequence
from itertools import islice

from edgesync._native.keyspace import LIST
from edgesync._native.resp import NullArray, ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import (
    Call,
    command,
    count_of,
    integer,
    sized,
    span,
    typed,
)

LEFT, RIGHT = 0, 1


def elements(call: Call, key: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of the elements; raises WRONGTYPE for another type."""
    return call.space.cells(key, LIST, reverse=reverse) if typed(call, key, LIST) else iter(())


def _push(call: Call, args: Sequence[bytes], side: int) -> int:
    sized(call, *args[1:])
    typed(call, args[0], LIST)
    call.space.push(args[0], side, args[1:])
    return call.space.count(args[0], LIST)


@command("lpush", -3, writes=True)
def lpush(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, LEFT)


@command("rpush", -3, writes=True)
def rpush(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, RIGHT)


@command("lpushx", -3, writes=True)
def lpushx(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, LEFT) if typed(call, args[0], LIST) else 0


@command("rpushx", -3, writes=True)
def rpushx(call: Call, args: Sequence[bytes]) -> Reply:
    return _push(call, args, RIGHT) if typed(call, args[0], LIST) else 0


def _pop(call: Call, args: Sequence[bytes], side: int) -> Reply:
    if len(args) > 2:
        name = "lpop" if side == LEFT else "rpop"
        raise ReplyError(f"ERR wrong number of arguments for '{name}' command")
    limit = count_of(args[1]) if len(args) == 2 else 1
    if not typed(call, args[0], LIST):
        return None if len(args) == 1 else NullArray
    found = list(islice(elements(call, args[0], reverse=side == RIGHT), limit))
    call.space.remove_many(args[0], [b"l" + name for name, _ in found])
    values = [value for _, value in found]
    return values[0] if len(args) == 1 else values


@command("lpop", -2, writes=True)
def lpop(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, LEFT)


@command("rpop", -2, writes=True)
def rpop(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, RIGHT)


@command("llen", 2)
def llen(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.count(args[0], LIST) if typed(call, args[0], LIST) else 0


@command("lrange", 4)
def lrange(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    if not typed(call, args[0], LIST):
        return []
    found = span(start, stop, call.space.count(args[0], LIST))
    return [value for _, value in islice(elements(call, args[0]), found.start, max(found.stop, 0))]


def _at(call: Call, key: bytes, index: int) -> tuple[bytes, bytes] | None:
    """Name and value of the element at an index, counted from the nearer end."""
    size = call.space.count(key, LIST)
    index = index + size if index < 0 else index
    if not 0 <= index < size:
        return None
    from_right = index > size // 2
    steps = size - 1 - index if from_right else index
    return next(islice(elements(call, key, reverse=from_right), steps, None), None)


@command("lindex", 3)
def lindex(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], LIST):
        integer(args[1])
        return None
    found = _at(call, args[0], integer(args[1]))
    return None if found is None else found[1]


@command("lset", 4, writes=True)
def lset(call: Call, args: Sequence[bytes]) -> Reply:
    sized(call, args[2])
    if not typed(call, args[0], LIST):
        raise ReplyError("ERR no such key")
    found = _at(call, args[0], integer(args[1]))
    if found is None:
        raise ReplyError("ERR index out of range")
    call.space.put(args[0], b"l" + found[0], args[2])
    return "OK"


@command("lrem", 4, writes=True)
def lrem(call: Call, args: Sequence[bytes]) -> Reply:
    count = integer(args[1])
    there = elements(call, args[0], reverse=count < 0)
    same = (b"l" + name for name, value in there if value == args[2])
    gone = list(islice(same, abs(count) or None))
    if gone:
        call.space.remove_many(args[0], gone)
    return len(gone)


@command("ltrim", 4, writes=True)
def ltrim(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    if not typed(call, args[0], LIST):
        return "OK"
    kept = span(start, stop, call.space.count(args[0], LIST))
    names = [b"l" + name for name, _ in elements(call, args[0])]
    gone = [name for index, name in enumerate(names) if index not in kept]
    call.space.remove_many(args[0], gone)
    return "OK"


@command("rpoplpush", 3, writes=True, keys=(1, 2, 1))
def rpoplpush(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], LIST):
        return None
    typed(call, args[1], LIST)
    value = _pop(call, args[:1], RIGHT)
    if isinstance(value, bytes):
        call.space.push(args[1], LEFT, [value])
    return value
