"""What happens to entities becomes events of the edge's journal, and orphans go.

State comes first and is on disk; the event follows, and then the note that it was told. After a
crash in between it is told at the next start: each transition of an alarm is an event at least
once, with the number of the occurrence in it.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.entities import alarms
from edgesync.entities.alarms import Alarm, Transition
from edgesync.entities.keys import ROOMS, entity_of, room_of
from edgesync.entities.model import EntityId
from edgesync.entities.removal import plan_sweep, remains, was_removed
from edgesync.errors import CommandError, EntityError, RecordError, StoreError
from edgesync.model import Action, EntityType, Event, EventType, Lane
from edgesync.told import TYPES

if TYPE_CHECKING:
    from edgesync.parts.entities import EntitiesPart

log = logging.getLogger(__name__)

RETRY_S: Final = 5.0
SCANNED_A_TURN: Final = 200
# Alarms come in storms, and each commit is waited for. An alarm's events are 64 KiB at most.
TOLD_TOGETHER: Final = 64
URGENT: Final = frozenset({"CRITICAL", "MAJOR"})
ACTIONS: Final[Mapping[Transition, Action]] = {
    Transition.RAISED: Action.ADDED,
    Transition.SEVERITY: Action.UPDATED,
    Transition.ACKED: Action.ALARM_ACK,
    Transition.CLEARED: Action.ALARM_CLEAR,
}


class EntityJournal:
    """See the module. Alarms that may have something untold, and entities that may be orphans."""

    def __init__(self, part: "EntitiesPart") -> None:
        self._part = part
        self._alarms: dict[str, None] = {}
        self._gone: dict[EntityId, None] = {}
        self._alarm_come, self._gone_come = trio.Event(), trio.Event()

    def note_alarm(self, id_: str) -> None:
        """Something has happened to an alarm."""
        self._alarms[id_] = None
        self._alarm_come.set()

    def note_gone(self, one: EntityId) -> None:
        """An entity was removed elsewhere."""
        self._gone[one] = None
        self._gone_come.set()

    async def run(self) -> None:
        """Last until cancelled."""
        await self._look_around()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling)
            nursery.start_soon(self._keep_sweeping)

    async def _keep_telling(self) -> None:
        while True:
            await self._alarm_come.wait()
            self._alarm_come = trio.Event()
            if not await _tried(self._tell_alarms):
                self._alarm_come.set()

    async def _keep_sweeping(self) -> None:
        while True:
            await self._gone_come.wait()
            self._gone_come = trio.Event()
            if not await _tried(self._sweep):
                self._gone_come.set()

    def tell_now(self) -> None:
        """Do what `run` does for alarms, in a plain program."""
        while self._alarms:
            id_ = next(iter(self._alarms))
            if (alarm := self._alarm(id_)) is not None:
                for event, lane in events_of(alarm):
                    self._part.context.recorder.emit_sync(event, lane)
                self._part.note(alarms.plan_told(alarm))
                self._part.commit()
            self._alarms.pop(id_, None)

    async def _look_around(self) -> None:
        """Find what the last run has left: alarms untold, and orphans."""
        part = self._part
        for at, alarm in enumerate(alarms.all_alarms(part.view, part.edge)):
            if alarms.untold(alarm):
                self.note_alarm(alarm.id)
            if at % SCANNED_A_TURN == 0:
                await trio.lowlevel.checkpoint()
        for at, one in enumerate(self._entities()):
            with _passed_over(one):
                if was_removed(part.view, one):
                    self.note_gone(one)
            if at % SCANNED_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    def _entities(self) -> Iterator[EntityId]:
        part = self._part
        for room in ROOMS:
            for key in part.view.keys(room_of(room, part.edge)):
                if (named := entity_of(key)) is not None:
                    yield named[1]

    def _alarm(self, id_: str) -> Alarm | None:
        return alarms.find_alarm(self._part.view, self._part.edge, id_)

    async def _tell_alarms(self) -> None:
        while self._alarms:
            ids = list(islice(self._alarms, TOLD_TOGETHER))
            found = [alarm for id_ in ids if (alarm := self._alarm(id_)) is not None]
            await self._part.wait_durable()
            events = [one for alarm in found for one in events_of(alarm)]
            await self._part.context.recorder.emit_together(events)
            for alarm in found:
                # Removed meanwhile, and perhaps raised anew, it has nothing that was told.
                now = self._alarm(alarm.id)
                if now is not None and now.raised.at == alarm.raised.at:
                    self._part.note(alarms.plan_told(alarm))
            await self._part.wait_durable()
            for id_ in ids:
                self._alarms.pop(id_, None)
                # What has happened to it meanwhile differs from what was noted as told.
                if (now := self._alarm(id_)) is not None and alarms.untold(now):
                    self._alarms[id_] = None

    async def _sweep(self) -> None:
        """Remove what is left of entities that were removed elsewhere, and say what that was."""
        while self._gone:
            await self._part.wait_settled()
            while self._part.index.catch_up(SCANNED_A_TURN):
                await trio.lowlevel.checkpoint()
            one = next(iter(self._gone))
            with _passed_over(one):
                await self._sweep_one(one)
            del self._gone[one]

    async def _sweep_one(self, one: EntityId) -> None:
        left = remains(self._part.view, one, self._part.index)
        if plan_sweep(self._part.view, one, self._part.index):
            await self._part.context.recorder.emit(removal_event(one, left, self._now_ns()))
            # What has made it anew meanwhile was acknowledged.
            self._part.apply(plan_sweep(self._part.view, one, self._part.index))
            await self._part.wait_durable()

    def _now_ns(self) -> int:
        return self._part.context.wall_ns()


@contextlib.contextmanager
def _passed_over(one: EntityId) -> Iterator[None]:
    """Go on behind what raises because a row of its keys is damaged: it stops no site (I8)."""
    try:
        yield
    except (RecordError, EntityError, CommandError) as error:
        log.error("entities: %s is passed over: %s", one, error)


async def _tried(act: Callable[[], Awaitable[None]]) -> bool:
    """Do something; False, after a while, when the store could not take it."""
    try:
        await act()
    except StoreError as error:
        log.warning("entities: events wait: %s", error)
        await trio.sleep(RETRY_S)
        return False
    return True


def events_of(alarm: Alarm) -> Iterable[tuple[Event, Lane]]:
    """Return an event for each transition that is not told, in order, and the lane it goes by."""
    lane = Lane.CRITICAL if alarm.raised.severity in URGENT else Lane.NORMAL
    for transition in alarms.untold(alarm):
        mark: alarms.Mark | None = {
            Transition.ACKED: alarm.ack, Transition.CLEARED: alarm.clear
        }.get(transition)  # fmt: skip
        at_ms = alarm.raised.end if transition is Transition.SEVERITY else alarm.raised.at
        body: dict[str, Any] = {
            "id": alarm.id, "occurrence": alarm.n, "type": alarm.type,
            "kind": alarm.originator.kind, "severity": alarm.raised.severity,
            "status": alarm.status, "transition": transition.value,
            "by": alarm.raised.by if mark is None else mark.by,
        }  # fmt: skip
        if transition in (Transition.RAISED, Transition.SEVERITY):
            body["details"] = alarm.raised.details
        yield Event(
            type=EventType.ALARM, action=ACTIONS[transition],
            entity_type=TYPES.get(alarm.originator.kind, EntityType.NONE),
            entity_id=alarm.originator.name, body=msgspec.json.encode(body),
            time_ns=(at_ms if mark is None else mark.at) * 1_000_000,
        ), lane  # fmt: skip


def removal_event(one: EntityId, left: Mapping[str, int], now_ns: int) -> Event:
    """Return what is told of an entity that was removed elsewhere, with what was left of it."""
    return Event(
        type=EventType.ENTITY, action=Action.UNASSIGNED_FROM_EDGE,
        entity_type=TYPES.get(one.kind, EntityType.NONE), entity_id=one.name,
        body=msgspec.json.encode({"kind": one.kind, "removed": left}), time_ns=now_ns,
    )  # fmt: skip
