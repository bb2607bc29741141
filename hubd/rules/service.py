"""Has edges hold what they are assigned: compares with what they tell, and sends where it differs.

Nothing else is remembered, so it ends the same whatever was lost on the way: a record that was
given up, an edge restored from an old copy, a hub from a backup. An edge of which the registry
knows nothing keeps what it runs (I15). What was sent is not sent again
before the edge has it on its disk, and then ever more seldom while the edge says nothing of it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa
import trio

from edgesync.model import Action, Event, EventType
from edgesync.rules.bundle import pieces_of
from edgesync_transport.messages import Lane
from edgesync_transport.seldom import Seldom
from hubd.db.dialect import insert
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import DownlinkFull
from hubd.errors import HubError
from hubd.owned import tables
from hubd.owned.threads import in_thread
from hubd.rpc.calls import encoded
from hubd.rules.bundles import Assignment, Bundles, bundle_of
from hubd.rules.reports import Reports
from hubd.state import UNREADABLE, State, views

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
# However quiet it is: what was sent may have to be sent again.
LOOK_S: Final = 30.0
AGAIN_S: Final = 60.0
AGAIN_MAX_S: Final = 3600.0


class Sent(NamedTuple):
    """What was put into the journal for an edge last; is_waiting: it is not on its disk yet."""

    digest: str
    sent_ns: int
    is_waiting: bool


class RuleService:
    """See the module. `run` lasts until cancelled."""

    def __init__(
        self,
        bundles: Bundles,
        downlink: Delivery,
        state: State,
        reports: Reports,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.bundles = bundles
        self._downlink = downlink
        self._state = state
        self.reports = reports
        self._clock_ns = clock_ns
        self._repeats: dict[str, tuple[str, int]] = {}  # edge: digest, times it was sent
        self._seen: tuple[int, int] = (-1, -1)
        self._seldom = Seldom()

    async def run(self) -> None:
        looked_at = -LOOK_S
        while True:
            try:
                seen = (
                    await in_thread(self.bundles.owned.change_count),
                    self.reports.version,
                )
                if seen != self._seen or trio.current_time() - looked_at >= LOOK_S:
                    await self.look()
                    self._seen, looked_at = seen, trio.current_time()
            except (HubError, *UNREADABLE) as error:
                if (again := self._seldom.ask("look")) is not None:
                    log.error("rules: edges are not told: %s; %d more before", error, again)
            await trio.sleep(TICK_S)

    async def look(self) -> None:
        """Send what edges lack."""
        assigned, sent = await in_thread(self._read)
        for edge in sorted({*assigned, *sent, *self.reports.edges()}):
            if self.reports.is_unknown(edge):
                await self.look_up(edge)
            assignment = assigned.get(edge)
            if self._is_due(edge, "" if assignment is None else assignment.digest, sent.get(edge)):
                await self._send(edge, assignment)

    async def look_up(self, edge: str) -> None:
        """Find what an edge told before this hub was started."""
        wanted = views.EventFilter(edge=edge, type=EventType.RULES, action=Action.NONE)
        found = await self._state.read(lambda c: views.events(c, wanted, None, 1))
        body, at_ns = (_raw(found[0].body), found[0].stored_at_ns) if found else (None, 0)
        self.reports.note_looked_up(edge, body, at_ns)

    def _is_due(self, edge: str, digest: str, sent: Sent | None) -> bool:
        known = self.reports.of(edge)
        held = "" if known is None or known.report is None else known.report.held
        has_told = known is not None and known.report is not None
        if sent is None and not digest:  # whatever it holds, nobody here has taken it away: I15
            return False
        if held == digest and (has_told or sent is None or not sent.digest):
            self._repeats.pop(edge, None)
            return False
        if sent is None or sent.digest != digest:
            return True
        if sent.is_waiting or (known is not None and known.is_too_old):
            return False
        _, times = self._repeats.get(edge, ("", 0))
        pause_s = min(AGAIN_S * 2**times, AGAIN_MAX_S)
        return bool(self._clock_ns() - sent.sent_ns >= pause_s * 1e9)

    async def _send(self, edge: str, assignment: Assignment | None) -> None:
        try:
            tail = await in_thread(self._append, edge, assignment)
        except DownlinkFull as full:
            if (again := self._seldom.ask(edge)) is not None:
                log.error("rules: %s; %d more before", full, again)
            return
        if not tail:
            return
        digest = "" if assignment is None else assignment.digest
        before, times = self._repeats.get(edge, ("", 0))
        self._repeats[edge] = (digest, times + 1 if before == digest else 0)
        what = "none" if assignment is None else f"{assignment.bundle} {assignment.version}"
        log.info("rules sent: edge=%s bundle=%s", edge, what)
        await self._downlink.grown(edge, Lane.NORMAL, tail)

    # -- in a thread -----------------------------------------------------------------------------

    def _read(self) -> tuple[Mapping[str, Assignment], dict[str, Sent]]:
        """Return what edges are to run, and what they were sent; of those that are let in."""
        table, lane, known = tables.rule_delivery, tables.downlink_lane.c, tables.edge.c
        asked = sa.select(table, lane.floor).outerjoin(
            tables.downlink_lane, sa.and_(lane.edge == table.c.edge, lane.lane == int(Lane.NORMAL))
        )
        with self.bundles.owned.read() as connection:
            rows = connection.execute(asked).all()
            edges = set(connection.scalars(sa.select(known.name).where(known.revoked_ns.is_(None))))
        sent = {
            row.edge: Sent(row.digest, row.sent_ns, (row.floor or 0) < row.seq)
            for row in rows
            if row.edge in edges
        }
        assigned = self.bundles.assignments()
        return {edge: one for edge, one in assigned.items() if edge in edges}, sent

    def _append(self, edge: str, assignment: Assignment | None) -> int:
        """Put a bundle into the journal of an edge; returns the tail, 0 if either is gone."""
        table, known, bundle = tables.rule_delivery, tables.edge.c, tables.rule_bundle
        with self.bundles.owned.write() as connection:
            is_edge = sa.select(known.name).where(known.name == edge, known.revoked_ns.is_(None))
            if connection.scalar(is_edge) is None:
                return 0
            found = None
            if assignment is not None:
                mine = (assignment.tenant, assignment.bundle, assignment.version)
                row = connection.execute(
                    bundle.select().where(
                        sa.tuple_(bundle.c.tenant, bundle.c.name, bundle.c.version) == mine
                    )
                ).one_or_none()
                if row is None:  # unassigned and removed since that was read
                    return 0
                found = bundle_of(row)
            now_ns = self._clock_ns()
            raws = [
                encoded(Event(type=EventType.RULES, body=piece, time_ns=now_ns, created_ns=now_ns))
                for piece in pieces_of(found)
            ]
            tail = self._downlink.journal.append(connection, edge, Lane.NORMAL, raws)
            values = {"digest": found.digest() if found else "", "seq": tail, "sent_ns": now_ns}
            connection.execute(
                insert(table)
                .values(edge=edge, **values)
                .on_conflict_do_update(index_elements=["edge"], set_=values)
            )
        return tail


def _raw(body: object) -> bytes:
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)
