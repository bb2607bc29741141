"""Calls of devices: made, found, moved on and given up. See `edgesync/rpc/model.py` for states.

A call and its record for the edge are one transaction. What edges report comes from the log, any
number of times: a state is never left for an earlier one, so replaying changes nothing (I9).
"""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Raw

from edgesync._native import event as event_codec
from edgesync.model import Event
from edgesync.rpc.model import Report, Request, State, request_event
from edgesync_transport.messages import Lane
from hubd.downlink.journal import DownlinkFull, Journal
from hubd.errors import EdgeUnknown, HubError
from hubd.owned import Owned, tables

log = logging.getLogger(__name__)

# Of one edge: calls that are not final, and what is kept of those that are.
OPEN_MAX: Final = 5_000
KEPT_MAX: Final = 10_000
# How long after its time the hub gives a call up that the edge tells nothing of.
GRACE_NS: Final = 10**9
# A clock that was set; less is what NTP slews, or a machine that was busy.
STEP_NS: Final = 2 * 10**9
EXPIRED: Final = "its time passed"

OPEN: Final = (State.QUEUED, State.SENT, State.DELIVERED)


class CallRefused(HubError):
    """Nothing was sent; the sentence says why."""


class CallIdTaken(CallRefused):
    """Another call has the id that was asked for."""


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """A call, and when it came where. `is_final`: only a late answer may still come.

    edge_ns    when it was on the edge's disk
    answer     as `Raw` JSON; None before it came, and of an error
    is_late    the answer came when the call had expired
    reason     why it has expired
    by         who called; empty of a call that this hub knows from its edge alone
    """

    id: str
    edge: str
    device: str
    method: str
    params: Raw
    one_way: bool
    state: State
    is_final: bool
    created_ns: int
    expires_ns: int
    edge_ns: int | None = None
    sent_ns: int | None = None
    delivered_ns: int | None = None
    answered_ns: int | None = None
    expired_ns: int | None = None
    answer: Any = None
    error: str = ""
    reason: str = ""
    by: str = ""
    is_late: bool = False


