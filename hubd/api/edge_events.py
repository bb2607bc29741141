"""Events for an edge, each by its action: what `EdgeEventService.save` of other systems does.

What an edge keeps as state (entities, attributes, relations, alarms) is changed in its keys, as by
the routes for them, and is there when the keys are; what is no state is stored in the journal of
its downlink and takes effect once.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.removal import plan_unrelate_all
from edgesync.errors import EntityError
from edgesync.model import Action, EntityType, Event, EventType, Lane
from edgesync.told import CREDENTIALS_KIND, TYPES, Credentials, Several
from hubd.api import edges, entities, rpc
from hubd.api.context import Context
from hubd.api.edge_shapes import AssignCustomer, EventSaved, NewEvent
from hubd.api.entity_shapes import (
    EntityBody,
    OfEdge,
    OneAlarm,
    RaiseAlarm,
    Relate,
    SaveEntity,
    SetAttributes,
    Who,
)
from hubd.api.errors import ApiError, descriptions, from_validation
from hubd.api.fleet import known_edge
from hubd.api.params import CallBody, OneEdge
from hubd.edge_service import KIND

T = TypeVar("T", bound=EntityBody)

# Of one event; each is a command on the keys.
RELATIONS_MAX: Final = 5000
TOKEN_CHARS_MIN: Final = 8


class _Fields(EntityBody, frozen=True, kw_only=True):
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


class _Attributes(EntityBody, frozen=True, kw_only=True):
    """`set`, or `delete` with names."""

    scope: Annotated[str, Meta(description="client, shared or server")] = "shared"
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    delete: tuple[str, ...] = ()


class _Alarm(EntityBody, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="id of an alarm", pattern="^[0-9a-f]{24}$")]


class _Customer(EntityBody, frozen=True, kw_only=True):
    customer: Annotated[str, Meta(description="name of a customer", max_length=255)] = ""


class _Token(EntityBody, frozen=True, kw_only=True):
    """Null takes the token away that the hub has given."""

    token: (
        Annotated[
            str,
            Meta(description="8 to 255 characters", min_length=TOKEN_CHARS_MIN, max_length=255),
        ]
        | None
    ) = None


class _Kept(EntityBody, frozen=True, kw_only=True):
    keys: tuple[str, ...] = ()
    from_ns: int = 0
    to_ns: int = 0


class _Readings(EntityBody, frozen=True, kw_only=True):
    readings: Several = ()


async def save(context: Context, params: OneEdge, asked: NewEvent) -> EventSaved:
    """Have the action of an event happen at an edge."""
    known_edge(context, params.edge)
    action = _named(Action, asked.action, "action")
    kind = _named(EventType, asked.type, "type") if asked.type else DEFAULT.get(action)
    act = ACTS.get((kind, action)) if kind is not None else None
    if kind is None or act is None:
        names = sorted({f"{one.name.lower()} of {type_.name.lower()}" for type_, one in ACTS})
        raise ApiError(
            400, f"`action` {asked.action!r} of {asked.type or 'nothing'!r} is nothing to an edge",
            field="action", remedy=", ".join(names),
        )  # fmt: skip
    seq, lane = await act(context, params, asked)
    return EventSaved(
        edge=params.edge, type=kind.name, action=action.name, entity=asked.entity,
        lane="" if lane is None else lane.name.lower(), seq=seq,
    )  # fmt: skip


Done = tuple[int, Lane | None]
Act = Callable[[Context, OneEdge, NewEvent], Awaitable[Done]]
BY_KEYS: Final[Done] = (0, None)


def _named(kind: type[Any], name: str, field: str) -> Any:
    try:
        return kind[name.upper()]
    except KeyError:
        known = ", ".join(one.name.lower() for one in kind)
        raise ApiError(400, f"`{field}` {name!r} is not known", field=field, remedy=known) from None


def _body(asked: NewEvent, shape: type[T]) -> T:
    """Return what the body says, with the entity that the event is about; raises ApiError."""
    fields = {one.encode_name for one in msgspec.structs.fields(shape)}
    beside = {"entity": asked.entity, "kind": asked.kind}
    if "by" in fields:
        beside["by"] = asked.by
    try:
        return msgspec.convert({**asked.body, **beside}, shape)
    except msgspec.ValidationError as error:
        raise from_validation(error, descriptions(shape)) from error


def _of(params: OneEdge) -> OfEdge:
    return OfEdge(edge=params.edge)


# -- state, by keys ------------------------------------------------------------------------------


async def _save_entity(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    said = _body(asked, _Fields)
    body = SaveEntity(entity=said.entity, kind=said.kind, fields=said.fields)
    await entities.save(context, _of(params), body)
    return BY_KEYS


async def _delete_entity(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    await entities.delete(context, _of(params), _body(asked, EntityBody))
    return BY_KEYS


async def _set_attributes(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    said = _body(asked, _Attributes)
    try:
        scope: Any = Scope.named(said.scope).value
    except EntityError as error:
        raise ApiError(400, error.problem, field=error.field, remedy=error.remedy) from error
    body = SetAttributes(
        entity=said.entity, kind=said.kind, scope=scope, set=said.set, delete=said.delete
    )
    await entities.set_attributes(context, _of(params), body)
    return BY_KEYS


async def _raise_alarm(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    await entities.raise_alarm(context, _of(params), _body(asked, RaiseAlarm))
    return BY_KEYS


async def _ack_alarm(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    alarm = OneAlarm(edge=params.edge, id=_alarm_id(asked))
    await entities.ack(context, alarm, Who(by=asked.by))
    return BY_KEYS


async def _clear_alarm(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    alarm = OneAlarm(edge=params.edge, id=_alarm_id(asked))
    await entities.clear(context, alarm, Who(by=asked.by))
    return BY_KEYS


def _alarm_id(asked: NewEvent) -> str:
    # An alarm's id says whose it is.
    named = msgspec.structs.replace(asked, entity=asked.entity or "alarm")
    return _body(named, _Alarm).id


async def _relate(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    await entities.relate(context, _of(params), _body(asked, Relate))
    return BY_KEYS


async def _unrelate(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    await entities.unrelate(context, _of(params), _body(asked, Relate))
    return BY_KEYS


async def _unrelate_all(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    """Remove the relations from an entity and to it."""
    one = entities.named(params.edge, _body(asked, EntityBody))
    keys = await entities.keys_of(context, params.edge)
    plan = plan_unrelate_all(keys.view, one, await entities.index_of(keys, params.edge))
    if len(plan) > RELATIONS_MAX:
        raise ApiError(
            413, f"{one} has {len(plan)} relations", field="entity",
            remedy=f"{RELATIONS_MAX} at most go at once; remove some by relation_deleted",
        )  # fmt: skip
    await keys.carry_out(plan)
    return BY_KEYS


async def _assign(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    """Assign an entity, or the edge itself, to a customer, or take it from its own."""
    is_given = _named(Action, asked.action, "action") is Action.ASSIGNED_TO_CUSTOMER
    said = _body(asked, _Customer)
    if is_given and not said.customer:
        raise ApiError(400, "no `customer`", field="customer", remedy="name of a customer")
    customer = said.customer if is_given else ""
    if said.kind == KIND:
        if said.entity != params.edge:
            raise ApiError(
                400, f"{said.entity!r} is another edge", field="entity",
                remedy=f"{params.edge}, or another `kind`",
            )  # fmt: skip
        await edges.assign(context, params, AssignCustomer(customer=customer, by=asked.by))
        return BY_KEYS
    body = SaveEntity(entity=said.entity, kind=said.kind, fields={"customer": customer or None})
    await entities.save(context, _of(params), body)
    facts = {"kind": said.kind, "customer": said.customer, "by": asked.by}
    return await _tell(context, params, asked, EventType.ENTITY, facts)


async def _call(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    body = {**asked.body, "device": asked.entity, "by": asked.by}
    try:
        call = msgspec.convert(body, CallBody)
    except msgspec.ValidationError as error:
        raise from_validation(error, descriptions(CallBody)) from error
    await rpc.send(context, params, call)
    return (0, Lane.CRITICAL)


# -- what is no state, by the journal ------------------------------------------------------------


async def _readings(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    said = _body(asked, _Readings)
    if not said.readings:
        raise ApiError(400, "no `readings`", field="readings", remedy="1 to 500 of them")
    facts = {"readings": msgspec.to_builtins(said.readings)}
    return await _tell(context, params, asked, EventType.TELEMETRY, facts)


async def _delete_readings(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    said = _body(asked, _Kept)
    facts = {"keys": said.keys, "from_ns": said.from_ns, "to_ns": said.to_ns, "by": asked.by}
    return await _tell(context, params, asked, EventType.TELEMETRY, facts)


async def _credentials(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    """Give a device a token; its hash alone is stored, here and at the edge."""
    said = _body(asked, _Token)
    if said.kind != CREDENTIALS_KIND:
        raise ApiError(400, f"a {said.kind} has no credentials", field="kind", remedy="device")
    digest = "" if said.token is None else hashlib.sha256(said.token.encode()).hexdigest()
    facts = msgspec.to_builtins(Credentials(token_sha256=digest, by=asked.by))
    return await _tell(context, params, asked, EventType.ENTITY, facts)


async def _custom(context: Context, params: OneEdge, asked: NewEvent) -> Done:
    return await _tell(context, params, asked, EventType.CUSTOM, asked.body)


async def _tell(
    context: Context, params: OneEdge, asked: NewEvent, type_: EventType, facts: Mapping[str, Any]
) -> Done:
    one = _entity(params.edge, asked)
    now_ns = context.now_ns()
    event = Event(
        type=type_, action=_named(Action, asked.action, "action"),
        entity_type=EntityType.NONE if one is None else TYPES.get(one.kind, EntityType.NONE),
        entity_id="" if one is None else one.name, body=msgspec.json.encode(facts),
        time_ns=now_ns, created_ns=now_ns,
    )  # fmt: skip
    return await edges.tell(context, params.edge, event, Lane.NORMAL), Lane.NORMAL


def _entity(edge: str, asked: NewEvent) -> EntityId | None:
    if not asked.entity:
        return None
    with entities.told():
        return entity(edge, asked.kind, asked.entity)


_ENTITY, _ALARM, _RELATION = EventType.ENTITY, EventType.ALARM, EventType.RELATION
ACTS: Final[Mapping[tuple[EventType, Action], Act]] = {
    (_ENTITY, Action.ADDED): _save_entity,
    (_ENTITY, Action.UPDATED): _save_entity,
    (_ENTITY, Action.DELETED): _delete_entity,
    (_ENTITY, Action.ASSIGNED_TO_EDGE): _save_entity,
    (_ENTITY, Action.UNASSIGNED_FROM_EDGE): _delete_entity,
    (_ENTITY, Action.ASSIGNED_TO_CUSTOMER): _assign,
    (_ENTITY, Action.UNASSIGNED_FROM_CUSTOMER): _assign,
    (_ENTITY, Action.CREDENTIALS_UPDATED): _credentials,
    (EventType.ATTRIBUTES, Action.ATTRIBUTES_UPDATED): _set_attributes,
    (EventType.ATTRIBUTES, Action.ATTRIBUTES_DELETED): _set_attributes,
    (EventType.TELEMETRY, Action.TIMESERIES_UPDATED): _readings,
    (EventType.TELEMETRY, Action.TIMESERIES_DELETED): _delete_readings,
    (_ALARM, Action.ADDED): _raise_alarm,
    (_ALARM, Action.ALARM_ACK): _ack_alarm,
    (_ALARM, Action.ALARM_CLEAR): _clear_alarm,
    (_RELATION, Action.RELATION_ADD_OR_UPDATE): _relate,
    (_RELATION, Action.RELATION_DELETED): _unrelate,
    (_RELATION, Action.RELATIONS_DELETED): _unrelate_all,
    (EventType.RPC_REQUEST, Action.RPC_CALL): _call,
    (EventType.CUSTOM, Action.NONE): _custom,
}
# Of an action alone; that of an entity comes first.
DEFAULT: Final[Mapping[Action, EventType]] = {
    action: type_ for type_, action in reversed(list(ACTS))
}
