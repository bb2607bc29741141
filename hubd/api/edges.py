"""Answers about edges as a whole, and changes of them; `hubd.edge_service` does what is done."""

from collections.abc import Awaitable, Iterable
from itertools import islice
from typing import Final, TypeVar

import msgspec

from edgesync.entities.model import entity
from edgesync.entities.records import plan_save
from edgesync.errors import EntityError, RecordError
from edgesync.model import Event, Lane
from edgesync.rpc.model import SELF, SYNC
from edgesync.rules.build import references
from edgesync.rules.files import sources_of
from hubd.api import entities, fleet, rpc
from hubd.api.answers import Edges, GivenUp
from hubd.api.context import Context, EdgeView
from hubd.api.edge_shapes import (
    AssignCustomer,
    CleanDownlink,
    EdgeDetails,
    EdgesList,
    ForgetEdge,
    Forgotten,
    Missing,
    MissingChain,
    SaveEdge,
    SyncEdge,
)
from hubd.api.entity_shapes import OfEdge
from hubd.api.errors import ApiError, no_such_edge
from hubd.api.keys import storing
from hubd.api.params import CallBody, NoBody, OneEdge, make_cursor, read_cursor
from hubd.cells.answers import Answers
from hubd.downlink.journal import DownlinkFull
from hubd.edge_service import KIND, EdgeService, EdgeToken
from hubd.errors import (
    EdgeOfAnother,
    EdgeRefused,
    EdgeUnknown,
    GrantRefused,
    HubError,
    TenantUnknown,
)
from hubd.owned.threads import in_thread
from hubd.registry import DEFAULT_TENANT, RegisteredEdge
from hubd.rpc.calls import CallView

T = TypeVar("T")

CUSTOMER: Final = "customer"
# Chains that a finding names; a bundle has not many.
CHAINS_MAX: Final = 1000


# -- asked ---------------------------------------------------------------------------------------


async def edges(context: Context, params: EdgesList) -> Edges:
    """Return the edges that fit, by name."""
    (after,) = read_cursor(params.after, tuple[str], ("",))
    fitting = (view for view in fleet.edges_after(context, after) if _is_asked(view, params))
    found = list(islice(fitting, params.limit + 1))
    page = found[: params.limit]
    following = make_cursor(page[-1].edge) if len(found) > len(page) else None
    return await fleet.shown_edges(context, page, following)


def _is_asked(view: EdgeView, params: EdgesList) -> bool:
    wanted = (
        (params.site, view.site), (params.type, view.type), (params.customer, view.customer),
        (params.state, view.state),
    )  # fmt: skip
    text = (params.text or "").casefold()
    return all(asked in (None, has) for asked, has in wanted) and (
        text in view.edge.casefold() or text in view.label.casefold()
    )


async def missing(context: Context, params: OneEdge) -> Missing:
    """Return what an edge lacks: of its entities and relations, and of its rule chains."""
    found = await entities.findings(context, OfEdge(edge=params.edge))
    bundle, chains = await in_thread(_missing_chains, context, params.edge)
    return Missing(edge=params.edge, waiting=found.waiting, chains=chains, bundle=bundle)


def _missing_chains(context: Context, edge: str) -> tuple[str, list[MissingChain]]:
    """Return the bundle that an edge is to run, and where its chains lead to nothing."""
    if context.rules is None:
        return "", []
    try:
        assigned = context.rules.bundles.assignments().get(edge)
        if assigned is None:
            return "", []
        bundle = context.rules.bundles.bundle(assigned.tenant, assigned.bundle, assigned.version)
    except HubError as error:
        raise _refused(error) from error
    sources, _ = sources_of(bundle.contents())
    known = {name for one in sources for name in (one.chain.name, *one.chain.ids)}
    found = [
        MissingChain(chain=one.chain.name, lacks=names)
        for one in sources
        for names in references(one.chain)
        if known.isdisjoint(names)
    ]
    return bundle.label, found[:CHAINS_MAX]


# -- done ----------------------------------------------------------------------------------------


async def save(context: Context, _params: object, asked: SaveEdge) -> EdgeDetails:
    """Create an edge, or change what is given of it."""
    view = context.hub.edge(asked.edge)
    tenant = context.tenant or (view.tenant if view else "") or DEFAULT_TENANT
    changes = {
        name: value
        for name, value in msgspec.structs.asdict(asked).items()
        if name != "edge" and value is not None
    }
    found, is_new = await _done(_service(context).save(asked.edge, tenant, changes))
    return details(found, is_new=is_new)


async def token(context: Context, params: OneEdge, _asked: NoBody) -> EdgeToken:
    """Make a token that lets a gateway join as this edge, once."""
    view = fleet.known_edge(context, params.edge)
    try:
        return await _done(_service(context).invite(params.edge, view.tenant or DEFAULT_TENANT))
    except ValueError as error:
        raise ApiError(409, str(error), field="hub.public", remedy="set it in hub.toml") from error


