"""Errors of the API: each names the field it is about and what would be accepted there."""

import re
from typing import Any

import msgspec
from starlette.responses import Response

from edgesync.nearest import guess

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `([^`]*)`")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is not the one asked for.

    code   class of a Redis error, such as WRONGTYPE; else empty
    """

    error: str
    field: str = ""
    remedy: str = ""
    code: str = ""


class ApiError(Exception):
    """`status` is the HTTP status; the rest is told to whoever asked."""

    def __init__(
        self, status: int, error: str, *, field: str = "", remedy: str = "", code: str = ""
    ) -> None:
        super().__init__(error)
        self.status = status
        self.problem = Problem(error=error, field=field, remedy=remedy, code=code)


def answer(error: ApiError) -> Response:
    headers = {"Retry-After": "1"} if error.status == 503 else {}
    body = msgspec.json.encode(error.problem)
    return Response(body, error.status, headers=headers, media_type="application/json")


def from_validation(error: msgspec.ValidationError, descriptions: dict[str, str]) -> ApiError:
    """Say which parameter was wrong and, from its description, what it should be."""
    text = str(error)
    found = _AT.search(text) or _FIELD.search(text)
    field = found.group(1) if found else ""
    field = re.sub(r"\[.*", "", field)
    described = descriptions.get(field)
    if described and "matching regex" in text:
        text = "has the wrong form"
    known = ", ".join(sorted(descriptions))
    remedy = described or f"{guess(field, descriptions)}parameters are: {known}"
    return ApiError(400, _AT.sub("", text), field=field, remedy=remedy)


def no_such_edge(name: str) -> ApiError:
    return ApiError(
        404,
        f"no edge {name!r}",
        field="edge",
        remedy="`hubd edges`, or GET /api/v1/edges, lists them",
    )


def descriptions(shape: type[msgspec.Struct]) -> dict[str, str]:
    """What each parameter should be, in words."""
    properties = parameter_schemas(shape)
    return {name: schema.get("description", "") for name, schema in properties.items()}


def parameter_schemas(shape: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    _, components = msgspec.json.schema_components([shape], ref_template="#/{name}")
    found: dict[str, dict[str, Any]] = components[shape.__name__].get("properties", {})
    return {name: _described(schema) for name, schema in found.items()}


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """Lift the description out of `X | None`, where msgspec leaves it inside."""
    for choice in schema.get("anyOf", ()):
        if "description" in choice:
            return {**schema, "description": choice["description"]}
    return schema
