"""The pages, and the streams that keep parts of them fresh.

A stream sends a page's part whole when its frame has changed (rows came, went or moved), and only
the cells that changed otherwise: two hundred edges must not cost a phone its data plan. It begins
where the page stands that opened it (shown.py).
"""

import functools
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from hubd.api import audit, conflicts, fleet, keys, openapi, params, routes, rpc
from hubd.api.body import read_form
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.rights import Right, check_may, may, user_of
from hubd.api.stream import as_event, event_stream
from hubd.api.tenancy import NOBODY
from hubd.project.live import Watcher
from hubd.state import UNREADABLE, views
from hubd.web import assets, format
from hubd.web.chart import BESIDE_MAX, ChartPage, as_json, lines_of
from hubd.web.edge import EdgePage
from hubd.web.entity import (
    PATIENCES,
    SCOPES,
    EntityForm,
    EntityQuery,
    EntityViews,
    FleetAlarmsQuery,
    carry_out,
    path_of,
)
from hubd.web.events import CHOICES, EventsQuery, events_found
from hubd.web.fleet import (
    SORTS,
    STATES,
    FleetQuery,
    cells_of,
    frame_of,
    select,
    sentence,
    total_cells,
)
from hubd.web.rules import (
    RULES_TONES,
    Outcome,
    RulesForm,
    RulesQuery,
    RulesViews,
    assign_rules,
    overview,
    path_of_rules,
    run_rules,
)
from hubd.web.shown import Board, Make, Shown, escaped

HERE: Final = Path(__file__).parent
# Ages and lags change with time alone; a person notices a second.
REFRESH_S: Final = 1.0
ROWS: Final = 200
CONFLICTS: Final = 50


class FleetStream(FleetQuery, frozen=True, kw_only=True):
    """`shown` is what the page was made of that listens."""

    shown: params.Text = ""


class EdgeStream(params.OneEdge, frozen=True, kw_only=True):
    shown: params.Text = ""


class ConflictsStream(params.Params, frozen=True, kw_only=True):
    shown: params.Text = ""


class ResolveForm(params.Body, frozen=True, kw_only=True):
    """A button of a conflict, with what its form brings."""

    choice: Literal["winner", "dot", "value"]
    replica: int | None = None
    number: int | None = None
    value: str = ""

    def choice_made(self) -> params.Choice:
        value = self.value if self.choice == "value" else None
        return params.Choice(
            choice=self.choice, replica=self.replica, number=self.number, value=value
        )


