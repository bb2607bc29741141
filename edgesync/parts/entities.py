"""The entities of a node: what programs and doors read and change, and what of it comes from afar.

Opened on first use, and with it the keys. Methods that change something return when it is on disk
(I1); `apply` changes in memory, for doors that commit for many together.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from edgesync.cells.guard import Savepoint
from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.alarms import Alarm
from edgesync.entities.index import EntityIndex
from edgesync.entities.keys import ALARM, entity_of, policies, room_of
from edgesync.entities.model import ENTITIES_MAX, SHOWN, EntityId, Scope, entity
from edgesync.entities.removal import plan_delete, remains, was_removed
from edgesync.entities.view import Command, SpaceView
from edgesync.errors import EntityError
from edgesync.parts.entity_journal import EntityJournal
from edgesync.parts.part import Context, Part
from edgesync.watch import OVERFLOW

if TYPE_CHECKING:
    from edgesync.cells.changes import Change
    from edgesync.entities.relations import Relation, Waiting
    from edgesync.parts.keys import KeysPart

log = logging.getLogger(__name__)

WATCHED_MAX: Final = 1000

# Is told of an entity and the room that changed, whoever changed it, before anything else happens.
Listener = Callable[[bytes, EntityId], None]


class EntitiesPart(Part):
    """See the module. `node.entities` is this."""

    _keys: "KeysPart"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.edge = context.settings.edge.name
        self._alarm_room = room_of(ALARM, self.edge)
        self._listeners: list[Listener] = []
        self._watches: list[EntityWatch] = []
        self._journal = EntityJournal(self)
        self._has_tasks = False

    def open(self) -> None:
        self._keys = self.context.parts.get("keys")
        cells = self._keys.cells
        cells.space.choose(policies(self.context.settings.cells.strategies()))
        self.view = SpaceView(cells.space, cells.now_ms)
        self._index = EntityIndex(self.view, self.edge)
        self._indexed: tuple[object, ...] = ()
        cells.changes.listen(self._changed)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        self._has_tasks = True
        task_status.started()
        await self._journal.run()

    def close(self) -> None:
        while self._watches:
            self._watches.pop().close()
        self._keys.cells.changes.leave(self._changed)

    # -- entities ------------------------------------------------------------------------------

    def id(self, kind: str, name: str) -> EntityId:
        """Return an entity of this edge; raises EntityError for a name that none can have."""
        return entity(self.edge, kind, name)

    def find(self, kind: str, name: str) -> records.Record | None:
        """Return an entity's record; None when it is not there."""
        return records.find(self.view, self.id(kind, name))

    def records(
        self, kind: str = "", *, after: EntityId | None = None, limit: int = 100
    ) -> list[records.Record]:
        """Return entities of this edge, page by page."""
        return records.list_records(self.view, self.edge, kind=kind, after=after, limit=limit)

    def save(self, kind: str, name: str, **fields: Any) -> EntityId:
        """Create an entity, or change fields of it; None removes one. Raises EntityError."""
        one = self.id(kind, name)
        self.carry_out(self.plan_save(one, fields))
        return one

    def delete(self, kind: str, name: str) -> dict[str, int]:
        """Remove an entity with all it has, everywhere; returns what that was, by room."""
        one = self.id(kind, name)
        removed = remains(self.view, one, self.index)
        self.carry_out(plan_delete(self.view, one, self.index))
        return removed

    def plan_save(self, one: EntityId, fields: Mapping[str, Any]) -> Sequence[Command]:
        return records.plan_save(self.view, one, fields, self.context.wall_ns() // 10**6)

    # -- attributes ----------------------------------------------------------------------------

    def attributes(
        self, kind: str, name: str, scope: str = "client", names: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return attributes of an entity: all of a scope, or those named."""
        return attributes.read(self.view, self.id(kind, name), Scope.named(scope), names)

    def set_attributes(
        self, kind: str, name: str, values: Mapping[str, Any], scope: str = "client"
    ) -> None:
        """Set attributes; all or none: raises EntityError, CommandError, StoreError.

        Values are what JSON has: numbers, text, true and false, lists, objects.
        """
        self.carry_out(self.plan_attributes(self.id(kind, name), scope, values))

    def delete_attributes(
        self, kind: str, name: str, names: Collection[str], scope: str = "client"
    ) -> None:
        """Remove attributes; those that are not there are gone already."""
        self.carry_out(self.plan_delete_attributes(kind, name, names, scope))

    def plan_delete_attributes(
        self, kind: str, name: str, names: Collection[str], scope: str
    ) -> Sequence[Command]:
        one = self.id(kind, name)
        return attributes.plan_delete(self.view, one, Scope.named(scope), names)

    def plan_attributes(
        self, one: EntityId, scope: str, values: Mapping[str, Any]
    ) -> Sequence[Command]:
        """Return the commands that set attributes, for `apply`; raises EntityError."""
        plan = attributes.plan_set(self.view, one, Scope.named(scope), values)
        # An entity without a record would be an orphan.
        return [*self.plan_save(one, {}), *plan] if plan else []

    def watch(self, kind: str = "", name: str = "", *, limit: int = WATCHED_MAX) -> "EntityWatch":
        """Return what changes from here on of entities, of a kind or of one, whichever site did it.

            async with node.entities.watch("device", "Scale 7") as changes:
                async for room, one in changes:
                    if room == "shared":
                        print(node.entities.attributes("device", "Scale 7", "shared"))

        At most `limit` wait to be read; beyond, one of the room `overflow` says that some are lost.
        """
        watch = EntityWatch(self, kind, name, limit)
        self._watches.append(watch)
        return watch

    # -- alarms --------------------------------------------------------------------------------

    def raise_alarm(
        self,
        kind: str,
        name: str,
        type: str,
        severity: str = "MAJOR",
        *,
        details: Any = None,
        by: str = "",
    ) -> Alarm:
        """Raise an alarm of an entity, or renew it where it is active; a change is an event too."""
        one = self.id(kind, name)
        now_ms = self.context.wall_ns() // 10**6
        plan = alarms.plan_raise(
            self.view, one, type, alarms.Severity.named(severity), now_ms, details=details, by=by
        )
        return self._alarm_after(plan, alarms.alarm_id(one, type))

    def ack_alarm(self, id_: str, by: str = "") -> Alarm:
        """Acknowledge an alarm; raises EntityError when there is none."""
        now_ms = self.context.wall_ns() // 10**6
        return self._alarm_after(alarms.plan_ack(self.alarm(id_), now_ms, by), id_)

    def clear_alarm(self, id_: str, by: str = "") -> Alarm:
        """End an alarm; raises EntityError when there is none."""
        now_ms = self.context.wall_ns() // 10**6
        return self._alarm_after(alarms.plan_clear(self.alarm(id_), now_ms, by), id_)

    def alarm(self, id_: str) -> Alarm:
        """Return the newest occurrence of an alarm; raises EntityError when there is none."""
        found = alarms.find_alarm(self.view, self.edge, id_)
        if found is None:
            raise EntityError("id", f"no alarm {id_[:SHOWN]!r}", "alarms() lists those there are")
        return found

    def alarms(self, *, is_active: bool | None = None) -> list[Alarm]:
        """Return the alarms of this edge, or only those that last, or that are over."""
        found = alarms.all_alarms(self.view, self.edge)
        return [one for one in found if is_active in (None, one.is_active)]

    def _alarm_after(self, plan: Sequence[Command], id_: str) -> Alarm:
        self.carry_out(plan)
        if not self._has_tasks:
            self._journal.tell_now()
        return self.alarm(id_)

    # -- relations -----------------------------------------------------------------------------

    def relate(
        self, source: tuple[str, str], type: str, to: tuple[str, str], data: Any = None
    ) -> None:
        """Add a relation between two entities, each (kind, name), or change its data."""
        ends = self.id(*source), self.id(*to)
        self.carry_out(relations.plan_relate(self.view, ends[0], type, ends[1], data))

    def unrelate(self, source: tuple[str, str], type: str, to: tuple[str, str]) -> None:
        """Remove a relation; one that is not there is gone already."""
        ends = self.id(*source), self.id(*to)
        self.carry_out(relations.plan_unrelate(self.view, ends[0], type, ends[1]))

    def relations(self, kind: str, name: str) -> "list[Relation]":
        """Return the relations from an entity and those to it."""
        one = self.id(kind, name)
        others = (it for it in self.relations_to(kind, name) if it.source != one)
        return [*self.relations_from(kind, name), *others]

    def relations_from(self, kind: str, name: str) -> "list[Relation]":
        return relations.relations_from(self.view, self.id(kind, name))

    def relations_to(self, kind: str, name: str) -> "list[Relation]":
        one = self.id(kind, name)
        found = relations.relations_to(self.view, one, self.index.relations_to(one))
        return [it for some in found for it in some]

    def waiting(self) -> "list[Waiting]":
        """Return what is kept and has no effect before something that it lacks is there."""
        found = list(records.list_records(self.view, self.edge, limit=ENTITIES_MAX))
        return relations.waiting(found, relations.all_relations(self.view, self.edge))

    @property
    def index(self) -> EntityIndex:
        """What leads to an entity, as of now."""
        cells = self._keys.cells
        # What changes keys and tells of none: a commit that is refused; a clock that is set back
        # to before a deadline; the end of a pass, where what the hub lacks shows what it has hid.
        indexed = cells.refusals, cells.behind_ms, bool(cells.cursor.base)
        if indexed != self._indexed:
            self._indexed = indexed
            self._index.forget()
        return self._index

    # -- for doors -----------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every entity that changes."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def report(self, name: str, values: Mapping[str, Any], scope: str = "client") -> None:
        """Let a device report attributes, in memory; see `wait_durable`.

        Raises EntityError, CommandError.
        """
        self.apply_reported(self.plan_attributes(self.id("device", name), scope, values))

    def apply_reported(self, commands: Sequence[Command]) -> None:
        """Do as `apply` for what devices report, and chains make of it.

        As readings, it goes on when a resource is critical: devices say it once.
        """
        guard = self._keys.cells.call.guard
        with contextlib.nullcontext() if guard is None else guard.lifted():
            self.apply(commands)

    def apply(self, commands: Sequence[Command]) -> None:
        """Carry out commands in memory, all or none; raises CommandError."""
        cells = self._keys.cells
        savepoint = Savepoint(cells.rows, cells.space)
        try:
            for command in commands:
                cells.ask(command[0].decode(), command[1:])
        except BaseException:
            savepoint.undo()
            raise
        savepoint.keep()

    def note(self, commands: Sequence[Command]) -> None:
        """Do as `apply` for what this edge notes for itself: no limit of the keys refuses it."""
        call = self._keys.cells.call
        guard, call.guard = call.guard, None
        try:
            self.apply(commands)
        finally:
            call.guard = guard

    @property
    def refusals(self) -> int:
        """How often what was applied has been taken back."""
        return self._keys.cells.refusals

    async def wait_durable(self, since: int | None = None) -> None:
        """Return when what was applied is on disk; raises StoreError. See `CellStore`."""
        await self._keys.cells.wait_durable(since)

    async def wait_settled(self) -> None:
        """Return when the hub has what was done here, and its newest is here; or there is none."""
        if self._keys.sync is not None:
            await self._keys.sync.sync()

    def carry_out(self, commands: Sequence[Command]) -> None:
        """Carry out commands and return when they are on disk; raises CommandError, StoreError."""
        self.apply(commands)
        self.commit()

    def commit(self) -> None:
        """Return when what was applied is on disk; raises StoreError."""
        self._keys.cells.commit()

    def _changed(self, changes: "Sequence[Change]") -> None:
        for change in changes:
            self._index.note(change.key)
            if change.key.startswith(self._alarm_room):
                self._alarm_changed(change.key[len(self._alarm_room) :].decode(errors="replace"))
            elif (named := entity_of(change.key)) is not None and named[1].edge == self.edge:
                self._tell(*named)
                if change.is_remote and was_removed(self.view, named[1]):
                    self._journal.note_gone(named[1])

    def _alarm_changed(self, id_: str) -> None:
        alarm = alarms.find_alarm(self.view, self.edge, id_)
        if alarm is not None:
            if alarms.untold(alarm):
                self._journal.note_alarm(id_)
            self._tell(ALARM, alarm.originator)

    def _tell(self, room: bytes, one: EntityId) -> None:
        for listener in tuple(self._listeners):
            listener(room, one)


class EntityWatch:
    """Changes of entities, from the time it was made until it is closed."""

    def __init__(self, part: EntitiesPart, kind: str, name: str, limit: int) -> None:
        self._part, self._kind, self._name = part, kind, name
        self._send, self._receive = trio.open_memory_channel[tuple[str, EntityId]](limit + 1)
        self._limit = limit
        self.lost = 0
        part.listen(self._note)

    def close(self) -> None:
        self._part.leave(self._note)
        self._send.close()

    async def __aenter__(self) -> "EntityWatch":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __aiter__(self) -> "EntityWatch":
        return self

    async def __anext__(self) -> tuple[str, EntityId]:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def _note(self, room: bytes, one: EntityId) -> None:
        if self._kind not in ("", one.kind) or self._name not in ("", one.name):
            return
        waiting = self._receive.statistics().current_buffer_used
        if waiting < self._limit:
            self._send.send_nowait((room.decode(), one))
            return
        self.lost += 1
        if waiting == self._limit:
            self._send.send_nowait((OVERFLOW, one))
