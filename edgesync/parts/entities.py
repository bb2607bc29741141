"""The entities of a node: what programs and doors read and change, and what of it comes from afar.

Opened on first use, and with it the keys. Methods that change something return when it is on disk
(I1); `apply` changes in memory, for doors that commit for many together.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from edgesync.cells.guard import Savepoint
from edgesync.entities import attributes, records
from edgesync.entities.keys import ROOT, entity_of, policies
from edgesync.entities.model import ENTITIES_MAX, EntityId, Scope, entity
from edgesync.entities.view import Command, SpaceView
from edgesync.parts.part import Context, Part
from edgesync.watch import OVERFLOW

if TYPE_CHECKING:
    from edgesync.cells.changes import Change
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
        self._listeners: list[Listener] = []
        self._watches: list[EntityWatch] = []

    def open(self) -> None:
        self._keys = self.context.parts.get("keys")
        cells = self._keys.cells
        cells.space.choose(policies(self.context.settings.cells.strategies()))
        self.view = SpaceView(cells.space, cells.now_ms)
        cells.changes.listen(self._changed)

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

    def list(
        self, kind: str = "", *, after: EntityId | None = None, limit: int = 100
    ) -> list[records.Record]:
        """Return entities of this edge, page by page."""
        return records.list_records(self.view, self.edge, kind=kind, after=after, limit=limit)

    def save(self, kind: str, name: str, **fields: Any) -> EntityId:
        """Create an entity, or change fields of it; None removes one. Raises EntityError."""
        one = self.id(kind, name)
        self._carry_out(self.plan_save(one, fields))
        return one

    def plan_save(self, one: EntityId, fields: Mapping[str, Any]) -> Sequence[Command]:
        count = 0 if records.find(self.view, one) is not None else self._count()
        return records.plan_save(
            self.view, one, fields, self.context.wall_ns() // 10**6, count=count
        )

    def _count(self) -> int:
        """Return about how many keys there are, at least as many as entities."""
        keys = self._keys.cells.space.keys
        return keys if keys < ENTITIES_MAX else len(self.list(limit=ENTITIES_MAX))

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
        one = self.id(kind, name)
        self._carry_out(self._plan_set(one, Scope.named(scope), values))

    def delete_attributes(
        self, kind: str, name: str, names: Collection[str], scope: str = "client"
    ) -> None:
        """Remove attributes; those that are not there are gone already."""
        one = self.id(kind, name)
        self._carry_out(attributes.plan_delete(self.view, one, Scope.named(scope), names))

    def _plan_set(
        self, one: EntityId, scope: Scope, values: Mapping[str, Any]
    ) -> Sequence[Command]:
        plan = attributes.plan_set(self.view, one, scope, values)
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

    # -- for doors -----------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every entity that changes."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def report(self, name: str, values: Mapping[str, Any]) -> None:
        """Let a device report client attributes, in memory; see `wait_durable`."""
        self.apply(self._plan_set(self.id("device", name), Scope.CLIENT, values))

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

    async def wait_durable(self) -> None:
        """Return when what was applied is on disk; raises StoreError."""
        await self._keys.cells.wait_durable()

    def _carry_out(self, commands: Sequence[Command]) -> None:
        self.apply(commands)
        self._keys.cells.commit()

    def _changed(self, changes: "Sequence[Change]") -> None:
        for change in changes:
            if not change.key.startswith(ROOT):
                continue
            if (named := entity_of(change.key)) is not None and named[1].edge == self.edge:
                for listener in tuple(self._listeners):
                    listener(*named)


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
