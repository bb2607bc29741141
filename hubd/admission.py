"""Who is let in, as the registry says, kept in memory: edges, tenants, tokens of the API, users.

A registry that is locked or away holds up nobody who is known. What was known last is in a file
of the hub's folder, so that a hub that starts without its registry serves whom it served before;
until the registry is back nobody enrols, and what is revoked meanwhile is not noticed. One that
somebody emptied or replaced cannot be read either: it would revoke everybody.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from edgesync.errors import StoreVersion
from edgesync_transport.seldom import Seldom
from edgesync_transport.zap import KeyTable
from hubd.api.logins import Logins
from hubd.api.tenancy import TenantTokens
from hubd.cells import Keyspaces
from hubd.errors import OwnedUnusable
from hubd.hold import DatabaseHold
from hubd.owned.threads import in_thread
from hubd.presence import Presence
from hubd.registry import Changes, Registry
from hubd.registry.known import FILE, Known, load, save
from hubd.web.format import moment

log = logging.getLogger(__name__)

# How soon `hubd enroll` and `hubd revoke` of another process are noticed.
POLL_S: Final = 0.5
# So long after the newest one it is told that the registry refuses changes (its disk is full, say):
# who wants to enrol comes again meanwhile.
REFUSAL_SHOWN_S: Final = 600.0


class Admission:
    """Brings those it is given up to date with the registry; in Trio's thread.

    hold     keeps the database for this hub; it is looked after here
    folder   where what was known last is kept
    """

    def __init__(
        self,
        registry: Registry,
        hold: DatabaseHold,
        folder: Path,
        table: KeyTable,
        presence: Presence,
        keyspaces: Keyspaces,
        tokens: TenantTokens,
        logins: Logins,
    ) -> None:
        self._registry = registry
        self._hold = hold
        self._folder = folder
        self._table = table
        self._presence = presence
        self._keyspaces = keyspaces
        self._tokens = tokens
        self._logins = logins
        self._keys: dict[str, str] = {}
        self._grants: dict[str, tuple[bytes, ...]] = {}
        self._read_at_ns = 0
        self._problem = ""
        self._seldom = Seldom()
        self._turn = trio.Lock()
        self._unsaved: Changes | None = None

    @property
    def problem(self) -> str:
        """Return what an operator should know of the registry now; "" when all is well."""
        if not self._problem:
            return self._refusal_problem()
        return (
            f"the registry cannot be read: {self._problem}; edges that were known at "
            f"{moment(self._read_at_ns)} come and go, nobody enrols, and whom others revoke "
            "stays in until it is back"
        )

    def _refusal_problem(self) -> str:
        refusal = self._registry.owned.refusal
        if refusal is None or time.time_ns() - refusal.at_ns > REFUSAL_SHOWN_S * 1e9:
            return ""
        return (
            f"the registry refused a change at {moment(refusal.at_ns)}: {refusal.problem}; edges "
            "come and go, nobody enrols or is revoked as long as that is so"
        )

    async def begin(self) -> None:
        """Read the registry, or else what was known last; raises OwnedUnusable for neither."""
        try:
            await self.refresh()
            await self.save()
        except OwnedUnusable:
            known = await trio.to_thread.run_sync(load, self._folder)
            if known is None:
                raise
            self._read_at_ns = known.read_at_ns
            self._apply(known.changes)
            log.error("%s", self.problem)

    async def refresh(self) -> list[str]:
        """Take in what has changed; returns edges none of whose keys are good any more.

        Raises OwnedUnusable and StoreVersion; what was known stays as it is. Raises HubHeld when
        another hub has taken the database, while it was out of this one's reach.
        """
        async with self._turn:  # what was read first is applied first
            try:
                changes = await in_thread(self._read)
            except (OwnedUnusable, StoreVersion) as error:
                self._problem = str(error)
                raise
            if self._problem:
                log.warning("the registry is back: %s", self._registry.name)
                self._registry.owned.refusal = None
            self._problem, self._read_at_ns = "", time.time_ns()
            if changes is None:
                return []
            self._unsaved = changes
            return self._apply(changes)

    def _read(self) -> Changes | None:
        self._hold.take()
        return self._registry.changes()

    async def save(self) -> None:
        """Keep what is known for a start without the registry."""
        changes = self._unsaved
        if changes is None:
            return
        try:
            known = Known(self._read_at_ns, changes, self._registry.owned.identity)
            await trio.to_thread.run_sync(save, self._folder, known)
        except OSError as error:  # it is for another day, and tried again until then
            if (again := self._seldom.ask("file")) is not None:
                log.error("%s not written: %s; %d more before", FILE, error, again)
        else:
            if self._unsaved is changes:  # else there is something newer by now
                self._unsaved = None

    def _apply(self, changes: Changes) -> list[str]:
        self._tokens.set(changes.tokens)
        self._logins.set(changes.users)
        # Before their edges are let in.
        registered = {edge.name: edge.grant for edge in changes.edges}
        # An edge that was forgotten is told no more than before until its session has ended.
        self._grants = {name: grant for name, grant in (self._grants | registered).items() if grant}
        self._keyspaces.set_tenants(changes.tenants, changes.owners, self._grants)
        known, now = self._keys, changes.keys
        for public in known.keys() - now.keys():
            self._table.remove(public)
        for public in now.keys() - known.keys():
            self._table.add(public, now[public])
        self._keys = now
        self._presence.set_registered(changes.edges)
        self._table.set_guests(changes.guests)
        edges = set(now.values())
        return [known[public] for public in known.keys() - now.keys() if known[public] not in edges]

    async def watch(self, look: Callable[[], Awaitable[None]]) -> None:
        """Follow the registry until cancelled; a revoked edge's session ends (R9).

        look   refreshes, and carries out what follows
        """
        while True:
            await trio.sleep(POLL_S)
            try:
                await look()
            except (OwnedUnusable, StoreVersion) as error:
                if (again := self._seldom.ask("registry")) is not None:
                    log.error("registry not read: %s; %d more before", error, again)
            else:
                self._keyspaces.open_missing()
                await self.save()