async def assign(context: Context, params: OneEdge, asked: AssignCustomer) -> EdgeDetails:
    """Assign an edge to a customer, or take it from its own."""
    fleet.known_edge(context, params.edge)
    if asked.customer:
        try:
            entity(params.edge, CUSTOMER, asked.customer)
        except EntityError as error:
            raise ApiError(400, error.problem, field=CUSTOMER, remedy=error.remedy) from error
    found = await _done(_service(context).assign(params.edge, asked.customer, asked.by))
    await _show_customer(context, params.edge, asked.customer)
    return details(found)


async def _show_customer(context: Context, edge: str, customer: str) -> None:
    """Let the edge have its customer as an entity, and its own record name that."""
    keys = await entities.keys_of(context, edge)
    now_ms, own = keys.now_ms(), entity(edge, KIND, edge)
    plan = plan_save(keys.view, own, {CUSTOMER: customer or None}, now_ms)
    if customer:
        plan = [*plan_save(keys.view, entity(edge, CUSTOMER, customer), {}, now_ms), *plan]
    await keys.carry_out(plan)


async def forget(context: Context, params: OneEdge, asked: ForgetEdge) -> Forgotten:
    """Revoke an edge for good and take it out of every list.

    Done again where the registry has done it and the keys have not: they could not be stored, say.
    """
    if asked.confirm != params.edge:
        raise ApiError(
            400, "`confirm` is not the name of the edge", field="confirm",
            remedy="say the name once more: its key is never let in again",
        )  # fmt: skip
    view, records = context.hub.edge(params.edge), 0
    if view is not None:
        records = (await rpc.downlink(context, params)).records
        try:
            await _done(_service(context).forget(params.edge))
        except ApiError as error:
            if error.status != 404:
                raise
            view = None  # it has gone from the registry, and is listed for a moment yet
    with storing():
        is_known = await give_up_keys(context.seen_answers().values(), params.edge)
    if view is None and not is_known:
        raise no_such_edge(params.edge)
    return Forgotten(
        edge=params.edge, lag_records=view.lag_records if view is not None else 0,
        downlink_records=records,
    )  # fmt: skip


async def give_up_keys(every: Iterable[Answers], edge: str) -> bool:
    """Have nobody's keys wait for an edge any more; returns whether some did.

    Whose it was, no registry knows any more once it is forgotten there. Raises StoreError.
    """
    found = [one for one in every if one.cells.names.get(edge) is not None]
    for one in found:
        await one.give_up(edge)
    return bool(found)


async def sync(context: Context, params: OneEdge, asked: SyncEdge) -> CallView:
    """Have an edge sync now: a call of the edge itself, which waits for it and is answered."""
    call = CallBody(
        device=SELF, method=SYNC, params={"full": asked.full}, ttl_s=asked.ttl_s, by=asked.by,
        wait_s=asked.wait_s,
    )  # fmt: skip
    return await rpc.send(context, params, call)


async def clean(context: Context, params: OneEdge, asked: CleanDownlink) -> GivenUp:
    """Give up what has waited for an edge for so long; it is told so."""
    fleet.known_edge(context, params.edge)
    before_ns = context.now_ns() - int(asked.older_than_s * 1e9)
    if context.rpc is None:
        raise _no_service()
    return GivenUp(edge=params.edge, records=await _done(context.rpc.clean(params.edge, before_ns)))


# -- shared --------------------------------------------------------------------------------------


def details(found: RegisteredEdge, *, is_new: bool = False) -> EdgeDetails:
    return EdgeDetails(
        edge=found.name, tenant=found.tenant, label=found.label, type=found.type, site=found.site,
        customer=found.customer, prefixes=found.prefixes, created_ns=found.created_ns,
        has_joined=bool(found.keys), is_revoked=found.is_revoked, is_new=is_new,
    )  # fmt: skip


def _service(context: Context) -> EdgeService:
    if context.edges is None:
        raise _no_service()
    return context.edges


async def tell(context: Context, edge: str, event: Event, lane: Lane) -> int:
    """Store an event for an edge; returns its seq."""
    return await _done(_service(context).tell(edge, [event], lane))


async def _done(doing: Awaitable[T]) -> T:
    """Wait for what the registry does; raises ApiError."""
    try:
        return await doing
    except (HubError, RecordError) as error:
        raise _refused(error) from error


def _refused(error: Exception) -> ApiError:
    match error:
        case EdgeUnknown():
            return no_such_edge(error.edge)
        case EdgeOfAnother():
            return ApiError(
                409, f"the name {error.edge!r} is taken", field="edge",
                remedy="names of edges are given once at a hub; choose another",
            )  # fmt: skip
        case EdgeRefused():
            return ApiError(400, error.problem, field=error.field, remedy=error.remedy)
        case GrantRefused() | RecordError():
            return ApiError(400, str(error), field="prefixes", remedy="see docs/keys.md")
        case TenantUnknown():
            return ApiError(404, str(error), field="tenant", remedy="`hubd tenant add` makes one")
        case DownlinkFull():
            return ApiError(
                429, str(error), field="edge",
                remedy=f"GET /api/v1/edges/{error.edge}/downlink says what waits",
            )  # fmt: skip
    return ApiError(503, str(error), remedy="the registry is needed for this; try again")


def _no_service() -> ApiError:
    return ApiError(503, "this hub changes no edges", remedy="start it with `hubd run`")
