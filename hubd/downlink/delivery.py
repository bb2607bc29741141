"""Carries out what the lanes to edges want: reads the journal, notes what has arrived.

One task for all edges. Reading is a transaction each; floors are noted together, a moment later:
losing one costs a resend that the edge knows.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from edgesync_transport import receiver as core
from edgesync_transport.messages import Lane
from hubd.downlink.journal import Journal
from hubd.errors import HubError
from hubd.owned.threads import in_thread

log = logging.getLogger(__name__)

Step = Callable[[str, core.Event], Awaitable[None]]

MARK_INTERVAL_S: Final = 0.05
RETRY_S: Final = 1.0
# How often what has waited for too long is looked for.
UPKEEP_S: Final = 600.0


class Observer(Protocol):
    """Hears what became of records."""

    def arrived(self, edge: str, lane: Lane, floor: int) -> None:
        """All up to `floor` is on the edge's disk. Called from a thread, after it was noted."""
        ...

    def lost(self, edge: str, lane: Lane, first: int, last: int, reason: str) -> None:
        """These were had by the edge before it was restored, and are not sent again."""
        ...


class Delivery:
    """See the module. `take` never waits; `run` lasts until cancelled."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.observer: Observer | None = None
        # One a lane: an edge that greets again and again waits for its newest alone (I7, I8).
        self._loads: dict[tuple[str, Lane], core.Load] = {}
        self._has_loads = trio.Event()
        self._floors: dict[str, dict[Lane, int]] = {}
        self._losses: list[tuple[str, core.Lost]] = []
        self._has_notes = trio.Event()
        self._without: set[str] = (
            set()
        )  # edges whose session lacks the lanes: nothing could be read
        # Of edges whose sessions are being opened: what was told since their journal was read. No
        # session heard it, and the one that begins does not know of it.
        self._untold: dict[str, dict[Lane | None, core.Grown | core.Regreet]] = {}
        self._step: Step | None = None

    def take(
        self, edge: str, effect: core.Load | core.Mark | core.Lost | core.Rewind | core.Dead
    ) -> None:
        """Begin to carry out what a lane to `edge` wants."""
        match effect:
            case core.Load():
                self._loads[edge, effect.lane] = effect
                self._has_loads.set()
            case core.Mark(lane, floor):
                self._floors.setdefault(edge, {})[lane] = floor
                self._has_notes.set()
            case core.Lost():
                self._losses.append((edge, effect))
                self._has_notes.set()
                log.error(
                    "downlink: edge=%s lane=%s first=%d last=%d %s",
                    edge, effect.lane.name.lower(), effect.first, effect.last, effect.reason,
                )  # fmt: skip
            case core.Dead(lane, seq, reason):
                log.error("downlink refused: edge=%s lane=%d seq=%d %s", edge, lane, seq, reason)
            case core.Rewind():
                pass  # what the edge lacks is sent, or declared as lost

    async def begin(self, edge: str, theirs: core.DownFloors) -> core.DownOffer | None:
        """Return the journal for a session; None when it cannot be had now.

        Once the session has begun it is to be told so: `begun`.
        """
        self._untold[edge] = {}
        try:
            offer, reason = await in_thread(self.journal.begin, edge, theirs)
        except Exception as error:  # The edge has its session all the same: I8.
            log.error("no lanes to the edge for now: edge=%s %s", edge, error)
            self._without.add(edge)
            return None
        self._without.discard(edge)
        if reason:
            log.error("downlink forked: edge=%s %s", edge, reason)
        return offer

    async def begun(self, edge: str) -> None:
        """The session for which `begin` has read the journal is there, or will not be."""
        for event in self._untold.pop(edge, {}).values():
            await self._tell(edge, event)

    async def _tell(self, edge: str, event: core.Grown | core.Regreet) -> None:
        if (untold := self._untold.get(edge)) is not None:
            untold[event.lane if isinstance(event, core.Grown) else None] = event
        if self._step is not None:
            await self._step(edge, event)

    async def grown(self, edge: str, lane: Lane, tail: int) -> None:
        """The journal of `edge` has records up to `tail` now."""
        if self._step is None:
            return
        if edge in self._without:
            self._without.discard(edge)
            await self._tell(edge, core.Regreet("what it is to be told can be had now"))
        else:
            await self._tell(edge, core.Grown(lane, tail))

    async def send(self, edge: str, lane: Lane, body: bytes) -> None:
        """Store an event for an edge, and let it go; raises EdgeUnknown, DownlinkFull."""
        tail = await in_thread(self.journal.send, edge, lane, [body])
        await self.grown(edge, lane, tail)

    async def clear(self, edge: str) -> list[tuple[Lane, int, int]]:
        """Give up all that waits for an edge; it is told.

        Returns lane, first and last of what was given up.
        """
        gone = await in_thread(self.journal.clear, edge)
        await self._tell(edge, core.Regreet("what waited was given up"))
        return gone

    async def clean(self, edge: str, before_ns: int) -> list[tuple[Lane, int, int]]:
        """Give up what has waited for an edge since before a time; it is told.

        Returns lane, first and last of what was given up.
        """
        gone = await in_thread(self.journal.give_up_before, edge, before_ns)
        if gone:
            await self._tell(edge, core.Regreet("what waited for too long was given up"))
        return gone

    # -- tasks -----------------------------------------------------------------------------------

    async def run(self, step: Step) -> None:
        self._step = step
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_notes)
            nursery.start_soon(self._keep_up)
            while True:
                await self._has_loads.wait()
                self._has_loads = trio.Event()
                while self._loads:
                    edge, lane = next(iter(self._loads))
                    await self._load(edge, self._loads.pop((edge, lane)), step)

    async def _load(self, edge: str, asked: core.Load, step: Step) -> None:
        while True:
            try:
                answer = await in_thread(self.journal.load, edge, asked)
            except HubError as error:
                log.error("downlink waits for the registry: %s", error)
                await trio.sleep(RETRY_S)
            else:
                await step(edge, answer)
                return

    async def _keep_notes(self) -> None:
        while True:
            await self._has_notes.wait()
            await trio.sleep(MARK_INTERVAL_S)
            self._has_notes = trio.Event()
            floors, self._floors = self._floors, {}
            losses, self._losses = self._losses, []
            try:
                await in_thread(self._note, floors, losses)
            except HubError as error:
                log.error("downlink waits for the registry: %s", error)
                self._floors = {
                    edge: {**known, **self._floors.get(edge, {})} for edge, known in floors.items()
                } | {edge: known for edge, known in self._floors.items() if edge not in floors}
                self._losses = losses + self._losses
                self._has_notes.set()
                await trio.sleep(RETRY_S)

    def _note(
        self, floors: dict[str, dict[Lane, int]], losses: list[tuple[str, core.Lost]]
    ) -> None:
        for edge, lost in losses:
            if self.observer is not None:
                self.observer.lost(edge, lost.lane, lost.first, lost.last, lost.reason)
        for edge, known in floors.items():
            self.journal.mark(edge, known)
            if self.observer is not None:
                for lane, floor in known.items():
                    self.observer.arrived(edge, lane, floor)

    async def _keep_up(self) -> None:
        while True:
            try:
                gone = await in_thread(self.journal.give_up_old)
            except HubError as error:
                log.error("downlink waits for the registry: %s", error)
            else:
                for edge, count in gone.items():
                    log.error("downlink: edge=%s given up=%d: waited for too long", edge, count)
                    await self._tell(edge, core.Regreet("what waited for too long was given up"))
            await trio.sleep(UPKEEP_S)
