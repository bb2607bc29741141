"""The route table: the one place that says what can be asked or done. OpenAPI is made from it."""

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hubd.api import (
    answers,
    audit,
    conflicts,
    edge_events,
    edge_shapes,
    edges,
    entities,
    entity_shapes,
    errors,
    fleet,
    keys,
    objects,
    params,
    replicas,
    rpc,
    rule_shapes,
    rules,
    series,
    tunnels,
    users,
)
from hubd.api.body import read_json
from hubd.api.context import Context
from hubd.api.rights import Right, check_may, user_of
from hubd.api.tenancy import TENANT, Contexts
from hubd.downlink.journal import DownlinkView
from hubd.edge_service import EdgeToken
from hubd.errors import OwnedUnusable
from hubd.objects.service import EdgeObjects
from hubd.objects.store import ObjectView
from hubd.rpc.calls import CallView
from hubd.rules.bundles import BundleView
from hubd.rules.standing import EdgeRules
from hubd.state import QueryTooSlow
from hubd.tunnel.service import TunnelView

PARAMETERS_MAX: Final = 100


class Endpoint(NamedTuple):
    """A question that is answered with JSON. `handler` gets the parameters, already checked."""

    path: str
    summary: str
    params: type[params.Params]
    answer: type[msgspec.Struct]
    handler: Callable[[Context, Any], Awaitable[Any]]
    # What it wants of whoever asks; None: everybody who is let in may.
    right: Right | None = None


class Action(NamedTuple):
    """A POST with a body of JSON. `handler` gets parameters and body, already checked."""

    path: str
    summary: str
    params: type[params.Params]
    body: type[params.Body]
    answer: type[msgspec.Struct]
    handler: Callable[[Context, Any, Any], Awaitable[Any]]
    # Whether with this body it changes something: what only reads needs no right to write.
    writes: Callable[[Any], bool] = lambda _body: True
    right: Right = Right.WRITE
    # Whether what users do is noted here; else the handler does that, whoever asks.
    is_noted: bool = True


EDGE: Final = "/api/v1/edges/{edge}"

