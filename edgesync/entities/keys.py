"""In which keys entities are held, who is told of them, and how writes that met are ranked.

    @/ROOM/EDGE/KIND/NAME          a hash; NAME reaches to the end, whatever is in it
    @/alarm/EDGE/ID                likewise; ID says originator and type (alarms.py)

The room decides the policy, for a strategy goes by the beginning of a key; the edge stands next,
so that each edge is told of its own entities and of no others (tests/golden/entities-1.json).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from edgesync.entities.model import MANAGED, EntityId, Scope
from edgesync.model import Strategy

ROOT: Final = b"@/"
# Records of entities: of devices, assets and unknown kinds, and of those that the hub manages.
ENTITY, MANAGED_ENTITY = b"entity", b"managed"
RELATION, ALARM = b"relation", b"alarm"

# Fields of a hash merge one by one whatever the policy; it ranks writes of one field that met, and
# a removal beside a write it had not seen.
POLICIES: Final[tuple[tuple[bytes, Strategy], ...]] = (
    (b"", Strategy.CRDT_MERGE),  # entities, relations and alarms: a write beats a removal
    (MANAGED_ENTITY, Strategy.CLOUD_WINS),
    (b"client", Strategy.EDGE_WINS),
    (b"shared", Strategy.CLOUD_WINS),
    (b"server", Strategy.LAST_WRITE_WINS),
)
ROOMS: Final = (ENTITY, MANAGED_ENTITY, b"client", b"shared", b"server", RELATION, ALARM)


def entity_key(one: EntityId) -> bytes:
    return _key(MANAGED_ENTITY if one.kind in MANAGED else ENTITY, one)


def attributes_key(one: EntityId, scope: Scope) -> bytes:
    return _key(scope.value.encode(), one)


def relations_key(one: EntityId) -> bytes:
    """Return where the relations *from* an entity are."""
    return _key(RELATION, one)


def alarm_key(edge: str, alarm_id: str) -> bytes:
    return room_of(ALARM, edge) + alarm_id.encode()


def room_of(room: bytes, edge: str) -> bytes:
    """Return what all keys of an edge in a room begin with."""
    return b"%s%s/%s/" % (ROOT, room, edge.encode())


def _key(room: bytes, one: EntityId) -> bytes:
    return b"%s%s/%s" % (room_of(room, one.edge), one.kind.encode(), one.name.encode())


def keys_of(one: EntityId) -> list[bytes]:
    """Return all keys of an entity, its own record last."""
    return [
        *(attributes_key(one, scope) for scope in Scope), relations_key(one), entity_key(one),
    ]  # fmt: skip


def entity_of(key: bytes) -> tuple[bytes, EntityId] | None:
    """Return the room of a key and whose it is; None for keys of alarms and all others."""
    if not key.startswith(ROOT):
        return None
    parts = key[len(ROOT) :].split(b"/", 3)
    if len(parts) != 4 or parts[0] == ALARM:
        return None
    try:
        edge, kind, name = (part.decode() for part in parts[1:])
    except UnicodeDecodeError:
        return None
    return parts[0], EntityId(edge, kind, name)


def own_rooms(edge: str) -> list[bytes]:
    """Return what the keys of an edge's own entities begin with."""
    return [room_of(room, edge) for room in ROOMS]


def scoped(edge: str, wish: Sequence[tuple[bytes, bool]]) -> list[tuple[bytes, bool]]:
    """Return which keys an edge asks for: its wish, and of entities its own.

    What the wish itself says of these rooms counts.
    """
    own = [(ROOT, False), *((room, True) for room in own_rooms(edge))]
    said = {prefix for prefix, _ in wish}
    found = [*wish, *(rule for rule in own if rule[0] not in said)]
    return sorted(found, key=lambda rule: -len(rule[0]))


def policies(
    said: Iterable[tuple[bytes, Strategy]],
) -> list[tuple[bytes, Strategy]]:
    """Return strategies by prefix, with those of entities where nothing else is said."""
    found = {ROOT + room + b"/" * bool(room): strategy for room, strategy in POLICIES}
    found.update(said)
    return list(found.items())
