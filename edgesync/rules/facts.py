"""Facts about the edge's entities, for nodes that ask; and changes that nodes make to them.

Attributes, relations and alarms are those of the entities of the edge, which the hub shares. What
nodes change is noted here first: nodes behind see it. It reaches the entities once the effects of
the message are stored; then, and not before, is the message acknowledged. Where the store takes the
effects and then refuses keys, what nodes have changed is kept, and shared as soon as it takes them.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgesync.entities import alarms as shared
from edgesync.entities.keys import ALARM as ALARM_ROOM
from edgesync.entities.model import EntityId
from edgesync.errors import CommandError, EntityError, StoreError
from edgesync.model import Value
from edgesync.rules.alarm import Alarm, as_alarm
from edgesync.rules.effects import DeleteAttributes, SetAttributes
from edgesync.rules.engine import ALARMS, PROFILES
from edgesync.rules.message import ALARM_ACK, ALARM_CLEAR, NANOS, Message, Originator
from edgesync.rules.node import NodeFailure
from edgesync.rules.state import State
from edgesync_transport.seldom import Seldom

if TYPE_CHECKING:
    from edgesync.parts.entities import EntitiesPart
    from edgesync.parts.part import Context
    from edgesync.rules.nodes.profile import ProfileAlarm

log = logging.getLogger(__name__)

READINGS_MAX: Final = 10_000
BY: Final = "rules"
# Keys that the store has refused are tried again after so long.
AGAIN_NS: Final = 1_000_000_000


class EdgeFacts:
    """See the module.

    again_ns  when `share` tries again what the store has refused; None if it has all
    """

    def __init__(self, context: "Context", state: State) -> None:
        self._context = context
        self._state = state
        self.profiles: Mapping[str, tuple[ProfileAlarm, ...]] = {}
        self.again_ns: int | None = None
        self._problem: StoreError | None = None  # why it has not
        self._pending: list[SetAttributes | DeleteAttributes] = []
        self._stored: list[SetAttributes | DeleteAttributes] = []  # with a batch, and to be shared
        self._marked: list[Alarm] = []  # as shared, which the next batch stores
        self._entities: EntitiesPart | None = None
        self._changed: dict[Originator, None] = {}
        self._taken: dict[Originator, None] = {}  # of these, by the batch under way
        self._seldom = Seldom()

    @property
    def entities(self) -> "EntitiesPart":
        """Those of this edge, opened when something needs them."""
        if self._entities is None:
            self._entities = found = self._context.parts.get("entities")
            found.listen(self._note)
        return self._entities

    def follow_hub(self) -> None:
        """Have what the hub says of entities come here before a node asks for it."""
        if self._context.settings.hub.endpoint:
            self._context.parts.get("entities")

    def close(self) -> None:
        if self._entities is not None:
            self._entities.leave(self._note)

    # -- what nodes ask --------------------------------------------------------------------------

    def profile(self, entity: Originator) -> str:
        return str(self._state.get(PROFILES, entity.name) or "default")

    def attributes(self, entity: Originator, scope: str) -> Mapping[str, Any]:
        try:
            found = self.entities.attributes(entity.kind, entity.name, scope)
        except EntityError as error:
            raise NodeFailure(str(error)) from error
        for change in (*self._stored, *self._pending):
            if (change.entity, change.scope) == (entity, scope):
                _apply(found, change)
        return found

    def change(self, effect: SetAttributes | DeleteAttributes) -> None:
        entities = self.entities
        try:
            one = entities.id(effect.entity.kind, effect.entity.name)
            if isinstance(effect, SetAttributes):
                entities.plan_attributes(one, effect.scope, effect.values)
        except EntityError as error:
            raise NodeFailure(str(error)) from error
        self._pending.append(effect)

    def latest(self, entity: Originator, key: str) -> tuple[int, Value] | None:
        found = self._context.image.newest(entity.name, key)
        return None if found is None else (found.time_ns, found.value)

    def readings(
        self, entity: Originator, key: str, from_ns: int, to_ns: int
    ) -> list[tuple[int, Value]]:
        store = self._context.parts.get("points").store
        kept = store.find(entity.name, key)
        if kept is None:
            return []
        found = store.readings(kept, from_ns, to_ns, limit=READINGS_MAX)
        return [(point.time_ns, point.value) for point in found]

    def alarm_rules(self, entity: Originator) -> Sequence[Any]:
        return self.profiles.get(self.profile(entity), ())

    def related(self, entity: Originator, direction: str, kind: str) -> list[Originator]:
        try:
            if direction == "FROM":
                found = self.entities.relations_from(entity.kind, entity.name)
            else:
                found = self.entities.relations_to(entity.kind, entity.name)
        except EntityError as error:
            raise NodeFailure(str(error)) from error
        ends = [it.to if direction == "FROM" else it.source for it in found if it.type == kind]
        return [Originator(end.kind.upper(), end.name) for end in ends]

    # -- what nodes have done --------------------------------------------------------------------

    def check(self) -> None:
        """Raise why attributes of a batch before are not shared, if this one has others (I7)."""
        if self._problem is not None and self._pending:
            raise self._problem

    def confirm(self) -> None:
        """The batch is stored: `share` may let the entities have what nodes have done."""
        self._stored += self._pending
        self._pending, self._taken, self._marked = [], {}, []

    def withdraw(self) -> None:
        """The batch has not happened; what the one before has shared stays so."""
        self._changed = self._taken | self._changed
        self._pending, self._taken = [], {}
        marked, self._marked = self._marked, []
        for alarm in marked:
            self._mark(alarm)

    def drop_taken(self) -> None:
        """Let go of what others have done to alarms and no batch can store."""
        self._taken = {}

    async def share(self, alarms: Iterable[Alarm] = ()) -> None:
        """Let the entities have what nodes have done; on disk when this returns.

        If the store refuses it, it is kept; alarms are shared as they are when it takes them.
        Every step may be repeated: what is there already changes nothing.
        """
        told = list(alarms)
        if self.again_ns is not None:
            if self._context.monotonic_ns() < self.again_ns:
                return
            told = self.unshared()
        # Keys are stored together: the first time it may have been for what somebody else wrote.
        for _ in range(2):
            try:
                await self._shared(told)
            except StoreError as error:
                self._problem = error
            else:
                self._stored, self._problem, self.again_ns = [], None, None
                return
        self.again_ns = self._context.monotonic_ns() + AGAIN_NS
        if (before := self._seldom.ask("keys")) is not None:
            what = "rules: attributes and alarms that nodes have changed wait: %s; %d more before"
            log.error(what, self._problem, before)

    async def _shared(self, alarms: Sequence[Alarm]) -> None:
        if not self._stored and not alarms:
            return
        entities = self.entities
        for change in self._stored:
            entity = change.entity
            try:
                if isinstance(change, SetAttributes):
                    one = entities.id(entity.kind, entity.name)
                    plan = entities.plan_attributes(one, change.scope, change.values)
                else:
                    plan = entities.plan_delete_attributes(
                        entity.kind, entity.name, change.keys, change.scope
                    )
                entities.apply_reported(plan)
            except (EntityError, CommandError) as error:
                log.error("rules: attributes of %s are not changed: %s", entity, error)
        shown = [alarm for alarm in alarms if self._show(entities, alarm)]
        await entities.wait_durable()
        for alarm in shown:
            self._mark(alarm)

    def _show(self, entities: "EntitiesPart", alarm: Alarm) -> bool:
        """Let the entities have an alarm, in memory; False if they cannot."""
        try:
            one = entities.id(alarm.entity.kind, alarm.entity.name)
            view, end_ms = entities.view, alarm.end_ns // NANOS
            if alarm.is_active:
                plan = shared.plan_raise(
                    view, one, alarm.type, shared.Severity.named(alarm.severity), end_ms,
                    details=alarm.details, by=BY,
                )  # fmt: skip
                entities.note([*entities.plan_save(one, {}), *plan])
            elif (found := self._find(one, alarm.type)) is not None and found.is_active:
                entities.note(shared.plan_clear(found, alarm.clear_ns // NANOS, BY))
        except (EntityError, CommandError) as error:
            log.error("rules: alarm %s of %s is not shown: %s", alarm.type, alarm.entity, error)
            return False
        return True

    def _mark(self, alarm: Alarm) -> None:
        """Note that the entities have an alarm."""
        self._marked.append(alarm)
        name = f"{alarm.entity}\0{alarm.type}"
        stored = self._state.get(ALARMS, name)
        if stored is not None and as_alarm(stored).id == alarm.id:
            self._state.put(ALARMS, name, {**stored, "is_shared": True})

    def _find(self, one: EntityId, kind: str) -> "shared.Alarm | None":
        view = self.entities.view
        return shared.find_alarm(view, one.edge, shared.alarm_id(one, kind))

    def unshared(self) -> list[Alarm]:
        """Return alarms that an earlier life has stored and the entities may not have."""
        found = (as_alarm(one) for one in self._state.all_of(ALARMS).values())
        return [one for one in found if not one.is_shared]

    # -- what others have done -------------------------------------------------------------------

    def _note(self, room: bytes, one: EntityId) -> None:
        if room == ALARM_ROOM:
            self._changed[Originator(one.kind.upper(), one.name)] = None

    @property
    def has_news(self) -> bool:
        """True if an alarm has changed since `messages_of_others` was asked."""
        return bool(self._changed)

    def watch_alarms(self) -> None:
        """Hear of alarms that somebody else acknowledges or clears."""
        for stored in self._state.all_of(ALARMS).values():
            self._changed[as_alarm(stored).entity] = None

    def messages_of_others(self) -> list[Message]:
        """Return a message for each alarm that somebody has acknowledged or cleared elsewhere.

        Rules that raised it know it from then on: it may be raised anew.
        """
        found: list[Message] = []
        changed, self._changed = self._changed, {}
        self._taken |= changed
        names = {str(entity) for entity in changed}
        own = self._state.all_of(ALARMS)
        for name in [one for one in own if one.partition("\0")[0] in names] if names else ():
            alarm = as_alarm(own[name])
            if alarm.is_active and alarm.is_shared:
                found += self._message_of_other(alarm)
        return found

    def _message_of_other(self, alarm: Alarm) -> list[Message]:
        one = self.entities.id(alarm.entity.kind, alarm.entity.name)
        other = self._find(one, alarm.type)
        if other is None:
            return []
        kind = ""
        if other.ack is not None and not alarm.ack_ns:
            alarm, kind = alarm.changed(ack_ns=max(other.ack.at, 1) * NANOS), ALARM_ACK
        if other.clear is not None:
            alarm, kind = alarm.changed(clear_ns=max(other.clear.at, 1) * NANOS), ALARM_CLEAR
        if not kind:
            return []
        self._put(alarm)
        time_ns = alarm.clear_ns or alarm.ack_ns
        metadata = {"deviceName": one.name, "deviceType": self.profile(alarm.entity),
                    "ts": str(time_ns // NANOS)}  # fmt: skip
        return [
            Message(
                type=kind, originator=alarm.entity, data=alarm.told(), metadata=metadata,
                time_ns=time_ns,
            )
        ]  # fmt: skip

    def _put(self, alarm: Alarm) -> None:
        name = f"{alarm.entity}\0{alarm.type}"
        self._state.put(ALARMS, name, msgspec.to_builtins(alarm))


def _apply(known: dict[str, Any], change: SetAttributes | DeleteAttributes) -> None:
    if isinstance(change, SetAttributes):
        known.update(change.values)
    else:
        for key in change.keys:
            known.pop(key, None)
