"""Sorted sets."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from edgesync._native.keyspace import ZSET
from edgesync._native.resp import NullArray, Pairs, ReplyError, number_text
from edgesync.cells import Reply
from edgesync.cells.commands.strings import exact
from edgesync.cells.commands.table import (
    LONG_MAX,
    NOT_A_FLOAT,
    SYNTAX,
    Call,
    command,
    count_of,
    counted_keys,
    fitting,
    floating,
    limit_of,
    numbered,
    pick,
    picks_of,
    typed,
    walk_page,
)

NAN = "ERR resulting score is not a number (NaN)"
FLAGS = (b"nx", b"xx", b"gt", b"lt", b"ch", b"incr")
Scored = tuple[bytes, float]


def score_in(call: Call, key: bytes, member: bytes) -> float | None:
    raw = call.space.get(key, b"z" + member)
    return None if raw is None else float(raw)


def ordered(
    call: Call, key: bytes, low: bytes = b"", high: bytes = b"\xff" * 9, *, reverse: bool = False
) -> Iterator[Scored]:
    if not typed(call, key, ZSET):
        return iter(())
    found = call.space.by_score(key, low, high, reverse=reverse)
    return ((member, score) for score, member in found)


@command("zadd", -4, writes=True)
def zadd(call: Call, args: Sequence[bytes]) -> Reply:
    key, rest, flags = args[0], list(args[1:]), set()
    while rest and rest[0].lower() in FLAGS:
        flags.add(rest.pop(0).lower())
    if not rest or len(rest) % 2:
        raise ReplyError(SYNTAX)
    if {b"nx", b"xx"} <= flags:
        raise ReplyError("ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"gt", b"lt", b"nx"}) > 1:
        raise ReplyError("ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"incr" in flags and len(rest) > 2:
        raise ReplyError("ERR INCR option supports a single increment-element pair")
    scores = [floating(one) for one in rest[::2]]
    typed(call, key, ZSET)
    if b"incr" in flags:
        return _raise(call, key, rest[0], rest[1], flags)
    added = changed = 0
    todo: dict[bytes, float] = {}
    for score, member in zip(scores, rest[1::2], strict=True):
        old = todo[member] if member in todo else score_in(call, key, member)
        if not _may_set(flags, old, score):
            continue
        added += old is None
        changed += old is not None and old != score
        if old != score:
            todo[member] = score
    if todo:
        items = [(b"z" + member, number_text(score)) for member, score in todo.items()]
        call.space.put_many(key, items)
    return added + changed if b"ch" in flags else added


def _may_set(flags: set[bytes], old: float | None, score: float) -> bool:
    if old is None:
        return b"xx" not in flags
    return not (
        b"nx" in flags or (b"gt" in flags and score <= old) or (b"lt" in flags and score >= old)
    )


def _raise(call: Call, key: bytes, raw: bytes, member: bytes, flags: set[bytes]) -> float | None:
    """Add to a score; what other edges add meanwhile adds up with it."""
    amount, old = floating(raw), score_in(call, key, member)
    total = (old or 0.0) + amount
    if math.isnan(total):
        raise ReplyError(NAN)
    if not _may_set(flags, old, total):
        return None
    if math.isinf(total) or math.isinf(amount) or abs(amount) >= 1e17:
        call.space.put(key, b"z" + member, number_text(total))
    else:
        call.space.add(key, b"z" + member, exact(raw))
    return score_in(call, key, member)


@command("zincrby", 4, writes=True)
def zincrby(call: Call, args: Sequence[bytes]) -> Reply:
    floating(args[1], NOT_A_FLOAT)
    typed(call, args[0], ZSET)
    return _raise(call, args[0], args[1], args[2], set())


@command("zrem", -3, writes=True)
def zrem(call: Call, args: Sequence[bytes]) -> Reply:
    if not typed(call, args[0], ZSET):
        return 0
    scored = ((one, score_in(call, args[0], one)) for one in dict.fromkeys(args[1:]))
    return remove(call, args[0], [(one, score) for one, score in scored if score is not None])


def remove(call: Call, key: bytes, gone: Sequence[Scored]) -> int:
    """Remove members that are there; returns how many."""
    if gone:
        call.space.remove_many(key, [b"z" + member for member, _ in gone])
    return len(gone)


def store(call: Call, key: bytes, found: Sequence[Scored]) -> int:
    """Make the key this sorted set, or nothing where that is empty; returns its size."""
    call.space.delete(key)
    if found:
        items = [(b"z" + member, number_text(score)) for member, score in found]
        call.space.put_many(key, items)
    return len(found)


def shown(found: list[Scored], with_scores: bool) -> Reply:
    return Pairs(found) if with_scores else [member for member, _ in found]


@command("zscore", 3)
def zscore(call: Call, args: Sequence[bytes]) -> Reply:
    return score_in(call, args[0], args[1]) if typed(call, args[0], ZSET) else None


@command("zmscore", -3)
def zmscore(call: Call, args: Sequence[bytes]) -> Reply:
    is_there = typed(call, args[0], ZSET)
    return [score_in(call, args[0], one) if is_there else None for one in args[1:]]


@command("zcard", 2)
def zcard(call: Call, args: Sequence[bytes]) -> Reply:
    return call.space.count(args[0], ZSET) if typed(call, args[0], ZSET) else 0


def _rank(call: Call, args: Sequence[bytes], *, reverse: bool) -> Reply:
    if len(args) not in (2, 3) or [one.lower() for one in args[2:]] not in ([], [b"withscore"]):
        raise ReplyError(SYNTAX)
    for rank, (member, score) in enumerate(ordered(call, args[0], reverse=reverse)):
        if member == args[1]:
            return rank if len(args) == 2 else [rank, score]
    return None


@command("zrank", -3)
def zrank(call: Call, args: Sequence[bytes]) -> Reply:
    return _rank(call, args, reverse=False)


@command("zrevrank", -3)
def zrevrank(call: Call, args: Sequence[bytes]) -> Reply:
    return _rank(call, args, reverse=True)


def _pop(call: Call, args: Sequence[bytes], *, reverse: bool) -> Reply:
    if len(args) > 2:
        raise ReplyError(SYNTAX)
    limit = count_of(args[1]) if len(args) == 2 else 1
    found = _take(call, args[0], limit, reverse=reverse)
    # Without a count RESP3 has the pair flat as well.
    return [one for pair in found for one in pair] if len(args) == 1 else Pairs(found)


def _take(call: Call, key: bytes, limit: int, *, reverse: bool) -> list[Scored]:
    found = list(islice(ordered(call, key, reverse=reverse), limit))
    remove(call, key, found)
    return found


@command("zpopmin", -2, writes=True)
def zpopmin(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, reverse=False)


@command("zpopmax", -2, writes=True)
def zpopmax(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, reverse=True)


@command("zmpop", -4, writes=True, keys=(0, 0, 0), movable=numbered(1))
def zmpop(call: Call, args: Sequence[bytes]) -> Reply:
    keys, rest = counted_keys(args, SYNTAX)
    if not rest or rest[0].lower() not in (b"min", b"max"):
        raise ReplyError(SYNTAX)
    limit, reverse = limit_of(rest[1:]), rest[0].lower() == b"max"
    for key in keys:
        if typed(call, key, ZSET):
            return [key, [list(pair) for pair in _take(call, key, limit, reverse=reverse)]]
    return NullArray


@command("zrandmember", -2)
def zrandmember(call: Call, args: Sequence[bytes]) -> Reply:
    words = [one.lower() for one in args[2:]]
    count = picks_of(args[1]) if len(args) > 1 else 1
    if words not in ([], [b"withscores"]):
        raise ReplyError(SYNTAX)
    if words and abs(count) > LONG_MAX // 2:
        raise ReplyError("ERR value is out of range")
    there = list(ordered(call, args[0]))
    if len(args) == 1:
        return call.random.choice(there)[0] if there else None
    chosen = pick(call, there, count)
    fitting(call, (member for member, _ in chosen))
    return shown(chosen, bool(words))


@command("zscan", -3)
def zscan(call: Call, args: Sequence[bytes]) -> Reply:
    def names(start: bytes) -> Iterator[bytes]:
        return (name for name, _ in call.space.cells(args[0], ZSET, start))

    is_there = typed(call, args[0], ZSET)
    cursor, found = walk_page(call, args[1], args[2:], names) if is_there else (b"0", [])
    flat: list[bytes] = []
    for member in found:
        flat += [member, number_text(score_in(call, args[0], member) or 0.0)]
    return [cursor, flat]
