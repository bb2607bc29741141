"""Hashes."""

from collections.abc import Iterator, Sequence
from itertools import chain

from edgesync._native.keyspace import HASH
from edgesync._native.resp import Pairs, ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.strings import counted, exact, summed
from edgesync.cells.commands.table import (
    LONG_MAX,
    SYNTAX,
    Call,
    command,
    fitting,
    integer,
    pick,
    picks_of,
    sized,
    typed,
    walk_page,
)

HASH_NOT_INTEGER = "ERR hash value is not an integer"
HASH_NOT_FLOAT = "ERR hash value is not a float"


def fields_of(call: Call, key: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Fields and values in order of the fields; raises WRONGTYPE for another type."""
    return call.space.cells(key, HASH) if typed(call, key, HASH) else iter(())


def value_of(call: Call, key: bytes, field: bytes) -> bytes | None:
    return call.space.get(key, b"h" + field) if typed(call, key, HASH) else None


def names_of(call: Call, key: bytes) -> Iterator[bytes]:
    """Fields alone: their values may be at the hub."""
    return call.space.cell_names(key, HASH) if typed(call, key, HASH) else iter(())


def has(call: Call, key: bytes, field: bytes) -> bool:
    return typed(call, key, HASH) and call.space.has(key, b"h" + field)


@command("hset", -4, writes=True)
def hset(call: Call, args: Sequence[bytes]) -> Reply:
    key, rest = args[0], args[1:]
    if len(rest) % 2:
        raise ReplyError("ERR wrong number of arguments for 'hset' command")
    sized(call, *rest[1::2])
    if not typed(call, key, HASH):
        added = len(set(rest[::2]))
    else:
        added = sum(not call.space.has(key, b"h" + one) for one in set(rest[::2]))
    pairs = zip(rest[::2], rest[1::2], strict=True)
    call.space.put_many(key, [(b"h" + field, value) for field, value in pairs])
    return added


@command("hmset", -4, writes=True)
def hmset(call: Call, args: Sequence[bytes]) -> Reply:
    if len(args) % 2 == 0:
        raise ReplyError("ERR wrong number of arguments for 'hmset' command")
    hset(call, args)
    return "OK"


@command("hsetnx", 4, writes=True)
def hsetnx(call: Call, args: Sequence[bytes]) -> Reply:
    sized(call, args[2])
    if has(call, args[0], args[1]):
        return 0
    call.space.put(args[0], b"h" + args[1], args[2])
    return 1


@command("hget", 3)
def hget(call: Call, args: Sequence[bytes]) -> Reply:
    return value_of(call, args[0], args[1])


@command("hmget", -3)
def hmget(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], HASH):
        return [None] * (len(args) - 1)
    values = [call.space.get(args[0], b"h" + field) for field in args[1:]]
    fitting(call, values)
    return values


@command("hgetall", 2)
def hgetall(call: Call, args: Sequence[bytes]) -> Reply:
    return dict(fields_of(call, args[0]))


@command("hkeys", 2)
def hkeys(call: Call, args: Sequence[bytes]) -> Reply:
    return list(names_of(call, args[0]))


@command("hvals", 2)
def hvals(call: Call, args: Sequence[bytes]) -> Reply:
    return [value for _, value in fields_of(call, args[0])]


@command("hlen", 2)
def hlen(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.count(args[0], HASH) if typed(call, args[0], HASH) else 0


@command("hexists", 3)
def hexists(call: Call, args: Sequence[bytes]) -> Reply:
    return int(has(call, args[0], args[1]))


@command("hstrlen", 3)
def hstrlen(call: Call, args: Sequence[bytes]) -> Reply:
    return len(value_of(call, args[0], args[1]) or b"")


@command("hdel", -3, writes=True)
def hdel(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], HASH):
        return 0
    gone = [b"h" + one for one in dict.fromkeys(args[1:])]
    gone = [name for name in gone if call.space.has(args[0], name)]
    call.space.remove_many(args[0], gone)
    return len(gone)


@command("hincrby", 4, writes=True)
def hincrby(call: Call, args: Sequence[bytes]) -> Reply:
    amount = integer(args[2])
    total = counted(value_of(call, args[0], args[1]), amount, HASH_NOT_INTEGER)
    call.space.add(args[0], b"h" + args[1], b"%d" % amount)
    return total


@command("hincrbyfloat", 4, writes=True)
def hincrbyfloat(call: Call, args: Sequence[bytes]) -> Reply:
    amount = exact(args[2], "ERR value is NaN or Infinity")
    total = summed(value_of(call, args[0], args[1]), amount, HASH_NOT_FLOAT)
    call.space.add(args[0], b"h" + args[1], amount)
    return total


@command("hrandfield", -2)
def hrandfield(call: Call, args: Sequence[bytes]) -> Reply:
    with_values = [one.lower() for one in args[2:]]
    count = picks_of(args[1]) if len(args) > 1 else 1
    if with_values not in ([], [b"withvalues"]):
        raise ReplyError(SYNTAX)
    if with_values:
        if abs(count) > LONG_MAX // 2:
            raise ReplyError("ERR value is out of range")
        everything = list(fields_of(call, args[0]))
    else:
        everything = [(name, b"") for name in names_of(call, args[0])]
    if len(args) == 1:
        return call.random.choice(everything)[0] if everything else None
    chosen = pick(call, everything, count)
    fitting(call, chain.from_iterable(chosen))
    if not with_values:
        return [field for field, _ in chosen]
    return Pairs(chosen)


@command("hscan", -3)
def hscan(call: Call, args: Sequence[bytes]) -> Reply:
    is_there = typed(call, args[0], HASH)

    def names(start: bytes) -> Iterator[bytes]:
        return call.space.cell_names(args[0], HASH, start)

    cursor, found = walk_page(call, args[1], args[2:], names) if is_there else (b"0", [])
    flat: list[bytes | None] = []
    for field in found:
        flat += [field, call.space.get(args[0], b"h" + field)]
    return [cursor, flat]
