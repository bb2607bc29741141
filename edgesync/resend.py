"""Readings that travel once more: what is asked for, and the record that carries them.   [sans-IO]

A record of kind RESENT is `[version, base_ns, [[series, run], ...]]` as MessagePack, a run as
`block.encode_run` makes it (docs/batch-format.md). Unlike READINGS it adds nothing that its reader
has: whoever stores it compares each reading with what is there.
"""

import array
import datetime
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from edgesync._native import block
from edgesync.errors import RecordError
from edgesync.model import ValueType

VERSION: Final = 1
# Of one record: what its reader compares in one step, and waits for.
POINTS_MAX: Final = 4096
SERIES_MAX: Final = 256
BODY_BYTES_MAX: Final = 60 * 1024
# Between the earliest and the latest time of a record: how much history its reader looks at.
SPAN_NS: Final = 24 * 3600 * 10**9

ALWAYS: Final = -(1 << 63)
NEVER: Final = (1 << 63) - 1

Times = array.array  # of "q"
Values = array.array  # of "d" or "q"

_RELATIVE: Final = re.compile(r"-(\d{1,9})(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Range(msgspec.Struct, frozen=True):
    """Readings with from_ns <= time < to_ns, of all entities and keys where none is named."""

    from_ns: int
    to_ns: int
    entity: str = ""
    key: str = ""

    def names(self, entity: str, key: str) -> bool:
        return self.entity in ("", entity) and self.key in ("", key)


class WalkPosition(msgspec.Struct, frozen=True, array_like=True):
    """Where a walk through a range stands (edgesync/store/resend.py).

    window_ns, rank   the hour, and how many of its series are done; behind the last one: the
    lane, seq         record of the journal that comes next
    """

    window_ns: int = ALWAYS
    rank: int = 0
    lane: int = 0
    seq: int = 0


class Run(NamedTuple):
    """Some readings of one series, in any order; values are array("d"), array("q") or texts."""

    series: int
    vtype: int
    times: "Times[int]"
    values: "Values[float] | Values[int] | list[str]"


def encode(runs: Sequence[Run]) -> bytes:
    """Return the body of a RESENT record; raises RecordError for more than one may hold."""
    _check(runs)
    base_ns = min(min(run.times) for run in runs)
    packed = [
        (run.series, block.encode_run(run.vtype, run.times, run.values, base_ns)) for run in runs
    ]
    body = msgspec.msgpack.encode((VERSION, base_ns, packed))
    if len(body) > BODY_BYTES_MAX:
        raise RecordError(f"resent readings of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    return body


def decode(body: bytes) -> list[Run]:
    """Return what `encode` was given; raises RecordError on anything else."""
    if len(body) > BODY_BYTES_MAX:
        raise RecordError(f"resent readings of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    try:
        version, base_ns, packed = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"resent readings that cannot be read: {error}") from error
    if version != VERSION:
        raise RecordError(f"resent readings of version {version}; this one reads {VERSION}")
    if len(packed) > SERIES_MAX:
        raise RecordError(f"resent readings of {len(packed)} series; at most {SERIES_MAX}")
    runs: list[Run] = []
    points = 0
    for series, packed_run in packed:
        runs.append(Run(series, *block.decode_run(packed_run, base_ns)))
        points += len(runs[-1].times)
        if points > POINTS_MAX:  # a few bytes may stand for thousands
            break
    _check(runs)
    return runs


_DECODER: Final = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, bytes]]])


def _check(runs: Sequence[Run]) -> None:
    points = sum(len(run.times) for run in runs)
    if not 1 <= len(runs) <= SERIES_MAX or not 1 <= points <= POINTS_MAX:
        raise RecordError(
            f"{points} resent readings of {len(runs)} series; "
            f"1 to {POINTS_MAX} of at most {SERIES_MAX}"
        )
    if any(not 0 <= run.series < 1 << 64 or run.vtype not in _TYPES for run in runs):
        raise RecordError("resent readings of a series or a type that cannot be")
    span_ns = max(max(run.times) for run in runs) - min(min(run.times) for run in runs)
    if span_ns > SPAN_NS:
        raise RecordError(f"resent readings of {span_ns / 3.6e12:.0f} hours; at most 24")


_TYPES: Final = frozenset(ValueType)


def parse_time(text: str, now_ns: int) -> int:
    """Return a time as nanoseconds since 1970 UTC: ns, ISO 8601 with a zone, or relative as -2h.

    Raises ValueError.
    """
    if relative := _RELATIVE.fullmatch(text):
        return now_ns - int(relative.group(1)) * _SECONDS[relative.group(2)] * 10**9
    if text == "now":
        return now_ns
    if re.fullmatch(r"-?\d{1,19}", text):
        return int(text)
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * 10**9 + moment.microsecond * 1000


def shown_time(time_ns: int) -> str:
    """Return a time as people read it; numbers beyond the calendar stay numbers."""
    try:
        moment = datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return str(time_ns)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
