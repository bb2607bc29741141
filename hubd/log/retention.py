"""Which of the log's oldest entries may go, and the task that drops them.

An entry goes when it is wanted to go and nobody needs it. Wanted: it is older than `keep`, or the
log has more than `keep_bytes`, or more than `HIGH_SHARE` of its limit. Needed: by a reader whose
stored cursor has not passed it, and, with managed backups, until one has it (I3). What is derived
from the log can be made again only from what the log still has, so an entry that nobody asked to go
(`keep`, `keep_bytes`) stays until a backup has the state that holds its effect.
"""

import bisect
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import trio

from edgesync_transport.seldom import Seldom
from hubd.log.base import Backup, EntrySize, Log, LogStats

log = logging.getLogger(__name__)

# Where a log begins to drop, and down to where then: intake is refused at nine tenths of a store.
HIGH_SHARE: Final = 0.8
LOW_SHARE: Final = 0.75
# One step is one commit, which appends may have to wait for: a few milliseconds.
STEP_ENTRIES: Final = 1024
STEP_BYTES: Final = 4 << 20
# Between two looks: at how full a log that grows is, at what keeps holding it (at first sooner: it
# was asked to store), and at how old entries are.
PAUSE_S: Final = 0.25
HELD_S: Final = 4.0
AGE_S: Final = 60.0
# A full log does not grow.
FULL_S: Final = 1.0
# A reader is asked to store what a step frees, and some of what the next ones will.
PRESSED_PART: Final = 8

BACKUP: Final = "no backup has it"
STATE_BACKUP: Final = "no backup has the state made of it"
COPYING: Final = "a backup that is being made"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say; 0 is no limit.

    is_backed_up   edges and log keep what the newest backup does not have
    """

    keep_ns: int = 0
    keep_bytes: int = 0
    is_backed_up: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision depends on. `cursors`: by reader, up to where it has stored the log."""

    head: int
    cursors: Mapping[str, int]
    now_ns: int
    backup: Backup | None = None


class Choice(msgspec.Struct, frozen=True):
    """Entries up to `upto` may go, 0 for none; the next one, if wanted to go, is held by that."""

    upto: int = 0
    held_by: str = ""


def excess_bytes(policy: Policy, used_bytes: int, limit_bytes: int, *, is_dropping: bool) -> int:
    """Return how much has to go: all above the lower mark once the upper one is passed."""
    high, low = int(limit_bytes * HIGH_SHARE), int(limit_bytes * LOW_SHARE)
    if policy.keep_bytes and policy.keep_bytes < high:
        high, low = policy.keep_bytes, int(policy.keep_bytes * LOW_SHARE / HIGH_SHARE)
    return max(0, used_bytes - low) if is_dropping or used_bytes > high else 0


def count_old(
    sizes: Sequence[EntrySize], before_ns: int, stored_at_ns: Callable[[int], int | None]
) -> int:
    """Return how many of the oldest entries were stored before then, as far as they are in order.

    A damaged entry has no time: it goes with those that come after it.
    """

    def is_kept(nth: int) -> bool:
        for size in sizes[nth:]:
            if (at_ns := stored_at_ns(size.position)) is not None:
                return at_ns >= before_ns
        return True

    return bisect.bisect_left(range(len(sizes)), True, key=is_kept)


def choose(
    sizes: Sequence[EntrySize],
    facts: Facts,
    policy: Policy,
    excess: int,
    stored_at_ns: Callable[[int], int | None],
) -> Choice:
    """Decide over the oldest entries. `excess`: bytes that are to go, as `excess_bytes` says."""
    before_ns = facts.now_ns - policy.keep_ns
    old = count_old(sizes, before_ns, stored_at_ns) if policy.keep_ns else 0
    slowest = min(facts.cursors, key=lambda name: facts.cursors[name], default="")
    passed = facts.cursors.get(slowest, facts.head)
    copied = facts.backup.head if facts.backup else 0
    copied_state = facts.backup.stored if facts.backup else 0
    upto = 0
    for nth, (position, nbytes) in enumerate(sizes):
        is_old = nth < old
        if position >= facts.head or not (is_old or excess > 0):
            break
        if position > passed:
            return Choice(upto, slowest)
        if policy.is_backed_up and position > copied:
            return Choice(upto, BACKUP)
        if not (is_old or policy.keep_bytes) and position > copied_state:
            return Choice(upto, STATE_BACKUP)
        upto = position
        excess -= nbytes
    return Choice(upto)


