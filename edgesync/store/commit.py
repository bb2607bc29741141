"""Group commit: whoever has something to store waits for one sync together with all others.

A sync costs the same for one record and for thousands, so writes that wait while one is under way
go into the next transaction together. One thread carries them out: the event loop never waits for
a disk. A plain thread that finds nothing under way carries its own write out: it has to wait, and
to wake another thread and be woken takes the longer, the busier the machine is. A write is answered
after the sync that stored it (I1), and one that is refused is refused alone (I8): when a merged
transaction fails, its writes are tried one by one.
"""

import collections
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec
import outcome
import trio

from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.errors import LaneFull, StoreCorrupt, StoreError, StoreFull, StoreUnwritable

log = logging.getLogger(__name__)

Tails = tuple[int, int, int]
Answer = outcome.Value[Tails] | outcome.Error

# More in one transaction gains nothing (spike: 10,000 records of 120 bytes) and delays the first.
GROUP_BYTES_MAX: Final = 8 << 20
# A write is at most as large as a queue is; each relief frees a good part of that.
RELIEFS_MAX: Final = 8
# By default a thread that has work waits 5 ms for the interpreter.
SWITCH_S: Final = 0.0002


def hurry_threads() -> None:
    """Let commits begin and end at once, whatever keeps Trio's thread busy, in this process.

    Each begins and ends on a thread of its own, and would wait several times as long as for a disk.
    """
    if sys.getswitchinterval() > SWITCH_S:
        sys.setswitchinterval(SWITCH_S)


class CommitStats(msgspec.Struct, frozen=True):
    """Counts since the start; `busy_s` is how long the transaction under way has taken so far.

    A `busy_s` that keeps growing is a disk that does not answer.
    """

    groups: int
    writes: int
    refused: int
    queued: int
    queued_bytes: int
    last_commit_s: float
    busy_s: float


class Room(Protocol):
    """Asked by whoever carries writes out: nothing else changes the store meanwhile."""

    def make_room(self, coming: Write) -> Write | None:
        """Return what must happen before `coming`, in its transaction; raises LaneFull."""

    def relieve(self) -> Write | None:
        """Return what makes room in a full store; None when nothing may go."""


class _Request:
    """One write on its way; `withdrawn` only while it waits, in the queue or for room in it."""

    __slots__ = ("answer", "nbytes", "withdrawn", "write")

    def __init__(self, write: Write, answer: Callable[[Answer], None]) -> None:
        self.write = write
        self.nbytes = write.nbytes
        self.answer = answer
        self.withdrawn = False


