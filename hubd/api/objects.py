"""Large objects: kept at the hub, assigned to edges, and how they stand there."""

import functools
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import msgspec
import trio
from msgspec import Meta

from edgesync.objects.model import Listing
from hubd.api.context import Context
from hubd.api.errors import ApiError, no_such_edge
from hubd.api.fleet import known_edge
from hubd.api.params import Body, EdgeName, NoBody, Nothing, OneEdge, Params
from hubd.errors import EdgeUnknown, HubError
from hubd.objects.service import EdgeObjects, ObjectService
from hubd.objects.store import NAME_PATTERN, ObjectRefused, ObjectUnknown, ObjectView
from hubd.registry import DEFAULT_TENANT

T = TypeVar("T")

EDGES_MAX: Final = 1000

ObjectName = Annotated[
    str, Meta(description="name of an object: letters, digits, . _ -", pattern=NAME_PATTERN)
]


class OneObject(Params, frozen=True, kw_only=True):
    object: ObjectName


class ObjectEdges(Body, frozen=True, kw_only=True):
    """Which edges are meant: some by name, or all of the tenant's."""

    edges: Annotated[
        tuple[EdgeName, ...],
        Meta(description=f"up to {EDGES_MAX} edges; none with `all`", max_length=EDGES_MAX),
    ] = ()
    all: Annotated[bool, Meta(description="all edges that the tenant has now")] = False


class ObjectList(msgspec.Struct, frozen=True, kw_only=True):
    """Objects by name."""

    objects: list[ObjectView]


class ObjectAssigned(msgspec.Struct, frozen=True, kw_only=True):
    """An object, and the edges that were told of it: to hold it, or to remove it."""

    object: str
    edges: list[str]


async def objects(context: Context, _params: Nothing) -> ObjectList:
    work = functools.partial(service_of(context).store.all, context.tenant)
    return ObjectList(objects=await asked(work))


async def one_object(context: Context, params: OneObject) -> ObjectView:
    store = service_of(context).store
    return await asked(functools.partial(store.one, tenant_of(context), params.object))


async def assign(context: Context, params: OneObject, given: ObjectEdges) -> ObjectAssigned:
    store, edges = service_of(context).store, _chosen(given)
    work = functools.partial(store.assign, tenant_of(context), params.object, edges)
    return ObjectAssigned(object=params.object, edges=await asked(work))


async def unassign(context: Context, params: OneObject, given: ObjectEdges) -> ObjectAssigned:
    store, edges = service_of(context).store, _chosen(given)
    work = functools.partial(store.unassign, tenant_of(context), params.object, edges)
    return ObjectAssigned(object=params.object, edges=await asked(work))


async def remove(context: Context, params: OneObject, _given: NoBody) -> ObjectView:
    store = service_of(context).store
    return await asked(functools.partial(store.remove, tenant_of(context), params.object))


async def edge_objects(context: Context, params: OneEdge) -> EdgeObjects:
    """Answer with what an edge is to hold, and how it stands there as far as it has told."""
    known_edge(context, params.edge)
    service = service_of(context)
    listings = await asked(service.store.listings)
    return service.standing(params.edge, listings.get(params.edge, Listing()))


def _chosen(given: ObjectEdges) -> tuple[str, ...]:
    if bool(given.edges) == given.all:
        raise ApiError(
            400, "no edges, or some and all", field="edges",
            remedy='name edges, or say "all": true and name none',
        )  # fmt: skip
    return given.edges


def tenant_of(context: Context) -> str:
    return context.tenant or DEFAULT_TENANT


def service_of(context: Context) -> ObjectService:
    if context.objects is None:
        raise ApiError(503, "this hub keeps no objects", remedy="start it with `hubd run`")
    return context.objects


async def asked(work: Callable[[], T]) -> T:
    """Return what work in a thread finds; raises ApiError."""
    try:
        return await trio.to_thread.run_sync(work)
    except ObjectRefused as error:
        problem = f"{error.field}: {error.problem}"
        raise ApiError(409, problem, field=error.field, remedy=error.remedy) from error
    except ObjectUnknown as error:
        remedy = "GET /api/v1/objects lists them"
        raise ApiError(404, f"no object {error.name!r}", field="object", remedy=remedy) from error
    except EdgeUnknown as error:
        raise no_such_edge(error.edge) from error
    except OSError as error:
        remedy = "make room on the hub's disk, or see its log"
        raise ApiError(503, f"not stored: {error}", field="", remedy=remedy) from error
    except HubError as error:
        remedy = "the registry is needed for this; try again"
        raise ApiError(503, str(error), field="", remedy=remedy) from error
