"""The page of an entity: what its buttons do, and what it says when they cannot."""

from collections.abc import Iterator

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from hubd.api import ApiSettings, Context, make_app
from hubd.errors import OwnedUnusable
from hubd.web.entity import read_value
from tests.hubd.still import of_tenant

pytestmark = pytest.mark.feature("S8")

PAGE = "/edges/barn/entity"
SCALE = {"entity": "Scale <7>/a"}


@pytest.fixture
def context(context: Context) -> Context:
    return of_tenant(context, "acme")  # whose they are in the registry


@pytest.fixture
def client(context: Context) -> Iterator[httpx2.Client]:
    with TestClient(make_app(context), backend="trio", follow_redirects=True) as client:
        assert client.portal is not None
        keys = client.portal.start_task_soon(context.answers.run)
        yield client
        keys.cancel()


def press(client: httpx2.Client, **form: str) -> httpx2.Response:
    return client.post(PAGE, params=SCALE, data=form)


def test_attributes_are_set_and_deleted(client: httpx2.Client) -> None:
    shown = press(client, do="set", scope="shared", name="limit", value="900")
    assert (shown.status_code, shown.url.params["entity"]) == (200, SCALE["entity"])
    assert "Scale &lt;7&gt;/a" in shown.text
    assert 'value="900"' in shown.text
    press(client, do="set", scope="server", name="note", value="<b>by hand")
    found = client.get("/api/v1/edges/barn/attributes", params=SCALE).json()
    assert found["shared"]["limit"]["value"] == 900
    assert found["server"]["note"]["value"] == "<b>by hand"
    shown = press(client, do="delete", scope="shared", name="limit")
    assert 'value="900"' not in shown.text
    assert "Scale &lt;7&gt;/a" in client.get("/edges/barn").text


@pytest.mark.feature("S24")
def test_a_call_is_made_and_listed(client: httpx2.Client) -> None:
    assert "No calls yet" in client.get(PAGE, params=SCALE).text
    shown = press(client, do="call", name="<i>tare", value='{"to": "<0>"}', ttl_s="3600")
    assert "&lt;i&gt;tare" in shown.text
    assert "{&#34;to&#34;:&#34;&lt;0&gt;&#34;}" in shown.text
    assert "queued" in shown.text
    press(client, do="call", name="blink", ttl_s="60", one_way="true")
    calls = client.get("/api/v1/edges/barn/rpc", params={"device": SCALE["entity"]}).json()["calls"]
    tare, blink = sorted(calls, key=lambda one: str(one["method"]))
    assert (tare["params"], tare["one_way"], tare["by"]) == ({"to": "<0>"}, False, "dashboard")
    assert (blink["params"], blink["one_way"]) == (None, True)
    assert tare["expires_ns"] - tare["created_ns"] == 3600 * 10**9
    others = client.get(PAGE, params={"entity": SCALE["entity"], "kind": "asset"})
    assert "Calls" not in others.text


def test_calls_that_cannot_be_read_are_said_to_be_unknown(
    client: httpx2.Client, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.rpc is not None

    def refuse(*_: object, **__: object) -> None:
        raise OwnedUnusable("registry.db", "is held by another process; try again")

    monkeypatch.setattr(context.rpc.calls, "some", refuse)
    shown = client.get(PAGE, params=SCALE)
    assert shown.status_code == 200
    assert "Not known now: registry.db: is held by another process" in shown.text
    assert "No calls yet" not in shown.text


def test_the_newest_readings_of_an_entity_are_shown(client: httpx2.Client) -> None:
    known = client.get("/api/v1/edges/barn/latest").json()["latest"]
    (entity, keys), *others = known.items()
    shown = client.get(PAGE, params={"entity": entity}).text
    for key, one in keys.items():
        assert f"key={key}" in shown
        assert f'data-cell="{one["series"]}"' in shown
    for one in (one for keys in dict(others).values() for one in keys.values()):
        assert one["series"] not in shown


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"do": "set", "scope": "client", "name": "a", "value": "1"}, "what the device reports"),
        ({"do": "set", "scope": "shared", "name": "", "value": "1"}, "1 to 255 characters"),
        ({"do": "set", "name": "a", "value": "x" * 70_000}, "at most 65536"),
        ({"do": "set", "name": "a", "value": "1e999"}, "is no JSON"),
        ({"do": "ack", "id": "nonsense"}, "is no alarm"),
        ({"do": "clear", "id": "0" * 24}, "no such alarm"),
        ({"do": "explode"}, "do"),
        ({"do": "call", "name": ""}, "1 to 255 characters"),
        ({"do": "call", "name": "m", "ttl_s": "0"}, "1 to 604800"),
        ({"do": "call", "name": "m", "ttl_s": "soon"}, "ttl_s"),
        ({"do": "call", "name": "m", "value": "1e999"}, "params"),
        ({"do": "call", "name": "m", "value": "[" * 500 + "]" * 500}, "nested too deeply"),
    ],
)
def test_the_page_says_what_was_wrong(
    client: httpx2.Client, form: dict[str, str], said: str
) -> None:
    shown = press(client, **form)
    assert shown.status_code in (400, 404)
    assert said in shown.text
    assert "notice bad" in shown.text
    assert client.get("/api/v1/edges/barn/entities").json()["entities"] == []


def test_who_may_read_sees_no_button_and_presses_none(context: Context) -> None:
    settings = ApiSettings(
        allowed_hosts=("testserver",), token_sha256=("0" * 64,), write_token_sha256=("1" * 64,)
    )
    narrowed = msgspec.structs.replace(context, settings=settings)
    with TestClient(make_app(narrowed), backend="trio") as client:
        assert client.get(PAGE, params=SCALE).status_code == 401
        assert press(client, do="set", name="a", value="1").status_code in (401, 403)
        assert press(client, do="call", name="tare").status_code in (401, 403)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("true", True), ('"1"', "1"), ("eco", "eco"), ("", ""), ('{"a": [1]}', {"a": [1]})],
)
def test_a_field_is_json_or_text(text: str, value: object) -> None:
    assert read_value(text) == value
