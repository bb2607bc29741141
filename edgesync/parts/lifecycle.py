"""Opens, runs and closes the parts of one node."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import trio

from edgesync.parts import table
from edgesync.parts.part import Context, DoorPart, Life, Part
from edgesync.store.commit import hurry_threads

NOT_OPEN: Final = "the node is not open; use `async with` or `with`"
NEEDS: Final = {
    Life.RUNNING: "needs tasks: open the node with `async with`",
    Life.SERVING: "is a door: `async with node.serving()` opens it, as the daemon does",
}


class Parts:
    """The open parts of a node.

    life      how far the node is open
    nursery   of the node's tasks; None without
    """

    def __init__(self, context: Context) -> None:
        self.life = Life.CLOSED
        self.nursery: trio.Nursery | None = None
        self._context = context
        self._open: dict[str, tuple[Life, Part]] = {}  # in the order of opening
        context.parts = self

    def get(self, name: str) -> Any:
        """Return a part, opened now if it is not open yet.

        Raises LookupError for a part that is not in the table, RuntimeError when the node is closed
        or has not the life that the part needs.
        """
        entry = self._open.get(name)
        return self._open_part(table.row(name)) if entry is None else entry[1]

    def find(self, name: str) -> Any:
        """Return a part if it is open, else None."""
        entry = self._open.get(name)
        return None if entry is None else entry[1]

    def status(self) -> dict[str, Any]:
        """Return what the open parts say of themselves: fields of `Status`."""
        if self.life is Life.CLOSED:
            raise RuntimeError(NOT_OPEN)
        fields: dict[str, Any] = {}
        for _, part in self._open.values():
            fields |= part.status()
        doors = (part for _, part in self._open.values() if isinstance(part, DoorPart))
        return fields | {"closed_doors": tuple(door.problem for door in doors if door.problem)}

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task of the node; without a nursery, as in a plain program, nothing happens."""
        if self.nursery is not None:
            self.nursery.start_soon(task, *args)

    def open(self, life: Life) -> None:
        """Open the parts that the settings want in this life; if one fails, close them again."""
        if self.life >= life:
            raise RuntimeError("the node is open already")
        self.life = life
        try:
            for row in table.PARTS:
                is_due = row.life is life and row.is_wanted(self._context.settings)
                if is_due and row.name not in self._open:
                    self._open_part(row)
        except BaseException:
            self.close(life)
            raise

    def close(self, life: Life) -> None:
        """Close the parts of this life, the last one first, each whatever another raises."""
        closing = {name: part for name, (its, part) in self._open.items() if its is life}
        try:
            with contextlib.ExitStack() as stack:
                for part in closing.values():
                    stack.callback(part.close)
        finally:
            self.life = Life(life - 1)
            for name in closing:
                del self._open[name]

    async def aclose(self, life: Life) -> None:
        """Do as `close` does, in a worker thread: it may wait for the disk."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.close, life)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the node with its tasks, and close all of it at the end."""
        self.open(Life.LOCAL)
        hurry_threads()
        try:
            await self._context.recorder.announce()
            async with self.living(Life.RUNNING):
                yield
        finally:
            await self.aclose(Life.LOCAL)

    @contextlib.asynccontextmanager
    async def living(self, life: Life) -> AsyncIterator[None]:
        """Open the parts of this life and run them; cancel and close them at the end."""
        self.open(life)
        try:
            async with trio.open_nursery() as nursery:
                if life is Life.RUNNING:
                    self.nursery = nursery
                # Parts of a plain program have no tasks before; `get` starts those that come later.
                began = Life.LOCAL if life is Life.RUNNING else life
                for part in [part for its, part in self._open.values() if its >= began]:
                    await nursery.start(part.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            if life is Life.RUNNING:
                self.nursery = None
            await self.aclose(life)

    def _open_part(self, row: table.PartRow) -> Part:
        if self.life is Life.CLOSED:
            raise RuntimeError(NOT_OPEN)
        if row.life > self.life:
            raise RuntimeError(f"part {row.name!r} {NEEDS[row.life]}")
        part: Part = table.load(row.factory)(self._context)
        part.open()
        self._open[row.name] = (row.life, part)
        # Of doors, only those that the settings want are run: by `living`.
        if self.nursery is not None and row.life <= Life.RUNNING:
            self.nursery.start_soon(part.run)
        return part
