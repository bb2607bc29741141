"""What is another tenant's is answered as if it did not exist, whatever is asked (I12)."""

import hashlib
import html
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio.testing
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from edgesync.entities.alarms import Severity, plan_raise
from edgesync.entities.model import entity
from edgesync.entities.view import SpaceView
from edgesync.model import series_id
from hubd.api import ApiSettings, Context, make_app, routes
from hubd.api.security import Guard
from hubd.api.server import serve_http
from hubd.api.tenancy import NOBODY, Contexts, TenantTokens
from hubd.cells import Answers
from hubd.project.live import Live, Update, Watcher
from hubd.registry import ApiToken
from hubd.web.events import EventsQuery
from hubd.web.fleet import FleetQuery
from hubd.web.pages import Pages
from tests.hubd.keys import open_answers
from tests.hubd.still import StillHub

pytestmark = pytest.mark.feature("C14")

# Of acme: its edge, what that has measured, its keys. Nothing of these may reach bolt.
SECRETS = ("barn", "IsOpen", "Frequency", "basket", "squeaks", "acme", "10.9.8.7")
IDS = {
    "edge": "barn", "key": "basket", "id": "1", "call": "basket", "bundle": "basket",
    "object": "basket", "user": "ana",
    "tunnel": "badcab1e",
}  # fmt: skip
# Of the same form, and nobody's.
NOWHERE = {name: "absent" for name in IDS} | {"id": "77", "tunnel": "77777777"}
# What any other value would be refused for, whoever asks.
SAMPLES = {
    "entity": "meter0", "key": "ActivePower", "from": "0", "to": "-1s", "resolution": "raw",
    "limit": "5", "width_s": "60", "merge_s": "120", "type": "alarm", "action": "added",
    "lane": "bulk", "status": "stored", "text": "a", "prefix": "p", "series": "ff", "wait_s": "0",
    "encoding": "text", "edge": "barn", "tenant": "bolt", "state": "QUEUED", "device": "scale",
}  # fmt: skip


def token_of(tenant: str, *, may_write: bool = True) -> tuple[str, ApiToken]:
    token = f"esapi.{tenant}.{may_write}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, ApiToken(
        sha256=digest, tenant=tenant, label="", may_write=may_write, created_ns=0
    )


@pytest.fixture
def keys_of(context: Context, tmp_path: Path) -> Iterator[dict[str, Answers]]:
    with open_answers(tmp_path / "bolt") as bolts:
        bolts.cells.ask("SET", ["price", "1"])
        bolts.cells.commit()
        yield {"acme": context.answers, "bolt": bolts}


@pytest.fixture
def shared(context: Context) -> Context:
    """Edge barn is acme's, shop is bolt's; the keys that edges wrote are acme's."""
    hub = context.hub
    assert isinstance(hub, StillHub)
    whose = {"barn": "acme", "shop": "bolt"}
    hub.all = [msgspec.structs.replace(one, tenant=whose[one.edge]) for one in hub.all]
    settings = ApiSettings(allowed_hosts=("testserver",), write_token_sha256=("0" * 64,))
    return msgspec.structs.replace(context, settings=settings)


@pytest.fixture
def app(shared: Context, keys_of: dict[str, Answers]) -> Guard:
    tokens = TenantTokens()
    tokens.set([
        token_of(tenant, may_write=may)[1] for tenant in ("acme", "bolt") for may in (True, False)
    ])  # fmt: skip
    made = make_app(shared, answers_of=keys_of.get, tenant_tokens=tokens)
    assert isinstance(made, Guard)
    return made


@pytest.fixture
def bolt(app: Guard) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {token_of('bolt')[0]}"}
    with TestClient(app, backend="trio", headers=headers) as client:
        yield client


@pytest.fixture
def acme(app: Guard) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {token_of('acme')[0]}"}
    with TestClient(app, backend="trio", headers=headers) as client:
        yield client


def filled(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"{(\w+)(?::\w+)?}", lambda found: ids[found[1]], path)


def subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    """All of them; of many, each with each is enough."""
    most = len(names) if len(names) <= 5 else 2
    for size in range(most + 1):
        yield from itertools.combinations(names, size)
    yield tuple(names)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", routes.ENDPOINTS, ids=lambda one: one.path)