ENDPOINTS: Final = (
    Endpoint(
        "/api/v1/edges", "Every edge: link, health, and what the state holds of it",
        edge_shapes.EdgesList, answers.Edges, edges.edges,
    ),
    Endpoint(EDGE, "One edge", params.OneEdge, answers.Edge, fleet.one_edge),
    Endpoint(
        f"{EDGE}/missing", "What an edge lacks: ends, parents and rule chains that others name",
        params.OneEdge, edge_shapes.Missing, edges.missing,
    ),
    Endpoint(
        f"{EDGE}/latest", "Newest reading of each series, by entity and key",
        params.SeriesPage, answers.Latest, fleet.latest,
    ),
    Endpoint(
        f"{EDGE}/series", "Series of an edge",
        params.SeriesPage, answers.SeriesPage, fleet.series,
    ),
    Endpoint(
        f"{EDGE}/history", "Readings of a series by time: raw, by the minute or by the hour",
        params.HistoryPage, answers.History, series.history,
    ),
    Endpoint(
        f"{EDGE}/windows", "Statistics of a series that the edge summed up, merged as you like",
        params.WindowsPage, answers.Windows, series.windows,
    ),
    Endpoint(
        f"{EDGE}/events", "Events of an edge, the newest first",
        params.EventsPage, answers.Events, series.edge_events,
    ),
    Endpoint(
        f"{EDGE}/devices", "Its devices: state, reason, and the points without a value",
        params.OneEdge, answers.Devices, fleet.devices,
    ),
    Endpoint(
        f"{EDGE}/entities", "Its entities: devices, assets and whatever else there is",
        entity_shapes.EntitiesPage, entity_shapes.Entities, entities.entities,
    ),
    Endpoint(
        f"{EDGE}/entities/findings", "What waits for something missing, and cycles",
        entity_shapes.OfEdge, entity_shapes.Findings, entities.findings,
    ),
    Endpoint(
        f"{EDGE}/attributes", "Attributes of an entity, in three scopes",
        entity_shapes.OneEntity, entity_shapes.Attributes, entities.attributes_of,
    ),
    Endpoint(
        f"{EDGE}/relations", "Relations from an entity and to it",
        entity_shapes.OneEntity, entity_shapes.Relations, entities.relations_of,
    ),
    Endpoint(
        f"{EDGE}/alarms", "Its alarms, the newest occurrence of each",
        entity_shapes.AlarmsPage, entity_shapes.Alarms, entities.alarms_of,
    ),
    Endpoint(
        "/api/v1/alarms", "Alarms of all edges",
        entity_shapes.FleetAlarmsPage, entity_shapes.FleetAlarms, entities.fleet_alarms,
    ),
    Endpoint(
        "/api/v1/events", "Events of all edges, the newest first",
        params.FleetEventsPage, answers.FleetEvents, series.fleet_events,
    ),
    Endpoint(
        "/api/v1/link-events", "What happened to links, the newest first",
        params.LinkEventsPage, answers.LinkEvents, fleet.link_events,
    ),
    Endpoint(
        "/api/v1/stats", "The ledger, the projectors, and entries they skipped",
        params.EdgesPage, answers.Stats, fleet.stats,
    ),
    Endpoint(
        "/api/v1/keys", "Keys all edges and the hub share, by name",
        params.KeysPage, answers.Keys, keys.keys,
    ),
    Endpoint(
        "/api/v1/keys/changes", "Keys as they change, wherever that is; may be waited for",
        params.ChangesPage, answers.KeyChanges, keys.changes,
    ),
    Endpoint(
        "/api/v1/keys/{key}", "One key: type, deadline, and a page of its value",
        params.OneKey, answers.Key, keys.one_key,
    ),
    Endpoint(
        "/api/v1/conflicts", "Writes that met and had not seen each other",
        params.ConflictsPage, answers.Conflicts, conflicts.conflicts,
    ),
    Endpoint(
        "/api/v1/conflicts/{id}", "One conflict",
        params.OneConflict, answers.ConflictView, conflicts.one_conflict,
    ),
    Endpoint(
        f"{EDGE}/downlink", "What waits for an edge",
        params.OneEdge, DownlinkView, rpc.downlink,
    ),
    Endpoint(
        "/api/v1/downlink", "What waits for edges, each record",
        params.DownlinkPage, answers.Downlink, rpc.waiting,
    ),
    Endpoint(
        f"{EDGE}/rpc", "Calls of devices at an edge, the newest first",
        params.EdgeCallsPage, answers.CallPage, rpc.edge_calls,
    ),
    Endpoint(
        "/api/v1/rpc", "Calls of devices of all edges, the newest first",
        params.CallsPage, answers.CallPage, rpc.calls,
    ),
    Endpoint(
        "/api/v1/rpc/{call}", "One call of a device; may be waited for",
        params.OneCall, CallView, rpc.one_call,
    ),
    Endpoint(
        f"{EDGE}/rules", "Rule chains of an edge: what it is to run, what it runs, and counters",
        params.OneEdge, EdgeRules, rules.edge_rules,
    ),
    Endpoint(
        "/api/v1/rules", "Bundles of rule chains: every version, and the edges that are to run it",
        params.Nothing, rule_shapes.BundleList, rules.bundles,
    ),
    Endpoint(
        "/api/v1/rules/{bundle}", "One version of a bundle, with its exports",
        rule_shapes.OneBundle, rule_shapes.BundleContents, rules.one_bundle,
    ),
    Endpoint(
        f"{EDGE}/objects", "Large objects of an edge: what it is to hold, and what it holds",
        params.OneEdge, EdgeObjects, objects.edge_objects,
    ),
    Endpoint(
        "/api/v1/objects", "Large objects, and the edges that are to hold them",
        params.Nothing, objects.ObjectList, objects.objects,
    ),
    Endpoint(
        "/api/v1/objects/{object}", "One large object",
        objects.OneObject, ObjectView, objects.one_object,
    ),
    Endpoint(
        "/api/v1/tunnels", "Tunnels to what edges can reach, the newest first",
        tunnels.TunnelsPage, tunnels.TunnelList, tunnels.tunnels,
    ),
    Endpoint(
        "/api/v1/tunnels/{tunnel}", "One tunnel; its end may be waited for",
        tunnels.OneTunnel, TunnelView, tunnels.one_tunnel,
    ),
    Endpoint(
        "/api/v1/replicas", "Edges that keep a copy of the keys, and how far each is",
        params.EdgesPage, answers.Replicas, replicas.replicas,
    ),
    Endpoint(
        "/api/v1/users", "Users, by name",
        users.UsersPage, users.UserList, users.users, Right.USERS,
    ),
    Endpoint(
        "/api/v1/audit", "What users have changed, the newest first",
        audit.AuditPage, audit.AuditEntries, audit.entries, Right.USERS,
    ),
    Endpoint(
        "/healthz", "Whether the hub works; 503 if it does not",
        params.Nothing, answers.Healthz, fleet.healthz,
    ),
)  # fmt: skip

