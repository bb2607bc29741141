"""Questions nobody should ask: each gets one clear answer, none does harm."""

import hashlib
import secrets
from collections.abc import Iterator
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from hubd.api import ApiSettings, Context, make_app, routes
from hubd.api.params import make_cursor
from hubd.api.security import HEADERS, host_name, token_in
from hubd.state import QueryTooSlow

HISTORY = "/api/v1/edges/barn/history?entity=meter0&key=ActivePower"
EVENTS = "/api/v1/edges/barn/events"


@pytest.mark.parametrize(
    ("url", "status", "field"),
    [
        ("/api/v1/edges/nobody", 404, "edge"),
        ("/api/v1/edges/nobody/latest", 404, "edge"),
        ("/api/v1/edges/" + "x" * 200, 400, "edge"),
        ("/api/v1/edges?verbose=1", 400, "verbose"),
        ("/api/v1/edges/barn/series?limit=0", 400, "limit"),
        ("/api/v1/edges/barn/series?limit=1001", 400, "limit"),
        ("/api/v1/edges/barn/series?limit=ten", 400, "limit"),
        ("/api/v1/edges/barn/series?limit=1&limit=2", 400, "limit"),
        ("/api/v1/edges/barn/series?edge=shop", 400, "edge"),
        ("/api/v1/edges/barn/series?after=%%%", 400, "after"),
        ("/api/v1/edges/barn/series?after=" + "A" * 500, 400, "after"),
        ("/api/v1/edges/barn/history?entity=meter0", 400, "key"),
        ("/api/v1/edges/barn/history?entity=meter0&key=Nothing", 404, "key"),
        (HISTORY + "&from=yesterday", 400, "from"),
        (HISTORY + "&from=2026-01-01T00:00:00", 400, "from"),
        (HISTORY + "&from=99999999999999999999", 400, "from"),
        (HISTORY + "&to=9223372036854775808", 400, "to"),
        (HISTORY + "&from=-999999999d", 400, "from"),
        (HISTORY + "&from=5&to=5", 400, "to"),
        (HISTORY + "&resolution=1s", 400, "resolution"),
        (EVENTS + "?type=anything", 400, "type"),
        (EVENTS + "?lane=fast", 400, "lane"),
        (EVENTS + "?status=odd", 400, "status"),
        (EVENTS + "?text=" + "x" * 300, 400, "text"),
        ("/api/v1/live?series=xyz", 400, "series"),
        ("/api/v1/live?" + "&".join(["series=0123456789abcdef"] * 65), 400, "series"),
        ("/api/v1/live?edge=nobody", 404, "edge"),
        ("/api/v1/keys?limit=0", 400, "limit"),
        ("/api/v1/keys?after=%%%", 400, "after"),
        ("/api/v1/keys?after=" + make_cursor("text"), 400, "after"),
        ("/api/v1/keys?after=" + "A" * 2000, 400, "after"),
        ("/api/v1/keys?prefix=" + "x" * 300, 400, "prefix"),
        ("/api/v1/keys/", 400, "key"),
        ("/api/v1/keys/nothing", 404, "key"),
        ("/api/v1/keys/" + "x" * 2000, 400, "key"),
        ("/api/v1/keys/%25%25?encoding=base64", 400, "key"),
        ("/api/v1/keys/basket?after=" + make_cursor(5), 400, "after"),
        ("/api/v1/conflicts?status=new", 400, "status"),
        ("/api/v1/conflicts?after=" + make_cursor(b"bytes"), 400, "after"),
        ("/api/v1/conflicts/0", 400, "id"),
        ("/api/v1/conflicts/one", 400, "id"),
        ("/api/v1/conflicts/" + "9" * 30, 400, "id"),
        ("/api/v1/conflicts/99", 404, "id"),
        ("/api/v1/replicas?after=%%%", 400, "after"),
        ("/api/v2/edges", 404, ""),
        ("/static/../app.py", 404, ""),
        ("/static/%2e%2e/pages.py", 404, ""),
        ("/edges/nobody", 404, "edge"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong_and_what_to_do(
    client: httpx2.Client, url: str, status: int, field: str
) -> None:
    response = client.get(url)
    assert (response.status_code, response.json()["field"]) == (status, field), response.text
    assert response.json()["error"]
    assert response.json()["remedy"]


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    ("path", "begun"),
    [("/api/v1/rules", '"name":"a","files"'), ("/api/v1/edges/barn/rules/run", '"message"'),
     ("/api/v1/edges/barn/rpc", '"device":"a","method":"b","params"'),
     ("/api/v1/edges/barn/attributes", '"entity":"a","scope":"shared","set"')],
)  # fmt: skip
def test_a_body_that_is_too_deep_is_told(client: httpx2.Client, path: str, begun: str) -> None:
    body = f'{{{begun}:{{"a":{DEEP}}}}}'
    headers = {"Content-Type": "application/json"}
    answer = client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")


@pytest.mark.parametrize("text", [DEEP, '"\\ud800"', '{"a":NaN}', '{"a":1e999}'])
def test_a_message_that_is_no_json_is_told_on_the_page(client: httpx2.Client, text: str) -> None:
    form = {"do": "run", "bundle": "basket 1", "message": text}
    answer = client.post("/edges/barn/rules/run", data=form)
    assert answer.status_code == 400
    assert "is no JSON" in answer.text
    kept = {"do": "set", "scope": "shared", "name": "limit", "value": text}
    edited = client.post("/edges/barn/entity", params={"entity": "Scale"}, data=kept)
    assert edited.status_code in (200, 303, 400)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_here_can_be_changed(client: httpx2.Client, method: str) -> None:
    response = client.request(method, "/api/v1/edges/barn/series")
    assert response.status_code == 405
    assert response.json()["remedy"]


I64_AND_MORE = st.integers(-(1 << 63), (1 << 64) - 1)
CURSORS = st.lists(I64_AND_MORE | st.text(max_size=4), max_size=4).map(lambda p: make_cursor(*p))
TEXT = st.text(min_size=1, max_size=40).filter(lambda t: t not in (".", ".."))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [one.path for one in routes.ENDPOINTS if one.path != "/healthz" and one.right is None]
    ),
    st.sampled_from(["barn", None]),
    st.dictionaries(
        st.sampled_from(
            ["limit", "after", "from", "to", "text", "type", "entity", "key", "lane", "edge"]
        ),
        TEXT | st.integers().map(str) | CURSORS,
        max_size=4,
    ),
    TEXT,
)  # fmt: skip
def test_random_questions_never_break_the_hub(
    client: httpx2.Client, path: str, edge: str | None, query: dict[str, str], name: str
) -> None:
    url = path.replace("{edge}", quote(edge or name, safe=""))
    url = url.replace("{key}", quote(name)).replace("{id}", quote(name, safe=""))
    response = client.get(url, params={"entity": "meter0", "key": "ActivePower"} | query)
    assert response.status_code in (200, 400, 404)
    msgspec.json.decode(response.content)


