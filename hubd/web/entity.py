"""What the page of an entity shows, and what its buttons and fields do."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final, Literal

import msgspec

from hubd.api import entities, errors, fleet, params, rpc
from hubd.api.answers import Series
from hubd.api.context import Context
from hubd.api.entity_shapes import (
    AlarmsPage,
    AlarmView,
    Attributes,
    AttributeView,
    Entities,
    EntitiesPage,
    FleetAlarms,
    FleetAlarmsPage,
    Kind,
    Name,
    OfEdge,
    OneAlarm,
    OneEntity,
    SetAttributes,
    Who,
)
from hubd.api.errors import ApiError
from hubd.rpc.calls import CallView
from hubd.state import views
from hubd.web import format

LISTED: Final = 200
CALLS: Final = 10
# How long a call may wait for its device: minutes for one that is there, days for one that sleeps.
PATIENCES: Final = ((60, "1 minute"), (3600, "1 hour"), (86_400, "1 day"), (604_800, "7 days"))
SCOPES: Final = (
    ("shared", "Shared attributes", "settings, which the device is told of"),
    ("server", "Server attributes", "for edge and hub, not for the device"),
    ("client", "Client attributes", "as the device reports them"),
)
VIEWS_MAX: Final = 64


class EntityQuery(params.Params, frozen=True, kw_only=True):
    """`shown` is what the page was made of that listens."""

    edge: params.EdgeName
    entity: Name
    kind: Kind = "device"
    shown: params.Text = ""

    def asked(self) -> OneEntity:
        return OneEntity(edge=self.edge, entity=self.entity, kind=self.kind)


class FleetAlarmsQuery(params.Params, frozen=True, kw_only=True):
    """`all` shows those that are over, too."""

    all: bool = False
    shown: params.Text = ""


class EntityForm(params.Body, frozen=True, kw_only=True):
    """A button that was pressed, with the fields beside it."""

    do: Literal["set", "delete", "ack", "clear", "call"]
    scope: Literal["client", "shared", "server"] = "shared"
    name: str = ""
    value: str = ""
    id: str = ""
    ttl_s: float = 60.0
    one_way: bool = False


class Held(msgspec.Struct, frozen=True):
    """An attribute in a field that may be edited; `mark` is another when its value is."""

    name: str
    text: str
    mark: str
    updated_ns: int


class EntityShown(msgspec.Struct, frozen=True):
    """What keys say of an entity: attributes by scope, and alarms with those that last first."""

    attributes: dict[str, list[Held]]
    alarms: list[AlarmView]


class EntityPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that is on the page.

    latest    its series with their newest readings
    may_call  whether it is what calls are made of
    calls     the newest first; `unknown` says why there are none to see now
    """

    held: EntityShown
    latest: Sequence[Series]
    may_call: bool
    calls: Sequence[CallView] = ()
    unknown: str = ""
    now_ns: int

    def frame(self) -> tuple[object, ...]:
        """Return what is shown beside the cells."""
        series = [(one.series, one.key, one.unit) for one in self.latest]
        return self.held, series, self.may_call, self.calls, self.unknown

    def cells(self) -> dict[str, str]:
        return {
            name: text
            for one in self.latest
            for name, text in format.newest(one.series, one.value, one.time_ns, self.now_ns)
        }


class EdgeEntities(msgspec.Struct, frozen=True):
    """What an edge's page has of its entities and alarms."""

    entities: Entities
    alarms: list[AlarmView]


