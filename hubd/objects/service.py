"""Has edges hold what they are assigned: tells each its listing, and sends the parts it asks for.

Nothing is remembered of a transfer: every part is asked for by its offset, so it goes on wherever
it was cut, over restarts of either side. An edge that tells of another listing than its own is sent
that; what edges have told is in memory, and is told again with each session. Parts go one by one,
an edge after the other, so nobody's bulk stands before another's.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import trio

from edgesync.errors import RecordError
from edgesync.objects.model import (
    PART_BYTES_MAX,
    Listing,
    ObjectRef,
    ObjectState,
    Standing,
    read_states,
)
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    Message,
    ObjectListing,
    ObjectPart,
    ObjectPull,
    ObjectReport,
)
from edgesync_transport.receiver import Session
from edgesync_transport.seldom import Seldom
from hubd.errors import HubError
from hubd.objects.store import Objects
from hubd.owned.threads import in_thread

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
SWEEP_S: Final = 3600.0
# Parts that one edge may have asked for; it asks for no more than 32 by itself (I7).
PULLS_MAX: Final = 64
NOT_TOLD: Final = "the edge has not told of it since this hub started"


class EdgeObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object at an edge: `have` of its `size` bytes are there, as far as it has told.

    standing  wanted, fetching, held, refused (`reason` says why), removing: it is to go, or kept:
              the edge holds it, and this hub assigns it nothing of that name
    """

    name: str
    sha256: str
    size: int
    have: int
    standing: str
    reason: str = ""