def test_an_id_of_another_tenant_is_no_id(bolt: httpx2.Client, endpoint: routes.Endpoint) -> None:
    in_path = re.findall(r"{(\w+)}", endpoint.path)
    fields = msgspec.structs.fields(endpoint.params)
    names = [one.encode_name for one in fields if one.encode_name not in in_path]
    needed = [one.encode_name for one in fields if one.required and one.encode_name in names]
    optional = [name for name in names if name not in needed and name in SAMPLES]
    for chosen in subsets(optional):
        query = {name: SAMPLES[name] for name in (*needed, *chosen)}
        there = bolt.get(filled(endpoint.path, IDS), params=query)
        gone = {name: NOWHERE.get(name, value) for name, value in query.items()}
        gone |= {name: query[name] for name in needed}
        nowhere = bolt.get(filled(endpoint.path, NOWHERE), params=gone)
        told = nowhere.text.replace("absent", "barn" if "edge" in (*in_path, *query) else "basket")
        told = told.replace("77", "1") if "id" in in_path else told
        told = told.replace(NOWHERE["tunnel"], IDS["tunnel"])
        assert there.status_code == nowhere.status_code, query
        assert moment_free(there.text) == moment_free(told), query


def moment_free(text: str) -> str:
    """What is told, without cursors and clocks."""
    return re.sub(r'"(next|after)":"[^"]*"', r'"\1":""', text)


def test_whose_it_is_finds_it(acme: httpx2.Client, bolt: httpx2.Client) -> None:
    assert acme.get("/api/v1/edges/barn/latest").status_code == 200
    assert [one["link"]["edge"] for one in bolt.get("/api/v1/edges").json()["edges"]] == ["shop"]
    assert acme.get("/api/v1/keys/price").status_code == 200
    assert acme.get("/api/v1/events").json()["events"]
    assert acme.get("/api/v1/link-events").json()["events"]
    assert bolt.get("/api/v1/keys/price").json()["value"] == "1"
    assert acme.get("/api/v1/keys/price").json()["value"] != "1"
    assert acme.get("/api/v1/tunnels/badcab1e").json()["target"] == "10.9.8.7:22"
    assert [len(one.get("/api/v1/tunnels").json()["tunnels"]) for one in (acme, bolt)] == [1, 0]


def test_no_route_tells_of_another_tenant(app: Guard, bolt: httpx2.Client) -> None:
    """Every route there is, so that a new one is here without being told."""
    starlette: Any = app._app
    told = list[str]()
    walked = 0
    for route in starlette.routes:
        if isinstance(route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route, Route)
        path = filled(route.path, IDS)
        if path.startswith("/ui/") or path in ("/api/v1/live", "/openapi.json", "/api"):
            continue  # endless, and asked below; or what can be asked at all
        for method in sorted((route.methods or set()) - {"HEAD"}):
            walked += 1
            answer = bolt.request(
                method, path, headers={"Accept": "text/html"}, json={"command": ["GET", "basket"]}
            ) if method == "POST" else bolt.get(path, headers={"Accept": "text/html"})  # fmt: skip
            text = html.unescape(answer.text).replace(path, "")
            for id_ in IDS.values():  # what was asked for may be said again
                text = re.sub(rf"['\"]{id_}['\"]|no such .{{0,8}}{id_}", "", text)
            told += [f"{method} {path}: {word}" for word in SECRETS if word in text]
    assert told == []
    assert walked > 25


async def test_no_page_or_stream_tells_of_another_tenant(
    shared: Context, keys_of: dict[str, Answers]
) -> None:
    scope = {"type": "http", "query_string": b"tenant=bolt", "headers": []}
    context = Contexts(shared, keys_of.get).of(Request(scope))
    pages = Pages(context)
    shown = (await pages.fleet_shown(FleetQuery())).html
    assert "shop" in shown
    shown += (await pages.events_shown(EventsQuery())).html
    shown += (await pages.conflicts_shown(may_write=True)).html
    assert [word for word in SECRETS if word in shown] == []
    live = Live()
    with live.watch(sees=context.sees) as watcher:
        for edge in ("barn", "shop"):
            live.publish([an_update(edge)])
            live.touch(edge)
        updates, edges = watcher.take()
    assert [one.edge for one in updates] == ["shop"]
    assert edges == {"shop"}


def an_update(edge: str) -> Update:
    return Update(
        edge=edge, series=series_id("m", "P"), entity="m", key="P", unit="", time_ns=1, value=1.0,
        points=1,
    )  # fmt: skip


