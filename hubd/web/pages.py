"""The pages, and the streams that keep parts of them fresh.

A stream sends a page's part whole when its frame has changed (rows came, went or moved), and only
the cells that changed otherwise: two hundred edges must not cost a phone its data plan.
"""

import math
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import trio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from edgesync.model import EventType
from hubd.api import conflicts, fleet, keys, openapi, params, routes, series
from hubd.api.body import read_form
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.security import check_may_write, may_write
from hubd.api.stream import as_event, event_stream
from hubd.api.tenancy import NOBODY
from hubd.project.live import Watcher
from hubd.state import QueryTooSlow, views
from hubd.web import assets, format
from hubd.web.fleet import SORTS, STATES, FleetQuery, select, sentence

HERE: Final = Path(__file__).parent
# Ages and lags change with time alone; a person notices a second.
REFRESH_S: Final = 1.0
ROWS: Final = 200
CONFLICTS: Final = 50
# Different streams whose markup is remembered.
STREAMS_MAX: Final = 64

Render = Callable[[], Awaitable[str]]


class ChartPage(params.Params, frozen=True, kw_only=True):
    edge: params.EdgeName
    entity: params.Text = ""
    key: params.Text = ""


class EventsQuery(params.Params, frozen=True, kw_only=True):
    """Everything may come empty: that is how a form sends what was not filled in."""

    edge: params.Text = ""
    type: params.Text = ""
    status: params.Text = ""
    text: params.Text = ""
    after: params.Text = ""


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


