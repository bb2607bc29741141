"""The page of an entity: what its buttons do, and what it says when they cannot."""

from collections.abc import Iterator

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from hubd.api import ApiSettings, Context, make_app
from hubd.web.entity import read_value

pytestmark = pytest.mark.feature("S8")

PAGE = "/edges/barn/entity"
SCALE = {"entity": "Scale <7>/a"}


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


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("true", True), ('"1"', "1"), ("eco", "eco"), ("", ""), ('{"a": [1]}', {"a": [1]})],
)
def test_a_field_is_json_or_text(text: str, value: object) -> None:
    assert read_value(text) == value
