"""Answers about edges, the links they have, and the hub itself."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from hubd.api import keys
from hubd.api.answers import (
    Device,
    Devices,
    Edge,
    Edges,
    Healthz,
    KeysTold,
    Latest,
    Ledger,
    LinkEvents,
    ProjectorStatus,
    Series,
    SeriesPage,
    Stats,
)
from hubd.api.context import Context, EdgeView
from hubd.api.errors import no_such_edge
from hubd.api.health import health_of, hub_problems
from hubd.api.params import (
    EdgesPage,
    Int64,
    LinkEventsPage,
    Nothing,
    OneEdge,
    make_cursor,
    read_cursor,
)
from hubd.api.params import SeriesPage as SeriesParams
from hubd.project.gaps import read_gaps
from hubd.state import views
from hubd.state.views import EventRow, SeriesRow, Totals

SKIPS_SHOWN = 20
FIRST_EVENT = (1 << 63) - 1
# A site has tens of devices, and each tells at most twice a minute.
DEVICE_EVENTS_SEEN = 5000


def known_edge(context: Context, name: str) -> EdgeView:
    view = context.hub.edge(name)
    if view is None:
        raise no_such_edge(name)
    return view


def edges_of(context: Context) -> list[str] | None:
    """Return which edges may be told of here; None for all."""
    return None if context.tenant is None else list(context.hub.names())


def edges_after(context: Context, name: str) -> Iterator[EdgeView]:
    """Yield edges by name, those after `name`: a page makes no views of the others."""
    names = context.hub.names()
    for one in names[bisect_right(names, name) :]:
        view = context.hub.edge(one)
        if view is not None:
            yield view


async def shown_edges(context: Context, found: Sequence[EdgeView], following: str | None) -> Edges:
    """Return a page of edges with what the state holds of them."""
    totals = await _totals_of(context, found)
    shown = [_shown_edge(view, totals) for view in found]
    return Edges(now_ns=context.now_ns(), edges=shown, next=following)


async def _totals_of(context: Context, found: Sequence[EdgeView]) -> Mapping[str, Totals]:
    names = [view.edge for view in found]
    return await context.state.read(lambda c: views.totals(c, names))


async def all_edges(context: Context) -> list[Edge]:
    """Return every registered edge, by name."""
    totals = await context.state.read(views.totals)
    return [_shown_edge(view, totals) for view in context.hub.edges()]


def _edge_page(context: Context, params: EdgesPage) -> tuple[list[EdgeView], str | None]:
    (after,) = read_cursor(params.after, tuple[str], ("",))
    found = list(islice(edges_after(context, after), params.limit + 1))
    page = found[: params.limit]
    return page, make_cursor(page[-1].edge) if len(found) > len(page) else None


async def one_edge(context: Context, params: OneEdge) -> Edge:
    view = known_edge(context, params.edge)
    totals = await _totals_of(context, [view])
    shown = _shown_edge(view, totals)
    answers = context.seen_answers().get(view.tenant)
    told = None if answers is None else answers.shares.get(view.edge)
    if told is None:
        return shown
    keys = KeysTold(share=told.share, at_ns=told.at_ms * 1_000_000)
    return msgspec.structs.replace(shown, keys=keys)


def _shown_edge(view: EdgeView, totals: Mapping[str, Totals]) -> Edge:
    state = totals.get(view.edge, Totals(edge=view.edge))
    return Edge(link=view, health=health_of(view), state=state)


def shown_series(row: SeriesRow) -> Series:
    return Series(
        series=f"{row.series:016x}", entity=row.entity, key=row.key, unit=row.unit, type=row.type,
        points=row.points, time_ns=row.time_ns, value=row.value,
    )  # fmt: skip


async def series(context: Context, params: SeriesParams) -> SeriesPage:
    known_edge(context, params.edge)
    rows, following = await _series_rows(context, params)
    return SeriesPage(edge=params.edge, series=[shown_series(r) for r in rows], next=following)


async def latest(context: Context, params: SeriesParams) -> Latest:
    known_edge(context, params.edge)
    rows, following = await _series_rows(context, params)
    by_entity: dict[str, dict[str, Series]] = {}
    for row in rows:
        # A series nobody has declared yet is shown under its number.
        keys = by_entity.setdefault(row.entity, {})
        keys[row.key or f"{row.series:016x}"] = shown_series(row)
    return Latest(edge=params.edge, now_ns=context.now_ns(), latest=by_entity, next=following)


async def _series_rows(
    context: Context, params: SeriesParams
) -> tuple[list[SeriesRow], str | None]:
    (after,) = read_cursor(params.after, tuple[Int64], (0,))
    rows = await context.state.read(lambda c: views.series_of(c, params.edge, after, params.limit))
    return rows, make_cursor(rows[-1].ref) if len(rows) == params.limit else None


async def devices(context: Context, params: OneEdge) -> Devices:
    known_edge(context, params.edge)
    rows = await context.state.read(
        lambda c: views.device_events(c, params.edge, DEVICE_EVENTS_SEEN)
    )
    return Devices(
        edge=params.edge, now_ns=context.now_ns(), devices=[_device(row) for row in rows]
    )


def _device(row: EventRow) -> Device:
    """Read what an edge says of a device; another's program may say less, or something else."""
    try:
        told = msgspec.convert(row.body, _Told)
    except msgspec.ValidationError:
        told = _Told()
    return Device(
        entity=row.entity, state=told.state, reason=told.reason, address=told.address,
        time_ns=row.time_ns, changes=told.changes, more=told.more,
        invalid={name: told.reasons.get(name, "") for name in told.invalid},
    )  # fmt: skip