def test_what_edges_send_cannot_become_markup(client: httpx2.Client) -> None:
    page = client.get("/events?edge=barn&text=%3Cscript%3E%22")
    assert "<script>%" not in page.text
    assert 'value="&lt;script&gt;&#34;"' in page.text
    page = client.get("/events?edge=barn")
    assert "<b>squeaks" not in page.text
    assert "&lt;b&gt;squeaks" in page.text


def test_who_may_only_read_is_shown_no_buttons(guarded: httpx2.Client, token: str) -> None:
    page = guarded.get("/conflicts", auth=("anybody", token)).text
    assert "price" in page
    assert "<form" not in page
    assert "write_token_sha256" in page
    form = {"choice": "winner"}
    refused = guarded.post("/conflicts/1", data=form, auth=("anybody", token))
    assert (refused.status_code, refused.json()["field"]) == (403, "Authorization")


@pytest.mark.parametrize(
    ("number", "form", "status", "words"),
    [
        ("1", {"choice": "dot", "replica": "9", "number": "9"}, 400, "is between"),
        ("1", {"choice": "dot", "replica": "x", "number": "1"}, 400, "int"),
        ("1", {"choice": "all"}, 400, "choice"),
        ("1", {}, 400, "choice"),
        ("1", {"choice": "winner", "more": "1"}, 400, "more"),
        ("1", {f"field{n}": "" for n in range(20)}, 400, "form"),
        ("99", {"choice": "winner"}, 404, "no conflict 99"),
        ("<b>", {"choice": "winner"}, 400, "int"),
    ],
)
def test_a_form_that_is_wrong_is_answered_with_the_page_and_the_reason(
    client: httpx2.Client, number: str, form: dict[str, str], status: int, words: str
) -> None:
    answer = client.post(f"/conflicts/{quote(number, safe='')}", data=form)
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_a_form_from_another_site_is_refused(client: httpx2.Client) -> None:
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        form = {"choice": "winner"}
        answer = client.post("/conflicts/1", data=form, headers=headers)
        assert answer.status_code == 403
    assert client.get("/api/v1/conflicts/1").json()["status"] == "open"


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/edges", "/api/v1/edges/nobody", "/nope", "/metrics", "/static/hub.css"]
)
def test_every_answer_carries_the_security_headers(client: httpx2.Client, path: str) -> None:
    response = client.get(path)
    for name, value in HEADERS.items():
        assert response.headers[name] == value


