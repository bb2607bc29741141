"""Puts the API, the metrics and the dashboard together into one ASGI application."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio
from sqlalchemy.exc import DatabaseError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edgesync.errors import StoreError
from hubd.api import keys, openapi, routes
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.fleet import known_edge, projector_status
from hubd.api.metrics import exposition
from hubd.api.params import LiveParams
from hubd.api.security import Guard
from hubd.api.stream import live_readings
from hubd.state import QueryTooSlow, StateDamaged, views
from hubd.web.pages import Pages, page_routes

Handler = Callable[[Request, Exception], Awaitable[Response]]


def make_app(context: Context, *, open_routes: Sequence[Route] = ()) -> ASGIApp:
    """The hub's HTTP side. Needs a running Trio; listens on nothing by itself.

    open_routes     of others; they check credentials of their own, and neither token nor host is
                    asked for
    """
    description = msgspec.json.encode(openapi.document(context.version))

    async def describe(_request: Request) -> Response:
        return Response(description, media_type="application/json")

    async def live(request: Request) -> Response:
        params = routes.read_params(request, LiveParams)
        if params.edge is not None:
            known_edge(context, params.edge)
        return live_readings(context, params)

    async def metrics(request: Request) -> Response:
        totals = await context.state.read(views.totals)
        edges, status = list(context.hub.edges()), projector_status(context)
        head, accept = context.hub.log_head, request.headers.get("accept", "")
        log_and_state = context.hub.log_stats(), context.state.rebuilds
        held, replicas = keys.stats(context), context.cells.replicas()
        body, content_type = await trio.to_thread.run_sync(
            exposition, edges, totals, status, head, log_and_state, held, replicas, accept
        )
        return Response(body, headers={"Content-Type": content_type})

    pages = Pages(context)

    def shown(handler: Handler) -> Handler:
        """Answer people with a page, and programs with JSON."""

        async def answer(request: Request, error: Exception) -> Response:
            answered = await handler(request, error)
            if is_for_people(request):
                problem = msgspec.json.decode(answered.body, type=Problem)
                return pages.problem(answered.status_code, problem)
            return answered

        return answer

    app = Starlette(
        routes=[
            *routes.routes(context),
            Route(openapi.STREAM, live, methods=["GET"]),
            Route("/openapi.json", describe, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *page_routes(pages),
            *open_routes,
        ],
        exception_handlers={
            ApiError: shown(routes.on_api_error),
            QueryTooSlow: shown(routes.on_too_slow),
            StateDamaged: shown(routes.on_state_error),
            DatabaseError: shown(routes.on_state_error),
            StoreError: shown(routes.on_store_error),
            HTTPException: shown(routes.on_http_error),
        },
    )
    return Guard(app, context.settings, open_paths={route.path for route in open_routes})


def is_for_people(request: Request) -> bool:
    """Whether a browser asked for a page: what programs ask for has its own paths."""
    is_page = not request.url.path.startswith(("/api/", "/ui/", "/static/"))
    return is_page and "text/html" in request.headers.get("accept", "")
