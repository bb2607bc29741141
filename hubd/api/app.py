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
from hubd.api import openapi, routes
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.exports import EventsExport, Exports
from hubd.api.fleet import known_edge
from hubd.api.metrics import exposition, gathered
from hubd.api.object_bytes import CONTENT, ObjectBytes
from hubd.api.objects import OneObject
from hubd.api.params import LiveParams, Nothing
from hubd.api.security import Guard
from hubd.api.stream import live_readings
from hubd.api.tenancy import Contexts, TenantTokens
from hubd.cells import Answers
from hubd.state import QueryTooSlow, StateAway, StateDamaged
from hubd.web.account import account_routes
from hubd.web.pages import Pages, page_routes

Handler = Callable[[Request, Exception], Awaitable[Response]]


def make_app(
    context: Context,
    *,
    answers_of: Callable[[str], Answers | None] | None = None,
    tenant_tokens: TenantTokens | None = None,
    open_routes: Sequence[Route] = (),
) -> ASGIApp:
    """The hub's HTTP side. Needs a running Trio; listens on nothing by itself.

    context         the operator's
    answers_of      the keys of a tenant; None when there is no such tenant
    open_routes     of others; they check credentials of their own, and neither token nor host is
                    asked for
    """
    contexts = Contexts(context, answers_of)
    description = msgspec.json.encode(openapi.document(context.version))

    async def describe(_request: Request) -> Response:
        return Response(description, media_type="application/json")

    async def live(request: Request) -> Response:
        params = routes.read_params(request, LiveParams)
        asked_of = contexts.of(request)
        if params.edge is not None:
            known_edge(asked_of, params.edge)
        return live_readings(asked_of, params)

    exports = Exports()

    async def export(request: Request) -> Response:
        asked = routes.read_params(request, EventsExport)
        return await exports.events(contexts.of(request), asked)

    object_bytes = ObjectBytes()

    async def download(request: Request) -> Response:
        asked = routes.read_params(request, OneObject)
        return await object_bytes.download(contexts.of(request), asked)

    async def upload(request: Request) -> Response:
        asked = routes.read_params(request, OneObject)
        return await object_bytes.upload(contexts.of(request), asked, request)

    async def metrics(request: Request) -> Response:
        routes.read_params(request, Nothing)
        asked_of = contexts.of(request)
        held = await gathered(asked_of)
        accept = request.headers.get("accept", "")
        body, content_type = await trio.to_thread.run_sync(exposition, held, accept)
        return Response(body, headers={"Content-Type": content_type})

    nobodys = Pages(contexts.of_nobody())
    made_pages: dict[str | None, Pages] = {}

    def pages_of(request: Request) -> Pages:
        asked_of = contexts.of(request)
        found = made_pages.get(asked_of.tenant)
        if found is None or not found.is_of(asked_of):
            found = made_pages[asked_of.tenant] = Pages(asked_of)
        return found

    def shown(handler: Handler) -> Handler:
        """Answer people with a page, and programs with JSON."""

        async def answer(request: Request, error: Exception) -> Response:
            answered = await handler(request, error)
            if is_for_logins(request):
                problem = msgspec.json.decode(answered.body, type=Problem)
                return nobodys.problem(answered.status_code, problem)
            return answered

        return answer

    app = Starlette(
        routes=[
            *routes.routes(contexts),
            Route(openapi.STREAM, live, methods=["GET"]),
            Route(openapi.EXPORT, export, methods=["GET"]),
            Route(CONTENT, download, methods=["GET"]),
            Route(CONTENT, upload, methods=["POST"]),
            Route("/openapi.json", describe, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *page_routes(pages_of),
            *(account_routes(context.logins, pages_of) if context.logins is not None else ()),
            *open_routes,
        ],
        exception_handlers={
            ApiError: shown(routes.on_api_error),
            QueryTooSlow: shown(routes.on_too_slow),
            StateAway: shown(routes.on_state_error),
            StateDamaged: shown(routes.on_state_error),
            DatabaseError: shown(routes.on_state_error),
            StoreError: shown(routes.on_store_error),
            HTTPException: shown(routes.on_http_error),
        },
    )
    return Guard(
        app,
        context.settings,
        open_paths={route.path for route in open_routes},
        tenant_tokens=tenant_tokens,
        logins=context.logins,
    )


def is_for_logins(request: Request) -> bool:
    """Whether a browser asked for a page: what programs ask for has its own paths."""
    is_page = not request.url.path.startswith(("/api/", "/ui/", "/static/"))
    return is_page and "text/html" in request.headers.get("accept", "")
