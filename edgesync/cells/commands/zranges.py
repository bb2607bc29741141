"""Sorted sets by rank, by score and by the order of their members."""

from collections.abc import Iterator, Sequence
from itertools import dropwhile, islice, takewhile

from edgesync._native.keyspace import ZSET, sortable
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import (
    LONG_MAX,
    SYNTAX,
    Call,
    command,
    floating,
    integer,
    span,
    typed,
)
from edgesync.cells.commands.zsets import Scored, ordered, remove, shown, store

NOT_MIN_MAX = "ERR min or max is not a float"
NO_LEX_RANGE = "ERR min or max not valid string range item"
# Between the last score and the first of the next: what a bound in the index ends with.
FIRST, BEHIND = b"", b"\xff" * 600
RANK, SCORE, LEX = b"byrank", b"byscore", b"bylex"


def _bounds(low: bytes, high: bytes) -> tuple[bytes, bytes]:
    """`1.5`, `(1.5`, `-inf` and `+inf` as bounds in the index."""

    def bound(raw: bytes, is_low: bool) -> bytes:
        is_open = raw.startswith(b"(")
        score = sortable(floating(raw[1:] if is_open else raw, NOT_MIN_MAX))
        return score + (BEHIND if is_open == is_low else FIRST)

    return bound(low, True), bound(high, False)


def _lex_bounds(low: bytes, high: bytes) -> tuple[bytes, bytes]:
    """`[a`, `(a`, `-` and `+` as the first member and what is behind the last."""

    def bound(raw: bytes, is_low: bool) -> bytes:
        if raw in (b"-", b"+"):
            return FIRST if raw == b"-" else BEHIND
        if raw[:1] not in (b"[", b"("):
            raise ReplyError(NO_LEX_RANGE)
        return raw[1:] + (b"\0" if raw.startswith(b"(") == is_low else b"")

    return bound(low, True), bound(high, False)


def by_score(
    call: Call, key: bytes, bounds: tuple[bytes, bytes], *, reverse: bool = False
) -> Iterator[Scored]:
    start, stop = bounds
    return ordered(call, key, start, stop, reverse=reverse) if start < stop else _none(call, key)


def by_lex(
    call: Call, key: bytes, bounds: tuple[bytes, bytes], *, reverse: bool = False
) -> Iterator[Scored]:
    """Members of one score each, as Redis asks for; of several, as they stand behind each other."""
    first, last = bounds
    lowest = next(ordered(call, key), None)
    if lowest is None or first >= last:
        return iter(())
    (highest,) = islice(ordered(call, key, reverse=True), 1)
    if lowest[1] == highest[1]:
        score = sortable(lowest[1])
        return ordered(call, key, score + first, score + last, reverse=reverse)
    if highest[0] < first or lowest[0] >= last:
        return iter(())
    if reverse:
        behind = dropwhile(lambda one: one[0] >= last, ordered(call, key, reverse=True))
        return takewhile(lambda one: one[0] >= first, behind)
    behind = dropwhile(lambda one: one[0] < first, ordered(call, key))
    return takewhile(lambda one: one[0] < last, behind)


def _none(call: Call, key: bytes) -> Iterator[Scored]:
    typed(call, key, ZSET)
    return iter(())


def by_rank(call: Call, key: bytes, start: int, stop: int, *, reverse: bool) -> Iterator[Scored]:
    found = span(start, stop, call.space.count(key, ZSET) if typed(call, key, ZSET) else 0)
    return islice(ordered(call, key, reverse=reverse), found.start, max(found.stop, 0))


class _Options:
    """What follows the two ends of a range."""

    def __init__(
        self, rest: Sequence[bytes], by: bytes, reverse: bool | None, stores: bool
    ) -> None:
        self.with_scores, self.by, self.reverse = False, by, bool(reverse)
        self.offset, self.count = 0, -1
        left = list(rest)
        while left:
            word = left.pop(0).lower()
            if word == b"withscores" and not stores:
                self.with_scores = True
            elif word == b"limit" and len(left) >= 2:
                self.offset, self.count = integer(left.pop(0)), integer(left.pop(0))
            elif word == b"rev" and reverse is None and not self.reverse:
                self.reverse = True
            elif word in (SCORE, LEX) and not self.by:
                self.by = word
            else:
                raise ReplyError(SYNTAX)
        self.by = self.by or RANK
        if self.count != -1 and self.by == RANK:
            raise ReplyError(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or "
                "BYLEX"
            )
        if self.with_scores and self.by == LEX:
            raise ReplyError("ERR syntax error, WITHSCORES not supported in combination with BYLEX")


def _range(call: Call, args: Sequence[bytes], options: _Options) -> list[Scored]:
    """Return what `key first last` means under those options."""
    key, low, high = args[:3]
    if options.by == RANK:
        start, stop = integer(low), integer(high)
        return list(by_rank(call, key, start, stop, reverse=options.reverse))
    if options.reverse:
        low, high = high, low
    if options.by == SCORE:
        found = by_score(call, key, _bounds(low, high), reverse=options.reverse)
    else:
        found = by_lex(call, key, _lex_bounds(low, high), reverse=options.reverse)
    if options.offset < 0:
        return []
    end = min(options.offset + options.count, LONG_MAX)
    return list(islice(found, options.offset, None if options.count < 0 else end))


def _ranging(name: str, by: bytes, reverse: bool | None) -> None:
    """ZRANGE and its older kinds; without `by` or `reverse` the request says it."""

    def run(call: Call, args: Sequence[bytes]) -> Reply:
        options = _Options(args[3:], by, reverse, False)
        return shown(_range(call, args, options), options.with_scores)

    command(name, -4)(run)


_ranging("zrange", b"", None)
_ranging("zrevrange", RANK, True)
_ranging("zrangebyscore", SCORE, False)
_ranging("zrevrangebyscore", SCORE, True)
_ranging("zrangebylex", LEX, False)
_ranging("zrevrangebylex", LEX, True)


@command("zrangestore", -5, writes=True, keys=(1, 2, 1))
def zrangestore(call: Call, args: Sequence[bytes]) -> Reply:
    return store(call, args[0], _range(call, args[1:], _Options(args[4:], b"", None, True)))


@command("zcount", 4)
def zcount(call: Call, args: Sequence[bytes]) -> Reply:
    return sum(1 for _ in by_score(call, args[0], _bounds(args[1], args[2])))


@command("zlexcount", 4)
def zlexcount(call: Call, args: Sequence[bytes]) -> Reply:
    return sum(1 for _ in by_lex(call, args[0], _lex_bounds(args[1], args[2])))


@command("zremrangebyscore", 4, writes=True)
def zremrangebyscore(call: Call, args: Sequence[bytes]) -> Reply:
    return remove(call, args[0], list(by_score(call, args[0], _bounds(args[1], args[2]))))


@command("zremrangebylex", 4, writes=True)
def zremrangebylex(call: Call, args: Sequence[bytes]) -> Reply:
    return remove(call, args[0], list(by_lex(call, args[0], _lex_bounds(args[1], args[2]))))


@command("zremrangebyrank", 4, writes=True)
def zremrangebyrank(call: Call, args: Sequence[bytes]) -> Reply:
    start, stop = integer(args[1]), integer(args[2])
    return remove(call, args[0], list(by_rank(call, args[0], start, stop, reverse=False)))