class EntityViews:
    """What pages show of entities, made anew when keys have changed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: dict[Hashable, tuple[Hashable, Any]] = {}

    async def page_of(self, query: EntityQuery) -> EntityPage:
        """Return what is known of an entity; raises ApiError."""
        held, context = await self._entity(query), self._context
        rows = await context.state.read(
            lambda c: views.series_of_entity(c, query.edge, query.entity, LISTED)
        )
        page = EntityPage(
            held=held, latest=[fleet.shown_series(row) for row in rows],
            may_call=context.rpc is not None and query.kind == "device", now_ns=context.now_ns(),
        )  # fmt: skip
        if not page.may_call:
            return page
        asked = params.EdgeCallsPage(edge=query.edge, device=query.entity, limit=CALLS)
        try:
            calls = (await rpc.edge_calls(context, asked)).calls
        except ApiError as error:  # all else is known without the registry
            return msgspec.structs.replace(page, unknown=str(error))
        return msgspec.structs.replace(page, calls=calls)

    async def _entity(self, query: EntityQuery) -> EntityShown:

        async def make() -> EntityShown:
            found = await entities.attributes_of(self._context, query.asked())
            wanted = AlarmsPage(edge=query.edge, limit=params.PAGE_MAX)
            alarms = (await entities.alarms_of(self._context, wanted)).alarms
            named = query.kind, query.entity
            own = [one for one in alarms if (one.kind, one.entity) == named]
            return EntityShown(_held(found), _in_order(own))

        shown: EntityShown = await self._once((query.edge, query.kind, query.entity), make)
        return shown

    async def of_edge(self, edge: str) -> EdgeEntities:
        """Return an edge's entities and active alarms, the first of each; raises ApiError."""

        async def make() -> EdgeEntities:
            wanted = EntitiesPage(edge=edge, limit=LISTED)
            found = await entities.entities(self._context, wanted)
            active = AlarmsPage(edge=edge, status="active", limit=LISTED)
            alarms = await entities.alarms_of(self._context, active)
            return EdgeEntities(found, _in_order(alarms.alarms))

        shown: EdgeEntities = await self._once(edge, make)
        return shown

    async def of_fleet(self, status: str) -> FleetAlarms:
        """Return alarms of all edges, the first of them: active ones, or all."""

        async def make() -> FleetAlarms:
            wanted = FleetAlarmsPage(status="active" if status else None, limit=LISTED)
            found = await entities.fleet_alarms(self._context, wanted)
            return FleetAlarms(alarms=_in_order(found.alarms), next=found.next)

        shown: FleetAlarms = await self._once(("alarms", status), make)
        return shown

    async def _once(self, key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        """Return what was made while the keys were as they are."""
        told = self._context.seen_answers().values()
        seq = tuple(answers.cells.space.seq for answers in told)
        before = self._made.get(key)
        if before is not None and before[0] == seq:
            return before[1]
        made = await make()
        if len(self._made) >= VIEWS_MAX:
            self._made.clear()
        self._made[key] = seq, made
        return made


def _held(found: Attributes) -> dict[str, list[Held]]:
    def in_scope(named: dict[str, AttributeView]) -> list[Held]:
        return [_field(name, one) for name, one in sorted(named.items())]

    return {scope: in_scope(getattr(found, scope)) for scope, _, _ in SCOPES}


def _field(name: str, one: AttributeView) -> Held:
    text = json.dumps(one.value, ensure_ascii=False)
    mark = hashlib.blake2b(f"{name}\0{text}".encode(errors="replace"), digest_size=8).hexdigest()
    return Held(name, text, mark, one.updated_ns)


def _in_order(alarms: Sequence[AlarmView]) -> list[AlarmView]:
    """Return those that last first, the newest before the others."""
    return sorted(alarms, key=lambda one: (one.cleared_ns is not None, -one.start_ns))


async def carry_out(context: Context, query: EntityQuery, form: EntityForm, by: str) -> None:
    """Do what a button says that `by` has pressed; raises ApiError."""
    if form.do in ("ack", "clear"):
        act = entities.ack if form.do == "ack" else entities.clear
        await act(context, _alarm(query.edge, form.id), Who(by=by))
        return
    if form.do == "call":
        await rpc.send(context, params.OneEdge(edge=query.edge), _call(query, form, by))
        return
    values = {form.name: read_value(form.value)} if form.do == "set" else {}
    asked = SetAttributes(
        entity=query.entity, kind=query.kind, scope=form.scope, set=values,
        delete=(form.name,) if form.do == "delete" else (),
    )  # fmt: skip
    await entities.set_attributes(context, OfEdge(edge=query.edge), asked)


def path_of(form: EntityForm) -> str:
    """Return the action of the API that does the same."""
    if form.do == "call":
        return "rpc"
    return f"alarms/{form.do}" if form.do in ("ack", "clear") else "attributes"


def _call(query: EntityQuery, form: EntityForm, by: str) -> params.CallBody:
    made = {
        "device": query.entity, "method": form.name, "ttl_s": form.ttl_s, "one_way": form.one_way,
        "params": _params(form.value), "by": by,
    }  # fmt: skip
    try:
        return msgspec.convert(made, params.CallBody)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, errors.descriptions(params.CallBody)) from error


def _params(text: str) -> Any:
    """Return what a field says, nothing as null; raises ApiError for numbers that JSON has not."""
    try:
        return msgspec.json.decode(text or "null")
    except (msgspec.DecodeError, RecursionError) as error:
        value = read_value(text)
        if not isinstance(value, str):
            raise ApiError(
                400, f"`params`: {error}", field="params", remedy="numbers of 64 bits"
            ) from error
        return value


def _alarm(edge: str, id_: str) -> OneAlarm:
    try:
        return msgspec.convert({"edge": edge, "id": id_}, OneAlarm)
    except msgspec.ValidationError as error:
        raise ApiError(
            400, f"{id_[:40]!r} is no alarm", field="id", remedy="use the page's buttons"
        ) from error


def read_value(text: str) -> Any:
    """Return what a field says: JSON, and what is none is text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
