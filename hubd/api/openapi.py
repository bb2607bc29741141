"""/openapi.json: the route table as OpenAPI 3.1."""

import re
from typing import Any

import msgspec

from hubd.api import object_bytes, params, routes
from hubd.api.errors import Problem, parameter_schemas
from hubd.api.exports import EventsExport
from hubd.api.objects import OneObject
from hubd.objects.store import ObjectView

STREAM = "/api/v1/live"
EXPORT = "/api/v1/events/export"


def document(version: str) -> dict[str, Any]:
    kinds = list(dict.fromkeys([
        Problem,
        *(one.answer for one in (*routes.ENDPOINTS, *routes.ACTIONS)),
        *(one.body for one in routes.ACTIONS),
    ]))  # fmt: skip
    refs, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(kinds, refs, strict=True))
    problem = _content("application/json", schema_of[Problem], "What was wrong, and what to do")
    paths: dict[str, Any] = {}
    for one in routes.ENDPOINTS:
        answer = _content("application/json", schema_of[one.answer], one.summary)
        paths[one.path] = {"get": _operation(one.path, one.summary, one.params, answer, problem)}
    for action in routes.ACTIONS:
        answer = _content("application/json", schema_of[action.answer], action.summary)
        operation = _operation(action.path, action.summary, action.params, answer, problem)
        body = {"application/json": {"schema": schema_of[action.body]}}
        operation["requestBody"] = {"required": action.body is not params.NoBody, "content": body}
        operation["responses"] |= {status: problem for status in ("403", "409", "413", "415")}
        item = paths.setdefault(action.path, {})
        if item:
            operation["operationId"] += "_post"
        item["post"] = operation
    events = _content("text/event-stream", {"type": "string"}, "Events `reading` and `edge`")
    summary = "Newest readings as they arrive, as server-sent events"
    paths[STREAM] = {"get": _operation(STREAM, summary, params.LiveParams, events, problem)}
    file = _content("text/csv", {"type": "string"}, "CSV, or a JSON object a line")
    summary = "Events as a file, the newest first"
    paths[EXPORT] = {"get": _operation(EXPORT, summary, EventsExport, file, problem)}
    paths[object_bytes.CONTENT] = {
        "get": _operation(
            object_bytes.CONTENT, "The bytes of an object", OneObject, _binary("Its bytes"), problem
        ),
        "post": _upload(schema_of[ObjectView], problem),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgesync hub", "version": version or "0"},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _upload(view: Any, problem: Any) -> dict[str, Any]:
    summary = "Keep the bytes of the body under a name, in place of what had it"
    answer = _content("application/json", view, "What is kept")
    found = _operation(object_bytes.CONTENT, summary, OneObject, answer, problem)
    found["operationId"] += "_post"
    found["requestBody"] = {"required": True, **_binary("The object")}
    found["responses"] |= {status: problem for status in ("403", "409", "415")}
    return found


def _binary(description: str) -> dict[str, Any]:
    return _content(object_bytes.BINARY, {"type": "string", "format": "binary"}, description)


def _operation(
    path: str, summary: str, shape: type[params.Params], answer: Any, problem: Any
) -> dict[str, Any]:
    in_path = set(re.findall(r"{(\w+)}", path))
    required = {field.encode_name for field in msgspec.structs.fields(shape) if field.required}
    parameters = []
    for name, schema in parameter_schemas(shape).items():
        parameters.append(
            {
                "name": name,
                "in": "path" if name in in_path else "query",
                "required": name in required,
                "description": schema.get("description", ""),
                "schema": {k: v for k, v in schema.items() if k != "description"},
            }
        )
    failures = {status: problem for status in ("400", "401", "404", "503")}
    return {
        "summary": summary,
        "operationId": _operation_id(path),
        "parameters": parameters,
        "responses": {"200": answer, **failures},
    }


def _operation_id(path: str) -> str:
    words = re.findall(r"[a-z]+", path.replace("{", "").replace("}", "").replace("/api/v1", ""))
    return "_".join(dict.fromkeys(words))


def _content(media: str, schema: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}
