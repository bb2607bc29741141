"""TS.*: series for clients that know RedisTimeSeries.

A series of clients is what a sensor is (edgesync/sensors.py): TS.ADD temp-001 and a SensorReading
of "temp-001" are points of one series, on their way to the hub as any reading is. Series of devices
are asked for as entity/key: TS.RANGE meter0/ActivePower - +. Times are ms here, ns elsewhere.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from edgesync._native.resp import ReplyError, number_text
from edgesync._native.window import Window
from edgesync.cells import Reply
from edgesync.cells.commands.table import FLOAT, INFINITY
from edgesync.errors import RecordError
from edgesync.sensors import KEY
from edgesync.serve.resp.gather import Gather
from edgesync.store.point_rows import Kept, Point
from edgesync.store.points import AHEAD_NS

MS: Final = 1_000_000
MS_MAX: Final = (1 << 63) // MS - 1
DIGITS: Final = re.compile(rb"[0-9]{1,19}")
NO_KEY: Final = "ERR TSDB: the key does not exist"
SYNTAX: Final = "ERR TSDB: wrong number or order of arguments"
LABEL_BAD: Final = re.compile(r"[(),]|^$")

# What stands for a bucket, of the points in it in order of time.
AGGREGATORS: Final[dict[bytes, Callable[[Window], float]]] = {
    b"avg": lambda w: w.sum / w.count,
    b"sum": lambda w: w.sum,
    b"min": lambda w: w.min[0] if w.min else 0.0,
    b"max": lambda w: w.max[0] if w.max else 0.0,
    b"range": lambda w: w.max[0] - w.min[0] if w.min and w.max else 0.0,
    b"count": lambda w: float(w.count),
    b"first": lambda w: w.first[0] if w.first else 0.0,
    b"last": lambda w: w.last[0] if w.last else 0.0,
    b"std.p": lambda w: w.deviation or 0.0,
    b"var.p": lambda w: w.variance or 0.0,
    b"std.s": lambda w: _sample_variance(w) ** 0.5,
    b"var.s": lambda w: _sample_variance(w),
}


class Creation(msgspec.Struct, frozen=True):
    """What TS.CREATE and TS.ADD say of a new series."""

    age_ns: int = 0
    labels: dict[str, str] = {}


class Query(msgspec.Struct, kw_only=True):
    """What TS.RANGE asks for; `to_ns` counts too."""

    from_ns: int
    to_ns: int
    count: int | None = None
    low: float = float("-inf")
    high: float = float("inf")
    aggregate: Callable[[Window], float] | None = None
    bucket_ns: int = 0
    align_ns: int = 0
    shown_ns: int = 0  # what the time of a bucket is beyond its start


class TimeSeries:
    """Answers TS.*. Errors are those of RedisTimeSeries."""

    def __init__(self, gather: Gather, wall_ns: Callable[[], int]) -> None:
        self._gather, self._wall_ns = gather, wall_ns
        self._points = gather.points
        # Series that are there, by the names clients give them.
        self._places = gather.columns.names

    def run(self, name: bytes, args: Sequence[bytes], proto: int) -> Reply:
        """Carry out one command; raises ReplyError."""
        try:
            return COMMANDS[name](self, args, proto)
        except RecordError as error:
            raise ReplyError(f"ERR TSDB: {error}") from error

    # -- writing -------------------------------------------------------------------------------

    def create(self, args: Sequence[bytes], _proto: int) -> Reply:
        creation = _creation(args[1:])
        if self._place(args[0]) is not None:
            raise ReplyError("ERR TSDB: key already exists")
        self._create(args[0], creation)
        return "OK"

    def add(self, args: Sequence[bytes], _proto: int) -> Reply:
        time_ms, value = self._time_ms(args[1]), _value(args[2])
        creation = _creation(args[3:])
        place = self._place(args[0])
        if place is None:
            place = self._create(args[0], creation)
        self._gather.add(place, time_ms * MS, value)
        return time_ms

    def madd(self, args: Sequence[bytes], _proto: int) -> Reply:
        if len(args) % 3:
            raise ReplyError("ERR wrong number of arguments for 'ts.madd' command")
        times: list[int | ReplyError] = []
        for at in range(0, len(args), 3):
            try:
                place = self._places.get(args[at])
                if place is None:
                    place = self._place(args[at])
                if place is None:
                    raise ReplyError(NO_KEY)
                time_ms, value = self._time_ms(args[at + 1]), _value(args[at + 2])
            except ReplyError as error:
                times.append(error)
                continue
            self._gather.add(place, time_ms * MS, value)
            times.append(time_ms)
        return times

    def _create(self, name: bytes, creation: Creation) -> int:
        place = self._points.place(_text(name), KEY)
        kept = self._points.kept_at(place)
        kept.age_ns = creation.age_ns
        self._gather.create(place, creation.labels)
        self._places[name] = place
        return place

    def _place(self, name: bytes) -> int | None:
        """Return where points of that name go; None when there is no such series."""
        place = self._places.get(name)
        if place is None and self._points.find(_text(name), KEY) is not None:
            place = self._places[name] = self._points.place(_text(name), KEY)
        return place

    def _time_ms(self, raw: bytes) -> int:
        now_ns = self._wall_ns()
        if raw == b"*":
            return now_ns // MS
        if DIGITS.fullmatch(raw) is None or (time_ms := int(raw)) > MS_MAX:
            raise ReplyError("ERR TSDB: invalid timestamp")
        if time_ms * MS > now_ns + AHEAD_NS:
            raise ReplyError(
                "ERR TSDB: invalid timestamp, it is more than 5 minutes ahead of this edge's clock"
            )
        return time_ms

    # -- asking --------------------------------------------------------------------------------

    def get(self, args: Sequence[bytes], proto: int) -> Reply:
        if len(args) > 2 or (len(args) == 2 and args[1].lower() != b"latest"):
            raise ReplyError(SYNTAX)
        newest = self._points.newest(self._find(args[0]))
        return [] if newest is None else _shown(newest, proto)

    def range(self, args: Sequence[bytes], proto: int) -> Reply:
        return self._range(args, proto, reverse=False)

    def revrange(self, args: Sequence[bytes], proto: int) -> Reply:
        return self._range(args, proto, reverse=True)

    def _range(self, args: Sequence[bytes], proto: int, *, reverse: bool) -> Reply:
        kept, query = self._find(args[0]), _query(args[1:])
        points = _last_of_each_time(self._points.readings(kept, query.from_ns, query.to_ns))
        points = [point for point in points if query.low <= point.value <= query.high]
        if query.aggregate is not None:
            points = _buckets(points, query)
        if reverse:
            points.reverse()
        return [_shown(point, proto) for point in points[: query.count]]

    def info(self, args: Sequence[bytes], proto: int) -> Reply:
        if len(args) > 2 or (len(args) == 2 and args[1].lower() != b"debug"):
            raise ReplyError(SYNTAX)
        kept = self._find(args[0])
        readings = self._points.readings(kept)
        labels = {name.encode(): value.encode() for name, value in kept.metadata.items()}
        return {
            b"totalSamples": len(readings),
            b"memoryUsage": self._points.stored_bytes(kept),
            b"firstTimestamp": readings[0].time_ns // MS if readings else 0,
            b"lastTimestamp": readings[-1].time_ns // MS if readings else 0,
            b"retentionTime": kept.age_ns // MS,
            b"chunkCount": self._points.chunks(kept),
            b"chunkSize": 4096,
            b"chunkType": "compressed",
            b"duplicatePolicy": b"last",
            b"labels": labels if proto == 3 else [list(pair) for pair in labels.items()],
            b"sourceKey": None,
            b"rules": {} if proto == 3 else [],
        }

    def _find(self, name: bytes) -> Kept:
        self._gather.settle()
        text = _text(name)
        entity, _, key = text.rpartition("/")
        kept = self._points.find(text, KEY) or self._points.find(entity, key)
        if kept is None:
            raise ReplyError(NO_KEY)
        return kept


COMMANDS: Final[dict[bytes, Callable[[TimeSeries, Sequence[bytes], int], Reply]]] = {
    b"ts.create": TimeSeries.create,
    b"ts.add": TimeSeries.add,
    b"ts.madd": TimeSeries.madd,
    b"ts.get": TimeSeries.get,
    b"ts.range": TimeSeries.range,
    b"ts.revrange": TimeSeries.revrange,
    b"ts.info": TimeSeries.info,
}


# -- arguments ---------------------------------------------------------------------------------


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ReplyError("ERR TSDB: the name of a series is UTF-8 text here") from None


def _value(raw: bytes) -> float:
    if FLOAT.fullmatch(raw) is None and INFINITY.fullmatch(raw) is None:
        raise ReplyError("ERR TSDB: invalid value")
    return float(raw)


def _whole(raw: bytes, problem: str) -> int:
    if DIGITS.fullmatch(raw) is None:
        raise ReplyError(problem)
    return int(raw)


def _creation(options: Sequence[bytes]) -> Creation:
    left = list(options)
    age_ns, labels = 0, dict[str, str]()
    while left:
        name = left.pop(0).lower()
        if name == b"labels":
            labels, left = _labels(left), []
        elif not left:
            raise ReplyError(SYNTAX)
        elif name == b"retention":
            problem = "ERR TSDB: Couldn't parse RETENTION"
            age_ns = min(_whole(left.pop(0), problem), MS_MAX) * MS
        elif name in (b"duplicate_policy", b"on_duplicate"):
            if left.pop(0).lower() != b"last":
                raise ReplyError("ERR TSDB: DUPLICATE_POLICY is LAST at an edge, and no other")
        elif name == b"encoding":
            if left.pop(0).lower() not in (b"compressed", b"uncompressed"):
                raise ReplyError("ERR TSDB: unknown ENCODING parameter")
        elif name == b"chunk_size":
            _whole(left.pop(0), "ERR TSDB: Couldn't parse CHUNK_SIZE")
        else:
            raise ReplyError(SYNTAX)
    return Creation(age_ns, labels)


def _labels(raw: Sequence[bytes]) -> dict[str, str]:
    texts = [_text(one) for one in raw]
    if len(texts) % 2 or any(LABEL_BAD.search(one) for one in texts):
        raise ReplyError("ERR TSDB: Couldn't parse LABELS")
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _query(args: Sequence[bytes]) -> Query:
    query = Query(
        from_ns=_bound(args[0], 0, "ERR TSDB: wrong fromTimestamp"),
        to_ns=_bound(args[1], MS - 1, "ERR TSDB: wrong toTimestamp"),
    )
    left = list(args[2:])
    align = b"0"
    while left:
        name = left.pop(0).lower()
        if name == b"latest":
            continue
        if name == b"count":
            problem = "ERR TSDB: Couldn't parse COUNT"
            query.count = _whole(left.pop(0) if left else b"", problem)
        elif name == b"filter_by_value" and len(left) >= 2:
            query.low, query.high = _limit(left.pop(0), "MIN"), _limit(left.pop(0), "MAX")
        elif name == b"align" and left:
            align = left.pop(0).lower()
        elif name == b"aggregation":
            _aggregation(query, left)
        elif name == b"buckettimestamp" and left:
            query.shown_ns = _shown_of_bucket(left.pop(0), query.bucket_ns)
        else:
            raise ReplyError(SYNTAX)
    if align != b"0":
        query.align_ns = _alignment(align, query)
    return query


def _bound(raw: bytes, more_ns: int, problem: str) -> int:
    """A time of a range in ns; `more_ns` for the end of its ms."""
    if raw == b"-":
        return 0
    if raw == b"+":
        return (1 << 63) - 1
    return min(_whole(raw, problem), MS_MAX) * MS + more_ns


def _limit(raw: bytes, which: str) -> float:
    if FLOAT.fullmatch(raw) is None and INFINITY.fullmatch(raw) is None:
        raise ReplyError(f"ERR TSDB: Couldn't parse {which}")
    return float(raw)


def _aggregation(query: Query, left: list[bytes]) -> None:
    if len(left) < 2:
        raise ReplyError("ERR TSDB: Couldn't parse AGGREGATION")
    query.aggregate = AGGREGATORS.get(left.pop(0).lower())
    if query.aggregate is None:
        raise ReplyError("ERR TSDB: Unknown aggregation type")
    width_ms = _whole(left.pop(0), "ERR TSDB: Couldn't parse AGGREGATION")
    if not 0 < width_ms <= MS_MAX:
        raise ReplyError("ERR TSDB: bucketDuration must be greater than zero")
    query.bucket_ns = width_ms * MS


def _shown_of_bucket(raw: bytes, width_ns: int) -> int:
    known = {b"-": 0, b"start": 0, b"~": width_ns // 2, b"mid": width_ns // 2,
             b"+": width_ns, b"end": width_ns}  # fmt: skip
    if raw.lower() not in known or not width_ns:
        raise ReplyError("ERR TSDB: unknown BUCKETTIMESTAMP parameter")
    return known[raw.lower()]


def _alignment(raw: bytes, query: Query) -> int:
    if raw in (b"-", b"start"):
        return query.from_ns
    if raw in (b"+", b"end"):
        return query.to_ns - (MS - 1) if query.to_ns < (1 << 63) - 1 else 0
    return _whole(raw, "ERR TSDB: unknown ALIGN parameter") * MS


# -- replies -----------------------------------------------------------------------------------


def _shown(point: Point, proto: int) -> list[object]:
    # In version 2 a simple string, as RedisTimeSeries has it.
    value = point.value if proto == 3 else number_text(point.value).decode()
    return [point.time_ns // MS, value]


def _last_of_each_time(points: Iterable[Point]) -> list[Point]:
    return list({point.time_ns: point for point in points}.values())


def _buckets(points: Sequence[Point], query: Query) -> list[Point]:
    """One point for each bucket in which there is one that is a number."""
    assert query.aggregate is not None
    columns: dict[int, tuple[array[int], array[float]]] = {}
    for time_ns, value in points:
        start = time_ns - (time_ns - query.align_ns) % query.bucket_ns
        times, values = columns.setdefault(start, (array("q"), array("d")))
        times.append(time_ns)
        values.append(value)
    found = []
    for start, (times, values) in columns.items():
        window = Window()
        window.add_many(times, values)
        if window.count:
            # A bucket may begin before 1970; its time is shown as 0 then, as there.
            found.append(Point(max(start, 0) + query.shown_ns, query.aggregate(window)))
    return found


def _sample_variance(window: Window) -> float:
    if window.count < 2:
        return 0.0
    return (window.variance or 0.0) * window.count / (window.count - 1)