ACTIONS: Final = (
    Action(
        "/api/v1/edges", "Create an edge, or change its label, type, site and grant",
        params.Nothing, edge_shapes.SaveEdge, edge_shapes.EdgeDetails, edges.save,
    ),
    Action(
        f"{EDGE}/token", "Make a token that lets a gateway join as this edge, once",
        params.OneEdge, params.NoBody, EdgeToken, edges.token,
    ),
    Action(
        f"{EDGE}/customer", "Assign an edge to a customer, or take it from its own",
        params.OneEdge, edge_shapes.AssignCustomer, edge_shapes.EdgeDetails, edges.assign,
    ),
    Action(
        f"{EDGE}/forget", "Revoke an edge for good and take it out of every list",
        params.OneEdge, edge_shapes.ForgetEdge, edge_shapes.Forgotten, edges.forget,
    ),
    Action(
        f"{EDGE}/sync", "Have an edge sync now; answered when it has, or may be waited for",
        params.OneEdge, edge_shapes.SyncEdge, CallView, edges.sync, right=Right.OPERATE,
    ),
    Action(
        f"{EDGE}/events", "Have something happen at an edge, by the action of an event for it",
        params.OneEdge, edge_shapes.NewEvent, edge_shapes.EventSaved, edge_events.save,
    ),
    Action(
        f"{EDGE}/downlink/clean", "Give up what has waited for an edge for so long",
        params.OneEdge, edge_shapes.CleanDownlink, answers.GivenUp, edges.clean,
    ),
    Action(
        f"{EDGE}/entities", "Create an entity, or change fields of it",
        entity_shapes.OfEdge, entity_shapes.SaveEntity, entity_shapes.EntityView, entities.save,
    ),
    Action(
        f"{EDGE}/entities/delete", "Remove an entity from its edge, with all it has",
        entity_shapes.OfEdge, entity_shapes.EntityBody, entity_shapes.Removed, entities.delete,
    ),
    Action(
        f"{EDGE}/attributes", "Set and delete attributes; shared ones reach the device",
        entity_shapes.OfEdge, entity_shapes.SetAttributes, entity_shapes.Attributes,
        entities.set_attributes, right=Right.OPERATE,
    ),
    Action(
        f"{EDGE}/claim", "Claim a device that offers itself, with its secret",
        entity_shapes.OfEdge, entity_shapes.Claim, entity_shapes.Attributes,
        entities.claim, right=Right.OPERATE,
    ),
    Action(
        f"{EDGE}/relations", "Add a relation, or change its data",
        entity_shapes.OfEdge, entity_shapes.Relate, entity_shapes.Relations, entities.relate,
    ),
    Action(
        f"{EDGE}/relations/delete", "Remove a relation",
        entity_shapes.OfEdge, entity_shapes.Relate, entity_shapes.Relations, entities.unrelate,
    ),
    Action(
        f"{EDGE}/alarms", "Raise an alarm, or renew one that is active",
        entity_shapes.OfEdge, entity_shapes.RaiseAlarm, entity_shapes.AlarmView,
        entities.raise_alarm,
    ),
    Action(
        f"{EDGE}/alarms/{{id}}/ack", "Acknowledge an alarm",
        entity_shapes.OneAlarm, entity_shapes.Who, entity_shapes.AlarmView, entities.ack,
        right=Right.OPERATE,
    ),
    Action(
        f"{EDGE}/alarms/{{id}}/clear", "End an alarm",
        entity_shapes.OneAlarm, entity_shapes.Who, entity_shapes.AlarmView, entities.clear,
        right=Right.OPERATE,
    ),
    Action(
        "/api/v1/keys/command", "Carry out Redis commands on the keys; on disk when answered",
        params.Nothing, params.Commands, answers.CommandAnswer, keys.command, keys.is_writing,
    ),
    Action(
        f"{EDGE}/downlink/clear", "Give up all that waits for an edge, which is told so",
        params.OneEdge, params.NoBody, answers.GivenUp, rpc.give_up,
    ),
    Action(
        f"{EDGE}/rpc", "Call a device; stored when answered, delivered when it can be",
        params.OneEdge, params.CallBody, CallView, rpc.send, right=Right.OPERATE,
    ),
    Action(
        f"{EDGE}/rules/run", "Try a bundle out with a message: nothing is stored or sent",
        params.OneEdge, rule_shapes.Run, rule_shapes.RunAnswer, rules.run, lambda _body: False,
    ),
    Action(
        "/api/v1/rules", "Keep a bundle of rule chains, checked as at the edge: its next version",
        params.Nothing, rule_shapes.Upload, BundleView, rules.upload,
    ),
    Action(
        "/api/v1/rules/unassign", "Let edges go back to the chains they have of their own",
        params.Nothing, rule_shapes.Unassign, rule_shapes.Assigned, rules.unassign,
    ),
    Action(
        "/api/v1/rules/{bundle}/assign", "Have edges run a version of a bundle",
        rule_shapes.OneBundle, rule_shapes.Assign, rule_shapes.Assigned, rules.assign,
    ),
    Action(
        "/api/v1/objects/{object}/assign", "Have edges hold an object",
        objects.OneObject, objects.ObjectEdges, objects.ObjectAssigned, objects.assign,
    ),
    Action(
        "/api/v1/objects/{object}/unassign", "Have edges remove what they hold under a name",
        objects.OneObject, objects.ObjectEdges, objects.ObjectAssigned, objects.unassign,
    ),
    Action(
        "/api/v1/objects/{object}/remove", "Forget an object that no edge is to hold",
        objects.OneObject, params.NoBody, ObjectView, objects.remove,
    ),
    Action(
        f"{EDGE}/tunnels", "Open a tunnel to what an edge can reach; the hub listens on loopback",
        params.OneEdge, tunnels.TunnelBody, TunnelView, tunnels.open_tunnel, is_noted=False,
    ),
    Action(
        "/api/v1/tunnels/{tunnel}/close", "Close a tunnel",
        tunnels.OfTunnel, tunnels.CloseBody, TunnelView, tunnels.close, is_noted=False,
    ),
    Action(
        "/api/v1/conflicts/{id}/resolve", "Write to the cell of a conflict what is chosen",
        params.OneConflict, params.Choice, answers.ConflictView, conflicts.resolve,
    ),
    Action(
        "/api/v1/replicas/{edge}/retire", "Wait no longer for an edge that keeps a copy",
        params.OneEdge, params.NoBody, answers.Retired, replicas.retire,
    ),
    Action(
        "/api/v1/users", "Make a user",
        params.Nothing, users.NewUser, users.UserView, users.add, right=Right.USERS,
    ),
    Action(
        "/api/v1/users/{user}", "Give a user another role, other sites, another password",
        users.OneUser, users.ChangeUser, users.UserView, users.change, right=Right.USERS,
    ),
    Action(
        "/api/v1/users/{user}/remove", "Remove a user",
        users.OneUser, entity_shapes.Who, users.UserRemoved, users.remove, right=Right.USERS,
    ),
)  # fmt: skip


