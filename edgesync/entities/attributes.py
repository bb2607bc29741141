"""Attributes of entities, in three scopes: a hash for each, a field for each attribute.   [sans-IO]

A value is JSON as it stands, so that a Redis client or a script reads and writes it, too; when it
was written is told by its field's stamp. What has not changed is not written again.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from edgesync.entities.keys import attributes_key
from edgesync.entities.model import (
    ATTRIBUTES_BYTES_MAX,
    ATTRIBUTES_MAX,
    FIELD_BYTES_MAX,
    EntityId,
    Scope,
    checked_name,
    decode_value,
    encode_value,
)
from edgesync.entities.view import Command, View, delete_fields, set_fields
from edgesync.errors import EntityError

NAMES_MAX: Final = ATTRIBUTES_MAX


class Attribute(msgspec.Struct, frozen=True):
    """One attribute as it is now; `updated_ms` by the clock of who wrote it."""

    value: Any
    updated_ms: int


def read(
    view: View, one: EntityId, scope: Scope, names: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the values of an entity's attributes by name; only those `names`, if given."""
    found = view.fields(attributes_key(one, scope))
    return {name: decode_value(raw) for name, raw in _named(found, names)}


def read_dated(view: View, one: EntityId, scope: Scope) -> dict[str, Attribute]:
    """Return the attributes of an entity with the times they were written."""
    key = attributes_key(one, scope)
    stamps = view.stamps_ms(key)
    return {
        name: Attribute(decode_value(raw), stamps.get(name.encode(), 0))
        for name, raw in _named(view.fields(key), None)
    }


def _named(fields: Mapping[bytes, bytes], names: Collection[str] | None) -> list[tuple[str, bytes]]:
    if names is None:
        return [(name.decode(errors="replace"), raw) for name, raw in fields.items()]
    found = [(name, fields.get(name.encode(errors="replace"))) for name in names]
    return [(name, raw) for name, raw in found if raw is not None]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what has another value than before, and what is gone."""
    changed = {
        name: value for name, value in now.items() if name not in before or before[name] != value
    }
    return changed, [name for name in before if name not in now]


def plan_set(view: View, one: EntityId, scope: Scope, values: Mapping[str, Any]) -> list[Command]:
    """Return the commands that set attributes; none for those that have the value already.

    Raises EntityError, and nothing of it is to be done then.
    """
    key = attributes_key(one, scope)
    given = {
        checked_name(f"values.{name[:40]}", name, FIELD_BYTES_MAX).encode():
            encode_value(f"values.{name[:40]}", value)
        for name, value in values.items()
    }  # fmt: skip
    before = view.changeable(key)
    changed = {name: raw for name, raw in given.items() if before.get(name) != raw}
    after = before | changed
    if len(after) > ATTRIBUTES_MAX and len(after) > len(before):
        raise EntityError(
            "values", f"{one} would have {len(after)} {scope.value} attributes",
            f"at most {ATTRIBUTES_MAX}: delete some, or put them into one object",
        )  # fmt: skip
    size = sum(len(name) + len(raw) for name, raw in after.items())
    if size > ATTRIBUTES_BYTES_MAX and changed:
        raise EntityError(
            "values", f"{one} would have {size} bytes of {scope.value} attributes",
            f"at most {ATTRIBUTES_BYTES_MAX}: what is larger is a file and no attribute",
        )  # fmt: skip
    return set_fields(key, changed)


def plan_add(view: View, one: EntityId, scope: Scope, name: str, value: Any) -> list[Command]:
    """Return the commands that set an attribute, unless there is one when they are carried out.

    Raises EntityError, and nothing of it is to be done then.
    """
    return [[b"HSETNX", *rest] for _, *rest in plan_set(view, one, scope, {name: value})]


def plan_delete(view: View, one: EntityId, scope: Scope, names: Collection[str]) -> list[Command]:
    """Return the commands that remove attributes; none for those that are not there."""
    key = attributes_key(one, scope)
    there = view.fields(key)
    wanted = dict.fromkeys(name.encode(errors="replace") for name in names)
    return delete_fields(key, [name for name in wanted if name in there])
