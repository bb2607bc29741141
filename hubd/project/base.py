"""What a projector is, and the task that drives one along the log.

A transaction takes parts of entries up to `feed.WORK_MAX`, with the cursor behind the last of them,
inside an entry if need be (I7, I9).
"""

import enum
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

import sqlalchemy as sa
import trio

from hubd.db.dialect import insert
from hubd.db.faults import is_passing
from hubd.log.base import Entry
from hubd.project import scratch
from hubd.project.feed import BadEntry, Cursor, Feed, Part, Parted
from hubd.project.gaps import Gap, note_gap
from hubd.state import State, StateAway, StateReplaced, tables
from hubd.state.fresh import Fresh, FreshLost

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 20
LIGHT_ENTRIES: Final = 16
RETRY_DELAYS_S: Final = (0.1, 0.5, 1.0, 5.0)
ERROR_CHARS: Final = 500


class Projector(Parted, Protocol):
    """Keeps one view of the log. What takes a connection runs in a worker thread."""

    name: str

    def begin(self, connection: sa.Connection) -> Cursor:
        """Return from where the log is to be read, in a new life of the state or of the hub."""
        ...

    def takes_light(self, entry: Entry, fresh: Fresh) -> bool:
        """Bring the view past a small entry that makes no row, in Trio's thread.

        False, and nothing is done, for any other, or one that cannot be decoded, which may raise
        anything: it goes by `parts` and `apply`.
        """
        ...

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        """Bring the view up to the last of `parts`, which stay as they are; raising undoes it."""
        ...

    def move(self, connection: sa.Connection, cursor: Cursor) -> None:
        """Go to `cursor`, in the transaction that has brought the view there (I9)."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be applied before something is stored."""
        ...

    def press(self, position: int) -> None:
        """Let what is in memory up to `position` be due, for the log is to drop it."""
        ...

    def wait_s(self) -> float:
        """Return after what time `is_due` of an idle log has to be asked."""
        ...

    def is_due(self, *, is_idle: bool) -> bool:
        """Return whether some of the view that is in memory has to be stored."""
        ...

    def store(self, connection: sa.Connection, *, is_idle: bool) -> None:
        """Store it, or a part of it."""
        ...

    def committed(self) -> None:
        """Pass on to whoever watches what `apply` did: it is durable."""
        ...

    def undone(self) -> None:
        """Forget what was remembered of `apply`: it was undone."""
        ...

    def blank(self) -> "Projector":
        """Return a projector of this kind that remembers nothing."""
        ...


class Health(enum.Enum):
    FOLLOWING = "following"
    FAILING = "failing"  # the database refuses: tried again, nothing is skipped


class Progress:
    """How far a projector has come; `error` is the newest one, also after it is over.

    lost_at       position before the entry that memory had no room for: failing until it is passed
    newest_skip   why the newest entry was skipped, since the start
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = 0
        self.lost_at = -1
        self.skipped = 0
        self.health = Health.FOLLOWING
        self.error = ""
        self.newest_skip = ""
        self._changed = trio.Event()
        self.idling = trio.CancelScope()  # of a projector that waits for the log to go on

    def note(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = trio.Event()

    def fail(self, error: str) -> None:
        self.health, self.error = Health.FAILING, error[:ERROR_CHARS]
        self.note()

    def press(self) -> None:
        """Have an idle projector look at what is due."""
        self.idling.cancel()

    async def reach(self, position: int) -> None:
        """Return once everything up to `position` is projected."""
        while self.position < position:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def changed(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    async def until(self, health: Health) -> None:
        while self.health is not health:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()


class Source(Protocol):
    """The reading half of a Log."""

    @property
    def head(self) -> int: ...
    @property
    def oldest(self) -> int: ...
    async def read(self, after: int, *, limit_bytes: int = ...) -> Sequence[Entry]: ...
    async def wait_beyond(self, position: int) -> None: ...


async def follow(projector: Projector, source: Source, state: State, progress: Progress) -> None:
    """Drive `projector` along the log until cancelled; from its start when the state is new."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_press_when_replaced, state, progress)
        blamed: set[int] = set()
        losses = 0
        while True:
            try:
                await _Follower(projector, source, state, progress, blamed).run()
            except StateReplaced:
                projector.undone()
                progress.position, progress.lost_at = 0, -1
                progress.note()
            except FreshLost as error:
                projector.undone()
                losses = losses + 1 if progress.position <= progress.lost_at else 0
                progress.lost_at = progress.position
                if progress.health is not Health.FAILING:
                    log.error("projector %s begins again: %s", projector.name, error)
                progress.fail(f"begins again: {error}")
                await trio.sleep(RETRY_DELAYS_S[min(losses, len(RETRY_DELAYS_S) - 1)])


