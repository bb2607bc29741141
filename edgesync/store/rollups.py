"""Series that are summed up here: windows for the hub, beside the readings or instead of them.

A window is sent when it has closed, and again, with the next revision, when a late reading came.
What was sent is kept for as long as that may happen, in the transaction of the record that sends it
(I2), in the database `points`:

    w | series id u64 BE | start + 2^63, u64 BE   revision u32, width u64, Window

Open windows live in memory. After a restart they are made anew from the readings that are kept, and
so is a window whose late reading was stored but not sent: `keep` must be enough for a window and
the time it stays open.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from edgesync._native.window import Window, pack_windows
from edgesync._native.write import Write
from edgesync.aggregate import SECOND_NS, Bucket, EdgeAggregator
from edgesync.model import Lane, RecordKind
from edgesync.settings import RollupRule
from edgesync.store.series import Series

if TYPE_CHECKING:
    from edgesync._native.store import Store
    from edgesync.store.point_rows import Kept, Point

DATABASE: Final = "points"
HEAD: Final = struct.Struct("<IQ")
ALLOWED_S: Final = 3600.0
# Windows that wait for the disk: sent as soon as they close, so that only a full one fills this.
PENDING_MAX: Final = 100_000
# With its sketch a window has some hundred bytes, and a record at most 60 KiB.
WINDOWS_PER_RECORD: Final = 200
PRUNED_AT_ONCE: Final = 64


class Rollups:
    """See the module. One thread at a time."""

    def __init__(self, rules: Sequence[RollupRule], store: "Store") -> None:
        self._store = store
        self._rules = [
            (rule, EdgeAggregator(rule.width_s, PENDING_MAX, allowed_s=ALLOWED_S))
            for rule in sorted(rules, key=lambda rule: -len(rule.prefix))
        ]
        self._series: dict[str, Kept] = {}

    def sends_raw(self, series: Series) -> bool:
        found = self._of(series)
        return found is None or found[0].send != "aggregates"

    def is_summed(self, series: Series) -> bool:
        found = self._of(series)
        return found is not None and found[0].send != "raw"

    @property
    def pending(self) -> int:
        """Windows that wait to be stored."""
        return sum(aggregator.pending for _, aggregator in self._rules)

    @property
    def late_dropped(self) -> int:
        """Readings that came too late for their window: later than an hour."""
        return sum(aggregator.late for _, aggregator in self._rules)

    def _of(self, series: Series) -> tuple[RollupRule, EdgeAggregator] | None:
        for rule, aggregator in self._rules:
            if series.entity.startswith(rule.prefix):
                return rule, aggregator
        return None

    # -- in ------------------------------------------------------------------------------------

    def add(self, kept: "Kept", times: "array[int]", values: "array[float]") -> None:
        """Take readings that have been committed."""
        found = self._of(kept.series)
        if found is not None and found[0].send != "raw":
            self._series[_name(kept)] = kept
            found[1].add_many(_name(kept), times, values)

    def close_idle(self, now_ns: int | None) -> None:
        """Close windows of series that fell silent; all there are with None."""
        for _, aggregator in self._rules:
            aggregator.flush(now_ns)

    def restore(self, kept: "Kept", readings: "Iterable[Point]") -> None:
        """Take up a series after a restart: what was sent of it, and what is kept."""
        found = self._of(kept.series)
        if found is None or found[0].send == "raw":
            return
        rule, aggregator = found
        width = rule.width_s * SECOND_NS
        self._series[_name(kept)] = kept
        sent = {start: (revision, window) for start, revision, window in self._sent(kept, width)}
        parts = {
            start: list(part)
            for start, part in groupby(readings, lambda point: point.time_ns // width * width)
        }
        for start, (revision, window) in sent.items():
            aggregator.restore(_name(kept), start, revision, window)
        oldest = max(sent, default=min(parts, default=0)) - int(ALLOWED_S * SECOND_NS)
        for start, part in parts.items():
            columns = array("q", [p.time_ns for p in part]), array("d", [p.value for p in part])
            if start not in sent:
                if start >= oldest:
                    aggregator.add_many(_name(kept), *columns)
                continue
            revision, window = sent[start]
            if window.count + window.missing < len(part):
                again = Window()
                again.add_many(*columns)
                aggregator.revise(_name(kept), start, again)

    def _sent(self, kept: "Kept", width: int) -> Iterator[tuple[int, int, Window]]:
        for key, value in self._store.scan(DATABASE, b"w" + kept.row, _behind(kept), limit=10_000):
            revision, its_width = HEAD.unpack_from(value)
            if its_width == width:
                start = int.from_bytes(key[9:], "big") - (1 << 63)
                yield start, revision, Window.decode(value[HEAD.size :])

    # -- out -----------------------------------------------------------------------------------

    def take(self) -> list[tuple[RollupRule, list[Bucket]]]:
        """Return the windows that have closed; `put_back` those that could not be stored."""
        return [
            (rule, aggregator.drain_pending())
            for rule, aggregator in self._rules
            if aggregator.pending
        ]

    def put_back(self, taken: Sequence[tuple[RollupRule, list[Bucket]]]) -> None:
        for rule, buckets in taken:
            next(one for mine, one in self._rules if mine is rule).put_back(buckets)

    def stage(self, write: Write, taken: Sequence[tuple[RollupRule, list[Bucket]]]) -> list[Series]:
        """Add what sends these windows to `write`; returns the series that are in it."""
        used: dict[str, Series] = {}
        for rule, buckets in taken:
            buckets = sorted(buckets, key=_group_of)
            for (start, revision), group in groupby(buckets, key=_group_of):
                some = list(group)
                windows = [(self._series[one.series].id, one.window) for one in some]
                width = rule.width_s * SECOND_NS
                for at in range(0, len(windows), WINDOWS_PER_RECORD):
                    part = windows[at : at + WINDOWS_PER_RECORD]
                    body = pack_windows(width, start, revision, part, sketch=rule.sketch)
                    write.append(Lane.BULK, RecordKind.WINDOWS, body)
                for one in some:
                    kept = self._series[one.series]
                    used[one.series] = kept.series
                    self._remember(write, kept, one)
        return list(used.values())

    def _remember(self, write: Write, kept: "Kept", bucket: Bucket) -> None:
        head = HEAD.pack(bucket.revision, bucket.width_ns)
        write.put(DATABASE, _key(kept, bucket.start_ns), head + bucket.window.encode())
        oldest = bucket.start_ns - bucket.width_ns - 2 * int(ALLOWED_S * SECOND_NS)
        start, stop = b"w" + kept.row, _key(kept, oldest)
        for key, _ in self._store.scan(DATABASE, start, stop, limit=PRUNED_AT_ONCE):
            write.delete(DATABASE, key)


def _name(kept: "Kept") -> str:
    return f"{kept.series.entity}\0{kept.series.key}"


def _group_of(bucket: Bucket) -> tuple[int, int]:
    return bucket.start_ns, bucket.revision


def _key(kept: "Kept", start_ns: int) -> bytes:
    return b"w" + kept.row + max(start_ns + (1 << 63), 0).to_bytes(8, "big")


def _behind(kept: "Kept") -> bytes:
    return b"w" + kept.row + b"\xff" * 9