class NewCall(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    method: str
    params: bytes
    ttl_s: float
    one_way: bool = False
    id: str = ""
    by: str = ""


class Calls:
    """See the module. Methods are short and synchronous, from any thread; errors are Owned's.

    monotonic_ns   by which the time of calls passes: where the wall clock was set, they keep what
                   they had left. After a restart there is the wall clock alone.
    """

    def __init__(
        self,
        owned: Owned,
        journal: Journal,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._owned = owned
        self._journal = journal
        self._clock_ns = clock_ns
        self._monotonic_ns = monotonic_ns
        self._following = threading.Lock()
        self._ahead_ns = clock_ns() - monotonic_ns()  # the wall clock of the other

    def _follow_clock(self) -> None:
        """Move the end of open calls with the wall clock, if somebody has set that."""
        with self._following:
            ahead_ns = self._clock_ns() - self._monotonic_ns()
            step_ns = ahead_ns - self._ahead_ns
            if abs(step_ns) >= STEP_NS:
                table = tables.rpc
                with self._owned.write() as connection:
                    connection.execute(
                        table.update()
                        .where(_is_open(table))
                        .values(expires_ns=table.c.expires_ns + step_ns)
                    )
                log.warning("wall clock stepped by %.3f s: calls keep their time", step_ns / 1e9)
            self._ahead_ns = ahead_ns

    # -- in --------------------------------------------------------------------------------------

    def send(self, tenant: str, edge: str, call: NewCall) -> tuple[CallView, int]:
        """Store a call and its record for the edge; returns it and the tail of the critical lane.

        With an `id` that is known, that call is returned and nothing is sent: who does not know
        whether it was taken asks again. The tail is 0 then. Raises EdgeUnknown for an edge that is
        not the tenant's, DownlinkFull, CallRefused.
        """
        self._follow_clock()
        try:
            with self._owned.write() as connection:
                return self._send(connection, tenant, edge, call)
        except DownlinkFull:
            with contextlib.suppress(HubError):
                self._journal.count_refused(edge)
            raise

    def _send(
        self, connection: sa.Connection, tenant: str, edge: str, call: NewCall
    ) -> tuple[CallView, int]:
        registered, table = tables.edge.c, tables.rpc
        whose = sa.select(registered.name).where(
            registered.name == edge, registered.tenant == tenant, registered.revoked_ns.is_(None)
        )
        if connection.scalar(whose) is None:
            raise EdgeUnknown(edge)
        known = self._row(connection, call.id) if call.id else None
        if known is not None:
            if (known.tenant, known.edge, known.device) != (tenant, edge, call.device):
                raise CallIdTaken(f"the id {call.id} is another call's; choose another one")
            return _view(known), 0
        self._check_room(connection, edge)
        now_ns = self._clock_ns()
        request = Request(
            id=call.id or secrets.token_hex(16), method=call.method, params=Raw(call.params),
            one_way=call.one_way, expires_ns=now_ns + int(call.ttl_s * 1e9),
        )  # fmt: skip
        raw = encoded(request_event(call.device, request, now_ns))
        tail = self._journal.append(connection, edge, Lane.CRITICAL, [raw])
        connection.execute(
            table.insert().values(
                id=request.id, tenant=tenant, edge=edge, device=call.device, method=call.method,
                params=call.params.decode(), is_one_way=int(call.one_way), state=State.QUEUED,
                created_ns=now_ns, expires_ns=request.expires_ns, seq=tail, error="", reason="",
                made_by=call.by,
            )
        )  # fmt: skip
        row = self._row(connection, request.id)
        assert row is not None
        return _view(row), tail

    def _check_room(self, connection: sa.Connection, edge: str) -> None:
        table = tables.rpc
        count = connection.scalar(
            sa.select(sa.func.count()).where(table.c.edge == edge, _is_open(table))
        )
        if (count or 0) >= OPEN_MAX:
            raise CallRefused(
                f"{count} calls of devices at {edge} are open, at most {OPEN_MAX} may be: "
                "wait until some have been answered or have expired"
            )

    # -- found -----------------------------------------------------------------------------------

    def one(self, tenant: str | None, id: str) -> CallView | None:
        """Return a call of a tenant, of anybody's for None."""
        with self._owned.read() as connection:
            row = self._row(connection, id)
        return None if row is None or tenant not in (None, row.tenant) else _view(row)

    def some(
        self, tenant: str | None, *, edge: str = "", device: str = "", state: str = "",
        before: tuple[int, str] | None = None, limit: int = 100,
    ) -> Sequence[CallView]:  # fmt: skip
        """Return calls, the newest first, those before (created_ns, id)."""
        table = tables.rpc
        asked = table.select()
        for column, value in (("edge", edge), ("device", device), ("state", state)):
            if value:
                asked = asked.where(table.c[column] == value)
        if tenant is not None:
            asked = asked.where(table.c.tenant == tenant)
        if before is not None:
            asked = asked.where(sa.tuple_(table.c.created_ns, table.c.id) < sa.tuple_(*before))
        asked = asked.order_by(table.c.created_ns.desc(), table.c.id.desc()).limit(limit)
        with self._owned.read() as connection:
            return [_view(row) for row in connection.execute(asked)]

    def _row(self, connection: sa.Connection, id: str) -> sa.Row[Any] | None:
        table = tables.rpc
        return connection.execute(table.select().where(table.c.id == id)).one_or_none()

    # -- moved on --------------------------------------------------------------------------------

    def arrived(self, edge: str, lane: Lane, floor: int) -> None:
        """Note that calls up to `floor` are on the edge's disk."""
        if lane is not Lane.CRITICAL:
            return
        table = tables.rpc
        with self._owned.write() as connection:
            connection.execute(
                table.update()
                .where(
                    table.c.edge == edge, table.c.seq <= floor, table.c.edge_ns.is_(None)
                )
                .values(edge_ns=self._clock_ns())
            )  # fmt: skip

    def lost(self, edge: str, lane: Lane, first: int, last: int, reason: str) -> list[str]:
        """Give up calls among the records that an edge does not get, or had before it was restored.

        Returns their ids.
        """
        if lane is not Lane.CRITICAL:
            return []
        table = tables.rpc
        which = (table.c.edge == edge, table.c.seq >= first, table.c.seq <= last)
        with self._owned.write() as connection:
            return self._expire(connection, reason, *which)

    def expire(self) -> list[str]:
        """Give up calls whose time has passed; returns their ids."""
        self._follow_clock()
        before_ns, table = self._clock_ns() - GRACE_NS, tables.rpc
        due = sa.and_(_is_open(table), table.c.expires_ns <= before_ns)
        with self._owned.read() as connection:
            if connection.scalar(sa.select(table.c.id).where(due).limit(1)) is None:
                return []
        with self._owned.write() as connection:
            return self._expire(connection, EXPIRED, table.c.expires_ns <= before_ns)

    def _expire(
        self, connection: sa.Connection, reason: str, *which: sa.ColumnElement[bool]
    ) -> list[str]:
        table = tables.rpc
        lost = sa.and_(_is_open(table), *which)
        ids = list(connection.scalars(sa.select(table.c.id).where(lost)))
        values = {"state": State.EXPIRED, "expired_ns": self._clock_ns(), "reason": reason}
        connection.execute(table.update().where(lost).values(**values))
        return ids

    def position(self, generation: str) -> int:
        """Return up to where reports of the log are taken in."""
        table = tables.rpc_cursor
        with self._owned.read() as connection:
            found = connection.scalar(
                sa.select(table.c.position).where(table.c.generation == generation)
            )
        return int(found or 0)

    def take(
        self, generation: str, position: int, reports: Sequence[tuple[str, str, str, Report]]
    ) -> list[str]:
        """Take in (tenant, edge, device, report) and the place in the log, in one transaction.

        Returns the ids of the calls that have changed.
        """
        changed: list[str] = []
        table = tables.rpc_cursor
        with self._owned.write() as connection:
            for tenant, edge, device, report in reports:
                if self._report(connection, tenant, edge, device, report):
                    changed.append(report.id)
            for edge in {edge for _, edge, _, _ in reports}:
                self._forget_old(connection, edge)
            connection.execute(table.delete())
            connection.execute(table.insert().values(generation=generation, position=position))
        return changed

    def _report(
        self, connection: sa.Connection, tenant: str, edge: str, device: str, report: Report
    ) -> bool:
        table, row = tables.rpc, self._row(connection, report.id)
        if row is None:
            if not _is_owner(connection, tenant, edge):
                return False  # the log is newer than the registry, which was restored
            self._adopt(connection, tenant, edge, device, report)
            row = self._row(connection, report.id)
            assert row is not None
        elif (row.tenant, row.edge, row.device) != (tenant, edge, device):
            return False  # an edge tells of its own devices alone
        values: dict[str, Any] = {} if row.edge_ns else {"edge_ns": report.at_ns}
        column = f"{report.state.lower()}_ns"
        if report.state is not State.QUEUED and row._mapping[column] is None:
            values[column] = report.at_ns
        present = State(row.state)
        if report.state.rank > present.rank:
            values["state"] = report.state
            if report.state is State.EXPIRED:
                values["reason"] = report.reason
        if bytes(report.answer) and row.answer is None:
            values["answer"] = bytes(report.answer).decode()
            values["answered_ns"] = row.answered_ns or report.at_ns
        if report.error and not row.error:
            values["error"] = report.error
        if not values:
            return False
        connection.execute(table.update().where(table.c.id == report.id).values(**values))
        return True

    def _adopt(
        self, connection: sa.Connection, tenant: str, edge: str, device: str, report: Report
    ) -> None:
        """Keep what is told of a call that this hub lost: it was restored from a backup.

        Its time has passed, whatever time is told: no edge keeps a call open that nobody made.
        """
        at_ns = min(report.at_ns, self._clock_ns())
        connection.execute(
            tables.rpc.insert().values(
                id=report.id, tenant=tenant, edge=edge, device=device, method=report.method,
                params="null", is_one_way=int(report.one_way), state=State.QUEUED,
                created_ns=at_ns, expires_ns=at_ns, seq=0, error="", reason="",
            )
        )  # fmt: skip

    def _forget_old(self, connection: sa.Connection, edge: str) -> None:
        table = tables.rpc
        beyond = (
            sa.select(table.c.created_ns)
            .where(table.c.edge == edge, ~_is_open(table))
            .order_by(table.c.created_ns.desc())
            .offset(KEPT_MAX)
            .limit(1)
        )
        newest = connection.scalar(beyond)
        if newest is not None:
            connection.execute(
                table.delete().where(
                    table.c.edge == edge, ~_is_open(table), table.c.created_ns <= newest
                )
            )


def _is_owner(connection: sa.Connection, tenant: str, edge: str) -> bool:
    owner = tables.owner.c
    found = sa.select(owner.edge).where(owner.edge == edge, owner.tenant == tenant)
    return connection.scalar(found) is not None


def _is_open(table: sa.Table) -> sa.ColumnElement[bool]:
    is_done = sa.and_(table.c.is_one_way == 1, table.c.state == State.DELIVERED)
    return sa.and_(table.c.state.in_(OPEN), ~is_done)


def _view(row: sa.Row[Any]) -> CallView:
    state, one_way = State(row.state), bool(row.is_one_way)
    return CallView(
        id=row.id, edge=row.edge, device=row.device, method=row.method,
        params=Raw(row.params.encode()), one_way=one_way, state=state,
        is_final=state.is_final(one_way=one_way), created_ns=row.created_ns,
        expires_ns=row.expires_ns, edge_ns=row.edge_ns, sent_ns=row.sent_ns,
        delivered_ns=row.delivered_ns, answered_ns=row.answered_ns, expired_ns=row.expired_ns,
        answer=None if row.answer is None else Raw(row.answer.encode()), error=row.error,
        reason=row.reason, by=row.made_by,
        is_late=state is State.EXPIRED and (row.answer is not None or bool(row.error)),
    )  # fmt: skip


def encoded(event: Event) -> bytes:
    """Return the record of an event, as a journal has it."""
    return event_codec.encode(
        event.type, event.action, event.entity_type, event.entity_id, event.body, event.time_ns,
        event.created_ns, event.hlc,
    )  # fmt: skip
