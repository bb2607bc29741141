"""Changes of keys by the hub itself, as entries of its log.

Writes of the hub's own clients, names for edges, deadlines that are over, what nobody needs any
more: each is proposed, appended to the log, and carried out when the log is read up to there, by
whoever reads it. Nothing but the entry and the keys before it decides what comes of it: its time is
when it was stored, its chance is drawn from its place.

To the log the hub is an edge of its own, one a tenant, whose name no edge can have.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import trio

from edgesync.errors import RecordError, StoreError
from edgesync_transport.messages import Codec, Lane, LaneFloor
from hubd.cells.replicas import Confirmed
from hubd.log.base import Append, Appended, Entry, Log

HUB: Final = "hub:"
# The hub's keys have one life, whatever starts and ends: its numbers go on.
LIFE: Final = b"hub".ljust(16, b"\0")
# Proposals of one commit, and of one tenant that wait for the one under way (I7).
GROUP_MAX: Final = 1000
GROUP_BYTES_MAX: Final = 4 << 20
WAITING_MAX: Final = 10_000
RETRY_S: Final = 1.0


class Proposal(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something that the hub's keys are to do."""


class Start(Proposal, frozen=True):
    """A hub begins to serve these keys.

    start, r     random: of this start, and as which replica its clients write
    generation   of the log
    keyspace     random, of the keyspace if there has to be another one
    is_lost      the keys are not what they were when the hub served them last
    lacks        entries up to here are in no reader's reach any more, and were not carried out
    """

    start: int
    r: int
    generation: bytes
    keyspace: bytes
    is_lost: bool
    lacks: int
    strategies: tuple[tuple[bytes, int], ...]
    value_max: int


class Run(Proposal, frozen=True):
    """Carry out commands of a client, with nothing between them."""

    requests: tuple[tuple[bytes, ...], ...]


class Resolve(Proposal, frozen=True):
    """Resolve a conflict: WINNER, DOT r n or VALUE v."""

    number: int
    choice: tuple[bytes, ...]


class Name(Proposal, frozen=True):
    """Give an edge a name.

    wanted      as which it has written, before it came here
    instead_of  the replica it is called now, and must not be any more; 0: none
    """

    edge: str
    incarnation: bytes
    wanted: int
    instead_of: int = 0


class GiveUp(Proposal, frozen=True):
    """Wait for these edges no longer."""

    edges: tuple[str, ...]


class Renew(Proposal, frozen=True):
    """Begin another keyspace instead of `keyspace`, if that is what these keys are."""

    keyspace: bytes
    following: bytes


class Expire(Proposal, frozen=True):
    """Remove some keys that are past their time."""


class ExpireConflicts(Proposal, frozen=True):
    """List conflicts that nobody has resolved as open no longer."""

    before_ms: int


class Confirm(Proposal, frozen=True):
    """Store what edges have confirmed."""

    confirmed: tuple[Confirmed, ...]


class Collect(Proposal, frozen=True):
    """Forget some of what is known to every edge that has all up to `stable`."""

    stable: int


KINDS = Start | Run | Resolve | Name | GiveUp | Renew | Expire | ExpireConflicts | Confirm | Collect


def hub_of(tenant: str) -> str:
    """Return as which edge the log knows the hub of a tenant's keys."""
    return HUB + tenant


def tenant_of(edge: str) -> str | None:
    """Return whose hub that is; None for an edge."""
    return edge[len(HUB) :] if edge.startswith(HUB) else None


def encode(proposal: Proposal) -> bytes:
    return msgspec.msgpack.encode(proposal)


def decode(entry: Entry) -> Proposal:
    """Return what is proposed; raises RecordError."""
    try:
        proposal: Proposal = msgspec.msgpack.decode(entry.payload, type=KINDS)
    except msgspec.MsgspecError as error:
        raise RecordError(f"a proposal that cannot be read: {error}") from error
    return proposal


class OutcomeUnknown(StoreError):
    """The log has the proposal, or may have it; nobody will tell what came of it."""


class _Waiting:
    """A proposal on its way, and what came of it."""

    def __init__(self, proposal: Proposal) -> None:
        self.payload = encode(proposal)
        self.is_essential = isinstance(proposal, Start)
        self.number = self.position = 0
        self.done = trio.Event()
        self.result: Any = None
        self.error: Exception | None = None


