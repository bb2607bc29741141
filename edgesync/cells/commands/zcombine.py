"""Sorted sets, and sets, taken together: ZUNION, ZINTER, ZDIFF and their kin."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

from edgesync._native.commands import WRONG_TYPE
from edgesync._native.keyspace import SET, ZSET
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.sets import members
from edgesync.cells.commands.table import (
    SYNTAX,
    Call,
    command,
    count_of,
    floating,
    integer,
    numbered,
)
from edgesync.cells.commands.zsets import Scored, ordered, shown, store

Scores = dict[bytes, float]
Combine = Callable[[Sequence[tuple[Scores, float]], Callable[[float, float], float]], Scores]


def _sum(one: float, other: float) -> float:
    """Add scores; what is left of inf and -inf is 0, as in Redis."""
    total = one + other
    return 0.0 if math.isnan(total) else total


# Which of two stands when one is no number: the first, as a comparison in C has it.
AGGREGATES: dict[bytes, Callable[[float, float], float]] = {
    b"sum": _sum,
    b"min": lambda one, other: min(one, other),
    b"max": lambda one, other: max(one, other),
}


def _weighted(score: float, weight: float) -> float:
    value = score * weight
    return 0.0 if math.isnan(value) else value


def _scores(call: Call, key: bytes) -> Scores:
    """Return members with their scores; those of a set have 1."""
    kind = call.space.type_of(key)
    if kind == SET:
        return dict.fromkeys(members(call, key), 1.0)
    if kind not in (0, ZSET):
        raise ReplyError(WRONG_TYPE)
    return dict(ordered(call, key))


def union(
    sources: Sequence[tuple[Scores, float]], aggregate: Callable[[float, float], float]
) -> Scores:
    out: Scores = {}
    for scores, weight in sources:
        for member, score in scores.items():
            value = _weighted(score, weight)
            out[member] = aggregate(out[member], value) if member in out else value
    return out


def inter(
    sources: Sequence[tuple[Scores, float]], aggregate: Callable[[float, float], float]
) -> Scores:
    (smallest, weight), *rest = sorted(sources, key=lambda one: len(one[0]))
    out = {}
    for member, score in smallest.items():
        if all(member in scores for scores, _ in rest):
            value = _weighted(score, weight)
            for scores, factor in rest:
                value = aggregate(value, scores[member] * factor)
            out[member] = value
    return out


def diff(
    sources: Sequence[tuple[Scores, float]], _aggregate: Callable[[float, float], float]
) -> Scores:
    (first, _), *rest = sources
    return {m: score for m, score in first.items() if not any(m in scores for scores, _ in rest)}


class _Request:
    """`numkeys key [key …]` and what may follow."""

    def __init__(self, call: Call, name: str, args: Sequence[bytes]) -> None:
        count = integer(args[0])
        if count < 1:
            raise ReplyError(f"ERR at least 1 input key is needed for '{name}' command")
        if count > len(args) - 1:
            raise ReplyError(SYNTAX)
        keys, self._rest = args[1 : count + 1], [*args[count + 1 :]]
        known = {key: _scores(call, key) for key in dict.fromkeys(keys)}
        self.scores = [known[key] for key in keys]
        self.weights = [1.0] * count
        self.aggregate = AGGREGATES[b"sum"]
        self.with_scores = False
        self.limit = 0

    def options(self, *known: bytes) -> None:
        rest = self._rest
        while rest:
            word = rest.pop(0).lower()
            if word not in known:
                raise ReplyError(SYNTAX)
            if word == b"weights" and len(rest) >= len(self.weights):
                raw = [rest.pop(0) for _ in self.weights]
                self.weights = [floating(one, "ERR weight value is not a float") for one in raw]
            elif word == b"aggregate" and rest and rest[0].lower() in AGGREGATES:
                self.aggregate = AGGREGATES[rest.pop(0).lower()]
            elif word == b"withscores":
                self.with_scores = True
            elif word == b"limit" and rest:
                self.limit = count_of(rest.pop(0), "ERR LIMIT can't be negative")
            else:
                raise ReplyError(SYNTAX)

    def carry_out(self, combine: Combine) -> list[Scored]:
        found = combine(list(zip(self.scores, self.weights, strict=True)), self.aggregate)
        return sorted(found.items(), key=lambda one: (one[1], one[0]))


def _combining(name: str, combine: Combine, *known: bytes) -> None:
    """ZUNION and its like, and with STORE behind the name their stored kind."""

    def run(call: Call, args: Sequence[bytes]) -> Reply:
        request = _Request(call, name, args)
        request.options(*known, b"withscores")
        return shown(request.carry_out(combine), request.with_scores)

    def run_store(call: Call, args: Sequence[bytes]) -> Reply:
        request = _Request(call, f"{name}store", args[1:])
        request.options(*known)
        return store(call, args[0], request.carry_out(combine))

    command(name, -3, keys=(0, 0, 0), movable=numbered(1))(run)
    command(f"{name}store", -4, writes=True, movable=numbered(2))(run_store)


_combining("zunion", union, b"weights", b"aggregate")
_combining("zinter", inter, b"weights", b"aggregate")
_combining("zdiff", diff)


@command("zintercard", -3, keys=(0, 0, 0), movable=numbered(1))
def zintercard(call: Call, args: Sequence[bytes]) -> Reply:
    request = _Request(call, "zintercard", args)
    request.options(b"limit")
    smallest, *rest = sorted(request.scores, key=len)
    shared = (1 for member in smallest if all(member in scores for scores in rest))
    return sum(islice(shared, request.limit or None))