class Readers(Protocol):
    """Those who read the log, each from a cursor that it stores."""

    async def cursors(self) -> Mapping[str, int]:
        """Return by name up to where each has stored the log, also through a power cut."""
        ...

    def press(self, position: int) -> None:
        """Have what is read up to `position` stored soon."""
        ...


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How the log's retention stands.

    held_by         what keeps the oldest entry, which is wanted to go: a reader, or a backup that
                    is missing; empty: nothing does
    held_since_ns   since when it has been so
    cursors         by reader, up to where it has stored the log, when this was last looked at
    """

    held_by: str = ""
    held_since_ns: int = 0
    cursors: Mapping[str, int] = {}


class Retention:
    """Drops what may go from `hub_log`, for as long as `run` lasts."""

    def __init__(
        self,
        hub_log: Log,
        policy: Policy,
        readers: Sequence[Readers],
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.policy = policy
        self.standing = Standing()
        self._log = hub_log
        self._readers = readers
        self._clock_ns = clock_ns
        self._is_dropping = False
        self._age_due = -math.inf
        self._refused = self._relief = 0
        self._still = trio.Lock()
        self._seldom = Seldom()

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Let nothing be dropped within the block, so that copies made in it fit each other."""
        async with self._still:
            yield

    async def run(self) -> None:
        """Last until cancelled."""
        pause_s = PAUSE_S
        while True:
            head = self._log.head
            try:
                await self.drop_what_may_go(by_age=trio.current_time() >= self._age_due)
            except Exception as error:  # What cannot be dropped now may not stop the hub: I8.
                problem = getattr(error, "orig", None) or error  # of a database, without the SQL
                if (again := self._seldom.ask("retention")) is not None:
                    log.error("the log drops nothing: %s; %d more before", problem, again)
                is_wanted = self.policy.keep_ns or self._excess(self._log.stats())
                self._note(f"an error ({problem})" if is_wanted else "", self.standing.cursors)
            if self.standing.held_by:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, HELD_S)
            else:
                pause_s = PAUSE_S
                with trio.move_on_after(FULL_S):
                    await self._log.wait_beyond(head)
                await trio.sleep(PAUSE_S)

    async def drop_what_may_go(self, *, by_age: bool = True) -> None:
        """Drop in steps until nothing more may go, or nothing more is to.

        by_age   look at how old entries are, also when there is room
        """
        excess = self._excess(self._log.stats())
        if not (excess or by_age or self.standing.held_by):
            return
        if excess and self._still.locked():
            self._note(COPYING, self.standing.cursors)
        async with self._still:
            cursors = await self._stored_cursors()
            while True:
                sizes = self._oldest_sizes()
                choice = choose(
                    sizes, self._facts(cursors), self.policy, excess, self._log.stored_at_ns
                )
                if choice.upto:
                    await self._log.drop(choice.upto)
                    dropped = sum(one.nbytes for one in sizes if one.position <= choice.upto)
                    self._relief = max(0, self._relief - dropped)
                if choice.held_by or not choice.upto:
                    break
                excess = self._excess(self._log.stats())
            self._age_due = trio.current_time() + AGE_S
            self._is_dropping = excess > 0
            self._note(choice.held_by, cursors)
        if choice.held_by in cursors:
            self._press()

    def _oldest_sizes(self) -> Sequence[EntrySize]:
        return self._log.sizes(limit=STEP_ENTRIES, limit_bytes=STEP_BYTES)

    def _excess(self, stats: LogStats) -> int:
        """Return how much has to go.

        A large entry may find no room where there is much in small pieces: then some more goes.
        """
        if stats.refused > self._refused:
            self._refused = stats.refused
            self._relief = int(stats.limit_bytes * (HIGH_SHARE - LOW_SHARE))
        excess = excess_bytes(
            self.policy, stats.used_bytes, stats.limit_bytes, is_dropping=self._is_dropping
        )
        return max(excess, self._relief)

    def _facts(self, cursors: Mapping[str, int]) -> Facts:
        return Facts(
            head=self._log.head, cursors=cursors, now_ns=self._clock_ns(),
            backup=self._log.newest_backup,
        )  # fmt: skip

    async def _stored_cursors(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for readers in self._readers:
            found |= await readers.cursors()
        return found

    def _press(self) -> None:
        oldest, head = self._log.oldest, self._log.head
        sizes = self._oldest_sizes()
        position = max(sizes[-1].position, oldest + (head - oldest) // PRESSED_PART)
        for readers in self._readers:
            readers.press(position)

    def _note(self, held_by: str, cursors: Mapping[str, int]) -> None:
        before = self.standing
        since_ns = before.held_since_ns if held_by == before.held_by else self._clock_ns()
        self.standing = Standing(
            held_by=held_by, held_since_ns=since_ns if held_by else 0, cursors=cursors
        )
