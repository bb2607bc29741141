"""Levels of detail: what is old stays as hours only, if the operator wants it so.

Windows of edges are merged into windows of an hour before they go. An hour is made once: what
arrives for it afterwards, from an edge that was away that long, stays beside it as it came. Rollups
of the hub's own are just removed, for there are rows of all levels from the beginning.
"""

import logging
import time
from typing import Final

import sqlalchemy as sa
import trio
import trio.lowlevel

from edgesync._native.window import Window
from edgesync_transport.seldom import Seldom
from hubd.settings import RetentionSection
from hubd.state import tables
from hubd.state.database import UNREADABLE, State

log = logging.getLogger(__name__)

HOUR_NS: Final = 3600 * 10**9
EVERY_S: Final = 600.0
# One transaction holds up the projectors for so many rows: some ten milliseconds.
ROWS_A_STEP: Final = 2000
HOURS_A_STEP: Final = 50


async def keep_thinning(state: State, keep: RetentionSection) -> None:
    """Thin out until cancelled, a step at a time; a database that refuses stops nothing (I8)."""
    seldom = Seldom()
    while any((keep.windows, keep.minutes, keep.hours)):
        try:
            while await state.write(lambda c: thin_out(c, keep, time.time_ns())):
                await trio.lowlevel.checkpoint()
        except UNREADABLE as error:
            if (again := seldom.ask("thinning")) is not None:
                problem = getattr(error, "orig", None) or error
                log.error("nothing is thinned out for now: %s; %d more before", problem, again)
        await trio.sleep(EVERY_S)


def thin_out(connection: sa.Connection, keep: RetentionSection, now_ns: int) -> int:
    """Take one step; returns how many rows went, 0 when there is nothing left to do."""
    gone = 0
    if keep.minutes:
        gone += _remove(connection, tables.rollup_1m, now_ns - round(keep.minutes * 1e9))
    if keep.hours:
        gone += _remove(connection, tables.rollup_1h, now_ns - round(keep.hours * 1e9))
    if keep.windows:
        gone += _merge_windows(connection, now_ns - round(keep.windows * 1e9))
    return gone


def _remove(connection: sa.Connection, table: sa.Table, before_ns: int) -> int:
    key = sa.tuple_(table.c.ref, table.c.start_ns)
    old = sa.select(table.c.ref, table.c.start_ns).where(table.c.start_ns < before_ns)
    return connection.execute(table.delete().where(key.in_(old.limit(ROWS_A_STEP)))).rowcount


def _merge_windows(connection: sa.Connection, before_ns: int) -> int:
    """Make windows of whole hours that are over out of narrower ones, some at a time."""
    fine, hour = tables.windows.c, tables.windows.alias("hour").c
    start = (fine.start_ns - fine.start_ns % HOUR_NS).label("hour_ns")
    is_made = sa.exists().where(
        (hour.edge == fine.edge)
        & (hour.series == fine.series)
        & (hour.width_ns == HOUR_NS)
        & (hour.start_ns == fine.start_ns - fine.start_ns % HOUR_NS)
    )
    question = (
        sa.select(fine.edge, fine.series, fine.width_ns, start)
        .where(
            (fine.start_ns >= 0)
            & (fine.start_ns < before_ns - before_ns % HOUR_NS)
            & (fine.width_ns < HOUR_NS)
            & (HOUR_NS % fine.width_ns == 0)
            & ~is_made
        )
        .distinct()
        .limit(HOURS_A_STEP)
    )
    return sum(_merge_hour(connection, *row) for row in connection.execute(question).all())


def _merge_hour(
    connection: sa.Connection, edge: str, series: int, width_ns: int, hour_ns: int
) -> int:
    table = tables.windows
    is_part = (
        (table.c.edge == edge)
        & (table.c.series == series)
        & (table.c.width_ns == width_ns)
        & (table.c.start_ns >= hour_ns)
        & (table.c.start_ns < hour_ns + HOUR_NS)
    )
    question = sa.select(table.c.revision, table.c.data).where(is_part).order_by(table.c.start_ns)
    parts = connection.execute(question).all()
    window = Window()
    for part in parts:
        window.merge(Window.decode(part.data))
    connection.execute(table.delete().where(is_part))
    # Of two widths of one series, the one that was met first makes the hour.
    made = sa.select(table.c.revision).where(
        (table.c.edge == edge)
        & (table.c.series == series)
        & (table.c.width_ns == HOUR_NS)
        & (table.c.start_ns == hour_ns)
    )
    if connection.execute(made).first() is None:
        revision = max(part.revision for part in parts)
        row = {
            "edge": edge, "series": series, "width_ns": HOUR_NS, "start_ns": hour_ns,
            "revision": revision, "data": window.encode(),
        }  # fmt: skip
        connection.execute(table.insert(), row)
    return len(parts)