class Shared:
    """What many watch is made once: the newest markup of each stream, for about a second."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[float, str]] = {}

    async def get(self, key: str, render: Render) -> str:
        now = trio.current_time()
        at, html = self._made.get(key, (-math.inf, ""))
        if now - at < REFRESH_S / 2:
            return html
        html = await render()
        if len(self._made) >= STREAMS_MAX:
            self._made.clear()
        self._made[key] = (now, html)
        return html


class Pages:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._templates = _environment(context)
        self._shared = Shared()

    async def fleet_html(self, query: FleetQuery) -> str:
        everyone = await fleet.all_edges(self._context)
        return self._render(
            "_fleet.html",
            everyone=everyone,
            shown=select(everyone, query),
            sentence=sentence(everyone),
            query=query,
            log_head=self._context.hub.log_head if self._context.tenant is None else None,
            problems=(await fleet.healthz(self._context, params.Nothing())).problems,
        )

    async def edge_html(self, name: str) -> str:
        edge = await fleet.one_edge(self._context, params.OneEdge(edge=name))
        wanted = params.SeriesPage(edge=name, limit=ROWS)
        latest = await fleet.latest(self._context, wanted)
        devices = await fleet.devices(self._context, params.OneEdge(edge=name))
        resources = await self._context.state.read(lambda c: views.resources_of(c, name))
        return self._render(
            "_edge.html",
            edge=edge,
            latest=latest,
            devices=sorted(devices.devices, key=lambda device: device.state == "online"),
            resources=resources,
        )

    async def events_html(self, query: EventsQuery) -> str:
        link = await fleet.link_events(
            self._context, params.LinkEventsPage(edge=query.edge or None, limit=50)
        )
        wanted = {"edge": query.edge, "type": query.type, "status": query.status,
                  "text": query.text, "after": query.after}  # fmt: skip
        filled = {name: value for name, value in wanted.items() if value}
        found = await series.fleet_events(
            self._context, msgspec.convert(filled, params.FleetEventsPage)
        )
        return self._render("_events.html", link=link, found=found, query=query)

    async def conflicts_html(self, may_write: bool, problem: Problem | None = None) -> str:
        wanted = params.ConflictsPage(status="open", limit=CONFLICTS)
        return self._render(
            "_conflicts.html",
            found=await conflicts.conflicts(self._context, wanted),
            keys=keys.stats(self._context),
            may_write=may_write,
            problem=problem,
        )

    async def fleet(self, request: Request) -> Response:
        query = routes.read_params(request, FleetQuery)
        return self._page(
            "fleet.html", query=query, states=STATES, sorts=SORTS,
            search=request.url.query, content=await self.fleet_html(query),
        )  # fmt: skip

    async def edge(self, request: Request) -> Response:
        name = routes.read_params(request, params.OneEdge).edge
        return self._page("edge.html", name=name, content=await self.edge_html(name))

    async def chart(self, request: Request) -> Response:
        asked = routes.read_params(request, ChartPage)
        wanted = params.SeriesPage(edge=asked.edge, limit=ROWS)
        latest = await fleet.latest(self._context, wanted)
        return self._page("chart.html", asked=asked, latest=latest)

    async def events(self, request: Request) -> Response:
        query = routes.read_params(request, EventsQuery)
        names = [view.edge for view in self._context.hub.edges()]
        kinds = [kind.name.lower() for kind in EventType]
        content = await self.events_html(query)
        return self._page("events.html", query=query, names=names, kinds=kinds, content=content)

    async def conflicts(self, request: Request) -> Response:
        content = await self.conflicts_html(may_write(request.scope))
        return self._page("conflicts.html", content=content)

    async def resolve(self, request: Request) -> Response:
        """A button was pressed; the page comes again, with what was wrong if something was."""
        check_may_write(request.scope)
        asked = routes.read_params(request, params.OneConflict)
        try:
            form = await read_form(request, ResolveForm, routes.body_max(self._context))
            await conflicts.resolve(self._context, asked, form.choice_made())
        except ApiError as error:
            content = await self.conflicts_html(may_write=True, problem=error.problem)
            return self._page("conflicts.html", status=error.status, content=content)
        return RedirectResponse("/conflicts", 303)

    async def fleet_stream(self, request: Request) -> Response:
        query = routes.read_params(request, FleetQuery)
        return self._stream(f"fleet {query}", None, lambda: self.fleet_html(query))

    async def api(self, _request: Request) -> Response:
        """What the API answers, for people; /openapi.json is the same for programs."""
        described = openapi.document(self._context.version)
        return self._page("api.html", paths=described["paths"])

    def problem(self, status: int, problem: Problem) -> Response:
        """An error, as a page."""
        return self._page("problem.html", status=status, problem=problem, code=status)

    async def edge_stream(self, request: Request) -> Response:
        name = routes.read_params(request, params.OneEdge).edge
        fleet.known_edge(self._context, name)
        return self._stream(f"edge {name}", name, lambda: self.edge_html(name))

    async def events_stream(self, request: Request) -> Response:
        query = routes.read_params(request, EventsQuery)
        if query.edge:
            fleet.known_edge(self._context, query.edge)
        key = f"events {request.url.query}"
        return self._stream(key, query.edge or None, lambda: self.events_html(query))

    async def conflicts_stream(self, request: Request) -> Response:
        writes = may_write(request.scope)
        return self._stream(f"conflicts {writes}", None, lambda: self.conflicts_html(writes))

    def _stream(self, key: str, edge: str | None, render: Render) -> Response:
        frame, cells = "", dict[str, str]()

        async def tell(watcher: Watcher) -> bytes:
            nonlocal frame, cells
            watcher.take()
            try:
                html = await self._shared.get(key, render) + self._open_html(is_news=True)
            except (ApiError, QueryTooSlow):
                return b": not now\n\n"  # the page keeps what it shows
            before_frame, before = frame, cells
            frame, cells = apart(html)
            if frame != before_frame:
                return as_event(html)
            changed = {name: text for name, text in cells.items() if before[name] != text}
            if not changed:
                return b": nothing new\n\n"
            return as_event(msgspec.json.encode(changed).decode(), "cells")

        return event_stream(
            self._context, edge, frozenset(), tell,
            pause_s=REFRESH_S, at_least_every_s=REFRESH_S,
        )  # fmt: skip

    def is_of(self, context: Context) -> bool:
        return self._context is context

    def _open_html(self, *, is_news: bool = False) -> str:
        """How many conflicts are open, in the navigation; as news it finds its place by its id."""
        nobodys = self._context.tenant == NOBODY
        is_open = 0 if nobodys else self._context.cells.conflicts.open_count
        return self._render("_open.html", conflicts_open=is_open, is_news=is_news)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        html = self._render(
            template, has_assets=assets.are_present(), badge=self._open_html(), **values
        )
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})

    def _render(self, template: str, **values: Any) -> str:
        now_ns = self._context.now_ns()
        return self._templates.get_template(template).render(now_ns=now_ns, **values)


# A cell holds no other element of its own kind, so that the first end tag is its own.
CELL: Final = re.compile(r'(<(\w+)\b[^>]*?\bdata-cell="([^"]+)"[^>]*>)(.*?)(?=</\2>)', re.S)


def apart(html: str) -> tuple[str, dict[str, str]]:
    """Part a page into its frame and what its cells hold: while the frame stays, cells are sent."""
    cells = {found[3]: found[4] for found in CELL.finditer(html)}
    return CELL.sub(r"\1", html), cells


def page_routes(pages_of: Callable[[Request], Pages]) -> list[BaseRoute]:
    """Return the routes of the pages; `pages_of` gives those of whoever asks."""
    table: list[tuple[str, Callable[[Pages, Request], Awaitable[Response]]]] = [
        ("/", Pages.fleet),
        ("/events", Pages.events),
        ("/conflicts", Pages.conflicts),
        ("/api", Pages.api),
        ("/edges/{edge}", Pages.edge),
        ("/edges/{edge}/chart", Pages.chart),
        ("/ui/fleet", Pages.fleet_stream),
        ("/ui/events", Pages.events_stream),
        ("/ui/conflicts", Pages.conflicts_stream),
        ("/ui/edges/{edge}", Pages.edge_stream),
    ]

    def of_whom(page: Callable[[Pages, Request], Awaitable[Response]]) -> Any:
        async def show(request: Request) -> Response:
            return await page(pages_of(request), request)

        return show

    found: list[BaseRoute] = [Route(path, of_whom(page), methods=["GET"]) for path, page in table]
    found.append(Route("/conflicts/{id}", of_whom(Pages.resolve), methods=["POST"]))
    return [*found, Mount("/static", StaticFiles(directory=HERE / "static"))]


def _environment(context: Context) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "value", "seconds", "age", "moment", "body", "blob", "size", "breakable"):
        environment.filters[name] = getattr(format, name)
    environment.globals["term"] = format.term
    environment.globals["version"] = context.version
    return environment
