"""Reading windows, and merging them into wider ones: what all their readings would give."""

from itertools import groupby
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync._native.window import Window
from edgesync.errors import RecordError
from hubd.state import tables
from hubd.state.damage import StateDamaged

# One page merges so many; beyond, it ends earlier.
MERGED_MAX: Final = 20_000


class WindowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of `width_ns` that begin in [from_ns, to_ns), in wider ones of `merge_ns`."""

    edge: str
    series: int
    width_ns: int
    merge_ns: int
    from_ns: int
    to_ns: int


class WindowRow(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one window. `parts` windows were merged; quantiles are within 1 %.

    Without finite readings all but the counts are null; without a sketch, the quantiles.
    """

    start_ns: int
    parts: int
    revision: int
    count: int
    missing: int
    sum: float
    mean: float | None
    deviation: float | None
    min: float | None
    min_ns: int | None
    max: float | None
    max_ns: int | None
    first: float | None
    last: float | None
    p50: float | None
    p90: float | None
    p99: float | None


def page(
    connection: sa.Connection, wanted: WindowQuery, limit: int
) -> tuple[list[WindowRow], bool]:
    """Return up to `limit` windows, the oldest first, and whether there are more.

    Those at an edge of the range are whole.
    """
    table = tables.windows
    ratio = wanted.merge_ns // wanted.width_ns
    limit = min(limit, max(1, MERGED_MAX // ratio))
    first_ns = wanted.from_ns - wanted.from_ns % wanted.merge_ns
    question = (
        sa.select(table.c.start_ns, table.c.revision, table.c.data)
        .where(
            (table.c.edge == wanted.edge)
            & (table.c.series == tables.signed(wanted.series))
            & (table.c.width_ns == wanted.width_ns)
            & (table.c.start_ns >= max(first_ns, -(1 << 63)))
            & (table.c.start_ns < wanted.to_ns)
        )
        .order_by(table.c.start_ns)
        .limit(limit * ratio)  # no more windows than that are in so many wider ones
    )
    rows = connection.execute(question).all()
    grouped = groupby(rows, key=lambda row: row.start_ns - row.start_ns % wanted.merge_ns)
    found = [_row(start_ns, list(parts)) for start_ns, parts in grouped]
    return found[:limit], len(found) > limit or len(rows) == limit * ratio


def decoded(data: bytes) -> Window:
    """Return a window as it was stored; raises StateDamaged."""
    try:
        return Window.decode(data)
    except RecordError as error:
        raise StateDamaged(f"a window of {len(data)} bytes is damaged: {error}") from error


def _row(start_ns: int, parts: list[Any]) -> WindowRow:
    window = Window()
    for part in parts:
        window.merge(decoded(part.data))
    low, high, first, last = window.min, window.max, window.first, window.last
    return WindowRow(
        start_ns=start_ns, parts=len(parts), revision=max(part.revision for part in parts),
        count=window.count, missing=window.missing, sum=window.sum, mean=window.mean,
        deviation=window.deviation,
        min=low and low[0], min_ns=low and low[1], max=high and high[0], max_ns=high and high[1],
        first=first and first[0], last=last and last[0],
        p50=window.quantile(0.5), p90=window.quantile(0.9), p99=window.quantile(0.99),
    )  # fmt: skip
