"""The route table: the one place that says what can be asked. OpenAPI is made from it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hubd.api import answers, errors, fleet, params, series
from hubd.api.context import Context
from hubd.state import QueryTooSlow

PARAMETERS_MAX: Final = 100


class Endpoint(NamedTuple):
    """A question that is answered with JSON. `handler` gets the parameters, already checked."""

    path: str
    summary: str
    params: type[params.Params]
    answer: type[msgspec.Struct]
    handler: Callable[[Context, Any], Awaitable[Any]]


EDGE: Final = "/api/v1/edges/{edge}"

ENDPOINTS: Final = (
    Endpoint(
        "/api/v1/edges", "Every edge: link, health, and what the state holds of it",
        params.EdgesPage, answers.Edges, fleet.edges,
    ),
    Endpoint(EDGE, "One edge", params.OneEdge, answers.Edge, fleet.one_edge),
    Endpoint(
        f"{EDGE}/latest", "Newest reading of each series, by entity and key",
        params.SeriesPage, answers.Latest, fleet.latest,
    ),
    Endpoint(
        f"{EDGE}/series", "Series of an edge",
        params.SeriesPage, answers.SeriesPage, fleet.series,
    ),
    Endpoint(
        f"{EDGE}/history", "Readings of a series by time: raw, by the minute or by the hour",
        params.HistoryPage, answers.History, series.history,
    ),
    Endpoint(
        f"{EDGE}/windows", "Statistics of a series that the edge summed up, merged as you like",
        params.WindowsPage, answers.Windows, series.windows,
    ),
    Endpoint(
        f"{EDGE}/events", "Events of an edge, the newest first",
        params.EventsPage, answers.Events, series.edge_events,
    ),
    Endpoint(
        "/api/v1/link-events", "What happened to links, the newest first",
        params.LinkEventsPage, answers.LinkEvents, fleet.link_events,
    ),
    Endpoint(
        "/api/v1/stats", "The ledger, the projectors, and entries they skipped",
        params.EdgesPage, answers.Stats, fleet.stats,
    ),
    Endpoint(
        "/healthz", "Whether the hub works; 503 if it does not",
        params.Nothing, answers.Healthz, fleet.healthz,
    ),
)  # fmt: skip


def routes(context: Context) -> list[Route]:
    return [Route(one.path, _endpoint(context, one), methods=["GET"]) for one in ENDPOINTS]


def _endpoint(context: Context, one: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        found = await one.handler(context, read_params(request, one.params))
        status = 503 if isinstance(found, answers.Healthz) and found.problems else 200
        return Response(
            msgspec.json.encode(found), status, media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    return answer


def read_params(request: Request, shape: type[params.Params]) -> Any:
    """Path and query as a `shape`; raises ApiError."""
    given: dict[str, Any] = {}
    lists = {f.encode_name for f in msgspec.structs.fields(shape) if f.default == ()}
    pairs = request.query_params.multi_items()
    if len(pairs) > PARAMETERS_MAX:
        raise errors.ApiError(400, "too many parameters", remedy=f"at most {PARAMETERS_MAX}")
    for name, value in pairs:
        if name in lists:
            given.setdefault(name, []).append(value)
        elif name in given or name in request.path_params:
            raise errors.ApiError(
                400, f"`{name}` is given twice", field=name, remedy="give it once"
            )
        else:
            given[name] = value
    try:
        return msgspec.convert({**given, **request.path_params}, shape, strict=False)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, descriptions(shape)) from error


def descriptions(shape: type[params.Params]) -> dict[str, str]:
    """What each parameter should be, in words."""
    properties = parameter_schemas(shape)
    return {name: schema.get("description", "") for name, schema in properties.items()}


def parameter_schemas(shape: type[params.Params]) -> dict[str, dict[str, Any]]:
    _, components = msgspec.json.schema_components([shape], ref_template="#/{name}")
    found: dict[str, dict[str, Any]] = components[shape.__name__].get("properties", {})
    return {name: _described(schema) for name, schema in found.items()}


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """Lift the description out of `X | None`, where msgspec leaves it inside."""
    for choice in schema.get("anyOf", ()):
        if "description" in choice:
            return {**schema, "description": choice["description"]}
    return schema


async def on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ApiError)
    return errors.answer(error)


async def on_too_slow(_request: Request, error: Exception) -> Response:
    remedy = "ask for less: a shorter time, a smaller limit, no text"
    assert isinstance(error, QueryTooSlow)
    return errors.answer(errors.ApiError(503, str(error), remedy=remedy))


async def on_http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the same shape as every other error."""
    status = getattr(error, "status_code", 500)
    text = {404: "no such page", 405: "only GET is answered here"}.get(status, "not possible")
    remedy = "GET /openapi.json lists what there is"
    return errors.answer(errors.ApiError(status, text, field="", remedy=remedy))
