"""The keys of a store: commands run at once, and what they changed is committed together.

A command sees all before it, committed or not; whoever is told of it is told after the commit that
stored it (I1).
"""

import math
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Protocol

import trio

from edgesync._native.commands import EvictedReply, Runner
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.hubkeys import HubKeys
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.cells import Argument, Reply, as_bytes
from edgesync.cells.commands import Call
from edgesync.errors import CommandError, StoreError
from edgesync.store.commit import Tails

# A commit waits for the operations of those who were answered together, not longer than this.
COMPANY_S_MAX: Final = 0.002
# Keys past their deadline that are removed in one go, between commands.
EXPIRED_A_TURN: Final = 256


class Disk(Protocol):
    """A store and the one writer it has."""

    @property
    def store(self) -> Store: ...
    async def submit(self, write: Write) -> Tails: ...
    def submit_sync(self, write: Write) -> Tails: ...


class CellStore(Runner):
    """The keys of an edge or of the hub. One thread at a time; `wait_durable` is for tasks.

    space        the keys, over `rows`
    writable     which of them commands may write (keyspace.is_in)
    value_max    bytes of one value
    wall_ns      deadlines and stamps; order never depends on it alone (clock.pyx)
    monotonic_ns how steps of it are noticed; without, they are taken for time that has passed
    on_evicted   is told of keys whose values somebody asked for, and only the hub has

    refusals     commits that were refused since the start: each has taken back what was not on disk
    """

    space: EdgeKeys | HubKeys

    def __init__(
        self,
        disk: Disk,
        rows: Overlay,
        space: EdgeKeys | HubKeys,
        *,
        value_max: int = 1 << 20,
        writable: Sequence[tuple[bytes, bool]] = (),
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None:
        call = Call(space, random, value_max=value_max, writable=writable)
        super().__init__(space, call, wall_ns, monotonic_ns)
        self._disk = disk
        self.rows = rows
        self.on_evicted: Callable[[Sequence[bytes]], object] = _nobody
        self.refusals = 0
        self._problem = ""  # of the last of them
        self._busy_since = 0.0
        self._overtaken = False
        self._due_at = math.inf  # for a commit although nothing has changed
        self._changed = trio.Event()
        self._listeners: list[Callable[[int, StoreError | None], None]] = []

    def note_changes(self) -> None:
        """Wake the task that commits, if there is something to be committed."""
        if self.rows.is_changed:
            self._changed.set()

    def ask(self, name: str, args: Sequence[Argument]) -> Reply:
        """Do as `run` does, for a program; raises CommandError for an error."""
        reply = self.run(request_of(name, args))
        if isinstance(reply, EvictedReply):
            self.on_evicted(reply.keys)
        return checked(reply)

    def on_commit(self, listener: Callable[[int, StoreError | None], None]) -> None:
        """Call `listener` with each generation on disk, or why it and all after it failed."""
        self._listeners.append(listener)

    def check_refusals(self, since: int) -> None:
        """Raise StoreError if changes were taken back since `refusals` was this."""
        if self.refusals != since:
            raise StoreError(f"what was changed is taken back: {self._problem}")

    async def wait_durable(self, since: int | None = None) -> None:
        """Return when everything changed so far is on disk; raises StoreError if it was refused.

        since   `refusals` before the changes, if something else was waited for in between
        """
        if since is not None:
            self.check_refusals(since)
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
        made, wanted, took_s = self.space.n, 0, 0.0
        while True:
            with trio.move_on_at(self._due_at):
                await self._changed.wait()
            has_come = True
            if every_s:
                await trio.sleep(every_s)
            elif wanted:
                has_come = await self._wait_for_company(wanted, took_s)
            self._changed, self.is_noted = trio.Event(), False
            if not (self.rows.is_changed or self._is_due()):
                continue
            count, made = self.space.n - made, self.space.n
            begun = trio.current_time()
            self._busy_since = time.monotonic()
            # Cut short here, nobody would know whether it is stored.
            with trio.CancelScope(shield=True):
                await self._commit_changes()
            self._busy_since = 0.0
            took_s = trio.current_time() - begun
            # Where they did not come in time, the next commit waits for nobody.
            wanted = self.space.n + count if has_come else 0

    def busy_s(self) -> float:
        """Return how long the commit under way has taken so far."""
        return time.monotonic() - self._busy_since if self._busy_since else 0.0

    def _is_due(self) -> bool:
        return trio.current_time() >= self._due_at

    async def _commit_changes(self) -> None:
        """Commit what has changed, and tell of it."""
        await self._submit(self.rows.freeze)

    async def _submit(self, layers: Callable[[], Write]) -> None:
        write = self._freeze(layers)
        tails: Tails | None = None
        problem: StoreError | None = None
        try:
            tails = await self._disk.submit(write)
        except StoreError as error:
            problem = error
        if self._is_overtaken():
            if tails is not None:
                self._stored_twice(tails)
        elif tails is not None:
            self._stored(tails)
        elif problem is not None:
            self._refused(problem)

    def _is_overtaken(self) -> bool:
        """True if `commit` has told already what became of the commit under way."""
        overtaken, self._overtaken = self._overtaken, False
        return overtaken

    async def _wait_for_company(self, wanted: int, took_s: float) -> bool:
        """Wait until operation `wanted` is made, no longer than a commit takes; was it in time?

        Those who were answered together come back together, one after the other. In the commit of
        the first of them, the others have to wait for the next.
        """
        if self.space.n >= wanted:
            return True
        self._changed, self.is_noted, self.wanted = trio.Event(), False, wanted
        with trio.move_on_after(min(COMPANY_S_MAX, took_s)):
            await self._changed.wait()
        self.wanted = 0
        return self.space.n >= wanted

    def commit(self) -> None:
        """Return when everything changed so far is on disk; raises StoreError if it was refused.

        A commit that is under way is made once more together with the rest: whatever becomes of it,
        what this one says is true.
        """
        if self.gate():
            self._commit_all()

    def _commit_all(self) -> None:
        self._overtaken |= self._busy_since != 0.0
        write = self._freeze(self.rows.freeze_all)
        try:
            tails = self._disk.submit_sync(write)
        except StoreError as error:
            self._refused(error)
            raise
        self._stored(tails)

    def _complete(self) -> None:
        """Add what is stored with each commit, whatever it is of."""
        self.space.save_counters()

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        self._complete()
        self.generation += 1
        return layers()

    def _stored(self, tails: Tails) -> None:
        self.rows.committed()
        self._announce(self.generation - 1, None)

    def _announce(self, generation: int, error: StoreError | None) -> None:
        for listener in list(self._listeners):
            listener(generation, error)

    def _stored_twice(self, tails: Tails) -> None:
        """A commit that another one has overtaken was stored as well."""

    def _refused(self, error: StoreError) -> None:
        """Undo what ran on top of a refused commit as well."""
        self.refusals += 1
        self._problem = str(error)
        self.rows.abandon()
        self.space.load_counters()
        self._announce(self.generation, error)

    def expire(self) -> int:
        """Remove keys past their deadline, some at a time; returns how many it looked at."""
        self.space.now_ms = self.now_ms()
        looked = self._expire_some()
        self.note_changes()
        return looked

    def _expire_some(self) -> int:
        raise NotImplementedError


def request_of(name: str, args: Sequence[Argument]) -> list[bytes]:
    """Return what a client would send."""
    return [name.encode(), *map(as_bytes, args)]


def checked(reply: Reply) -> Reply:
    """Return a reply to a program, which gets an error as CommandError."""
    if isinstance(reply, ReplyError):
        raise CommandError(str(reply))
    return reply


def _nobody(_told: object) -> None:
    pass
