"""Sets."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from edgesync._native.keyspace import SET
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import (
    SYNTAX,
    Call,
    command,
    count_of,
    counted_keys,
    fitting,
    numbered,
    pick,
    picks_of,
    typed,
    walk_page,
)


def members(call: Call, key: bytes) -> list[bytes]:
    """Members in order; raises WRONGTYPE for another type."""
    return [name for name, _ in call.space.cells(key, SET)] if typed(call, key, SET) else []


def _has(call: Call, key: bytes, member: bytes) -> bool:
    return call.space.get(key, b"e" + member) is not None


@command("sadd", -3, writes=True)
def sadd(call: Call, args: Sequence[bytes]) -> Reply:
    """Members that are there are added again: an addition beats removals made meanwhile."""
    wanted = list(dict.fromkeys(args[1:]))
    is_there = typed(call, args[0], SET)
    added = sum(not _has(call, args[0], one) for one in wanted) if is_there else len(wanted)
    call.space.put_many(args[0], [(b"e" + one, b"") for one in wanted])
    return added


@command("srem", -3, writes=True)
def srem(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], SET):
        return 0
    gone = [one for one in dict.fromkeys(args[1:]) if _has(call, args[0], one)]
    call.space.remove_many(args[0], [b"e" + one for one in gone])
    return len(gone)


@command("smove", 4, writes=True, keys=(1, 2, 1))
def smove(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], SET):
        return 0
    typed(call, args[1], SET)
    if not _has(call, args[0], args[2]):
        return 0
    if args[0] != args[1]:
        call.space.remove(args[0], b"e" + args[2])
        call.space.put(args[1], b"e" + args[2], b"")
    return 1


@command("smembers", 2)
def smembers(call: Call, args: Sequence[bytes]) -> Reply:
    return set(members(call, args[0]))


@command("sismember", 3)
def sismember(call: Call, args: Sequence[bytes]) -> Reply:
    return int(typed(call, args[0], SET) and _has(call, args[0], args[1]))


@command("smismember", -3)
def smismember(call: Call, args: Sequence[bytes]) -> Reply:
    is_there = typed(call, args[0], SET)
    return [int(is_there and _has(call, args[0], one)) for one in args[1:]]


@command("scard", 2)
def scard(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.count(args[0], SET) if typed(call, args[0], SET) else 0


@command("spop", -2, writes=True)
def spop(call: Call, args: Sequence[bytes]) -> Reply:
    if len(args) > 2:
        raise ReplyError(SYNTAX)
    count = count_of(args[1]) if len(args) == 2 else 1
    there = members(call, args[0])
    chosen = call.random.sample(there, min(count, len(there)))
    if chosen:
        call.space.remove_many(args[0], [b"e" + one for one in chosen])
    if len(args) == 1:
        return chosen[0] if chosen else None
    return set(chosen)


@command("srandmember", -2)
def srandmember(call: Call, args: Sequence[bytes]) -> Reply:
    if len(args) > 2:
        raise ReplyError(SYNTAX)
    count = picks_of(args[1]) if len(args) == 2 else 1
    there = members(call, args[0])
    if len(args) == 1:
        return call.random.choice(there) if there else None
    chosen = pick(call, there, count)
    fitting(call, chosen)
    return chosen


@command("sscan", -3)
def sscan(call: Call, args: Sequence[bytes]) -> Reply:
    def names(start: bytes) -> Iterator[bytes]:
        return (name for name, _ in call.space.cells(args[0], SET, start))

    is_there = typed(call, args[0], SET)
    cursor, found = walk_page(call, args[1], args[2:], names) if is_there else (b"0", [])
    return [cursor, found]


def _combine(
    name: str, how: Callable[[set[bytes], set[bytes]], set[bytes]]
) -> Callable[[Call, Sequence[bytes]], Reply]:
    """SINTER, SUNION, SDIFF, and with STORE behind the name their stored kind."""

    def result(call: Call, keys: Sequence[bytes]) -> set[bytes]:
        # The same one twice changes nothing, but the first of SDIFF.
        out = set(members(call, keys[0]))
        for one in [set(members(call, key)) for key in dict.fromkeys(keys[1:])]:
            out = how(out, one)
        return out

    def store(call: Call, args: Sequence[bytes]) -> Reply:
        out = result(call, args[1:])
        call.space.delete(args[0])
        if out:
            call.space.put_many(args[0], [(b"e" + one, b"") for one in sorted(out)])
        return len(out)

    command(name, -2, keys=(1, -1, 1))(result)
    command(f"{name}store", -3, writes=True, keys=(1, -1, 1))(store)
    return result


sinter = _combine("sinter", lambda one, other: one & other)
sunion = _combine("sunion", lambda one, other: one | other)
sdiff = _combine("sdiff", lambda one, other: one - other)


@command("sintercard", -3, keys=(0, 0, 0), movable=numbered(1))
def sintercard(call: Call, args: Sequence[bytes]) -> Reply:
    keys, rest = counted_keys(args)
    limit, left = 0, list(rest)
    while left:
        if left.pop(0).lower() != b"limit" or not left:
            raise ReplyError(SYNTAX)
        limit = count_of(left.pop(0), "ERR LIMIT can't be negative")
    smallest, *others = sorted((set(members(call, key)) for key in dict.fromkeys(keys)), key=len)
    shared = (1 for member in smallest if all(member in other for other in others))
    return sum(islice(shared, limit or None))
