"""Records of entities: what kind of thing is where, and how it is removed whole.   [sans-IO]

An entity is there when its record has the field `created`. Fields of a record merge one by one, so
two sites that create the same make one. What is left of an entity that was removed is an *orphan*:
somebody wrote to it beside that; whose edge it is removes it (removal.py).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from edgesync.entities.keys import (
    ENTITY,
    MANAGED_ENTITY,
    entity_key,
    entity_of,
    room_of,
)
from edgesync.entities.model import (
    ENTITIES_MAX,
    FIELD_BYTES_MAX,
    MS_MAX,
    EntityId,
    checked_name,
    decode_value,
    encode_value,
)
from edgesync.entities.view import Command, View, delete_fields, set_fields
from edgesync.errors import EntityError

CREATED: Final = "created"
FIELDS_MAX: Final = 64


class Record(msgspec.Struct, frozen=True):
    """An entity; `fields` are its label, profile and whatever else somebody noted of it."""

    id: EntityId
    created_ms: int
    fields: dict[str, Any]


def find(view: View, one: EntityId) -> Record | None:
    """Return the record of an entity; None when it is not there."""
    fields = {
        name.decode(errors="replace"): decode_value(raw)
        for name, raw in view.fields(entity_key(one)).items()
    }
    created = fields.pop(CREATED, None)
    if created is None:
        return None
    is_time = type(created) is int and 0 <= created <= MS_MAX
    return Record(one, created if is_time else 0, fields)


def list_records(
    view: View, edge: str, *, kind: str = "", after: EntityId | None = None, limit: int = 100
) -> list[Record]:
    """Return entities of an edge in the order of their keys, those the hub manages last."""
    found: list[Record] = []
    for one in _ids(view, edge, kind, after):
        if (record := find(view, one)) is not None:
            found.append(record)
            if len(found) >= limit:
                break
    return found


def _ids(view: View, edge: str, kind: str, after: EntityId | None) -> Iterator[EntityId]:
    behind = None if after is None else entity_key(after)
    for room in (ENTITY, MANAGED_ENTITY):
        prefix = room_of(room, edge) + (kind.encode() + b"/" if kind else b"")
        for key in view.keys(prefix, behind):
            if (named := entity_of(key)) is not None:
                yield named[1]


def plan_save(view: View, one: EntityId, fields: Mapping[str, Any], now_ms: int) -> list[Command]:
    """Return the commands that create an entity, or change fields of it; None removes a field."""
    key = entity_key(one)
    given, gone = dict[bytes, bytes](), list[bytes]()
    for name, value in fields.items():
        where = f"fields.{name[:40]}"
        raw = checked_name(where, name, FIELD_BYTES_MAX).encode()
        if name == CREATED:
            raise EntityError(where, "is set by itself", "leave it out")
        if value is None:
            gone.append(raw)
        else:
            given[raw] = encode_value(where, value)
    before = view.changeable(key)
    if CREATED.encode() not in before:
        count = sum(
            view.count(room_of(room, one.edge), ENTITIES_MAX) for room in (ENTITY, MANAGED_ENTITY)
        )
        if count >= ENTITIES_MAX:
            raise EntityError(
                "name", f"{one.edge} has {count} entities", f"at most {ENTITIES_MAX}: delete some"
            )
        given[CREATED.encode()] = encode_value(CREATED, now_ms)
    if len(before | given) > FIELDS_MAX:
        raise EntityError(
            "fields", f"{len(before | given)} of them", f"at most {FIELDS_MAX}: use attributes"
        )
    changed = {name: raw for name, raw in given.items() if before.get(name) != raw}
    removed = [name for name in gone if name in before]
    return [*set_fields(key, changed), *delete_fields(key, removed)]