@pytest.mark.parametrize("path", ["/", "/events?edge=barn", "/edges/barn", "/conflicts"])
def test_pages_have_nothing_inline(client: httpx2.Client, path: str) -> None:
    page = client.get(path).text
    assert page.count("<script") == page.count("<script src=")
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick=" not in page


def test_a_name_nobody_gave_this_hub_is_refused(client: httpx2.Client) -> None:
    # DNS rebinding: a page elsewhere makes its own name point to this machine.
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:8080", ""):
        response = client.get("/api/v1/edges", headers={"host": host})
        assert response.status_code == 421, host
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080", "LOCALHOST:1", "testserver"):
        assert client.get("/api/v1/edges", headers={"host": host}).status_code == 200, host


def test_host_names_lose_their_port() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("Hub.Example:80") == "hub.example"


@pytest.fixture
def token() -> str:
    return "es1.test." + secrets.token_hex(16)


@pytest.fixture
def guarded(context: Context, token: str) -> Iterator[httpx2.Client]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    settings_ = ApiSettings(host="0.0.0.0", token_sha256=(digest,))
    app = make_app(msgspec.structs.replace(context, settings=settings_))
    with TestClient(app, backend="trio") as client:
        yield client


def test_with_a_token_set_nothing_is_answered_without_it(
    guarded: httpx2.Client, token: str
) -> None:
    for path in ("/", "/api/v1/edges", "/metrics", "/api/v1/live", "/static/hub.css", "/nope"):
        response = guarded.get(path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic")
        assert token not in response.text
    assert guarded.get("/healthz").status_code == 200


def test_the_token_is_taken_as_bearer_or_as_a_browsers_password(
    guarded: httpx2.Client, token: str
) -> None:
    bearer = {"authorization": f"Bearer {token}"}
    assert guarded.get("/api/v1/edges", headers=bearer).status_code == 200
    assert guarded.get("/", auth=("anybody", token)).status_code == 200


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer x", "Basic", "Basic !!!", "Basic /w==", "Digest x", "x"]
)
def test_other_authorizations_are_refused(guarded: httpx2.Client, header: str) -> None:
    response = guarded.get("/api/v1/edges", headers={"authorization": header})
    assert response.status_code == 401


@given(st.text(max_size=60))
def test_any_authorization_header_can_be_read(header: str) -> None:
    assert isinstance(token_in(header), str)


def test_without_a_token_only_loopback_may_be_listened_on() -> None:
    with pytest.raises(ValueError, match="token_sha256"):
        ApiSettings(host="0.0.0.0")
    with pytest.raises(msgspec.ValidationError, match="token_sha256"):
        msgspec.convert({"host": "192.0.2.1"}, ApiSettings)
    assert ApiSettings(host="::1").host == "::1"


def test_a_question_that_takes_too_long_says_how_to_ask(
    client: httpx2.Client, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(_question: object) -> None:
        raise QueryTooSlow("the question takes too long")

    monkeypatch.setattr(context.state, "read", slow)
    response = client.get(EVENTS)
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "ask for less" in response.json()["remedy"]
