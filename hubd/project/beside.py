"""Seeing what a hub sees from beside it: its rows, and what of its log is not in them yet."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from hubd.log.base import Entry
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live
from hubd.project.telemetry import Content, TelemetryProjector
from hubd.state import State
from hubd.state.fresh import AFTER, OPTION, Fresh

T = TypeVar("T")


def read_beside(
    state: State,
    edge: str,
    entries: Callable[[int], Iterable[Entry]],
    question: Callable[[sa.Connection], T],
) -> T:
    """Ask about one edge; nothing is written, for the hub may be running.

    entries   gives the log after a position

    Readings of a series that the hub has not entered yet are left out.
    """

    def with_fresh(connection: sa.Connection) -> T:
        then: list[Callable[[], None]] = []
        options: dict[str, Any] = {OPTION: Fresh(), AFTER: then}
        connection.execution_options(**options)
        projector = TelemetryProjector(Live(), limits=SeriesLimits(0))
        cursor = projector.begin(connection)
        for entry in entries(cursor.position):
            if entry.edge == edge:
                _take(connection, projector, entry)
            for follow_up in then:
                follow_up()
            then.clear()
        return question(connection)

    return state.read_now(with_fresh, limit_s=float("inf"))


def _take(connection: sa.Connection, projector: TelemetryProjector, entry: Entry) -> None:
    """Take in the readings of an entry; what cannot be decoded, the hub has skipped (I8)."""
    try:
        (part,) = projector.parts(entry, 0)
    except Exception:
        return
    content = Content([], part.content.points)
    projector.apply(connection, [msgspec.structs.replace(part, content=content)])
