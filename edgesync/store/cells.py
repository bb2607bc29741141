"""The cells of an edge's store: commands run at once, and what they changed is committed together.

A command sees all before it, committed or not; whoever is told of it is told after the commit that
stored it (I1). Commits of cells and of readings share the store's one writer and its syncs.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

import trio

from edgesync._native.edgekeys import UNNAMED_FROM, EdgeKeys
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync._native.write import Write
from edgesync.cells import DATABASE, Argument, Reply, as_bytes
from edgesync.cells.commands import Call, carry_out
from edgesync.errors import CommandError, StoreError
from edgesync.store.journal import EdgeStore

# Keys past their deadline that are removed in one go, between commands.
EXPIRED_A_TURN: Final = 256


class CellStore:
    """The keys of an edge. One thread at a time; `wait_durable` is for tasks.

    value_max    bytes of one value
    wall_ns      deadlines and stamps; order never depends on it alone (clock.pyx)

    generation   number of the commit that will store what the next command changes
    """

    def __init__(
        self,
        store: EdgeStore,
        *,
        strategies: Iterable[tuple[bytes, int]] = (),
        may_pack: bool = True,
        value_max: int = 1 << 20,
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._wall_ns = wall_ns
        self.rows = Overlay(store.store, DATABASE)
        self.space = EdgeKeys(self.rows, strategies=strategies, may_pack=may_pack)
        if self.space.n == 0 and self.space.r == UNNAMED_FROM:
            self.space.call_yourself(random.randrange(UNNAMED_FROM + 1, UNNAMED_FROM * 2))
        self.call = Call(self.space, random, value_max=value_max)
        self.generation = 1
        self.commands = 0
        self._overtaken = False
        self._changed = trio.Event()
        self._listeners: list[Callable[[int, StoreError | None], None]] = []

    def run(self, request: Sequence[bytes]) -> Reply:
        """Carry out a command; its reply may be given away when `gate` says so."""
        self.space.now_ms = self._wall_ns() // 1_000_000
        self.commands += 1
        reply = carry_out(self.call, request)
        if self.rows.is_changed:
            self._changed.set()
        return reply

    def ask(self, name: str, args: Sequence[Argument]) -> Reply:
        """Do as `run` does, for a program; raises CommandError for an error."""
        reply = self.run([name.encode(), *map(as_bytes, args)])
        if isinstance(reply, ReplyError):
            raise CommandError(str(reply))
        return reply

    def gate(self) -> int:
        """Return the generation whose commit a reply given now has to wait for; 0 for none."""
        if self.rows.is_changed:
            return self.generation
        return self.generation - 1 if self.rows.is_committing else 0

    def on_commit(self, listener: Callable[[int, StoreError | None], None]) -> None:
        """Call `listener` with each generation on disk, or why it and all after it failed."""
        self._listeners.append(listener)

    async def wait_durable(self) -> None:
        """Return when everything changed so far is on disk; raises StoreError if it was refused."""
        gate = self.gate()
        if not gate:
            return
        done = trio.Event()
        failed: list[StoreError] = []

        def note(generation: int, error: StoreError | None) -> None:
            if error is not None:
                failed.append(error)
            if error is not None or generation >= gate:
                done.set()

        self.on_commit(note)
        try:
            await done.wait()
        finally:
            self._listeners.remove(note)
        if failed:
            raise failed[0]

    async def keep_committing(self, every_s: float = 0.0) -> None:
        """Commit what changes, as soon as the commit before is done, or every so often."""
        while True:
            await self._changed.wait()
            if every_s:
                await trio.sleep(every_s)
            self._changed = trio.Event()
            if not self.rows.is_changed:
                continue
            write = self._freeze(self.rows.freeze)
            problem: StoreError | None = None
            try:
                # Cut short here, nobody would know whether it is stored.
                with trio.CancelScope(shield=True):
                    await self._store.submit(write)
            except StoreError as error:
                problem = error
            if self._overtaken:
                self._overtaken = False  # `commit` has told already what became of it
            elif problem is None:
                self._stored()
            else:
                self._refused(problem)

    def commit(self) -> None:
        """Return when everything changed so far is on disk; raises StoreError if it was refused.

        A commit that is under way is made once more together with the rest: whatever becomes of it,
        what this one says is true.
        """
        if not self.gate():
            return
        self._overtaken |= self.rows.is_committing
        write = self._freeze(self.rows.freeze_all)
        try:
            self._store.submit_sync(write)
        except StoreError as error:
            self._refused(error)
            raise
        self._stored()

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        self.space.save_counters()
        self.generation += 1
        return layers()

    def _stored(self) -> None:
        self.rows.committed()
        for listener in list(self._listeners):
            listener(self.generation - 1, None)

    def _refused(self, error: StoreError) -> None:
        """What ran on top of a refused commit has not happened either."""
        self.rows.abandon()
        self.space.load_counters()
        for listener in list(self._listeners):
            listener(self.generation, error)

    def expire(self) -> int:
        """Remove keys past their deadline, some at a time; returns how many it looked at."""
        self.space.now_ms = self._wall_ns() // 1_000_000
        looked = self.space.reclaim(EXPIRED_A_TURN)
        if self.rows.is_changed:
            self._changed.set()
        return looked
