"""What a projector is, and the task that drives one along the log."""

import enum
import logging
from collections.abc import Sequence
from typing import Final, Protocol

import sqlalchemy as sa
import trio
from sqlalchemy.dialects.sqlite import insert

from hubd.log.base import Entry
from hubd.state import State, tables

log = logging.getLogger(__name__)

# One read is one transaction: large enough that a commit's cost disappears, small enough that
# its points (about 2 bytes each in a batch, 16 in memory) stay below some 20 MB.
READ_BYTES: Final = 1 << 20
RETRY_DELAYS_S: Final = (0.1, 0.5, 1.0, 5.0)
ERROR_CHARS: Final = 500


class Projector(Protocol):
    """Keeps one view of the log. `apply` runs in a worker thread, inside a transaction."""

    name: str

    def apply(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        """Bring the view up to the last of `entries`; raising undoes all of it.

        Raises RecordError, LookupError, TypeError... for an entry it cannot use, and lets the
        database's own errors through.
        """
        ...

    def committed(self) -> None:
        """What `apply` did is durable: pass it on to whoever watches."""
        ...

    def undone(self) -> None:
        """What `apply` did was undone: forget what was remembered of it."""
        ...


class Health(enum.Enum):
    FOLLOWING = "following"
    FAILING = "failing"  # the database refuses: tried again, nothing is skipped


class Progress:
    """How far a projector has come; `error` is the newest one, also after it is over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = 0
        self.skipped = 0
        self.health = Health.FOLLOWING
        self.error = ""
        self._changed = trio.Event()

    def note(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def reach(self, position: int) -> None:
        """Return once everything up to `position` is projected."""
        while self.position < position:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def until(self, health: Health) -> None:
        while self.health is not health:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()


class Source(Protocol):
    """The reading half of a Log."""

    @property
    def head(self) -> int: ...
    async def read(self, after: int, *, limit_bytes: int = ...) -> Sequence[Entry]: ...
    async def wait_beyond(self, position: int) -> None: ...


async def follow(projector: Projector, source: Source, state: State, progress: Progress) -> None:
    """Drive `projector` along the log until cancelled."""
    progress.skipped = await state.read(lambda c: _count_skipped(c, projector.name))
    progress.position = await state.read(lambda c: read_cursor(c, projector.name))
    progress.note()
    failures = 0
    while True:
        await source.wait_beyond(progress.position)
        entries = await source.read(progress.position, limit_bytes=READ_BYTES)
        if not entries:
            await trio.lowlevel.checkpoint()
            continue
        try:
            await advance(projector, entries, state, progress)
            failures = 0
            progress.health = Health.FOLLOWING
            progress.note()
        except sa.exc.OperationalError as error:
            # Disk full, locked, read-only: passes, and no entry is to blame for it.
            if progress.health is not Health.FAILING:
                log.error("projector %s waits at %d: %s", projector.name, progress.position, error)
            progress.health = Health.FAILING
            progress.error = str(error.orig)[:ERROR_CHARS]
            progress.note()
            await trio.sleep(RETRY_DELAYS_S[min(failures, len(RETRY_DELAYS_S) - 1)])
            failures += 1


async def advance(
    projector: Projector, entries: Sequence[Entry], state: State, progress: Progress
) -> None:
    """Project `entries` in one transaction; if one of them is bad, one by one without it."""
    try:
        await _commit(projector, entries, state)
    except sa.exc.OperationalError:
        raise
    except Exception as error:  # A bad entry may be bad in any way: I8.
        if len(entries) > 1:
            for entry in entries:
                await advance(projector, [entry], state, progress)
            return
        await _skip(projector, entries[0], error, state, progress)
    progress.position = entries[-1].position
    progress.note()


async def _commit(projector: Projector, entries: Sequence[Entry], state: State) -> None:
    def change(connection: sa.Connection) -> None:
        projector.apply(connection, entries)
        move_cursor(connection, projector.name, entries[-1].position)  # I9

    try:
        await state.write(change)
    except BaseException:
        projector.undone()
        raise
    projector.committed()


async def _skip(
    projector: Projector, entry: Entry, error: Exception, state: State, progress: Progress
) -> None:
    text = f"{type(error).__name__}: {error}"[:ERROR_CHARS]

    def change(connection: sa.Connection) -> None:
        connection.execute(
            tables.projector_skip.insert().values(
                name=projector.name, position=entry.position, edge=entry.edge, error=text,
                lane=int(entry.lane), first=tables.signed(entry.first),
                last=tables.signed(entry.last),
            )
        )  # fmt: skip
        move_cursor(connection, projector.name, entry.position)

    await state.write(change)
    progress.skipped += 1
    progress.error = text
    log.error(
        "projector %s skipped entry %d (%s lane %d, %d..%d): %s",
        projector.name, entry.position, entry.edge, entry.lane, entry.first, entry.last, text,
    )  # fmt: skip


def read_cursor(connection: sa.Connection, name: str) -> int:
    table = tables.projector_cursor
    return connection.scalar(sa.select(table.c.position).where(table.c.name == name)) or 0


def move_cursor(connection: sa.Connection, name: str, position: int) -> None:
    """Set the cursor; it never goes back, whoever else may be writing."""
    table = tables.projector_cursor
    before = read_cursor(connection, name)
    assert position > before, f"{name}: cursor {before} cannot go to {position}"
    statement = insert(table).values(name=name, position=position)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.name], set_={"position": statement.excluded.position}
        )
    )


def _count_skipped(connection: sa.Connection, name: str) -> int:
    table = tables.projector_skip
    question = sa.select(sa.func.count()).select_from(table).where(table.c.name == name)
    return connection.scalar(question) or 0
