"""Errors of the API: each names the field it is about and what would be accepted there."""

import re

import msgspec
from starlette.responses import Response

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `([^`]*)`")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is not the one asked for."""

    error: str
    field: str = ""
    remedy: str = ""


class ApiError(Exception):
    """`status` is the HTTP status; the rest is told to whoever asked."""

    def __init__(self, status: int, error: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.problem = Problem(error=error, field=field, remedy=remedy)


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
    known = ", ".join(sorted(descriptions))
    remedy = descriptions.get(field) or f"parameters are: {known}"
    return ApiError(400, _AT.sub("", text), field=field, remedy=remedy)


def no_such_edge(name: str) -> ApiError:
    return ApiError(404, f"no edge {name!r}", field="edge", remedy="GET /api/v1/edges lists them")