async def _press_when_replaced(state: State, progress: Progress) -> None:
    while True:
        await state.replaced(state.life)
        progress.press()


class _Follower:
    """Follows the log into one life of the state.

    blamed   entries that failed where an empty state took them; of a second failure they are guilty
    _is_refused   what is due to be stored is not, for the database refuses
    """

    def __init__(
        self,
        projector: Projector,
        source: Source,
        state: State,
        progress: Progress,
        blamed: set[int],
    ) -> None:
        self._projector = projector
        self._source = source
        self._state = state
        self._progress = progress
        self._blamed = blamed
        self._life = state.life
        self._failures = 0
        self._is_refused = False

    async def run(self) -> None:
        """Last until cancelled, or StateReplaced."""
        progress = self._progress
        cursor, progress.skipped = await self._begin()
        await self._note_gap(cursor)
        progress.position = cursor.position
        self._note_success()
        progress.note()
        while True:
            await self._store_while_idle(cursor.position)
            head = self._source.head
            entries = await self._source.read(cursor.position, limit_bytes=READ_BYTES)
            if not entries:  # what is there is damaged, and was reported
                await self._wait_beyond(head)
                continue
            light = self._take_light(entries, cursor)
            if light:
                cursor = Cursor(entries[light - 1].position)
                await self._advance(cursor)
            feed = Feed(self._projector, entries[light:], cursor)
            while not feed.is_empty or feed.taken:
                cursor = await self._step(feed) or cursor
                await self._advance(cursor)

    async def _advance(self, cursor: Cursor) -> None:
        """Tell how far the log is projected, and store what is due by then."""
        self._progress.position = cursor.position
        self._progress.note()
        await self._store(is_idle=False)

    async def _begin(self) -> tuple[Cursor, int]:
        """Return from where the log is to be read, and how many entries were skipped before."""
        projector = self._projector
        while True:
            try:
                return await self._state.write(
                    lambda c: (projector.begin(c), _count_skipped(c, projector.name)),
                    life=self._life,
                )
            except Exception as error:
                await self._wait_out(error)

    async def _store_while_idle(self, position: int) -> None:
        """Return once the log goes on; meanwhile, what is due is stored."""
        while self._source.head <= position:
            with trio.move_on_after(self._projector.wait_s()):
                await self._wait_beyond(position)
            if self._source.head <= position:
                await self._store(is_idle=True)
        if self._state.life != self._life:
            raise StateReplaced

    async def _note_gap(self, cursor: Cursor) -> None:
        """Keep which entries this view never gets: the log has dropped them."""
        source, name = self._source, self._projector.name
        if cursor.position + 1 >= source.oldest:
            return
        first = (await source.read(cursor.position, limit_bytes=1))[0]
        gap = Gap(
            projector=name, after=cursor.position, until=source.oldest - 1,
            before_ns=first.stored_at_ns, found_ns=time.time_ns(),
        )  # fmt: skip
        log.error(
            "projector %s lacks entries %d to %d: the log has dropped them",
            name, gap.after + 1, gap.until,
        )  # fmt: skip
        while True:
            try:
                return await self._state.write(lambda c: note_gap(c, gap), life=self._life)
            except Exception as error:
                await self._wait_out(error)

    async def _store(self, *, is_idle: bool) -> None:
        while self._projector.is_due(is_idle=is_idle):
            try:
                await self._state.write(
                    lambda c: self._projector.store(c, is_idle=is_idle), life=self._life
                )
            except Exception as error:
                if not _passes(error):
                    # No entry is to blame: all of it was taken once.
                    await self._wait_out(self._state.report_damage(error))
                self._is_refused = True
                await self._wait_out(error)
                if not self._projector.is_full:
                    return  # the log is read on; what could not be stored stays due
            else:
                self._is_refused = False
                self._note_success()
                if not is_idle and not self._projector.is_full:
                    return  # what the log has comes first: others wait to be shown

    def _note_success(self) -> None:
        if not self._is_refused and self._progress.position > self._progress.lost_at:
            self._failures = 0
            self._progress.health = Health.FOLLOWING
            self._progress.note()

    async def _wait_beyond(self, position: int) -> None:
        """Return once the log goes on, or when pressed; raises StateReplaced, also meanwhile."""
        with trio.CancelScope() as self._progress.idling:
            if self._state.life == self._life:
                await self._source.wait_beyond(position)
        if self._state.life != self._life:
            raise StateReplaced

    def _take_light(self, entries: Sequence[Entry], cursor: Cursor) -> int:
        """Go on behind the first entries that make no row; returns how many. See `Projector`.

        A transaction, and the thread that it takes, cost many times as much. What has piled up goes
        by transactions: together it costs less, and Trio's thread has other work.
        """
        is_simple = not cursor.part_of and self._progress.health is Health.FOLLOWING
        if len(entries) > LIGHT_ENTRIES or not is_simple or self._state.life != self._life:
            return 0
        taken = 0
        for entry in entries:
            try:
                if not self._projector.takes_light(entry, self._state.fresh):
                    break
            except FreshLost:
                raise
            except Exception:  # A bad entry may be bad in any way: I8. `parts` says in which.
                break
            taken += 1
        return taken

    async def _step(self, feed: Feed) -> Cursor | None:
        """Project what `feed` gives, in one transaction; None when it has to be tried again."""
        try:
            cursor = await self._commit(feed)
        except BadEntry as error:
            return await self._skip(feed, error.reason)
        except FreshLost:
            raise
        except Exception as error:
            if _passes(error) or self._state.is_damage(error):
                await self._wait_out(error)
            elif feed.taken[0].entry is not feed.taken[-1].entry:
                feed.take_alone()
            elif await self._is_guilty(feed):
                return await self._skip(feed, error)
            else:
                await self._wait_out(self._state.report_damage(error))
            return None
        self._progress.position = cursor.position
        self._note_success()
        return cursor

    async def _commit(self, feed: Feed) -> Cursor:
        def change(connection: sa.Connection) -> None:
            self._projector.apply(connection, feed.take())
            self._projector.move(connection, feed.after())  # I9

        try:
            await self._state.write(change, life=self._life)
        except BaseException:
            self._projector.undone()
            raise
        self._projector.committed()
        return feed.done()

    async def _wait_out(self, error: Exception) -> None:
        """Wait until the database may have become better; raises StateReplaced when it is new.

        Disk full, locked, read-only, away, no memory: passes, and no entry is to blame for it.
        """
        if self._state.is_damage(error):
            problem = str(getattr(error, "orig", None) or error)
            self._progress.fail(f"{problem}; the state is made again from the log")
            await self._state.replaced(self._life)
        if isinstance(error, StateReplaced) or self._state.life != self._life:
            raise StateReplaced
        if not _passes(error):
            raise error
        name, position = self._projector.name, self._progress.position
        problem = str(getattr(error, "orig", None) or error).strip() or "no memory"
        if self._progress.health is not Health.FAILING:
            log.error("projector %s waits at %d: %s", name, position, problem)
        self._progress.fail(problem)
        await trio.sleep(RETRY_DELAYS_S[min(self._failures, len(RETRY_DELAYS_S) - 1)])
        self._failures += 1

    async def _is_guilty(self, feed: Feed) -> bool:
        """Whether the entry fails by itself: into an empty state, or again after a new beginning.

        What an empty state takes failed because of what this one holds: its pages are rotten.
        """
        position, parts = feed.entry.position, feed.taken
        if position in self._blamed:
            return True
        self._blamed.add(position)
        return not await trio.to_thread.run_sync(scratch.takes, self._projector.blank(), parts)

    async def _skip(self, feed: Feed, error: BaseException) -> Cursor | None:
        entry, name = feed.entry, self._projector.name
        text = f"{type(error).__name__}: {error}"[:ERROR_CHARS]

        def change(connection: sa.Connection) -> int:
            statement = insert(tables.projector_skip).values(
                name=name, position=entry.position, edge=entry.edge, error=text,
                lane=int(entry.lane), first=tables.signed(entry.first),
                last=tables.signed(entry.last),
            )  # fmt: skip
            self._projector.move(connection, Cursor(entry.position))
            # What is read again after a restart may have been skipped before.
            options = {"preserve_rowcount": True}
            once = statement.on_conflict_do_nothing()
            return connection.execute(once, execution_options=options).rowcount

        try:
            self._progress.skipped += await self._state.write(change, life=self._life)
        except Exception as refusal:
            await self._wait_out(refusal)
            return None
        self._progress.error = self._progress.newest_skip = text
        log.error(
            "projector %s skipped entry %d (%s lane %d, %d..%d): %s",
            name, entry.position, entry.edge, entry.lane, entry.first, entry.last, text,
        )  # fmt: skip
        return feed.skip()


def _passes(error: Exception) -> bool:
    """Return whether the database may take tomorrow what it refuses now."""
    return isinstance(error, StateAway | StateReplaced) or is_passing(error)


def apply_entries(
    projector: Projector, connection: sa.Connection, entries: Sequence[Entry]
) -> None:
    """Project whole entries in the transaction of `connection`, whatever they cost."""
    feed = Feed(projector, entries, Cursor())
    while not feed.is_empty:
        try:
            projector.apply(connection, feed.take())
        except BadEntry as error:
            raise error.reason from error
        feed.done()


def _count_skipped(connection: sa.Connection, name: str) -> int:
    table = tables.projector_skip
    question = sa.select(sa.func.count()).select_from(table).where(table.c.name == name)
    return connection.scalar(question) or 0
