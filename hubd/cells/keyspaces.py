"""The keys of each tenant: a store of their own, made of what the tenant's edges sent.

They follow the log together (`feed.py`), each from a cursor of its own.

What an edge asks for, it is answered from its tenant's keys. A tenant that appears while the hub
runs gets its keys then; those of one that was removed are kept on disk and asked by nobody.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import trio

from edgesync.entities.keys import own_rooms
from edgesync.errors import StoreError
from edgesync_transport.link import Peer
from edgesync_transport.messages import Pull
from edgesync_transport.receiver import Receiver
from edgesync_transport.seldom import Seldom
from hubd.cells.answers import Answers, Send
from hubd.cells.feed import Feed, SharedFeed
from hubd.cells.proposals import tenant_of
from hubd.log.base import Log
from hubd.registry import DEFAULT_TENANT

log = logging.getLogger(__name__)

# Of the default tenant; those of the others lie beside it, in a folder for each.
CELLS, OTHERS = "cells", "tenants"


def cells_path(folder: Path, tenant: str) -> Path:
    """Return where the keys of a tenant are, in a hub's data folder."""
    return folder / CELLS if tenant == DEFAULT_TENANT else folder / OTHERS / tenant / CELLS


def stored_tenants(folder: Path) -> list[str]:
    """Return the tenants whose keys lie in a hub's data folder."""
    found = [DEFAULT_TENANT] if (folder / CELLS).is_dir() else []
    return found + sorted(path.parent.name for path in (folder / OTHERS).glob(f"*/{CELLS}"))


class Keyspaces:
    """See the module. In Trio's thread.

    open_answers   opens the keys of a tenant; `Answers.cells` is closed here
    """

    def __init__(self, hub_log: Log, open_answers: Callable[[str, Feed], Answers]) -> None:
        self._open_answers = open_answers
        self._feed = SharedFeed(hub_log, self.owner_of)
        self._owners: dict[str, str] = {}
        self._grants: dict[str, tuple[bytes, ...]] = {}
        self._open: dict[str, Answers] = {}
        self._live: set[str] = {DEFAULT_TENANT}
        self._nursery: trio.Nursery | None = None
        self._seldom = Seldom()
        self._add(DEFAULT_TENANT)

    def owner_of(self, edge: str) -> str:
        """Return whose an edge is; of one that no registry knows, it is the default tenant."""
        if (tenant := tenant_of(edge)) is not None:
            return tenant
        return self._owners.get(edge, DEFAULT_TENANT)

    def grant_of(self, edge: str) -> tuple[bytes, ...]:
        """Return prefixes of the keys an edge may be told of; none: all of its tenant's.

        Of its own entities it always may.
        """
        return self._grants.get(edge, ())

    def set_tenants(
        self,
        tenants: Iterable[str],
        owners: dict[str, str],
        grants: Mapping[str, tuple[bytes, ...]] | None = None,
    ) -> None:
        """Serve these, and no others; call it before edges are heard that are new to it."""
        self._owners = owners
        before, self._grants = self._grants, _with_entities(grants or {})
        for edge in before.keys() | self._grants.keys():
            answers = self.of(self.owner_of(edge))
            if answers is not None and before.get(edge) != self._grants.get(edge):
                answers.regrant(edge)
        self._live = {DEFAULT_TENANT, *tenants}
        self.open_missing()

    def open_missing(self) -> None:
        """Open the keys of tenants that could not be opened before, on a full disk say."""
        for tenant in sorted(self._live - self._open.keys()):
            try:
                answers = self._add(tenant)
            except (StoreError, OSError) as error:
                if (again := self._seldom.ask(tenant)) is not None:
                    log.error(
                        "the keys of tenant %s cannot be opened: %s; %d more before",
                        tenant, error, again,
                    )  # fmt: skip
                continue
            if self._nursery is not None:
                self._nursery.start_soon(answers.run)

    def _add(self, tenant: str) -> Answers:
        answers = self._open_answers(tenant, self._feed.join(tenant))
        self._open[tenant] = answers
        return answers

    @property
    def default(self) -> Answers:
        return self._open[DEFAULT_TENANT]

    def of(self, tenant: str) -> Answers | None:
        """Return the keys of a tenant; None when there is none of that name."""
        return self._open.get(tenant) if tenant in self._live else None

    async def cursors(self) -> dict[str, int]:
        """Return up to where the keys of each tenant have the log stored; see `Readers`."""
        await trio.lowlevel.checkpoint()
        return {
            f"keys of {tenant}": self._open[tenant].cells.stored_position
            if tenant in self._open
            else 0
            for tenant in sorted(self._live)
        }

    def press(self, position: int) -> None:
        """Have places in the log stored that are not, for nothing has changed with them."""
        for answers in self._open.values():
            if answers.cells.stored_position < position:
                answers.cells.save_position()

    def all(self) -> Iterator[tuple[str, Answers]]:
        yield from self._open.items()

    def ask(self, peer: Peer, pull: Pull, receiver: Receiver, send: Send) -> None:
        """Answer an edge's question from its tenant's keys."""
        answers = self.of(self.owner_of(peer.edge))
        if answers is not None:
            answers.ask(peer, pull, receiver, send)

    def forget(self, edge: str) -> None:
        """The edge may not come any more: nothing waits for it."""
        answers = self.of(self.owner_of(edge))
        if answers is not None:
            answers.forget(edge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Last until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for answers in list(self._open.values()):
                    await nursery.start(answers.run)
                # Those who are behind after a crash read for themselves first.
                start = max(answers.cells.position for answers in self._open.values())
                nursery.start_soon(self._feed.run, start)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def close(self) -> None:
        """Store what has changed, and close all of them."""
        with contextlib.ExitStack() as stack:
            for answers in self._open.values():
                stack.callback(answers.cells.close)


def _with_entities(grants: Mapping[str, tuple[bytes, ...]]) -> dict[str, tuple[bytes, ...]]:
    """Add to each grant that is not for everything what an edge's entities are in."""
    return {edge: (*grant, *own_rooms(edge)) if grant else () for edge, grant in grants.items()}