class GroupCommit:
    """The one writer of a store. Close it before the store.

    window_s            how long the first write of a group may wait for others, at most 0.02. It
                        waits only when the last group had several, and never longer than the last
                        commit took: a lone producer is not slowed down.
    queue_writes_max    beyond these, a write waits for room (I7), and keeps its turn: later ones on
    queue_bytes_max     the same rows must not be stored before it
    room                what gives way to a write, and when the store is full; nothing by default
    """

    def __init__(
        self,
        store: Store,
        *,
        window_s: float = 0.02,
        queue_writes_max: int = 4096,
        queue_bytes_max: int = 16 << 20,
        room: Room | None = None,
    ) -> None:
        if not 0 <= window_s <= 0.02:
            raise ValueError("window_s is 0 to 0.02 seconds")
        self._store = store
        self._room = room
        self._window_s = window_s
        self._writes_max = queue_writes_max
        self._bytes_max = queue_bytes_max
        self._wake = threading.Condition()
        self._queue: collections.deque[_Request] = collections.deque()
        self._queued_bytes = 0
        self._waiting_for_room: collections.deque[_Request] = collections.deque()
        self._closing = False
        self._is_working = False  # a group is being carried out, by the thread or by its caller
        self._last_group = 0
        self._last_commit_s = 0.0
        self._busy_since = 0.0
        self._groups = self._writes = self._refused = 0
        self._failures = 0
        self._broken: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="edgesync-commit", daemon=True)
        self._thread.start()

    @property
    def broken(self) -> StoreError | None:
        """The reason why nothing can be written any more: the disk refused twice in a row (D8)."""
        return self._broken

    def stats(self) -> CommitStats:
        with self._wake:
            busy = time.monotonic() - self._busy_since if self._busy_since else 0.0
            return CommitStats(
                self._groups, self._writes, self._refused, len(self._queue),
                self._queued_bytes, self._last_commit_s, busy,
            )  # fmt: skip

    async def submit(self, write: Write) -> Tails:
        """Store `write`; returns the tails of the lanes right after it.

        Raises what `Store.apply` raises; nothing of this write was stored then. A cancellation
        takes effect only while the write waits: once it is being carried out, its
        answer is awaited, so that no caller is left not knowing.
        """
        task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        request = _Request(write, lambda answer: _resume(token, task, answer))
        self._enqueue(request)

        def withdraw(_raise_cancel: object) -> trio.lowlevel.Abort:
            with self._wake:
                if request in self._queue or request in self._waiting_for_room:
                    request.withdrawn = True
                    return trio.lowlevel.Abort.SUCCEEDED
            return trio.lowlevel.Abort.FAILED

        tails: Tails = await trio.lowlevel.wait_task_rescheduled(withdraw)
        return tails

    def submit_sync(self, write: Write) -> Tails:
        """Do as `submit` does, for a plain thread: blocks until the write is on disk or refused."""
        alone = _Request(write, lambda _answer: None)
        if self._take_turn():
            return self._work([alone])[0].unwrap()
        done = threading.Event()
        answers: list[Answer] = []

        def finish(answer: Answer) -> None:
            answers.append(answer)
            done.set()

        self._enqueue(_Request(write, finish))
        done.wait()
        return answers[0].unwrap()

    def close(self) -> None:
        """Carry out what is queued, then stop; a write submitted later raises StoreError."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take_turn(self) -> bool:
        """Let the caller carry out a write, if there is nothing before it."""
        with self._wake:
            self._check_open()
            if self._is_working or self._queue:
                return False
            self._is_working = True
            return True

    def _check_open(self) -> None:
        if self._broken is not None:
            raise StoreUnwritable(path=self._store.path, problem=str(self._broken))
        if self._closing:
            raise StoreError(f"{self._store.path}: its writer is closed")

    def _enqueue(self, request: _Request) -> None:
        """Queue the request, behind those that wait for room if there are any."""
        with self._wake:
            self._check_open()
            self._waiting_for_room.append(request)
            self._admit()
            self._wake.notify()

    def _admit(self) -> None:
        """Move what waits for room to the queue, in its order, as far as there is room."""
        while self._waiting_for_room:
            request = self._waiting_for_room[0]
            full = self._queue and (
                len(self._queue) >= self._writes_max
                or self._queued_bytes + request.nbytes > self._bytes_max
            )
            if full:
                return
            self._queue.append(self._waiting_for_room.popleft())
            self._queued_bytes += request.nbytes

    def _run(self) -> None:
        while group := self._take():
            answers = self._work(group)
            for request, answer in zip(group, answers, strict=True):
                request.answer(answer)

    def _work(self, group: Sequence[_Request]) -> list[Answer]:
        """Carry out a group, by whoever's turn it is, which ends with it."""
        started = time.monotonic()
        self._busy_since = started
        # Whatever happens here must reach those who wait, or they would wait for ever.
        try:
            answers = self._carry_out(group)
        except BaseException as error:
            answers = [outcome.Error(error)] * len(group)
        with self._wake:
            self._last_commit_s = time.monotonic() - started
            self._busy_since = 0.0
            self._last_group = len(group)
            self._groups += 1
            self._writes += len(group)
            self._refused += sum(isinstance(answer, outcome.Error) for answer in answers)
            self._is_working = False
            if self._queue or self._closing:
                self._wake.notify()
        return answers

    def _take(self) -> list[_Request]:
        """Wait for work; an empty list means closed and nothing left."""
        group: list[_Request] = []
        with self._wake:
            while not group:
                while self._is_working or not (self._queue or self._closing):
                    self._wake.wait()
                if not self._queue:
                    return []
                self._wait_for_company()
                total = 0
                while self._queue and (not group or total < GROUP_BYTES_MAX):
                    request = self._queue.popleft()
                    self._queued_bytes -= request.nbytes
                    if not request.withdrawn:
                        group.append(request)
                        total += request.nbytes
                self._admit()
            self._is_working = True
        return group

    def _wait_for_company(self) -> None:
        # Those answered together come back together, one after the other: without this pause
        # every second group would hold only the first of them.
        deadline = time.monotonic() + min(self._window_s, self._last_commit_s)
        while not self._closing and len(self._queue) < self._last_group:
            left = deadline - time.monotonic()
            if left <= 0 or not self._wake.wait(left):
                return

    def _carry_out(self, group: Sequence[_Request]) -> list[Answer]:
        if len(group) == 1:
            return [self._apply(group[0].write)]
        merged = Write()
        for request in group:
            merged.extend(request.write)
        answer = self._apply(merged)
        if isinstance(answer, outcome.Error):
            if isinstance(answer.error, StoreUnwritable | StoreCorrupt):
                return [answer] * len(group)  # the disk's fault: trying each again would hurt it
            return [self._apply(request.write) for request in group]
        return _each_tails(answer.value, [request.write.appends for request in group])

    def _apply(self, write: Write) -> Answer:
        try:
            tails = self._stored(write)
        except StoreUnwritable as error:
            self._after_failure(error)
            return outcome.Error(error)
        except Exception as error:
            return outcome.Error(error)
        self._failures = 0
        return outcome.Value(tails)

    def _stored(self, write: Write) -> Tails:
        for _ in range(RELIEFS_MAX):
            try:
                return self._store.apply(self._with_room(write))
            except StoreFull as full:
                relief = self._room.relieve() if self._room else None
                if relief is None or isinstance(full, LaneFull):
                    raise
                self._store.apply(relief)
        return self._store.apply(self._with_room(write))

    def _with_room(self, write: Write) -> Write:
        first = self._room.make_room(write) if self._room else None
        if first is None:
            return write
        first.extend(write)
        return first

    def _after_failure(self, error: StoreUnwritable) -> None:
        """The disk refused: open again to see what it holds; the second time in a row, stop (D8).

        After a failed sync the kernel takes the pages for clean, so only what is read again from
        the file counts.
        """
        self._failures += 1
        if self._failures >= 2:
            self._broken = error
            log.error("store unwritable, no more writes: %s", error)
            return
        log.warning("store write failed, opening it again: %s", error)
        try:
            self._store.reopen()
        except StoreError as again:
            self._broken = again
            log.error("store could not be opened again: %s", again)


def _each_tails(last: Tails, appends: Sequence[Tails]) -> list[Answer]:
    """Tails right after each of several writes that were carried out as one."""
    sums = [sum(lane) for lane in zip(*appends, strict=True)]
    now = [tail - total for tail, total in zip(last, sums, strict=True)]
    answers: list[Answer] = []
    for counts in appends:
        now = [tail + count for tail, count in zip(now, counts, strict=True)]
        answers.append(outcome.Value((now[0], now[1], now[2])))
    return answers


def _resume(
    token: trio.lowlevel.TrioToken, task: trio.lowlevel.Task, value: outcome.Outcome[object]
) -> None:
    try:
        token.run_sync_soon(trio.lowlevel.reschedule, task, value)
    except trio.RunFinishedError:
        log.debug("answer for a task whose loop has ended")
