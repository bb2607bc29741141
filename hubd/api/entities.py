"""Answers about entities, and changes of them: of a tenant's edge, in that tenant's keys (I12).

Plans are made on the keys as they are and carried out by the log, after what came between; each
command sets or removes fields, so what it meets there merges as it would from any other site.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio

from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.entities import alarms, attributes, claims, records, relations
from edgesync.entities.alarms import Alarm
from edgesync.entities.index import EntityIndex
from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.removal import plan_delete, remains
from edgesync.entities.view import Command
from edgesync.errors import EntityError
from edgesync.redaction import hidden
from hubd.api.context import Context
from hubd.api.entity_shapes import (
    Alarms,
    AlarmsPage,
    AlarmView,
    Attributes,
    AttributeView,
    Claim,
    Entities,
    EntitiesPage,
    EntityBody,
    EntityView,
    Findings,
    FleetAlarms,
    FleetAlarmsPage,
    OfEdge,
    OneAlarm,
    OneEntity,
    RaiseAlarm,
    Relate,
    Relations,
    RelationView,
    Removed,
    SaveEntity,
    SetAttributes,
    WaitingView,
    Who,
)
from hubd.api.errors import ApiError
from hubd.api.fleet import known_edge
from hubd.api.keys import storing
from hubd.api.params import make_cursor, read_cursor
from hubd.cells import Answers

# Looking at more in one go would hold up the link of every edge (I8).
LOOKED_AT_MAX: Final = 1000
# … between other work.
LOOKED_AT_A_TURN: Final = 200
NANOS: Final = 1_000_000
FINDINGS_MAX: Final = 1000


class _Keys:
    """The keys that hold an edge's entities, at the hub."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.view = answers.cells.view
        self.now_ms = answers.cells.now_ms

    async def carry_out(self, commands: Sequence[Command]) -> None:
        """Return when the log has what is planned; raises ApiError."""
        if not commands:
            return
        with storing():
            replies = await self._answers.run_commands(commands)
        _check(replies)


