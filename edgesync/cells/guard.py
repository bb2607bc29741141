"""What stands between clients and a store of keys that may not grow.

Redis refuses with its class `OOM`; clients know it. Only what clients write is refused: what the
hub delivers, and what removes, goes on, or nothing could ever get better.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.presets import Limits

if TYPE_CHECKING:
    from edgesync._native.edgekeys import EdgeKeys
    from edgesync._native.hubkeys import HubKeys
    from edgesync._native.overlay import Overlay

COUNTERS: Final = b"a"


def _no_room(_nbytes: int) -> int:
    return 0


class Guard:
    """Carries out commands that may add something, or refuses them whole.

    make_room   frees about so many bytes of data, or as many as it can; returns how many
    refusal     says why nothing may be added at present; None while it may
    """

    def __init__(
        self,
        rows: "Overlay",
        space: "EdgeKeys",
        limits: Limits | None = None,
        make_room: Callable[[int], int] = _no_room,
    ) -> None:
        self._rows, self._space, self.limits = rows, space, limits
        self._make_room = make_room
        self.refusal: Callable[[], str] | None = None

    def refused(self) -> ReplyError | None:
        return None if self.refusal is None else ReplyError(f"OOM {self.refusal()}")

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Let the block add what may not be added at present; limits hold."""
        refusal, self.refusal = self.refusal, None
        try:
            yield
        finally:
            self.refusal = refusal

    def carry_out(self, run: Callable[[], Reply]) -> Reply:
        """Run a command, unless it may not be; one that goes beyond a limit has not happened.

        How much a command adds is known when it has run (`SETRANGE`, `COPY`, compression), so it
        is counted then, and taken back.
        """
        if self.refusal is not None:
            return self.refused()
        if self.limits is None:
            return run()
        reply, lacking = self._try(run, self.limits)
        if lacking and self._make_room(lacking) >= lacking:
            reply, _ = self._try(run, self.limits)
        return reply

    def _try(self, run: Callable[[], Reply], limits: Limits) -> tuple[Reply, int]:
        """Run a command; its reply, and how many bytes less of data would let it be."""
        space = self._space
        keys, data = space.keys, space.data
        savepoint = Savepoint(self._rows, space)
        reply = run()
        problem = limits.exceeded((keys, space.keys), (data, space.data))
        if not problem:
            savepoint.keep()
            return reply, 0
        lacking = space.data - limits.data
        if limits.exceeded((keys, space.keys), (0, 0)):
            lacking = 0  # room for keys is made by nobody
        savepoint.undo()
        return ReplyError(f"OOM {problem}"), lacking


class Savepoint:
    """What a keyspace is now, to come back to; they may be nested. End it by `keep` or `undo`."""

    def __init__(self, rows: "Overlay", space: "EdgeKeys | HubKeys") -> None:
        self._rows, self._space = rows, space
        self._counters = self._counters_now()
        rows.mark()

    def keep(self) -> None:
        """Let what has changed since stay."""
        self._rows.keep()

    def undo(self) -> None:
        """Take back what has changed since."""
        rows = self._rows
        rows.undo()
        rows.mark()
        rows.put(COUNTERS, self._counters)
        self._space.load_counters()
        rows.undo()

    def _counters_now(self) -> bytes:
        """Return the counters' row as it would be now, and leave no trace of that."""
        self._rows.mark()
        self._space.save_counters()
        counters = self._rows.get(COUNTERS)
        self._rows.undo()
        assert counters is not None
        return counters
