"""The pages, and the streams that keep parts of them fresh."""

import math
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
from hubd.api import conflicts, fleet, keys, params, routes, series
from hubd.api.body import read_form
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.security import check_may_write, may_write
from hubd.api.stream import as_event, event_stream
from hubd.project.live import Watcher
from hubd.state import QueryTooSlow
from hubd.web import assets, format

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

    async def fleet_html(self) -> str:
        wanted = params.EdgesPage()
        answer = await fleet.edges(self._context, wanted)
        stats = await fleet.stats(self._context, wanted)
        return self._render("_fleet.html", answer=answer, stats=stats)

    async def edge_html(self, name: str) -> str:
        edge = await fleet.one_edge(self._context, params.OneEdge(edge=name))
        wanted = params.SeriesPage(edge=name, limit=ROWS)
        latest = await fleet.latest(self._context, wanted)
        return self._render("_edge.html", edge=edge, latest=latest)

    async def events_html(self, query: EventsQuery) -> str:
        link = await fleet.link_events(
            self._context, params.LinkEventsPage(edge=query.edge or None, limit=50)
        )
        found = None
        if query.edge:
            wanted = {"edge": query.edge, "type": query.type, "status": query.status,
                      "text": query.text, "after": query.after}  # fmt: skip
            filled = {name: value for name, value in wanted.items() if value}
            found = await series.edge_events(
                self._context, msgspec.convert(filled, params.EventsPage)
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

    async def fleet(self, _request: Request) -> Response:
        return self._page("fleet.html", content=await self.fleet_html())

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

    async def fleet_stream(self, _request: Request) -> Response:
        return self._stream("fleet", None, self.fleet_html)

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
        shown = ""

        async def tell(watcher: Watcher) -> bytes:
            nonlocal shown
            watcher.take()
            try:
                html = await self._shared.get(key, render) + self._open_html(is_news=True)
            except (ApiError, QueryTooSlow):
                return b": not now\n\n"  # the page keeps what it shows
            if html == shown:
                return b": nothing new\n\n"
            shown = html
            return as_event(html)

        return event_stream(
            self._context, edge, frozenset(), tell,
            pause_s=REFRESH_S, at_least_every_s=REFRESH_S,
        )  # fmt: skip

    def _open_html(self, *, is_news: bool = False) -> str:
        """How many conflicts are open, in the navigation; as news it finds its place by its id."""
        is_open = self._context.cells.conflicts.open_count
        return self._render("_open.html", conflicts_open=is_open, is_news=is_news)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        html = self._render(
            template, has_assets=assets.are_present(), badge=self._open_html(), **values
        )
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})

    def _render(self, template: str, **values: Any) -> str:
        now_ns = self._context.now_ns()
        return self._templates.get_template(template).render(now_ns=now_ns, **values)


def page_routes(context: Context) -> list[BaseRoute]:
    pages = Pages(context)
    table: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/", pages.fleet),
        ("/events", pages.events),
        ("/conflicts", pages.conflicts),
        ("/edges/{edge}", pages.edge),
        ("/edges/{edge}/chart", pages.chart),
        ("/ui/fleet", pages.fleet_stream),
        ("/ui/events", pages.events_stream),
        ("/ui/conflicts", pages.conflicts_stream),
        ("/ui/edges/{edge}", pages.edge_stream),
    ]
    found: list[BaseRoute] = [Route(path, page, methods=["GET"]) for path, page in table]
    found.append(Route("/conflicts/{id}", pages.resolve, methods=["POST"]))
    return [*found, Mount("/static", StaticFiles(directory=HERE / "static"))]


def _environment(context: Context) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "value", "seconds", "age", "moment", "body", "blob"):
        environment.filters[name] = getattr(format, name)
    environment.globals["version"] = context.version
    return environment