async def test_a_watcher_of_nobody_hears_nothing(shared: Context) -> None:
    nobodys = Contexts(shared).of_nobody()
    assert nobodys.tenant == NOBODY
    watcher = Watcher(frozenset(), nobodys.sees)
    watcher.offer(an_update("barn"))
    watcher.touch("barn")
    assert watcher.take() == ([], set())


def test_a_token_is_one_tenants(app: Guard, bolt: httpx2.Client) -> None:
    for named in ("acme", "nobody", ""):
        answer = bolt.get("/api/v1/edges", params={"tenant": named})
        assert answer.status_code == 404
        assert answer.json()["error"] == f"no tenant {named!r}"
    assert bolt.get("/api/v1/edges", params={"tenant": "bolt"}).status_code == 200
    reader = {"Authorization": f"Bearer {token_of('bolt', may_write=False)[0]}"}
    asked = {"command": ["SET", "a", "1"]}
    assert bolt.post("/api/v1/keys/command", json=asked, headers=reader).status_code == 403
    assert bolt.get("/api/v1/edges", headers=reader).status_code == 200
    wrong = {"Authorization": "Bearer esapi.wrong"}
    assert bolt.get("/api/v1/edges", headers=wrong).status_code == 401


def test_a_probe_learns_how_the_hub_is_and_no_name(app: Guard, shared: Context) -> None:
    hub = shared.hub
    assert isinstance(hub, StillHub)
    hub.log = msgspec.structs.replace(hub.log, used_bytes=hub.log.limit_bytes)
    with TestClient(app, backend="trio") as anyone:
        found = anyone.get("/healthz").json()
    assert found == {"status": "degraded", "problems": [], "is_working": True}


def test_a_tenant_is_not_told_where_the_registry_is(
    app: Guard, acme: httpx2.Client, shared: Context, tmp_path: Path
) -> None:
    """Its address, and what its server says, are of the hub's machine."""
    for file in tmp_path.glob("registry.db*"):
        file.unlink()
    for path in ("/api/v1/objects", "/api/v1/rules", "/api/v1/rpc"):
        answer = acme.get(path)
        assert (answer.status_code, str(tmp_path) in answer.text) == (503, False), answer.text
        assert "registry" in answer.json()["error"]
    operators = msgspec.structs.replace(shared.settings, write_token_sha256=())
    plain = make_app(msgspec.structs.replace(shared, settings=operators))
    with TestClient(plain, backend="trio") as client:
        assert str(tmp_path) in client.get("/api/v1/objects").text


def test_the_operator_sees_all_and_may_name_a_tenant(
    shared: Context, keys_of: dict[str, Answers]
) -> None:
    everything = msgspec.structs.replace(
        shared, settings=ApiSettings(allowed_hosts=("testserver",))
    )
    app = make_app(everything, answers_of=keys_of.get)
    with TestClient(app, backend="trio") as client:
        assert len(client.get("/api/v1/edges").json()["edges"]) == 2
        theirs = client.get("/api/v1/edges", params={"tenant": "bolt"}).json()
        assert [one["link"]["edge"] for one in theirs["edges"]] == ["shop"]
        assert client.get("/api/v1/stats").json()["log"] is not None
        assert client.get("/api/v1/stats", params={"tenant": "bolt"}).json()["log"] is None
        metrics = client.get("/metrics", params={"tenant": "bolt"}).text
        assert "shop" in metrics
        assert "barn" not in metrics
        assert "log_head" not in metrics


async def test_what_lasts_ends_with_its_token(
    shared: Context, keys_of: dict[str, Answers], nursery: trio.Nursery
) -> None:
    """A stream, and a question that waits: who has only a withdrawn token hears no more."""
    tokens = TenantTokens()
    (word, theirs), (_, others) = token_of("acme"), token_of("bolt")
    tokens.set([theirs, others])
    app = make_app(shared, answers_of=keys_of.get, tenant_tokens=tokens)
    url: str = await nursery.start(
        serve_http, app, ApiSettings(port=0, allowed_hosts=("127.0.0.1",)), trio.Event()
    )
    changed = keys_of["acme"].cells.space.seq
    ended = dict[str, bytes]()

    async def ask(path: str, asked: trio.Event) -> None:
        host, port = url.removeprefix("http://").split(":")
        head = f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {word}\r\n\r\n"
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(head.encode())
            ended[path] = b""
            async for part in stream:
                ended[path] += part
                if b"\r\n\r\n" in ended[path]:
                    asked.set()

    paths = ("/api/v1/live", "/ui/fleet", "/ui/conflicts")
    with trio.fail_after(100):
        async with trio.open_nursery() as listeners:
            for path in paths:
                begun = trio.Event()
                listeners.start_soon(ask, path, begun)
                await begun.wait()
            assert shared.live.watchers == len(paths)
            tokens.set([theirs, others])  # another change of the registry ends nothing
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert shared.live.watchers == len(paths)
            tokens.set([others])
    assert shared.live.watchers == 0
    assert all(b" 200 " in told.split(b"\r\n", 1)[0] for told in ended.values())
    assert changed == keys_of["acme"].cells.space.seq


