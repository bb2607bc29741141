"""Calls of devices while the hub runs: sent, waited for, given up, and moved on by the log.

One task reads the log for what edges tell of calls, from a cursor in the same transaction; one
gives up what is due. Whoever waits for a call is woken when it changes.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Final

import trio

from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.errors import RecordError
from edgesync.model import EventType, Lane, RecordKind
from edgesync.rpc.model import Report, parse_report
from edgesync_transport.messages import Codec
from hubd.downlink.delivery import Delivery
from hubd.errors import HubError
from hubd.log.base import Entry, Log
from hubd.owned.threads import in_thread
from hubd.rpc.calls import Calls, CallView, NewCall

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
# A cursor alone is stored so often, or when the log wants to drop what it holds.
CURSOR_S: Final = 5.0
EXPIRE_S: Final = 0.5
RETRY_S: Final = 1.0
# Whoever asks with wait_s; more are answered at once.
WAITERS_MAX: Final = 1000
GIVEN_UP: Final = "given up by the hub's operator before the edge had it"


class RpcService:
    """See the module. A reader of the log (`retention.Readers`), and the downlink's observer.

    tenant_of   whose an edge is
    """

    def __init__(
        self, calls: Calls, delivery: Delivery, hub_log: Log, tenant_of: Callable[[str], str]
    ) -> None:
        self.calls = calls
        self.delivery = delivery
        self._log = hub_log
        self._tenant_of = tenant_of
        self._generation = hub_log.generation.hex()
        self._stored = 0  # the cursor as it is on disk
        self._wanted = 0  # where the log wants that to be
        self._waiting: dict[str, trio.Event] = {}

    # -- asked -----------------------------------------------------------------------------------

    async def send(self, tenant: str, edge: str, call: NewCall) -> CallView:
        """Store a call and have it delivered; raises as `Calls.send` does."""
        view, tail = await in_thread(self.calls.send, tenant, edge, call)
        if tail:
            await self.delivery.grown(edge, Lane.CRITICAL, tail)
        return view

    async def clear(self, edge: str) -> int:
        """Give up all that waits for an edge, calls among it; returns how many records."""
        return await self._give_up(edge, await self.delivery.clear(edge))

    async def clean(self, edge: str, before_ns: int) -> int:
        """Give up what waits for an edge since before a time; returns how many records."""
        return await self._give_up(edge, await self.delivery.clean(edge, before_ns))

    async def _give_up(self, edge: str, gone: list[tuple[Lane, int, int]]) -> int:
        """Give up the calls among records that were; returns how many records."""
        lost = functools.partial(self.calls.lost, reason=GIVEN_UP)
        for lane, first, last in gone:
            self._wake(await in_thread(lost, edge, lane, first, last))
        return sum(last - first + 1 for _, first, last in gone)

    async def wait(self, tenant: str | None, id: str, wait_s: float) -> CallView | None:
        """Return a call once it is final, or as it is after `wait_s`."""
        with trio.move_on_after(wait_s):
            while id in self._waiting or len(self._waiting) < WAITERS_MAX:
                changed = self._waiting.setdefault(id, trio.Event())
                try:
                    found = await in_thread(self.calls.one, tenant, id)
                    if found is None or found.is_final:
                        return found
                    await changed.wait()
                finally:
                    self._wake([id])  # others look for themselves
        return await in_thread(self.calls.one, tenant, id)

    def _wake(self, ids: list[str]) -> None:
        for id in ids:
            if (event := self._waiting.pop(id, None)) is not None:
                event.set()

    # -- Observer, from a thread -----------------------------------------------------------------

    def arrived(self, edge: str, lane: Lane, floor: int) -> None:
        self.calls.arrived(edge, lane, floor)

    def lost(self, edge: str, lane: Lane, first: int, last: int, reason: str) -> None:
        gone = self.calls.lost(edge, lane, first, last, reason)
        trio.from_thread.run_sync(self._wake, gone)

    # -- Readers ---------------------------------------------------------------------------------

    async def cursors(self) -> Mapping[str, int]:
        return {"calls": self._stored}

    def press(self, position: int) -> None:
        self._wanted = max(self._wanted, position)

    # -- tasks -----------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_reading)
            nursery.start_soon(self._keep_expiring)

    async def _keep_reading(self) -> None:
        while True:
            try:
                position = await in_thread(self.calls.position, self._generation)
                self._stored = position = max(position, self._log.oldest - 1)
                while True:
                    position = await self._read(position)
            except HubError as error:
                log.error("calls wait for the registry: %s", error)
                await trio.sleep(RETRY_S)

    async def _read(self, after: int) -> int:
        """Take in what follows in the log; returns up to where."""
        with trio.move_on_after(CURSOR_S) as patience:
            await self._log.wait_beyond(after)
        if patience.cancelled_caught:
            if after > self._stored:
                await self._store(after, [])
            return after
        head = self._log.head
        entries = await self._log.read(after, limit_bytes=READ_BYTES)
        upto = entries[-1].position if entries else head  # the rest is damaged
        reports = [
            (self._tenant_of(entry.edge), entry.edge, device, report)
            for entry in entries
            for device, report in reports_in(entry)
        ]
        if reports or self._wanted > self._stored:
            await self._store(upto, reports)
        return upto

    async def _store(self, upto: int, reports: list[tuple[str, str, str, Report]]) -> None:
        self._wake(await in_thread(self.calls.take, self._generation, upto, reports))
        self._stored = upto

    async def _keep_expiring(self) -> None:
        while True:
            try:
                self._wake(await in_thread(self.calls.expire))
            except HubError as error:
                log.error("calls wait for the registry: %s", error)
            await trio.sleep(EXPIRE_S)


def reports_in(entry: Entry) -> list[tuple[str, Report]]:
    """Return what an entry of the log tells of calls, each with its device."""
    if entry.lane is not Lane.CRITICAL or entry.codec not in (Codec.ROWS, Codec.COLUMNS):
        return []
    found: list[tuple[str, Report]] = []
    try:
        records = batch.events(entry.codec, entry.payload)
    except RecordError:
        return []  # projectors tell of it
    for _, record in records:
        if record.kind != RecordKind.EVENT:
            continue
        try:
            kind, _, _, device, body, *_ = event_codec.decode(record.body)
        except RecordError:
            continue
        if kind == EventType.RPC_RESPONSE and (report := parse_report(body)) is not None:
            found.append((device, report))
    return found