def routes(contexts: Contexts) -> list[Route]:
    asked = [Route(_path(one), _endpoint(contexts, one), methods=["GET"]) for one in ENDPOINTS]
    done = [Route(_path(one), _action(contexts, one), methods=["POST"]) for one in ACTIONS]
    return [*done, *asked]


def _path(one: Endpoint | Action) -> str:
    """The path as the router has it: there may be slashes in keys."""
    return one.path.replace("{key}", "{key:path}")


def body_max(context: Context) -> int:
    """Bytes of a body: what a largest value takes in any writing of JSON, and some room."""
    return max(1 << 20, 6 * context.cells.call.value_max)


def _endpoint(contexts: Contexts, one: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        wanted = read_params(request, one.params)
        if one.right is not None:
            check_may(request.scope, one.right)
        context = contexts.of(request)
        with context.waits.place(context.tenant, getattr(wanted, "wait_s", 0.0)):
            found = await one.handler(context, wanted)
        status = 503 if isinstance(found, answers.Healthz) and not found.is_working else 200
        return _json(found, status)

    return answer


def _action(contexts: Contexts, one: Action) -> Callable[[Request], Awaitable[Response]]:
    async def act(request: Request) -> Response:
        wanted = read_params(request, one.params)
        context = contexts.of(request)
        body = await read_json(request, one.body, body_max(context))
        if one.writes(body):
            edge = request.path_params.get("edge", "")
            view = context.hub.edge(edge) if edge else None
            if one.right is Right.OPERATE and view is None:
                raise errors.no_such_edge(edge)
            check_may(request.scope, one.right, view)
        with context.waits.place(context.tenant, getattr(body, "wait_s", 0.0)):
            done = await one.handler(context, wanted, signed(request, body))
        if one.is_noted and one.writes(body):
            await audit.note(context, request, one.path, body)
        return _json(done)

    return act


def signed(request: Request, body: Any) -> Any:
    """Return what was sent with the name of the user who sent it, if it tells who it was."""
    user = user_of(request.scope)
    if user is None or not hasattr(body, "by"):
        return body
    return msgspec.structs.replace(body, by=user.name)


def _json(found: Any, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(found), status, media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )  # fmt: skip


def read_params(request: Request, shape: type[params.Params]) -> Any:
    """Path and query as a `shape`; raises ApiError."""
    given: dict[str, Any] = {}
    lists = _lists_of(shape)
    pairs = request.query_params.multi_items()
    if len(pairs) > PARAMETERS_MAX:
        raise errors.ApiError(400, "too many parameters", remedy=f"at most {PARAMETERS_MAX}")
    for name, value in pairs:
        if name in lists:
            given.setdefault(name, []).append(value)
        elif name in given or name in request.path_params:
            raise errors.ApiError(
                400, f"`{name}` is given twice", field=name, remedy="give it once"
            )
        else:
            given[name] = value
    try:
        return msgspec.convert({**given, **request.path_params}, shape, strict=False)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, errors.descriptions(shape)) from error


