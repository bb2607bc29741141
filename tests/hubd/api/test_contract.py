"""/openapi.json says what the routes do, and the routes do what it says."""

import re
from typing import Any

import httpx2
import msgspec
import pytest

from hubd.api import errors, routes
from hubd.api.logins import Logins
from hubd.registry import Registry, Role
from tests.hubd.batches import START_NS
from tests.hubd.logins import log_in, make_user

SAMPLES = {
    "edge": "barn", "entity": "meter0", "key": "ActivePower", "id": "1", "call": "basket",
    "bundle": "basket", "object": "basket", "tunnel": "badcab1e",
}  # fmt: skip


@pytest.fixture
def document(client: httpx2.Client) -> Any:
    return client.get("/openapi.json").json()


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", routes.ENDPOINTS, ids=lambda one: one.path)
def test_each_route_answers_in_the_shape_it_promises(
    client: httpx2.Client,
    document: Any,
    endpoint: routes.Endpoint,
    registry: Registry,
    logins: Logins,
) -> None:
    if endpoint.right is not None:
        log_in(client, make_user(registry, logins, "ana", Role.ADMIN, tenant=None))
    operation = document["paths"][endpoint.path]["get"]
    named = {p["name"]: p for p in operation["parameters"]}
    query = {n: SAMPLES[n] for n, p in named.items() if p["required"] and p["in"] == "query"}
    if "from" in named:
        query["from"] = str(START_NS)
    samples = SAMPLES | {"key": "basket"} if endpoint.path == "/api/v1/keys/{key}" else SAMPLES
    url = endpoint.path.format_map(samples)
    response = client.get(url, params=query)
    assert response.status_code == 200
    msgspec.json.decode(response.content, type=endpoint.answer)
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    check(response.json(), schema, document)


def test_every_route_is_described_and_every_description_has_a_route(document: Any) -> None:
    described = set(document["paths"])
    there = (*routes.ENDPOINTS, *routes.ACTIONS)
    assert described == {one.path for one in there} | {
        "/api/v1/live", "/api/v1/events/export", "/api/v1/objects/{object}/content",
    }  # fmt: skip
    operations = [(path, one) for path, item in document["paths"].items() for one in item.values()]
    identifiers = [one["operationId"] for _, one in operations]
    assert len(set(identifiers)) == len(identifiers)
    for path, operation in operations:
        in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        for parameter in operation["parameters"]:
            assert parameter["description"], f"{path} {parameter['name']}"
    for action in routes.ACTIONS:
        operation = document["paths"][action.path]["post"]
        (body,) = operation["requestBody"]["content"].values()
        assert resolve(body["schema"]["$ref"], document)


def test_every_reference_resolves(document: Any) -> None:
    for reference in set(re.findall(r'"\$ref":"([^"]+)"', msgspec.json.encode(document).decode())):
        assert resolve(reference, document)


@pytest.mark.parametrize("endpoint", routes.ENDPOINTS, ids=lambda one: one.path)
def test_each_page_has_a_limit(endpoint: routes.Endpoint) -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(endpoint.answer)}
    if "next" not in fields:
        return
    limit = errors.parameter_schemas(endpoint.params)["limit"]
    assert limit["minimum"] == 1
    assert limit["maximum"] <= 5000


def resolve(reference: str, document: Any) -> Any:
    at = document
    for part in reference.removeprefix("#/").split("/"):
        at = at[part]
    return at


def check(value: Any, schema: Any, document: Any) -> None:
    """The part of JSON Schema that the document uses: types, properties, items, choices."""
    if "$ref" in schema:
        check(value, resolve(schema["$ref"], document), document)
    elif "anyOf" in schema:
        assert any(fits(value, one, document) for one in schema["anyOf"]), (value, schema)
    elif "enum" in schema:
        assert value in schema["enum"]
    elif "type" in schema:
        assert isinstance(value, TYPES[schema["type"]]), (value, schema)
        if isinstance(value, dict) and "properties" in schema:
            assert set(schema.get("required", ())) <= set(value) <= set(schema["properties"])
            for name, one in value.items():
                check(one, schema["properties"][name], document)
        elif isinstance(value, dict) and "additionalProperties" in schema:
            for one in value.values():
                check(one, schema["additionalProperties"], document)
        elif isinstance(value, list):
            for one in value:
                check(one, schema.get("items", {}), document)


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "number": (int, float), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def fits(value: Any, schema: Any, document: Any) -> bool:
    try:
        check(value, schema, document)
    except AssertionError:
        return False
    return True