class EdgeObjects(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of an edge. is_current: it goes by what is assigned now."""

    edge: str
    is_current: bool
    told_ns: int | None
    objects: list[EdgeObject]


class Told(msgspec.Struct, frozen=True):
    """What an edge has told last, in the session `epoch`; its listing by digest."""

    epoch: int
    listing: str
    states: tuple[ObjectState, ...]
    at_ns: int


class Sessions(Protocol):
    """The hub's link, as far as objects need it."""

    def session(self, edge: str) -> Session | None: ...

    async def tell(self, peer: Peer, message: Message) -> None: ...


class ObjectService:
    """See the module. `run` lasts until cancelled.

    refused  parts that were asked for and not sent, since the start
    """

    def __init__(self, store: Objects, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.store = store
        self.refused = 0
        self._clock_ns = clock_ns
        self._listings: Mapping[str, Listing] | None = None  # None: not read yet
        self._told: dict[str, Told] = {}
        self._owed: set[str] = set()
        self._pulls: dict[str, deque[ObjectPull]] = {}
        self._gone: dict[str, Sequence[str]] = {}
        self._news = trio.Event()
        self._seldom = Seldom()

    async def run(
        self, link: Sessions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_looking)
            nursery.start_soon(self._keep_tidy)
            task_status.started()
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._serve(link)

    # -- from edges ------------------------------------------------------------------------------

    def hear(self, edge: str, message: ObjectReport | ObjectPull) -> None:
        """Take what an edge says in its live session."""
        if isinstance(message, ObjectPull):
            waiting = self._pulls.setdefault(edge, deque())
            if len(waiting) >= PULLS_MAX:
                self.refused += 1
            else:
                waiting.append(message)
                self._news.set()
            return
        try:
            states = read_states(message.payload)
        except RecordError as error:
            if (again := self._seldom.ask(edge)) is not None:
                log.warning("objects: edge=%s: %s; %d more before", edge, error, again)
            return
        self._told[edge] = Told(message.epoch, message.listing, states, self._clock_ns())
        self._compare(edge)

    def session_over(self, edge: str) -> None:
        self._pulls.pop(edge, None)
        self._owed.discard(edge)

    def _compare(self, edge: str) -> None:
        """Have an edge sent its listing if it goes by another; else note what it has removed."""
        told = self._told.get(edge)
        if self._listings is None or told is None:
            return
        listing = self._listings.get(edge, Listing())
        if told.listing != listing.digest():
            self._owed.add(edge)
            self._news.set()
        elif listing.removed:
            there = {one.name for one in told.states}
            if gone := [name for name in listing.removed if name not in there]:
                self._gone[edge] = gone

    # -- to edges --------------------------------------------------------------------------------

    async def _serve(self, link: Sessions) -> None:
        while self._owed or self._pulls:
            for edge in sorted(self._owed):
                self._owed.discard(edge)
                session = link.session(edge)
                if session is not None and session.has_objects and self._listings is not None:
                    packed = self._listings.get(edge, Listing()).pack()
                    message = ObjectListing(epoch=session.epoch, payload=packed)
                    await link.tell(session.peer, message)
            for edge in list(self._pulls):
                waiting = self._pulls.get(edge)
                if waiting:
                    await self._answer(link, edge, waiting.popleft())
                elif waiting is not None:
                    del self._pulls[edge]

    async def _answer(self, link: Sessions, edge: str, pull: ObjectPull) -> None:
        ref = self._assigned(edge, pull.sha256)
        if ref is None:
            data, reason = b"", "it is not assigned to this edge"
        elif not (pull.offset < ref.size and 1 <= pull.length <= PART_BYTES_MAX):
            data, reason = b"", f"it has {ref.size} bytes, and parts at most {PART_BYTES_MAX}"
        else:
            data, reason = await trio.to_thread.run_sync(self._read, ref, pull)
        self.refused += bool(reason)
        session = link.session(edge)
        if session is not None and session.epoch == pull.epoch:
            await link.tell(session.peer, ObjectPart(
                epoch=pull.epoch, sha256=pull.sha256, offset=pull.offset,
                size=ref.size if ref is not None else 0, reason=reason, payload=data,
            ))  # fmt: skip

    def _assigned(self, edge: str, sha256: str) -> ObjectRef | None:
        listing = (self._listings or {}).get(edge, Listing())
        return next((ref for ref in listing.wanted if ref.sha256 == sha256), None)

    def _read(self, ref: ObjectRef, pull: ObjectPull) -> tuple[bytes, str]:
        """Return bytes of an object, or why there are none."""
        wanted = min(pull.length, ref.size - pull.offset)
        try:
            with self.store.path(ref.sha256).open("rb", buffering=0) as file:
                file.seek(pull.offset)
                data = file.read(wanted)
        except OSError as error:
            data, problem = b"", str(error)
        else:
            problem = "it is too short"
        if len(data) == wanted:
            return data, ""
        if (again := self._seldom.ask(ref.sha256)) is not None:
            remedy = f"`hubd object put` {ref.name} again"
            log.error("objects: %s: %s; %s; %d more before", ref.sha256, problem, remedy, again)
        return b"", "its contents at the hub are damaged: put it there again"

    # -- what is assigned ------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        seen = -1
        while True:
            try:
                for edge, names in list(self._gone.items()):
                    await in_thread(self.store.removed, edge, names)
                    if self._gone.get(edge) is names:  # else it has told of more meanwhile
                        del self._gone[edge]
                count = await in_thread(self.store.owned.change_count)
                if count != seen:
                    self._listings = await in_thread(self.store.listings)
                    seen = count
                    for edge in list(self._told):
                        self._compare(edge)
            except HubError as error:
                if (again := self._seldom.ask("look")) is not None:
                    log.error("objects: edges are not told: %s; %d more before", error, again)
            await trio.sleep(TICK_S)

    async def _keep_tidy(self) -> None:
        while True:
            try:
                if gone := await trio.to_thread.run_sync(self.store.sweep):
                    log.info("objects: %d files removed that no object names", gone)
            except (HubError, OSError) as error:
                log.error("objects: files are not tidied: %s", error)
            await trio.sleep(SWEEP_S)

    # -- for operators ---------------------------------------------------------------------------

    def standing(self, edge: str, listing: Listing) -> EdgeObjects:
        """Return how the objects of an edge stand, given what it is assigned now."""
        told = self._told.get(edge)
        known = {} if told is None else {one.name: one for one in told.states}
        found: list[EdgeObject] = []
        for ref in listing.wanted:
            state = known.pop(ref.name, None)
            if state is None or state.sha256 != ref.sha256 or state.standing is Standing.KEPT:
                reason = NOT_TOLD if told is None else ""
                state = ObjectState(ref.name, ref.sha256, ref.size, 0, Standing.WANTED, reason)
            found.append(_view(state, state.standing.value))
        for name, state in sorted(known.items()):
            if name in listing.removed:
                found.append(_view(state, "removing"))
            elif state.have == state.size:
                found.append(_view(state, Standing.KEPT.value))
        for name in listing.removed:
            if told is None:
                found.append(EdgeObject(
                    name=name, sha256="", size=0, have=0, standing="removing", reason=NOT_TOLD,
                ))  # fmt: skip
        return EdgeObjects(
            edge=edge,
            is_current=told is not None and told.listing == listing.digest(),
            told_ns=None if told is None else told.at_ns,
            objects=found,
        )


def _view(state: ObjectState, standing: str) -> EdgeObject:
    return EdgeObject(
        name=state.name, sha256=state.sha256, size=state.size, have=state.have,
        standing=standing, reason=state.reason,
    )  # fmt: skip