@functools.cache
def _lists_of(shape: type[params.Params]) -> Collection[str]:
    """Return the parameters that may be given more than once."""
    return {f.encode_name for f in msgspec.structs.fields(shape) if f.default == ()}


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ApiError)
    if isinstance(error.__cause__, OwnedUnusable) and _is_of_tenant(request):
        return errors.answer(
            errors.ApiError(503, "the registry cannot be used now", remedy="try again later")
        )
    return errors.answer(error)


def _is_of_tenant(request: Request) -> bool:
    """Whether a tenant asks, who is not told where databases are and what their servers say."""
    return request.scope.get(TENANT) is not None


async def on_too_slow(_request: Request, error: Exception) -> Response:
    remedy = "ask for less: a shorter time, a smaller limit, no text"
    assert isinstance(error, QueryTooSlow)
    return errors.answer(errors.ApiError(503, str(error), remedy=remedy))


async def on_state_error(request: Request, error: Exception) -> Response:
    """Answer for a state that is damaged, or whose disk refuses; the log has all of it."""
    why = "" if _is_of_tenant(request) else f": {getattr(error, 'orig', None) or error}"
    text = f"the state cannot be read{why}"
    remedy = "ask again in a moment: a damaged state is made again from the log"
    return errors.answer(errors.ApiError(503, text, field="", remedy=remedy))


async def on_store_error(_request: Request, error: Exception) -> Response:
    """The files of the keys cannot be read: the log still has what edges wrote."""
    return errors.answer(errors.ApiError(503, str(error), remedy="see the hub's own log"))


async def on_http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the same shape as every other error."""
    status = getattr(error, "status_code", 500)
    text = {404: "no such page", 405: "that is not done here"}.get(status, "not possible")
    remedy = "GET /openapi.json lists what there is"
    return errors.answer(errors.ApiError(status, text, field="", remedy=remedy))