class Proposer:
    """Appends proposals of one tenant to the log, and tells what came of them.

    Those that come while a commit is under way go into the next one together.

    told   position of the newest entry that somebody was told of
    """

    def __init__(self, hub_log: Log, tenant: str) -> None:
        self._log = hub_log
        self._edge = hub_of(tenant)
        self._queue: list[_Waiting] = []
        self._under_way: dict[int, _Waiting] = {}
        self._asked = trio.Event()
        self._is_open = self._has_begun = False
        self.told = 0
        self._epoch = self._floor = self._passed = 0

    async def propose(self, proposal: Proposal) -> Any:
        """Return what came of it, once it is in the log and was carried out.

        Raises StoreError when the log does not take it: then nothing has happened. OutcomeUnknown
        says otherwise.
        """
        if not self._is_open:
            raise StoreError("the hub takes no writes now: it starts or stops")
        waiting = _Waiting(proposal)
        if len(self._queue) >= WAITING_MAX:
            raise StoreError("too many writes wait for the log; try again")
        self._queue.append(waiting)
        self._asked.set()
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    def carried_out(self, entry: Entry, result: Any) -> None:
        """Tell who proposed an entry what came of it."""
        waiting = self._take(entry)
        if waiting is not None:
            waiting.result, self.told = result, entry.position
            waiting.done.set()

    def not_carried_out(self, entry: Entry, error: Exception) -> None:
        """Tell who proposed an entry that it was skipped."""
        waiting = self._take(entry)
        if waiting is not None:
            waiting.error = StoreError(f"the hub could not carry it out: {error}")
            waiting.done.set()

    def passed(self, position: int) -> None:
        """Whatever the log has up to a position has been read: an entry that rotted never will."""
        self._passed = max(self._passed, position)
        for one in [*self._under_way.values()]:
            if 0 < one.position <= self._passed:
                del self._under_way[one.number]
                one.error = StoreError("the entry of the log cannot be read, and is skipped")
                one.done.set()

    def _take(self, entry: Entry) -> _Waiting | None:
        """Return the proposal that an entry is, if it waits here; edges count like that as well."""
        return self._under_way.pop(entry.first, None) if entry.edge == self._edge else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Last until cancelled."""
        self._is_open = True
        task_status.started()
        try:
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                while self._queue and (self._has_begun or self._put_start_first()):
                    group = self._take_group()
                    await self._append(group)
                    self._note_start(group[0])
        finally:
            self._is_open = False
            self._end()

    def _put_start_first(self) -> bool:
        """Let the start go before what has come already; returns whether it is there.

        What is carried out before it is written as the replica of the start before. That has
        written under these numbers already, where a copy of the hub was put back.
        """
        self._queue.sort(key=lambda one: not one.is_essential)
        return self._queue[0].is_essential

    def _note_start(self, first: _Waiting) -> None:
        """Whatever waits for a start that was refused is refused, too."""
        if self._has_begun or first.error is None:
            self._has_begun = True
            return
        for one in self._queue:
            one.error = first.error
            one.done.set()
        self._queue = []

    def _take_group(self) -> list[_Waiting]:
        """Take what goes into the log together; what a full log takes goes alone."""
        first, count, nbytes = self._queue[0], 0, 0
        for one in self._queue[:GROUP_MAX]:
            nbytes += len(one.payload)
            if count and (nbytes > GROUP_BYTES_MAX or one.is_essential != first.is_essential):
                break
            count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    async def _append(self, group: Sequence[_Waiting]) -> None:
        with self._told(group):
            if not self._epoch:
                await self._open()
            for number, one in enumerate(group, start=self._floor + 1):
                one.number = number
                self._under_way[number] = one
            answers = await self._log.append([self._batch(one) for one in group])
            refusals = []
            for one, answer in zip(group, answers, strict=True):
                if isinstance(answer, Appended) and answer.position:
                    one.position = answer.position
                else:
                    reason = getattr(answer, "reason", "") or "another entry has that number"
                    refusals.append(reason)
            if refusals:
                self._epoch = 0  # another hub serves this log, or it was put back
                raise StoreError(f"the log refuses writes of this hub: {refusals[0]}")
            self._floor += len(group)
        self.passed(self._passed)  # they may have been read in the meantime

    @contextmanager
    def _told(self, group: Sequence[_Waiting]) -> Iterator[None]:
        """Tell those of a group that were not appended of an error, and forget them."""
        try:
            yield
        except Exception as error:
            for one in group:
                if not one.position and not one.done.is_set():
                    self._under_way.pop(one.number, None)
                    one.error = error
                    one.done.set()

    async def _open(self) -> None:
        starts = [LaneFloor(floor=0, chain=0, safe=0)] * len(Lane)
        session = await self._log.open_session(self._edge, LIFE, starts)
        self._floor = session.floors[Lane.NORMAL].floor
        self._epoch = session.epoch

    def _batch(self, one: _Waiting) -> Append:
        return Append(
            edge=self._edge, epoch=self._epoch, incarnation=LIFE, lane=Lane.NORMAL,
            first=one.number, last=one.number, prev_chain=0, last_chain=0,
            codec=Codec.PROPOSAL, payload=one.payload, is_essential=one.is_essential,
        )  # fmt: skip

    def _end(self) -> None:
        for one in self._queue:
            one.error = StoreError("the hub stops")
            one.done.set()
        for one in self._under_way.values():
            one.error = OutcomeUnknown("the hub stops; it may be carried out when it starts again")
            one.done.set()
        self._queue, self._under_way = [], {}
