"""Upkeep of stored rows: what is too old goes, and pages of an hour become pages of a day.

It is done in passes over one table each, in steps. A step is planned in a reader, however much
there is to look at, and then carried out by the writer, which others wait for: so what a step may
do is bounded, and half of the time is theirs.
"""

import logging
import time
from collections.abc import Iterator
from typing import Final, Protocol

import sqlalchemy as sa
import trio

from edgesync_transport.seldom import Seldom
from hubd.settings import RetentionSection
from hubd.state import tables
from hubd.state.compaction import Compaction, Leftover
from hubd.state.database import UNREADABLE, Change, State, StateReplaced
from hubd.state.retention import OldReadings, OldRollups, OldWindows

log = logging.getLogger(__name__)

EVERY_S: Final = 600.0
# Nobody waits for a plan, and one that is given up is made again from the pass's beginning.
PLAN_LIMIT_S: Final = 60.0


class Pass(Protocol):
    """One pass over a table. What it has planned is carried out before it plans more."""

    is_over: bool

    def plan(self, connection: sa.Connection) -> Change | None:
        """Return the next step, None if there is none in what was looked at."""
        ...


async def keep_up(state: State, keep: RetentionSection) -> None:
    """Do what there is to do until cancelled; a database that refuses stops nothing (I8)."""
    seldom, left, life = Seldom(), dict[str, Leftover](), state.life
    while True:
        if state.life != life:
            life = state.life
            left.clear()
        try:
            for one in passes(keep, left, time.time_ns()):
                await carry_out(one, state)
        except StateReplaced:
            continue
        except UNREADABLE as error:
            if (again := seldom.ask("upkeep")) is not None:
                problem = getattr(error, "orig", None) or error
                log.error("no upkeep of the state for now: %s; %d more before", problem, again)
        await trio.sleep(EVERY_S)


def passes(keep: RetentionSection, left: dict[str, Leftover], now_ns: int) -> Iterator[Pass]:
    """Yield what is to be done. `left`: see `Compaction`, which goes on from the one before."""

    def before(age_s: float) -> int:
        return now_ns - round(age_s * 1e9)

    if keep.readings:
        keeps_hours = not keep.hours or keep.hours > keep.readings
        yield OldReadings(before(keep.readings), keeps_hours=keeps_hours)
    if keep.minutes:
        yield OldRollups(tables.rollup_1m, before(keep.minutes))
    if keep.hours:
        yield OldRollups(tables.rollup_1h, before(keep.hours))
    if keep.windows:
        yield OldWindows(before(keep.windows))
    yield Compaction(left, now_ns)


async def carry_out(one: Pass, state: State) -> None:
    """Take the steps of a pass; raises StateReplaced when the state is another one meanwhile."""
    while not one.is_over:
        life = state.life
        step = await state.read(one.plan, limit_s=PLAN_LIMIT_S)
        if step is not None:
            begun = trio.current_time()
            await state.write(step, life=life)
            await trio.sleep(trio.current_time() - begun)
