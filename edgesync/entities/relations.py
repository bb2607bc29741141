r"""Relations between entities of an edge, what waits for something missing, cycles.   [sans-IO]

From each entity a hash: field `TYPE\0KIND\0NAME` of where it leads, value its data as JSON. So a
relation that is added, removed and added is there, whoever did what in which order.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgesync.entities.keys import RELATION, entity_of, relations_key, room_of
from edgesync.entities.model import (
    KIND_PATTERN,
    NAME_BYTES_MAX,
    RELATIONS_MAX,
    EntityId,
    checked_name,
    decode_value,
    encode_value,
)
from edgesync.entities.records import Record
from edgesync.entities.view import Command, View, delete_fields, set_fields
from edgesync.errors import EntityError

CONTAINS: Final = "Contains"
TYPE_BYTES_MAX: Final = 64
# Fields of a record that name an entity it cannot be without, and of which kind.
PARENTS: Final[Mapping[str, Sequence[str]]] = {
    "device": ("profile", "device_profile"),
    "asset": ("profile", "asset_profile"),
    "entity_view": ("entity", ""),
    "rule_chain": ("parent", "rule_chain"),
    "widget_type": ("bundle", "widgets_bundle"),
}


class Relation(msgspec.Struct, frozen=True, order=True):
    source: EntityId
    type: str
    to: EntityId
    data: Any = None


class Waiting(msgspec.Struct, frozen=True):
    """Something that is kept and has no effect before `lacks` is there."""

    what: str
    lacks: str


def relation_of(source: EntityId, field: bytes, raw: bytes = b"null") -> Relation | None:
    """Return the relation that a field says; None for one that says none."""
    parts = field.split(b"\0", 2)
    if len(parts) != 3:
        return None
    try:
        kind, type_, name = parts[1].decode(), parts[0].decode(), parts[2].decode()
    except UnicodeDecodeError:
        return None
    return Relation(source, type_, EntityId(source.edge, kind, name), decode_value(raw))


def field_of(type_: str, to: EntityId) -> bytes:
    """Return the field of a relation; raises EntityError."""
    checked_name("type", type_, TYPE_BYTES_MAX)
    if not KIND_PATTERN.fullmatch(to.kind):
        raise EntityError("to", f"{to.kind!r} is no kind", "such as device or asset")
    checked_name("to", to.name, NAME_BYTES_MAX)
    return b"\0".join((type_.encode(), to.kind.encode(), to.name.encode()))


def end_of(to: EntityId) -> bytes:
    """Return how the fields of all relations to an entity end; others may, too."""
    return b"\0%s\0%s" % (to.kind.encode(), to.name.encode())


def relations_from(view: View, source: EntityId) -> list[Relation]:
    found = view.fields(relations_key(source)).items()
    told = (relation_of(source, field, raw) for field, raw in found)
    return [one for one in told if one is not None]


def all_relations(view: View, edge: str) -> Iterator[Relation]:
    """Yield every relation of an edge."""
    for key in view.keys(room_of(RELATION, edge)):
        if (named := entity_of(key)) is not None:
            yield from relations_from(view, named[1])


def relations_to(
    view: View, to: EntityId, keys: Iterable[bytes] | None = None
) -> Iterator[list[Relation]]:
    """Yield for each entity of the edge that has relations those of them that lead to `to`.

    keys  where these are, if that is known
    """
    end = end_of(to)
    for key in view.keys(room_of(RELATION, to.edge)) if keys is None else keys:
        if (named := entity_of(key)) is None:
            continue
        fields = [(field, raw) for field, raw in view.fields(key).items() if field.endswith(end)]
        told = (relation_of(named[1], field, raw) for field, raw in fields)
        yield [one for one in told if one is not None and one.to == to]


def plan_relate(
    view: View, source: EntityId, type_: str, to: EntityId, data: Any = None
) -> list[Command]:
    """Return the commands that add a relation or change its data.

    Ends that are missing may come later; one that would close a cycle of `Contains` is refused.
    """
    if source.edge != to.edge:
        raise EntityError("to", f"{to} is at {to.edge}", f"an entity of {source.edge}")
    if type_ == CONTAINS and (way := _way(view, to, source)):
        raise EntityError(
            "to", "closes a cycle: " + " contains ".join(map(str, [source, *way])),
            "remove one of these relations first",
        )  # fmt: skip
    key, field, raw = relations_key(source), field_of(type_, to), encode_value("data", data)
    there = view.changeable(key)
    if field not in there and len(there) >= RELATIONS_MAX:
        raise EntityError(
            "from", f"{source} has {len(there)} relations", f"at most {RELATIONS_MAX}"
        )
    return [] if there.get(field) == raw else set_fields(key, {field: raw})


def plan_unrelate(view: View, source: EntityId, type_: str, to: EntityId) -> list[Command]:
    """Return the commands that remove a relation; none when it is not there."""
    key, field = relations_key(source), field_of(type_, to)
    return delete_fields(key, [field] if field in view.fields(key) else [])


def _way(view: View, start: EntityId, end: EntityId) -> list[EntityId]:
    """Return how `Contains` leads from one entity to another, both with it; empty if not."""
    came: dict[EntityId, EntityId | None] = {start: None}
    open_ = [start]
    while open_:
        at = open_.pop()
        if at == end:
            way = [at]
            while (before := came[way[-1]]) is not None:
                way.append(before)
            return way[::-1]
        for one in relations_from(view, at):
            if one.type == CONTAINS and one.to not in came:
                came[one.to] = at
                open_.append(one.to)
    return []


def waiting(records: Collection[Record], relations: Iterable[Relation]) -> list[Waiting]:
    """Return what is parked of an edge: records without their parent, relations without an end.

    It follows from all its records and relations as they are, so it is over when what was missing
    comes.
    """
    known = {record.id for record in records}
    parents = [(record, parent_of(record)) for record in records]
    found = [
        Waiting(str(record.id), str(parent))
        for record, parent in parents
        if parent is not None and parent not in known
    ]
    for one in relations:
        found += [
            Waiting(f"{one.source} {one.type} {one.to}", str(end))
            for end in (one.source, one.to)
            if end not in known
        ]
    return found


def parent_of(record: Record) -> EntityId | None:
    """Return what an entity cannot be without; None if it says nothing of that."""
    field, kind = PARENTS.get(record.id.kind, ("", ""))
    said = record.fields.get(field)
    if not isinstance(said, str) or not said:
        return None
    if not kind:
        kind, _, said = said.partition("/")
    return EntityId(record.id.edge, kind, said)


def cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return cycles of a graph, each from its least name on: at least one, as long as there is any.

    Of cycles that share a part not all may be named before one of them is mended.
    """
    found: list[list[str]] = []
    state: dict[str, int] = {}  # 1: on the way, 2: done
    for start in sorted(edges):
        if start in state:
            continue
        way, branches = [start], [iter(sorted(edges.get(start, ())))]
        state[start] = 1
        while branches:
            following = next(branches[-1], None)
            if following is None:
                branches.pop()
                state[way.pop()] = 2
            elif state.get(following) == 1:
                cycle = way[way.index(following) :]
                least = cycle.index(min(cycle))
                found.append(cycle[least:] + cycle[:least])
            elif following not in state:
                state[following] = 1
                way.append(following)
                branches.append(iter(sorted(edges.get(following, ()))))
    return found


def find_cycles(records: Iterable[Record], relations: Iterable[Relation]) -> list[list[str]]:
    """Return the cycles of containment and of parents: two sites can make one that none sees."""
    edges: dict[str, list[str]] = {}
    for one in relations:
        if one.type == CONTAINS:
            edges.setdefault(str(one.source), []).append(str(one.to))
    for record in records:
        if (parent := parent_of(record)) is not None:
            edges.setdefault(str(parent), []).append(str(record.id))
    return cycles(edges)
