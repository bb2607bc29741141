"""How an entity goes with all it has, and what is left of one written to beside that.  [sans-IO]"""

from edgesync.entities.alarms import Alarm, alarms_of
from edgesync.entities.index import EntityIndex
from edgesync.entities.keys import (
    RELATION,
    alarm_key,
    entity_key,
    keys_of,
    relations_key,
    room_of,
)
from edgesync.entities.model import EntityId, Scope
from edgesync.entities.records import find
from edgesync.entities.relations import end_of, relation_of
from edgesync.entities.view import Command, View, delete_fields


def plan_delete(view: View, one: EntityId, index: EntityIndex | None = None) -> list[Command]:
    """Return the commands that remove an entity, its alarms, and relations from and to it.

    index  without, all alarms and relations of its edge are read
    """
    gone = [key for key in keys_of(one) if view.is_there(key)]
    gone += [alarm_key(one.edge, alarm.id) for alarm in _alarms_of(view, one, index)]
    return [*([[b"DEL", *gone]] if gone else []), *_unrelate_all(view, one, index)]


def _alarms_of(view: View, one: EntityId, index: EntityIndex | None) -> list[Alarm]:
    return alarms_of(view, one, None if index is None else index.alarms_of(one))


def _unrelate_all(view: View, one: EntityId, index: EntityIndex | None) -> list[Command]:
    keys = view.keys(room_of(RELATION, one.edge)) if index is None else index.relations_to(one)
    return [command for key in keys for command in delete_fields(key, _to(view, one, key))]


def _to(view: View, one: EntityId, key: bytes) -> list[bytes]:
    end = end_of(one)
    return [
        name for name in view.fields(key)
        if name.endswith(end)
        and (relation := relation_of(one, name)) is not None and relation.to == one
    ]  # fmt: skip


def plan_unrelate_all(view: View, one: EntityId, index: EntityIndex) -> list[Command]:
    """Return the commands that remove the relations from and to an entity, one for each."""
    own = relations_key(one)
    gone = [(own, name) for name in view.fields(own) if relation_of(one, name) is not None]
    others = (key for key in index.relations_to(one) if key != own)
    gone += [(key, name) for key in others for name in _to(view, one, key)]
    return [[b"HDEL", key, name] for key, name in gone]


def remains(view: View, one: EntityId, index: EntityIndex | None = None) -> dict[str, int]:
    """Return how much there is of an entity: fields by room, and alarms. `index` as above."""
    rooms = [*(scope.value for scope in Scope), "relation", "entity"]
    counts = [len(view.fields(key)) for key in keys_of(one)]
    found = {room: count for room, count in zip(rooms, counts, strict=True) if count}
    if alarms := _alarms_of(view, one, index):
        found["alarm"] = len(alarms)
    return found


def was_removed(view: View, one: EntityId) -> bool:
    """Return whether an entity was there and is not, though something of it may be left.

    What somebody wrote to an entity that never was is no orphan, and stays.
    """
    if find(view, one) is not None:
        return False
    key = entity_key(one)
    return bool(view.fields(key)) or view.was_removed(key)


def plan_sweep(view: View, one: EntityId, index: EntityIndex | None = None) -> list[Command]:
    """Return the commands that remove what is left of an entity that is not there."""
    return plan_delete(view, one, index) if find(view, one) is None else []