async def test_a_question_whose_token_goes_while_it_is_read_is_answered(
    shared: Context, keys_of: dict[str, Answers], nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A thread that reads is not given up: its answer comes after the cancellation."""
    tokens = TenantTokens()
    word, theirs = token_of("acme")
    tokens.set([theirs])
    read = type(shared.state).read

    async def read_and_withdraw(state: Any, question: Any) -> Any:
        found = await read(state, question)
        tokens.set([])
        return found

    app = make_app(shared, answers_of=keys_of.get, tenant_tokens=tokens)
    url: str = await nursery.start(
        serve_http, app, ApiSettings(port=0, allowed_hosts=("127.0.0.1",)), trio.Event()
    )
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {word}"}) as client:
        assert (await client.get(f"{url}/api/v1/edges")).status_code == 200
        monkeypatch.setattr(type(shared.state), "read", read_and_withdraw)
        answer = await client.get(f"{url}/api/v1/edges")
    assert (answer.status_code, answer.json()["field"]) == (401, "Authorization")


@pytest.mark.slow
def test_a_page_of_a_tenant_leads_to_pages_of_that_tenant(
    shared: Context, keys_of: dict[str, Answers]
) -> None:
    """Links, forms and streams: the operator would resolve another conflict of that number."""
    settings = ApiSettings(allowed_hosts=("testserver",))
    app = make_app(msgspec.structs.replace(shared, settings=settings), answers_of=keys_of.get)
    with TestClient(app, backend="trio", follow_redirects=False) as operator:
        for path in ("/", "/events", "/conflicts", "/edges/barn", "/edges/barn/chart", "/api"):
            page = operator.get(path, params={"tenant": "acme"}).text
            found = re.findall(r'(?:href|action|connect)="([/?][^"]*)"', page)
            assert found
            for link in found:
                if link.startswith(("/static/", "/openapi.json")):
                    continue
                is_named = "tenant=acme" in link
                is_form = link in ("/", "/events") and 'name="tenant" value="acme"' in page
                assert is_named or is_form, (path, link)
        assert "tenant=" not in operator.get("/").text


ENTITY_BODIES: dict[str, dict[str, Any]] = {
    "entities": {"fields": {"a": 1}}, "entities/delete": {},
    "attributes": {"scope": "shared", "set": {"a": 1}},
    "claim": {},
    "relations": {"type": "Contains", "to": "b"}, "relations/delete": {"type": "x", "to": "b"},
    "alarms": {"type": "x", "severity": "MAJOR"},
}  # fmt: skip


EDGE_BODIES: dict[str, dict[str, Any]] = {
    "token": {}, "customer": {"customer": "Mill"}, "forget": {"confirm": "barn"}, "sync": {},
    "events": {"action": "deleted", "entity": "Scale"}, "downlink/clean": {"older_than_s": 0},
}  # fmt: skip


def test_nobody_changes_entities_of_another_tenants_edge(
    acme: httpx2.Client, bolt: httpx2.Client, keys_of: dict[str, Answers]
) -> None:
    """Every action on an edge there is: a new one has to be listed here."""
    paths = {one.path for one in routes.ACTIONS if one.path.startswith(routes.EDGE)}
    alarms = {f"{routes.EDGE}/alarms/{{id}}/{what}" for what in ("ack", "clear")}
    calls = {
        f"{routes.EDGE}/rpc", f"{routes.EDGE}/downlink/clear", f"{routes.EDGE}/rules/run",
        f"{routes.EDGE}/tunnels",
    }  # fmt: skip
    listed = {f"{routes.EDGE}/{path}" for path in (*ENTITY_BODIES, *EDGE_BODIES)}
    assert paths == listed | alarms | calls
    before = keys_of["acme"].cells.space.seq, keys_of["bolt"].cells.space.seq
    bodies = {path: {"entity": "Scale", **body} for path, body in ENTITY_BODIES.items()}
    bodies |= {f"alarms/{'0' * 24}/{what}": {} for what in ("ack", "clear")}
    bodies |= {"rpc": {"device": "scale", "method": "tare"}, "downlink/clear": {}}
    bodies |= {path: dict(body) for path, body in EDGE_BODIES.items()}
    bodies["tunnels"] = {"host": "10.9.8.7", "port": 22}
    bodies["rules/run"] = {"bundle": "basket", "message": {"t": 1}}
    for path, given in bodies.items():
        there = bolt.post(f"/api/v1/edges/barn/{path}", json=given)
        said = {name: "absent" if value == "barn" else value for name, value in given.items()}
        nowhere = bolt.post(f"/api/v1/edges/absent/{path}", json=said)
        assert (there.status_code, nowhere.status_code) == (404, 404), path
        assert there.text.replace("barn", "absent") == nowhere.text
    assert (keys_of["acme"].cells.space.seq, keys_of["bolt"].cells.space.seq) == before


def test_no_page_of_an_entity_is_of_another_tenants_edge(
    acme: httpx2.Client, bolt: httpx2.Client, keys_of: dict[str, Answers]
) -> None:
    before = keys_of["acme"].cells.space.seq, keys_of["bolt"].cells.space.seq
    for path in ("/edges/barn/entity", "/ui/edges/barn/entity"):
        assert bolt.get(path, params={"entity": "meter0"}).status_code == 404
    assert "barn" in acme.get("/rules").text
    assert "No bundle of rule chains" in bolt.get("/rules").text
    for path in ("/edges/barn/rules", "/ui/edges/barn/rules"):
        assert bolt.get(path).status_code == 404
    assert bolt.post("/edges/barn/rules", data={"do": "unassign"}).status_code == 404
    assert "basket" in acme.get("/edges/barn/rules").text
    form = {"do": "set", "scope": "shared", "name": "limit", "value": "1"}
    answer = bolt.post("/edges/barn/entity", params={"entity": "meter0"}, data=form)
    assert answer.status_code == 404
    assert (keys_of["acme"].cells.space.seq, keys_of["bolt"].cells.space.seq) == before
    assert acme.get("/edges/barn/entity", params={"entity": "meter0"}).status_code == 200


def test_alarms_of_the_fleet_are_those_of_the_tenants_edges(
    acme: httpx2.Client, bolt: httpx2.Client, keys_of: dict[str, Answers]
) -> None:
    raised = plan_raise(
        SpaceView(keys_of["acme"].cells.space, keys_of["acme"].cells.now_ms),
        entity("barn", "device", "Scale"), "Too heavy", Severity.MAJOR, 1_790_000_000_000,
    )  # fmt: skip
    keys_of["acme"].cells.run_all(raised)
    for path in ("/api/v1/alarms", "/alarms"):
        assert "Too heavy" in acme.get(path).text
        assert "Too heavy" not in bolt.get(path).text


@pytest.mark.parametrize(
    ("begins", "headers", "sent"),
    [
        (False, [], [401, "body"]),  # nothing was said yet
        (True, [(b"content-length", b"4")], [200, "body"]),  # it was asked in time
        (True, [], [200]),  # a stream
    ],
)
async def test_a_question_on_its_way_when_its_token_goes_is_answered(
    begins: bool, headers: list[tuple[bytes, bytes]], sent: list[object]
) -> None:
    tokens, (word, token) = TenantTokens(), token_of("acme")
    tokens.set([token])
    found = list[object]()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": list(headers)}
        if begins:
            await send(start)
        tokens.set([])
        await trio.lowlevel.checkpoint()
        if not begins:
            await send(start)
        await send({"type": "http.response.body", "body": b"late"})

    async def send(message: Any) -> None:
        found.append(message.get("status", "body"))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/edges", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {word}".encode())],
    }  # fmt: skip
    guard = Guard(app, ApiSettings(allowed_hosts=("127.0.0.1",)), tenant_tokens=tokens)
    await guard(scope, receive, send)
    assert found == sent