class Pages:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._templates = _environment(context)
        self._board = Board()
        self._entities = EntityViews(context)
        self._rules = RulesViews(context)

    async def fleet_shown(self, query: FleetQuery) -> Shown:
        everyone = await fleet.all_edges(self._context)
        page = select(everyone, query)
        log_head = self._context.hub.log_head if self._context.tenant is None else None
        problems = await fleet.problems_told(self._context)
        above = sentence(everyone)
        away = sum(not edge.link.is_connected for edge in everyone)
        cells = total_cells(everyone, log_head)
        for edge in page.rows:
            cells.update(cells_of(edge))
        frame = (
            above, problems, len(everyone), away, page.found, page.page, page.pages,
            [frame_of(edge) for edge in page.rows],
        )  # fmt: skip
        return self._shown(
            "_fleet.html", frame, cells, shown=page, sentence=above, query=query,
            count=len(everyone), away=away, log_head=log_head, problems=problems,
        )  # fmt: skip

    async def entity_shown(
        self, query: EntityQuery, may_write: bool, problem: Problem | None = None
    ) -> Shown:
        found = await self._entities.page_of(query)
        return self._shown(
            "_entity.html", (found.frame(), may_write, problem), found.cells(), page=found,
            query=query, scopes=SCOPES, patiences=PATIENCES, may_write=may_write, problem=problem,
        )  # fmt: skip

    async def alarms_shown(self, query: FleetAlarmsQuery, operated: frozenset[str]) -> Shown:
        found = await self._entities.of_fleet("" if query.all else "active")
        return self._shown(
            "_fleet_alarms.html", (found, operated), {}, found=found, operated=operated
        )

    async def edge_shown(self, name: str, may_write: bool = False) -> Shown:
        latest = await fleet.latest(self._context, params.SeriesPage(edge=name, limit=ROWS))
        devices = await fleet.devices(self._context, params.OneEdge(edge=name))
        page = EdgePage(
            edge=await fleet.one_edge(self._context, params.OneEdge(edge=name)),
            latest=latest,
            devices=sorted(devices.devices, key=lambda device: device.state == "online"),
            resources=await self._context.state.read(lambda c: views.resources_of(c, name)),
        )
        held = await self._entities.of_edge(name)
        return self._shown(
            "_edge.html", (page.frame(), held, may_write), page.cells(), edge=page.edge,
            latest=latest, devices=page.devices, resources=page.resources, held=held,
            may_write=may_write,
        )  # fmt: skip

    async def rules_shown(self, edge: str) -> Shown:
        page = await self._rules.of_edge(edge)
        return self._shown(
            "_rules.html", page.frame(), page.cells(), page=page, tones=RULES_TONES
        )  # fmt: skip

    async def events_shown(self, query: EventsQuery, may_write: bool = False) -> Shown:
        found = await events_found(self._context, query)
        frame = (found, may_write)
        return self._shown("_events.html", frame, {}, found=found, query=query, may_write=may_write)

    async def conflicts_shown(self, may_write: bool, problem: Problem | None = None) -> Shown:
        wanted = params.ConflictsPage(status="open", limit=CONFLICTS)
        found = await conflicts.conflicts(self._context, wanted)
        known = keys.stats(self._context)
        counts = {
            "detected": known.conflicts_detected, "keys": known.keys, "replicas": known.replicas
        }  # fmt: skip
        return self._shown(
            "_conflicts.html", (found, counts, may_write, problem),
            {"open": format.count(known.conflicts_open)},
            found=found, may_write=may_write, problem=problem, **counts,
        )  # fmt: skip

    async def fleet(self, request: Request) -> Response:
        query = routes.read_params(request, FleetQuery)
        return self._page(
            "fleet.html", query=query, states=STATES, sorts=SORTS,
            search=request.url.query, **self._hand_out(await self.fleet_shown(query)),
        )  # fmt: skip

    async def edge(self, request: Request) -> Response:
        name = routes.read_params(request, params.OneEdge).edge
        shown = await self.edge_shown(name, self._operates(request, name))
        return self._page("edge.html", name=name, **self._hand_out(shown))

    async def alarms(self, request: Request) -> Response:
        query = routes.read_params(request, FleetAlarmsQuery)
        shown = await self.alarms_shown(query, self._operated(request))
        return self._page("alarms.html", query=query, **self._hand_out(shown))

    async def alarms_stream(self, request: Request) -> Response:
        query, operated = routes.read_params(request, FleetAlarmsQuery), self._operated(request)
        key = ("alarms", query.all, operated)
        return self._stream(key, None, lambda: self.alarms_shown(query, operated), query.shown)

    async def entity(self, request: Request) -> Response:
        query = routes.read_params(request, EntityQuery)
        shown = await self.entity_shown(query, self._operates(request, query.edge))
        return self._page("entity.html", query=query, **self._hand_out(shown))

    async def edit_entity(self, request: Request) -> Response:
        """A button was pressed; the page comes again, with what was wrong if something was."""
        query = routes.read_params(request, EntityQuery)
        check_may(request.scope, Right.OPERATE, fleet.known_edge(self._context, query.edge))
        user = user_of(request.scope)
        try:
            form = await read_form(request, EntityForm, routes.body_max(self._context))
            await carry_out(self._context, query, form, user.name if user else "dashboard")
            await audit.note(self._context, request, path_of(form), form)
        except ApiError as error:
            shown = await self.entity_shown(query, may_write=True, problem=error.problem)
            return self._page(
                "entity.html", status=error.status, query=query, **self._hand_out(shown)
            )
        return RedirectResponse(f"{request.url.path}?{request.url.query}", 303)

    async def bundles(self, request: Request) -> Response:
        routes.read_params(request, params.Nothing)
        return self._page("bundles.html", found=await overview(self._context), tones=RULES_TONES)

    async def rules(self, request: Request) -> Response:
        name = routes.read_params(request, RulesQuery).edge
        return await self._rules_page(request, name, Outcome())

    async def assign_rules(self, request: Request) -> Response:
        """A button was pressed; the page comes again, with what was wrong if something was."""
        check_may(request.scope, Right.WRITE)
        name, form = routes.read_params(request, RulesQuery).edge, None
        fleet.known_edge(self._context, name)
        try:
            form = await read_form(request, RulesForm, routes.body_max(self._context))
            await assign_rules(self._context, name, form)
            await audit.note(self._context, request, path_of_rules(form), form)
        except ApiError as error:
            wrong = Outcome(form=form, problem=error.problem)
            return await self._rules_page(request, name, wrong, error.status)
        return RedirectResponse(f"{request.url.path}?{request.url.query}", 303)

    async def run_rules(self, request: Request) -> Response:
        """Show what a dry run finds; it changes nothing, so whoever may read may ask for one."""
        name, form = routes.read_params(request, RulesQuery).edge, None
        fleet.known_edge(self._context, name)
        try:
            form = await read_form(request, RulesForm, routes.body_max(self._context))
            found = await run_rules(self._context, name, form)
        except ApiError as error:
            wrong = Outcome(form=form, problem=error.problem)
            return await self._rules_page(request, name, wrong, error.status)
        return await self._rules_page(request, name, Outcome(form=form, found=found))

    async def _rules_page(
        self, request: Request, name: str, outcome: Outcome, status: int = 200
    ) -> Response:
        shown, page = await self.rules_shown(name), await self._rules.of_edge(name)
        return self._page(
            "rules.html", status=status, name=name, page=page, outcome=outcome,
            may_write=may(request.scope, Right.WRITE), **self._hand_out(shown),
        )  # fmt: skip

    async def rules_stream(self, request: Request) -> Response:
        query = routes.read_params(request, RulesQuery)
        fleet.known_edge(self._context, query.edge)
        make = functools.partial(self.rules_shown, query.edge)
        return self._stream(("rules", query.edge), query.edge, make, query.shown)

    async def chart(self, request: Request) -> Response:
        asked = routes.read_params(request, ChartPage)
        wanted = params.SeriesPage(edge=asked.edge, limit=ROWS)
        latest = await fleet.latest(self._context, wanted)
        lines = await lines_of(self._context, asked)
        return self._page(
            "chart.html", asked=asked, latest=latest, lines=lines, lines_json=as_json(lines),
            beside_max=BESIDE_MAX, rows_max=ROWS,
        )  # fmt: skip

    async def events(self, request: Request) -> Response:
        query = routes.read_params(request, EventsQuery)
        names = self._context.hub.names()
        shown = await self.events_shown(query, may(request.scope, Right.WRITE))
        return self._page(
            "events.html", query=query, names=names, choices=CHOICES, **self._hand_out(shown)
        )

    async def give_up(self, request: Request) -> Response:
        """Nobody waits any more for what waits for an edge; the page comes again."""
        check_may(request.scope, Right.WRITE)
        asked = routes.read_params(request, params.OneEdge)
        await read_form(request, params.NoBody, routes.body_max(self._context))
        await rpc.give_up(self._context, asked, params.NoBody())
        await audit.note(self._context, request, "downlink/clear", params.NoBody())
        tenant = self._context.tenant
        return RedirectResponse(f"/events?tenant={tenant}" if tenant else "/events", 303)

    async def conflicts(self, request: Request) -> Response:
        shown = await self.conflicts_shown(may(request.scope, Right.WRITE))
        return self._page("conflicts.html", **self._hand_out(shown))

    async def resolve(self, request: Request) -> Response:
        """A button was pressed; the page comes again, with what was wrong if something was."""
        check_may(request.scope, Right.WRITE)
        asked = routes.read_params(request, params.OneConflict)
        try:
            form = await read_form(request, ResolveForm, routes.body_max(self._context))
            await conflicts.resolve(self._context, asked, form.choice_made())
            await audit.note(self._context, request, "conflicts/resolve", form)
        except ApiError as error:
            shown = await self.conflicts_shown(may_write=True, problem=error.problem)
            return self._page("conflicts.html", status=error.status, **self._hand_out(shown))
        tenant = self._context.tenant
        return RedirectResponse(f"/conflicts?tenant={tenant}" if tenant else "/conflicts", 303)

    async def fleet_stream(self, request: Request) -> Response:
        query = routes.read_params(request, FleetStream)
        key = ("fleet", msgspec.structs.replace(query, shown=""))
        return self._stream(key, None, lambda: self.fleet_shown(query), query.shown)

    async def api(self, _request: Request) -> Response:
        """What the API answers, for people; /openapi.json is the same for programs."""
        described = openapi.document(self._context.version)
        return self._page("api.html", paths=described["paths"])

    def problem(self, status: int, problem: Problem) -> Response:
        """An error, as a page."""
        return self._page("problem.html", status=status, problem=problem, code=status)

    async def changed_by_users(self, limit: int) -> audit.AuditEntries | None:
        """What users have changed; None when that cannot be read now."""
        try:
            return await audit.entries(self._context, audit.AuditPage(limit=limit))
        except ApiError:
            return None

    def shown_as(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page of a template that nothing here fills in."""
        return self._page(template, status=status, **values)

    async def edge_stream(self, request: Request) -> Response:
        query = routes.read_params(request, EdgeStream)
        name = query.edge
        fleet.known_edge(self._context, name)
        writes = self._operates(request, name)
        return self._stream(
            ("edge", name, writes), name, lambda: self.edge_shown(name, writes), query.shown
        )

    async def entity_stream(self, request: Request) -> Response:
        query = routes.read_params(request, EntityQuery)
        fleet.known_edge(self._context, query.edge)
        writes = self._operates(request, query.edge)
        key = ("entity", msgspec.structs.replace(query, shown=""), writes)
        return self._stream(key, query.edge, lambda: self.entity_shown(query, writes), query.shown)

    async def events_stream(self, request: Request) -> Response:
        query = routes.read_params(request, EventsQuery)
        if query.edge:
            fleet.known_edge(self._context, query.edge)
        writes = may(request.scope, Right.WRITE)
        key = ("events", msgspec.structs.replace(query, shown=""), writes)
        return self._stream(
            key, query.edge or None, lambda: self.events_shown(query, writes), query.shown
        )

    async def conflicts_stream(self, request: Request) -> Response:
        query = routes.read_params(request, ConflictsStream)
        writes = may(request.scope, Right.WRITE)
        return self._stream(
            ("conflicts", writes), None, lambda: self.conflicts_shown(writes), query.shown
        )

    def _stream(self, key: Hashable, edge: str | None, make: Make, handed: str) -> Response:
        before = self._board.take(handed)

        async def tell(watcher: Watcher) -> bytes:
            nonlocal before
            watcher.take()
            try:
                shown = await self._board.get(key, make)
            except (ApiError, *UNREADABLE):
                return b": not now\n\n"  # the page keeps what it shows
            changed, before = shown.changed_since(before), shown
            if changed is None:
                return as_event(shown.html + self._open_html(is_news=True))
            if not changed:
                return b": nothing new\n\n"
            return as_event(msgspec.json.encode(changed).decode(), "cells")

        # Told each second, whatever comes: no reading has to be made into news for a page.
        return event_stream(
            self._context, edge, frozenset(), tell,
            pause_s=REFRESH_S, readings=False, quiet_s=0,
        )  # fmt: skip

    def _shown(self, template: str, frame: object, cells: dict[str, str], **values: Any) -> Shown:
        texts = escaped({**cells, "conflicts-open": self._open_count()})
        return Shown(frame, texts, lambda: self._render(template, cells=texts, **values))

    def _hand_out(self, shown: Shown) -> dict[str, Any]:
        return {"content": shown.html, "shown": self._board.hand_out(shown)}

    def _operates(self, request: Request, edge: str) -> bool:
        """Whether who asks may edit attributes there, and acknowledge and clear alarms."""
        view = self._context.hub.edge(edge)
        return view is not None and may(request.scope, Right.OPERATE, view)

    def _operated(self, request: Request) -> frozenset[str]:
        edges = self._context.hub.edges()
        return frozenset(one.edge for one in edges if may(request.scope, Right.OPERATE, one))

    def is_of(self, context: Context) -> bool:
        return self._context is context

    def _open_html(self, *, is_news: bool = False) -> str:
        """How many conflicts are open, in the navigation; as news it finds its place by its id."""
        return self._render("_open.html", conflicts_open=self._open_count(), is_news=is_news)

    def _open_count(self) -> str:
        nobodys = self._context.tenant == NOBODY
        is_open = 0 if nobodys else self._context.cells.conflicts.open_count
        return format.count(is_open) if is_open else ""

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        html = self._render(
            template, has_assets=assets.are_present(), badge=self._open_html(), **values
        )
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})

    def _render(self, template: str, **values: Any) -> str:
        now_ns = self._context.now_ns()
        return self._templates.get_template(template).render(now_ns=now_ns, **values)


def page_routes(pages_of: Callable[[Request], Pages]) -> list[BaseRoute]:
    """Return the routes of the pages; `pages_of` gives those of whoever asks."""
    table: list[tuple[str, Callable[[Pages, Request], Awaitable[Response]]]] = [
        ("/", Pages.fleet),
        ("/events", Pages.events),
        ("/alarms", Pages.alarms),
        ("/conflicts", Pages.conflicts),
        ("/rules", Pages.bundles),
        ("/api", Pages.api),
        ("/edges/{edge}", Pages.edge),
        ("/edges/{edge}/chart", Pages.chart),
        ("/edges/{edge}/entity", Pages.entity),
        ("/edges/{edge}/rules", Pages.rules),
        ("/ui/fleet", Pages.fleet_stream),
        ("/ui/events", Pages.events_stream),
        ("/ui/alarms", Pages.alarms_stream),
        ("/ui/conflicts", Pages.conflicts_stream),
        ("/ui/edges/{edge}", Pages.edge_stream),
        ("/ui/edges/{edge}/entity", Pages.entity_stream),
        ("/ui/edges/{edge}/rules", Pages.rules_stream),
    ]

    def of_whom(page: Callable[[Pages, Request], Awaitable[Response]]) -> Any:
        async def show(request: Request) -> Response:
            return await page(pages_of(request), request)

        return show

    found: list[BaseRoute] = [Route(path, of_whom(page), methods=["GET"]) for path, page in table]
    found.append(Route("/conflicts/{id}", of_whom(Pages.resolve), methods=["POST"]))
    found.append(Route("/edges/{edge}/give-up", of_whom(Pages.give_up), methods=["POST"]))
    found.append(Route("/edges/{edge}/rules", of_whom(Pages.assign_rules), methods=["POST"]))
    found.append(Route("/edges/{edge}/rules/run", of_whom(Pages.run_rules), methods=["POST"]))
    found.append(Route("/edges/{edge}/entity", of_whom(Pages.edit_entity), methods=["POST"]))
    return [*found, Mount("/static", StaticFiles(directory=HERE / "static"))]


def _environment(context: Context) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "count", "value", "seconds", "age", "moment", "body", "blob", "size", "breakable", "raw",
    ):  # fmt: skip
        environment.filters[name] = getattr(format, name)
    environment.globals["term"] = format.term
    environment.globals["version"] = context.version
    logins = context.logins
    environment.globals["has_users"] = lambda: logins is not None and logins.has_users
    # On every link, form and stream: an operator who looks at a tenant stays with it, and does not
    # resolve the default tenant's conflict of the same number.
    tenant = context.tenant or ""
    environment.globals["tenant"] = tenant
    environment.globals["of_tenant"] = f"?tenant={tenant}" if tenant else ""
    environment.globals["and_tenant"] = f"&tenant={tenant}" if tenant else ""
    return environment
