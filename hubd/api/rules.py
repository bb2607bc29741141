"""Rule chains: bundles kept, and which edge runs which."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import trio

from edgesync.errors import ConfigError
from edgesync.rules.bundle import Bundle
from edgesync.rules.dryrun import DryRun, effect_of, visit_of
from edgesync.rules.files import rules_of
from edgesync.rules.message import Message, Originator
from hubd.api import entities, fleet
from hubd.api.context import Context
from hubd.api.entity_shapes import OneEntity
from hubd.api.errors import ApiError, no_such_edge
from hubd.api.fleet import known_edge
from hubd.api.params import PAGE_MAX, Nothing, OneEdge, SeriesPage
from hubd.api.rule_shapes import (
    Assign,
    Assigned,
    BundleContents,
    BundleList,
    OneBundle,
    Run,
    RunAnswer,
    Unassign,
    Upload,
)
from hubd.errors import EdgeUnknown, HubError
from hubd.owned.threads import in_thread
from hubd.registry import DEFAULT_TENANT
from hubd.rules.bundles import Bundles, BundleUnknown, BundleView, RulesRefused
from hubd.rules.service import RuleService
from hubd.rules.standing import EdgeRules, standing

T = TypeVar("T")

# Of a dry run, in an answer; and how many run at once.
VISITS_MAX: Final = 1000
RUNS: Final = trio.CapacityLimiter(2)


async def bundles(context: Context, _params: Nothing) -> BundleList:
    return BundleList(bundles=await asked(functools.partial(kept(context).all, context.tenant)))


async def one_bundle(context: Context, params: OneBundle) -> BundleContents:
    mine = (tenant_of(context), params.bundle, params.version)
    found = kept(context)
    return BundleContents(
        bundle=await asked(functools.partial(found.one, *mine)),
        files=dict((await asked(functools.partial(found.bundle, *mine))).files),
    )


async def upload(context: Context, _params: Nothing, given: Upload) -> BundleView:
    """Keep a bundle; it is checked as the edges check it, and refused with all that is wrong."""
    try:
        files = {
            name: text if isinstance(text, str) else json.dumps(text)
            for name, text in given.files.items()
        }
    except (TypeError, ValueError, RecursionError) as error:
        raise ApiError(400, f"`files`: {error}", field="files", remedy="exports as JSON") from error
    found = kept(context)
    work = functools.partial(found.upload, tenant_of(context), given.name, files, root=given.root)
    return await asked(work)


async def assign(context: Context, params: OneBundle, given: Assign) -> Assigned:
    version = given.version or params.version
    found = kept(context)
    made = await asked(
        functools.partial(
            found.assign, tenant_of(context), params.bundle, given.edges, version=version
        )
    )
    return Assigned(
        bundle=params.bundle, version=made[0].version, edges=[one.edge for one in made]
    )  # fmt: skip


async def unassign(context: Context, _params: Nothing, given: Unassign) -> Assigned:
    work = functools.partial(kept(context).unassign, tenant_of(context), given.edges)
    return Assigned(unassigned=await asked(work))


async def edge_rules(context: Context, params: OneEdge) -> EdgeRules:
    """Answer with what an edge is to run, what it runs as far as it has told, and its counters."""
    known_edge(context, params.edge)
    service = service_of(context)
    if service.reports.is_unknown(params.edge):
        await service.look_up(params.edge)
    assigned = (await asked(service.bundles.assignments)).get(params.edge)
    has_decided = await asked(functools.partial(service.bundles.has_decided, params.edge))
    known = service.reports.of(params.edge)
    return standing(params.edge, assigned, known, has_decided=has_decided)


async def run(context: Context, params: OneEdge, given: Run) -> RunAnswer:
    """Try a bundle out with a message, and with what is known here of the entity it is about."""
    mine = of_edge(context, params.edge)
    bundle, version = given.bundle, given.version
    if bundle is None:
        assigned = (await asked(kept(context).assignments)).get(params.edge)
        if assigned is None:
            raise ApiError(
                409, f"nothing is assigned to {params.edge}", field="bundle",
                remedy="name a bundle: GET /api/v1/rules lists them",
            )  # fmt: skip
        bundle, version = assigned.bundle, assigned.version
    found = await asked(
        functools.partial(kept(context).bundle, tenant_of(mine), bundle, version)
    )  # fmt: skip
    data = given.message
    if data is None:
        data = await _newest(context, params.edge, given.entity)
    about = OneEntity(edge=params.edge, entity=given.entity, kind=given.kind)
    known = await entities.attributes_of(context, about)
    entity = Originator(given.kind.upper(), given.entity)
    attributes = {
        (entity, scope): {name: one.value for name, one in getattr(known, scope).items()}
        for scope in ("client", "server", "shared")
    }
    now_ns = context.now_ns()
    metadata = {"deviceName": given.entity, "deviceType": "default", "ts": str(now_ns // 10**6)}
    message = Message(
        type=given.type, originator=entity, data=data, metadata={**metadata, **given.metadata},
        time_ns=now_ns,
    )  # fmt: skip
    work = functools.partial(_dry_run, found, message, attributes)
    visits, effects = await trio.to_thread.run_sync(work, limiter=RUNS)
    return RunAnswer(
        bundle=found.name, version=found.version, message=data, visits=visits, effects=effects
    )


def _dry_run(
    bundle: Bundle, message: Message, attributes: Mapping[tuple[Originator, str], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        rules = rules_of(bundle.contents(), root=bundle.root, is_here=False)
    except ConfigError as error:  # kept by an earlier version, with another reader
        raise ApiError(422, str(error), field="bundle", remedy="upload it again") from error
    dry = DryRun(rules, attributes, message.time_ns)
    try:
        dry.send(message)
    finally:
        dry.close()
    visits = [visit_of(one) for one in dry.visits[:VISITS_MAX]]
    return visits, [effect_of(one) for one in dry.effects[:VISITS_MAX]]


async def _newest(context: Context, edge: str, entity: str) -> dict[str, Any]:
    """Return the newest readings of an entity as a message has them; raises ApiError for none."""
    asked_for = SeriesPage(edge=edge, limit=PAGE_MAX)
    found: dict[str, Any] = {}
    while True:
        page = await fleet.latest(context, asked_for)
        found |= {key: one.value for key, one in page.latest.get(entity, {}).items()}
        if page.next is None:
            break
        asked_for = SeriesPage(edge=edge, limit=PAGE_MAX, after=page.next)
    if not found:
        raise ApiError(
            404, f"{edge} has sent no readings of {entity!r}", field="entity",
            remedy="give a `message`, or another entity: GET …/latest lists them",
        )  # fmt: skip
    return found


def of_edge(context: Context, edge: str) -> Context:
    """Return the context of whose edge it is: that tenant's bundles are meant. Raises ApiError."""
    view = known_edge(context, edge)
    return msgspec.structs.replace(context, tenant=context.tenant or view.tenant or None)


def kept(context: Context) -> Bundles:
    return service_of(context).bundles


def service_of(context: Context) -> RuleService:
    if context.rules is None:
        raise ApiError(503, "this hub keeps no rule chains", remedy="start it with `hubd run`")
    return context.rules


def tenant_of(context: Context) -> str:
    """Return whose bundles are meant: the operator names another tenant by `?tenant=`."""
    return context.tenant or DEFAULT_TENANT


async def asked(work: Callable[[], T]) -> T:
    """Return what work in a thread finds; raises ApiError."""
    try:
        return await in_thread(work)
    except RulesRefused as refused:
        first, count = refused.mistakes[0], len(refused.mistakes)
        raise ApiError(
            422, str(refused), field=first.field,
            remedy=first.remedy or f"mend {'it' if count == 1 else f'all {count}'}, upload again",
        ) from refused  # fmt: skip
    except BundleUnknown as error:
        remedy = "GET /api/v1/rules lists them"
        raise ApiError(404, f"no {error.what}", field="bundle", remedy=remedy) from error
    except EdgeUnknown as error:
        raise no_such_edge(error.edge) from error
    except HubError as error:
        remedy = "the registry is needed for this; try again"
        raise ApiError(503, str(error), field="", remedy=remedy) from error