class _Told(msgspec.Struct, frozen=True):
    """The body of a device's event, as far as it is shown."""

    state: str = ""
    reason: str = ""
    address: str = ""
    changes: int = 1
    invalid: list[str] = []
    reasons: dict[str, str] = {}
    more: int = 0


async def link_events(context: Context, params: LinkEventsPage) -> LinkEvents:
    if params.edge is not None:
        known_edge(context, params.edge)
    (before,) = read_cursor(params.after, tuple[Int64], (FIRST_EVENT,))
    found = list(context.hub.link_events(edge=params.edge, before=before, limit=params.limit))
    following = make_cursor(found[-1].n) if len(found) == params.limit else None
    return LinkEvents(events=found, next=following)


async def stats(context: Context, params: EdgesPage) -> Stats:
    found, following = _edge_page(context, params)
    totals = await _totals_of(context, found)
    is_operators = context.tenant is None
    gaps = await context.state.read(read_gaps)
    return Stats(
        now_ns=context.now_ns(),
        version=context.version,
        history_from_ns=max((gap.before_ns for gap in gaps), default=None),
        gaps=gaps if is_operators else [],
        retention=context.retention() if is_operators else None,
        log_head=context.hub.log_head if is_operators else None,
        keys=keys.stats(context),
        keys_by_tenant=keys.stats_by_tenant(context),
        projectors=projector_status(context) if is_operators else [],
        ledger=[_ledger(view, totals.get(view.edge, Totals(edge=view.edge))) for view in found],
        skips=await context.state.read(lambda c: views.skips(c, SKIPS_SHOWN, edges_of(context))),
        watchers=context.live.watchers if is_operators else 0,
        log=context.hub.log_stats() if is_operators else None,
        rebuilds=context.state.rebuilds if is_operators else 0,
        problems=await problems_told(context),
        next=following,
    )


def _ledger(view: EdgeView, held: Totals) -> Ledger:
    return Ledger(
        edge=view.edge,
        records_at_edge=sum(lane.tail for lane in view.lanes),
        records_in_log=sum(lane.floor for lane in view.lanes),
        readings_in_state=held.readings,
        events_in_state=held.events,
        dead=held.dead,
        lost=held.lost,
    )


def projector_status(context: Context) -> list[ProjectorStatus]:
    head = context.hub.log_head
    return [
        ProjectorStatus(
            name=progress.name, position=progress.position,
            lag=max(0, head - progress.position), health=progress.health.value,
            skipped=progress.skipped, error=progress.error,
        )
        for progress in context.projectors.progress
    ]  # fmt: skip


async def problems_told(context: Context) -> list[str]:
    """Return what is wrong with the hub, for its operator alone."""
    if context.tenant is not None:
        return []
    return [one.text for one in await hub_problems(context)]


async def healthz(context: Context, _params: Nothing) -> Healthz:
    problems = await hub_problems(context)
    return Healthz(
        status="degraded" if problems else "ok",
        problems=[one.text for one in problems if context.tenant is None],
        is_working=not any(one.stops_work for one in problems),
    )
