"""Calls of devices, and what waits for an edge."""

import functools
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from edgesync._native import event as event_codec
from edgesync.errors import RecordError
from edgesync.model import Action, EventType
from edgesync.rpc.model import DEPTH_MAX, PARAMS_BYTES_MAX, is_json
from hubd.api.answers import CallPage, Downlink, GivenUp, WaitingRecord
from hubd.api.context import Context
from hubd.api.errors import ApiError, no_such_edge
from hubd.api.params import (
    CallBody,
    CallsPage,
    DownlinkPage,
    EdgeCallsPage,
    Int64,
    NoBody,
    OneCall,
    OneEdge,
    make_cursor,
    read_cursor,
)
from hubd.downlink.journal import DownlinkFull, DownlinkView, Waiting
from hubd.errors import EdgeUnknown, HubError
from hubd.owned.threads import in_thread
from hubd.rpc.calls import CallIdTaken, CallRefused, CallView, NewCall
from hubd.rpc.service import RpcService
from hubd.state.views import name_of, readable

T = TypeVar("T")

# Edges that one statement asks about.
EDGES_ASKED: Final = 500


async def send(context: Context, params: OneEdge, asked: CallBody) -> CallView:
    """Send a call; it is on disk, with its record for the edge, when this answers."""
    try:
        params_json = msgspec.json.encode(asked.params)
    except (OverflowError, ValueError) as error:
        raise ApiError(400, f"`params`: {error}", field="params", remedy="any JSON") from error
    if len(params_json) > PARAMS_BYTES_MAX:
        raise ApiError(
            413, f"`params` of {len(params_json)} bytes", field="params",
            remedy=f"at most {PARAMS_BYTES_MAX} bytes",
        )  # fmt: skip
    if not is_json(params_json):
        raise ApiError(
            400, "`params` is nested too deeply", field="params",
            remedy=f"{DEPTH_MAX} deep at most",
        )  # fmt: skip
    view = context.hub.edge(params.edge)
    if view is None:
        raise no_such_edge(params.edge)
    call = NewCall(
        device=asked.device, method=asked.method, params=params_json, ttl_s=asked.ttl_s,
        one_way=asked.one_way, id=asked.id or "", by=asked.by,
    )  # fmt: skip
    service = _service(context)
    try:
        sent = await service.send(context.tenant or view.tenant, params.edge, call)
    except EdgeUnknown as error:
        raise no_such_edge(params.edge) from error
    except (CallRefused, DownlinkFull) as error:
        full = not isinstance(error, CallIdTaken)
        raise ApiError(
            429 if full else 409, str(error), field="edge" if full else "id",
            remedy=f"GET /api/v1/edges/{params.edge}/downlink says what waits"
            if full else "another id",
        ) from error  # fmt: skip
    except HubError as error:
        raise _unusable(error) from error
    if asked.wait_s and not sent.is_final:
        return await service.wait(context.tenant, sent.id, asked.wait_s) or sent
    return sent


async def calls(context: Context, params: CallsPage) -> CallPage:
    found = await _page(context, params, params.edge or "")
    if params.edge and not found.calls and context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)  # of one that was forgotten there may be calls
    return found


async def edge_calls(context: Context, params: EdgeCallsPage) -> CallPage:
    if context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)
    return await _page(context, params, params.edge)


async def _page(context: Context, params: CallsPage | EdgeCallsPage, edge: str) -> CallPage:
    before = read_cursor(params.after, tuple[int, str], (0, "")) if params.after else None
    found = await _read(
        functools.partial(
            _service(context).calls.some, context.tenant, edge=edge,
            device=params.device or "", state=params.state or "", before=before,
            limit=params.limit + 1,
        ),
    )  # fmt: skip
    rows = list(found[: params.limit])
    is_more = len(found) > params.limit
    return CallPage(
        calls=rows, next=make_cursor(rows[-1].created_ns, rows[-1].id) if is_more else None
    )


async def one_call(context: Context, params: OneCall) -> CallView:
    service = _service(context)
    try:
        found = await service.wait(context.tenant, params.call, params.wait_s)
    except HubError as error:
        raise _unusable(error) from error
    if found is None:
        raise ApiError(
            404, f"no call {params.call!r}", field="call", remedy="`hubd rpc list` shows them"
        )
    return found


async def downlink(context: Context, params: OneEdge) -> DownlinkView:
    if context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)
    return await _read(functools.partial(_service(context).delivery.journal.view, params.edge))


async def waiting(context: Context, params: DownlinkPage) -> Downlink:
    """What waits for the edges that are seen here."""
    if params.edge is not None and context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)
    names = context.hub.names()
    after = read_cursor(params.after, tuple[str, Int64, Int64], ("", 0, 0))
    asked = [params.edge] if params.edge else [name for name in names if name >= after[0]]
    more = asked[EDGES_ASKED:]
    journal = _service(context).delivery.journal
    found = await _read(
        functools.partial(journal.waiting, asked[:EDGES_ASKED], after, params.limit)
    )
    following = None
    if len(found) == params.limit:
        following = make_cursor(found[-1].edge, int(found[-1].lane), found[-1].seq)
    elif more:
        following = make_cursor(more[0], -1, 0)
    return Downlink(records=[_waiting(one) for one in found], next=following)


def _waiting(one: Waiting) -> WaitingRecord:
    try:
        kind, action, _, entity, body, _, _, _ = event_codec.decode(one.body)
    except RecordError:  # of another version of the hub
        kind, action, entity, body = 0, 0, "", one.body
    return WaitingRecord(
        edge=one.edge, lane=one.lane.name.lower(), seq=one.seq, type=name_of(EventType, kind),
        action=name_of(Action, action), entity=entity, body=readable(body),
        created_ns=one.created_ns,
    )  # fmt: skip


async def give_up(context: Context, params: OneEdge, _asked: NoBody) -> GivenUp:
    """Give up all that waits for an edge, and the calls in it."""
    if context.hub.edge(params.edge) is None:
        raise no_such_edge(params.edge)
    try:
        count = await _service(context).clear(params.edge)
    except HubError as error:
        raise _unusable(error) from error
    return GivenUp(edge=params.edge, records=count)


async def _read(question: Callable[[], T]) -> T:
    try:
        return await in_thread(question)
    except HubError as error:
        raise _unusable(error) from error


def _service(context: Context) -> RpcService:
    if context.rpc is None:
        raise ApiError(503, "this hub sends no calls", field="", remedy="start it with `hubd run`")
    return context.rpc


def _unusable(error: HubError) -> ApiError:
    return ApiError(503, str(error), field="", remedy="the registry is needed for this; try again")