def _check(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise ApiError(
                409, str(reply).removeprefix("ERR "), remedy="see cells.value_limit and TYPE"
            )


async def keys_of(context: Context, edge: str) -> _Keys:
    """Return the keys of whose edge it is, with all that was answered; raises ApiError."""
    view = known_edge(context, edge)
    answers = context.seen_answers().get(view.tenant, context.answers)
    await answers.reach_told()
    return _Keys(answers)


async def index_of(keys: _Keys, edge: str) -> EntityIndex:
    """Return what leads to an edge's entities, for one question: a hub has many edges."""
    index = EntityIndex(keys.view, edge)
    while index.catch_up(LOOKED_AT_A_TURN):
        await trio.lowlevel.checkpoint()
    return index


@contextmanager
def told() -> Iterator[None]:
    """Answer what cannot be with ApiError, which names the field."""
    try:
        yield
    except EntityError as error:
        raise ApiError(400, error.problem, field=error.field, remedy=error.remedy) from error


def named(edge: str, asked: EntityBody | OneEntity) -> EntityId:
    with told():
        return entity(edge, asked.kind, asked.entity)


# -- entities ------------------------------------------------------------------------------------


async def entities(context: Context, params: EntitiesPage) -> Entities:
    keys = await keys_of(context, params.edge)
    (last,) = read_cursor(params.after, tuple[tuple[str, str] | None], (None,))
    with told():
        after = None if last is None else entity(params.edge, *last)
        kind = entity(params.edge, params.kind or "device", "any").kind if params.kind else ""
        found = records.list_records(
            keys.view, params.edge, kind=kind, after=after, limit=params.limit
        )
    following = None
    if len(found) == params.limit:
        following = make_cursor((found[-1].id.kind, found[-1].id.name))  # type: ignore[arg-type]
    return Entities(edge=params.edge, entities=[_shown(one) for one in found], next=following)


def _shown(one: records.Record) -> EntityView:
    return EntityView(
        kind=one.id.kind, entity=one.id.name, created_ns=one.created_ms * NANOS, fields=one.fields
    )


async def save(context: Context, params: OfEdge, asked: SaveEntity) -> EntityView:
    """Create an entity, or change fields of it."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    with told():
        plan = records.plan_save(keys.view, one, asked.fields, keys.now_ms())
    await keys.carry_out(plan)
    found = records.find(keys.view, one)
    if found is None:  # somebody has just removed it
        raise _no_such_entity(one)
    return _shown(found)


async def delete(context: Context, params: OfEdge, asked: EntityBody) -> Removed:
    """Remove an entity from its edge with all it has, whether or not the edge can be reached."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    index = await index_of(keys, params.edge)
    with told():
        removed = remains(keys.view, one, index)
        await keys.carry_out(plan_delete(keys.view, one, index))
    return Removed(removed=removed)


def _no_such_entity(one: EntityId) -> ApiError:
    return ApiError(
        404, f"no such entity {one.name!r}", field="entity",
        remedy="GET …/entities lists those there are",
    )  # fmt: skip


async def findings(context: Context, params: OfEdge) -> Findings:
    """Look for what waits for something missing, and for cycles."""
    keys = await keys_of(context, params.edge)
    found: list[records.Record] = []
    related: list[relations.Relation] = []
    with told():
        after: EntityId | None = None
        while page := records.list_records(
            keys.view, params.edge, after=after, limit=LOOKED_AT_A_TURN
        ):
            found += page
            after = page[-1].id
            await trio.lowlevel.checkpoint()
        for at, one in enumerate(relations.all_relations(keys.view, params.edge)):
            related.append(one)
            if at % LOOKED_AT_A_TURN == 0:
                await trio.lowlevel.checkpoint()
    waiting = relations.waiting(found, related)[:FINDINGS_MAX]
    return Findings(
        edge=params.edge, count=len(found),
        waiting=[WaitingView(what=one.what, lacks=one.lacks) for one in waiting],
        cycles=relations.find_cycles(found, related)[:FINDINGS_MAX],
    )  # fmt: skip


# -- attributes ----------------------------------------------------------------------------------


async def attributes_of(context: Context, params: OneEntity) -> Attributes:
    keys, one = await keys_of(context, params.edge), named(params.edge, params)
    return _attributes(keys, one)


def _attributes(keys: _Keys, one: EntityId) -> Attributes:
    def scope(which: Scope) -> dict[str, AttributeView]:
        found: Mapping[str, attributes.Attribute] = attributes.read_dated(keys.view, one, which)
        return {
            name: AttributeView(
                value=hidden(held.value) if name == claims.OFFER else held.value,
                updated_ns=held.updated_ms * NANOS,
            )
            for name, held in found.items()
        }  # fmt: skip

    with told():
        return Attributes(
            edge=one.edge, kind=one.kind, entity=one.name, client=scope(Scope.CLIENT),
            shared=scope(Scope.SHARED), server=scope(Scope.SERVER),
        )  # fmt: skip


async def set_attributes(context: Context, params: OfEdge, asked: SetAttributes) -> Attributes:
    """Set and delete attributes; the edge has them when it is there, and pushes shared ones."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    scope = Scope.named(asked.scope)
    if scope is Scope.CLIENT and asked.set:
        raise ApiError(
            400, "client attributes are what the device reports", field="scope",
            remedy="set a shared attribute, which the device is told of, or a server one",
        )  # fmt: skip
    with told():
        plan = attributes.plan_set(keys.view, one, scope, asked.set)
        gone = [name for name in asked.delete if name not in asked.set]
        plan += attributes.plan_delete(keys.view, one, scope, gone)
        if plan and asked.set:  # what has no record would be an orphan
            plan = [*records.plan_save(keys.view, one, {}, keys.now_ms()), *plan]
    await keys.carry_out(plan)
    return _attributes(keys, one)


async def claim(context: Context, params: OfEdge, asked: Claim) -> Attributes:
    """Claim a device that offers itself; of two at once one is told of the other."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    with told():
        held = attributes.read(keys.view, one, Scope.SERVER, (claims.OFFER, claims.CLAIMED))
        made = claims.claim(
            held.get(claims.OFFER), held.get(claims.CLAIMED), asked.secret, asked.by, keys.now_ms()
        )
        plan = [
            # Others may be on their way to the log: the first that is there counts.
            *attributes.plan_add(keys.view, one, Scope.SERVER, claims.CLAIMED, made),
            *attributes.plan_delete(keys.view, one, Scope.SERVER, [claims.OFFER]),
        ]
    await keys.carry_out(plan)
    keys = await keys_of(context, params.edge)
    now = attributes.read(keys.view, one, Scope.SERVER, (claims.CLAIMED,)).get(claims.CLAIMED)
    if now != made:
        raise ApiError(
            409, f"is claimed already: {now!r:.100}", field="entity", remedy="somebody was faster"
        )
    return _attributes(keys, one)


# -- relations -----------------------------------------------------------------------------------


async def relations_of(context: Context, params: OneEntity) -> Relations:
    keys, one = await keys_of(context, params.edge), named(params.edge, params)
    return await _relations(keys, one)


async def _relations(keys: _Keys, one: EntityId) -> Relations:
    with told():
        found = relations.relations_from(keys.view, one)
        for at, some in enumerate(relations.relations_to(keys.view, one)):
            found += [other for other in some if other.source != one]
            if at % LOOKED_AT_A_TURN == 0:
                await trio.lowlevel.checkpoint()
    return Relations(
        edge=one.edge,
        relations=[
            RelationView(source=str(it.source), type=it.type, to=str(it.to), data=it.data)
            for it in found
        ],
    )


async def relate(context: Context, params: OfEdge, asked: Relate) -> Relations:
    """Add a relation, or change its data."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    with told():
        to = entity(params.edge, asked.to_kind, asked.to)
        plan = relations.plan_relate(keys.view, one, asked.type, to, asked.data)
    await keys.carry_out(plan)
    return await _relations(keys, one)


async def unrelate(context: Context, params: OfEdge, asked: Relate) -> Relations:
    """Remove a relation."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    with told():
        to = entity(params.edge, asked.to_kind, asked.to)
        plan = relations.plan_unrelate(keys.view, one, asked.type, to)
    await keys.carry_out(plan)
    return await _relations(keys, one)


# -- alarms --------------------------------------------------------------------------------------


async def alarms_of(context: Context, params: AlarmsPage) -> Alarms:
    keys = await keys_of(context, params.edge)
    (after,) = read_cursor(params.after, tuple[str], ("",))
    looked = _Looked(params)
    with told():
        last = await looked.at(keys, params.edge, after)
    following = None if last is None else make_cursor(last)
    return Alarms(edge=params.edge, alarms=[_alarm(one) for one in looked.found], next=following)


async def fleet_alarms(context: Context, params: FleetAlarmsPage) -> FleetAlarms:
    """Return alarms of every edge that may be seen, edge by edge."""
    start, after = read_cursor(params.after, tuple[str, str], ("", ""))
    looked = _Looked(params)
    following = None
    names = context.hub.names()
    for edge in names[bisect_left(names, start) :]:
        keys = await keys_of(context, edge)
        with told():
            last = await looked.at(keys, edge, after if edge == start else "")
        if last is not None:
            following = make_cursor(edge, last)
            break
        await trio.lowlevel.checkpoint()
    return FleetAlarms(alarms=[_alarm(one) for one in looked.found], next=following)


class _Looked:
    """Alarms that were asked for, and how many more may be looked at for that."""

    def __init__(self, params: FleetAlarmsPage) -> None:
        self._params = params
        self._left = LOOKED_AT_MAX
        self.found: list[Alarm] = []

    async def at(self, keys: _Keys, edge: str, after: str) -> str | None:
        """Look at the alarms of an edge; returns the id of the last, if there may be more."""
        for one in alarms.all_alarms(keys.view, edge, after):
            self._left -= 1
            if _is_asked(one, self._params):
                self.found.append(one)
            if len(self.found) == self._params.limit or self._left <= 0:
                return one.id
            if self._left % LOOKED_AT_A_TURN == 0:
                await trio.lowlevel.checkpoint()
        return None


def _is_asked(one: Alarm, params: FleetAlarmsPage) -> bool:
    is_status = params.status is None or (params.status == "active") == one.is_active
    return is_status and (params.acked is None or params.acked == (one.ack is not None))


async def raise_alarm(context: Context, params: OfEdge, asked: RaiseAlarm) -> AlarmView:
    """Raise an alarm, or renew one that is active."""
    keys, one = await keys_of(context, params.edge), named(params.edge, asked)
    with told():
        plan = alarms.plan_raise(
            keys.view, one, asked.type, alarms.Severity.named(asked.severity), keys.now_ms(),
            details=asked.details, by=asked.by,
        )  # fmt: skip
        id_ = alarms.alarm_id(one, asked.type)
    await keys.carry_out(plan)
    return _alarm(_known_alarm(keys, params.edge, id_))


async def ack(context: Context, params: OneAlarm, asked: Who) -> AlarmView:
    """Acknowledge the occurrence of an alarm that is seen here; again changes nothing."""
    keys = await keys_of(context, params.edge)
    with told():
        plan = alarms.plan_ack(_known_alarm(keys, params.edge, params.id), keys.now_ms(), asked.by)
    await keys.carry_out(plan)
    return _alarm(_known_alarm(keys, params.edge, params.id))


async def clear(context: Context, params: OneAlarm, asked: Who) -> AlarmView:
    """End the occurrence of an alarm that is seen here; again changes nothing."""
    keys = await keys_of(context, params.edge)
    with told():
        plan = alarms.plan_clear(
            _known_alarm(keys, params.edge, params.id), keys.now_ms(), asked.by
        )
    await keys.carry_out(plan)
    return _alarm(_known_alarm(keys, params.edge, params.id))


def _known_alarm(keys: _Keys, edge: str, id_: str) -> Alarm:
    found = alarms.find_alarm(keys.view, edge, id_)
    if found is None:
        raise ApiError(
            404, f"no such alarm {id_!r}", field="id", remedy="GET …/alarms lists those there are"
        )
    return found


def _alarm(one: Alarm) -> AlarmView:
    status: Any = one.status
    return AlarmView(
        id=one.id, edge=one.originator.edge, kind=one.originator.kind, entity=one.originator.name,
        type=one.type, occurrence=one.n, severity=one.raised.severity, status=status,
        start_ns=one.raised.at * NANOS, end_ns=one.raised.end * NANOS, details=one.raised.details,
        raised_by=one.raised.by,
        acked_ns=None if one.ack is None else one.ack.at * NANOS,
        acked_by="" if one.ack is None else one.ack.by,
        cleared_ns=None if one.clear is None else one.clear.at * NANOS,
        cleared_by="" if one.clear is None else one.clear.by,
        at_edge=not alarms.untold(one),
    )  # fmt: skip
