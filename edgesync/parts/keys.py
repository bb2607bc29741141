"""The keys of a node: the local-first store of cells, and what keeps it the same as the hub's.

Opened on first use: it takes some 2 MB.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from edgesync.cells import Argument, Reply
from edgesync.cells.guard import Guard
from edgesync.entities.keys import ROOT, scoped
from edgesync.parts.part import Context, Life, Part
from edgesync.status import KeysStatus
from edgesync.store.edgecells import EdgeCells, told_since
from edgesync.watch import KeyWatch

if TYPE_CHECKING:
    from edgesync.parts.link import LinkPart
    from edgesync.parts.resources import ResourcesPart
    from edgesync.sync.cells import CellSync
    from edgesync.sync.driver import SyncDriver


class KeysPart(Part):
    """See the module.

    sync   None without a hub
    """

    cells: EdgeCells

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sync: CellSync | None = None
        self._watches: list[KeyWatch] = []
        self._has_run = False

    def open(self) -> None:
        context, wanted = self.context, self.context.settings.cells
        store = context.recorder.store
        self.cells = EdgeCells(
            store,
            told=told_since(store),
            scope=scoped(context.settings.edge.name, wanted.scope()),
            writable=wanted.writable(),
            strategies=wanted.strategies(),
            may_pack=wanted.may_pack,
            value_max=wanted.value_max,
            script_cpu_s=wanted.script_cpu,
            flush=wanted.flush,
            evicts=wanted.eviction == "lru",
            random=context.random,
            wall_ns=context.wall_ns,
            monotonic_ns=context.monotonic_ns,
        )
        self.cells.call.guard = Guard(
            self.cells.rows, self.cells.space, wanted.limits(), self.cells.make_room
        )
        if context.parts.life >= Life.RUNNING:
            context.parts.get("resources")
        link: LinkPart | None = context.parts.find("link")
        if link is not None and link.driver is not None:
            self.attach(link.driver)

    def attach(self, driver: "SyncDriver") -> None:
        """Keep keys and hub the same over the link of this driver."""
        if self.sync is not None:
            return
        from edgesync.sync.cells import FIRST_CHECK_S, CellSync

        context = self.context
        self.sync = CellSync(
            self.cells, driver, interval_s=self.interval_s, wall_ns=context.wall_ns,
            first_check_s=context.random.uniform(0, FIRST_CHECK_S),
        )  # fmt: skip
        context.parts.start_soon(self.sync.run)

    def interval_s(self) -> float:
        """Return the seconds between two rounds, as settings and resources have it now."""
        wanted = float(self.context.settings.sync.interval)
        resources: ResourcesPart | None = self.context.parts.find("resources")
        return wanted if resources is None else resources.monitor.interval_s(wanted)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        self._has_run = True
        task_status.started()
        try:
            await self.cells.keep_committing(self.context.settings.cells.commit_every_s())
        finally:
            self._end_watches()

    def status(self) -> Mapping[str, Any]:
        grant = self.cells.cursor.grant
        # Of its own entities an edge is always told.
        said = [prefix for prefix in grant if not prefix.startswith(ROOT)]
        found: dict[str, Any] = {
            "granted": tuple(prefix.decode(errors="replace") for prefix in said)
        }
        if (sync := self.sync) is not None:
            found["keys"] = KeysStatus(
                state=sync.state(), keys=self.cells.space.keys, pending=self.cells.space.pending,
                share=sync.share(), received=sync.keys, checks=sync.checks,
                refetches=sync.refetches, synced_ns=sync.last_round_ns, problem=sync.last_problem,
            )  # fmt: skip
        return found

    def close(self) -> None:
        self._end_watches()
        try:
            if not self._has_run or self.context.recorder.store.commit.broken is None:
                # The link is closed, and could not be called from this thread.
                self.cells.on_told = lambda tails: None
                self.cells.settle()
        finally:
            self.cells.close()

    # -- what programs ask -----------------------------------------------------------------------

    def command(self, name: str, args: Sequence[Argument]) -> Reply:
        """Carry out a command and commit; see `EdgeNode.command`."""
        reply = self.cells.ask(name, args)
        self.cells.commit()
        return reply

    async def execute(self, name: str, args: Sequence[Argument]) -> Reply:
        """Carry out a command and wait for its commit; see `EdgeNode.execute`."""
        if self.sync is None:
            reply = self.cells.ask(name, args)
        else:
            reply = await self.sync.ask(name, args)
        await self.cells.wait_durable()
        return reply

    def watch(self, prefix: bytes, limit: int) -> KeyWatch:
        """Return the changes from here on of keys with a prefix."""
        watch = KeyWatch(self.cells.changes, prefix, limit)
        self._watches.append(watch)
        return watch

    def _end_watches(self) -> None:
        while self._watches:
            self._watches.pop().close()
