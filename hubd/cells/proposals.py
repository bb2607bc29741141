"""What the hub does to keys by itself, as entries of its log.

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


class _Waiting:
    """A proposal on its way, and what came of it."""

    def __init__(self, proposal: Proposal) -> None:
        self.payload = encode(proposal)
        self.is_essential = isinstance(proposal, Start)
        self.number = 0
        self.done = trio.Event()
        self.result: Any = None
        self.error: Exception | None = None


class Proposer:
    """Appends proposals of one tenant to the log, and tells what came of them.

    Those that come while a commit is under way go into the next one together.
    """

    def __init__(self, hub_log: Log, tenant: str) -> None:
        self._log = hub_log
        self._edge = hub_of(tenant)
        self._queue: list[_Waiting] = []
        self._under_way: dict[int, _Waiting] = {}
        self._asked = trio.Event()
        self._is_open = False
        self._epoch = self._floor = 0

    async def propose(self, proposal: Proposal) -> Any:
        """Return what came of it, once it is in the log and was carried out.

        Raises StoreError when the log does not take it: then nothing has happened.
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
        waiting = self._under_way.pop(entry.first, None)
        if waiting is not None:
            waiting.result = result
            waiting.done.set()

    def not_carried_out(self, entry: Entry, error: Exception) -> None:
        """Tell who proposed an entry that it was skipped."""
        waiting = self._under_way.pop(entry.first, None)
        if waiting is not None:
            waiting.error = StoreError(f"the hub could not carry it out: {error}")
            waiting.done.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Last until cancelled."""
        self._is_open = True
        task_status.started()
        try:
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                while self._queue:
                    group, self._queue = self._queue[:GROUP_MAX], self._queue[GROUP_MAX:]
                    await self._append(group)
        finally:
            self._is_open = False
            self._end(StoreError("the hub stops"))

    async def _append(self, group: Sequence[_Waiting]) -> None:
        with self._told(group):
            if not self._epoch:
                await self._open()
            for number, one in enumerate(group, start=self._floor + 1):
                one.number = number
                self._under_way[number] = one
            answers = await self._log.append([self._batch(one) for one in group])
            refused = [one for one in answers if not isinstance(one, Appended)]
            if refused:
                self._epoch = 0  # another hub serves this log, or it was put back
                raise StoreError(f"the log refuses writes of this hub: {refused[0].reason}")
            self._floor += len(group)

    @contextmanager
    def _told(self, group: Sequence[_Waiting]) -> Iterator[None]:
        """Tell all of a group of an error, and forget what of it was not appended."""
        try:
            yield
        except Exception as error:
            for one in group:
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

    def _end(self, error: StoreError) -> None:
        for one in (*self._queue, *self._under_way.values()):
            one.error = error
            one.done.set()
        self._queue, self._under_way = [], {}
