"""Sorted sets."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from edgesync._native.keyspace import ZSET, sortable
from edgesync._native.resp import Pairs, ReplyError, number_text
from edgesync.cells import Reply
from edgesync.cells.commands.strings import exact
from edgesync.cells.commands.table import (
    LONG_MAX,
    NOT_A_FLOAT,
    SYNTAX,
    Call,
    command,
    count_of,
    floating,
    integer,
    span,
    typed,
    walk_page,
)

NOT_MIN_MAX = "ERR min or max is not a float"
NAN = "ERR resulting score is not a number (NaN)"
FLAGS = (b"nx", b"xx", b"gt", b"lt", b"ch", b"incr")
Scored = tuple[bytes, float]
# Between the last score and the first of the next: what a bound in the index ends with.
FIRST, BEHIND = b"", b"\xff" * 600


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
    gone = dict.fromkeys(args[1:])
    return _remove(call, args[0], [one for one in gone if score_in(call, args[0], one) is not None])


def _remove(call: Call, key: bytes, gone: list[bytes]) -> int:
    if gone:
        call.space.remove_many(key, [b"z" + member for member in gone])
    return len(gone)


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


def _bounds(low: bytes, high: bytes) -> tuple[bytes, bytes]:
    """`1.5`, `(1.5`, `-inf` and `+inf` as bounds in the index."""

    def bound(raw: bytes, is_low: bool) -> bytes:
        is_open = raw.startswith(b"(")
        score = sortable(floating(raw[1:] if is_open else raw, NOT_MIN_MAX))
        return score + (BEHIND if is_open == is_low else FIRST)

    return bound(low, True), bound(high, False)


@command("zcount", 4)
def zcount(call: Call, args: Sequence[bytes]) -> Reply:
    low, high = _bounds(args[1], args[2])
    return sum(1 for _ in ordered(call, args[0], low, high))


def _by_score(
    call: Call, key: bytes, low: bytes, high: bytes, limit: tuple[int, int], *, reverse: bool
) -> list[Scored]:
    offset, count = limit
    start, stop = _bounds(low, high)
    found = ordered(call, key, start, stop, reverse=reverse)
    if offset < 0:
        return []
    return list(islice(found, offset, None if count < 0 else min(offset + count, LONG_MAX)))


def _by_index(call: Call, key: bytes, start: int, stop: int, *, reverse: bool) -> list[Scored]:
    found = span(start, stop, call.space.count(key, ZSET) if typed(call, key, ZSET) else 0)
    return list(islice(ordered(call, key, reverse=reverse), found.start, max(found.stop, 0)))


def _shown(found: list[Scored], with_scores: bool) -> Reply:
    return Pairs(found) if with_scores else [member for member, _ in found]


def _options(rest: Sequence[bytes], *known: bytes) -> tuple[set[bytes], tuple[int, int]]:
    """Words of an option each, and what LIMIT says: where from and how many, -1 for all."""
    left, words, limit = [one.lower() for one in rest], set(), (0, -1)
    while left:
        word = left.pop(0)
        if word == b"limit" and len(left) >= 2:
            limit = (integer(left.pop(0)), integer(left.pop(0)))
        elif word not in known:
            raise ReplyError(SYNTAX)
        words.add(word)
    return words, limit


@command("zrange", -4)
def zrange(call: Call, args: Sequence[bytes]) -> Reply:
    words, limit = _options(args[3:], b"byscore", b"rev", b"withscores")
    reverse = b"rev" in words
    if b"byscore" in words:
        low, high = (args[2], args[1]) if reverse else (args[1], args[2])
        found = _by_score(call, args[0], low, high, limit, reverse=reverse)
    elif b"limit" in words:
        raise ReplyError(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
        )
    else:
        start, stop = integer(args[1]), integer(args[2])
        found = _by_index(call, args[0], start, stop, reverse=reverse)
    return _shown(found, b"withscores" in words)


@command("zrevrange", -4)
def zrevrange(call: Call, args: Sequence[bytes]) -> Reply:
    words, _ = _options(args[3:], b"withscores")
    start, stop = integer(args[1]), integer(args[2])
    return _shown(_by_index(call, args[0], start, stop, reverse=True), bool(words))


@command("zrangebyscore", -4)
def zrangebyscore(call: Call, args: Sequence[bytes]) -> Reply:
    words, limit = _options(args[3:], b"withscores")
    found = _by_score(call, args[0], args[1], args[2], limit, reverse=False)
    return _shown(found, b"withscores" in words)


@command("zrevrangebyscore", -4)
def zrevrangebyscore(call: Call, args: Sequence[bytes]) -> Reply:
    words, limit = _options(args[3:], b"withscores")
    found = _by_score(call, args[0], args[2], args[1], limit, reverse=True)
    return _shown(found, b"withscores" in words)


def _pop(call: Call, args: Sequence[bytes], *, reverse: bool) -> Reply:
    if len(args) > 2:
        raise ReplyError(SYNTAX)
    limit = count_of(args[1]) if len(args) == 2 else 1
    found = list(islice(ordered(call, args[0], reverse=reverse), limit))
    _remove(call, args[0], [member for member, _ in found])
    # Without a count RESP3 has the pair flat as well.
    return [one for pair in found for one in pair] if len(args) == 1 else Pairs(found)


@command("zpopmin", -2, writes=True)
def zpopmin(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, reverse=False)


@command("zpopmax", -2, writes=True)
def zpopmax(call: Call, args: Sequence[bytes]) -> Reply:
    return _pop(call, args, reverse=True)


@command("zremrangebyscore", 4, writes=True)
def zremrangebyscore(call: Call, args: Sequence[bytes]) -> Reply:
    low, high = _bounds(args[1], args[2])
    return _remove(call, args[0], [member for member, _ in ordered(call, args[0], low, high)])


@command("zremrangebyrank", 4, writes=True)
def zremrangebyrank(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    found = _by_index(call, args[0], start, stop, reverse=False)
    return _remove(call, args[0], [member for member, _ in found])


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
