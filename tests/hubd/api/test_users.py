"""Users: who gets in with a password, what their role lets them do, and what ends a session."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from edgesync.entities import claims
from edgesync.serve.failed_attempts import KEYS_MAX
from hubd.api import ApiSettings, Context, make_app, routes
from hubd.api import logins as logins_module
from hubd.api.errors import ApiError
from hubd.api.logins import (
    BROWSER_COOKIE,
    COOKIE,
    NAME_TRIES,
    NETWORK_TRIES,
    SESSION_S,
    WINDOW_S,
    Logins,
)
from hubd.api.rights import Right
from hubd.api.security import Guard
from hubd.api.server import serve_http
from hubd.api.tenancy import TenantTokens
from hubd.registry import ApiToken, Registry, Role, User
from hubd.registry.passwords import hash_password, is_password
from hubd.web.account import local
from tests.hubd.api.test_tenants import IDS, filled
from tests.hubd.logins import FROM_OUR_PAGE, PASSWORD, log_in, logins_of, make_user
from tests.hubd.still import StillHub

pytestmark = pytest.mark.feature("C14")

HTML = {"Accept": "text/html"}
# What a user who is not an admin may do, by path: an operator at their sites.
OPERATED = {
    "/api/v1/edges/{edge}/attributes", "/api/v1/edges/{edge}/claim",
    "/api/v1/edges/{edge}/alarms/{id}/ack",
    "/api/v1/edges/{edge}/alarms/{id}/clear", "/api/v1/edges/{edge}/rpc",
    "/api/v1/edges/{edge}/sync",
    "/edges/{edge}/entity",
}  # fmt: skip
# What changes nothing, and whoever may see the edge may ask for.
TRIED = {"/api/v1/edges/{edge}/rules/run", "/edges/{edge}/rules/run"}
OWN = {"/login", "/logout", "/account"}
USERS = {"/api/v1/users", "/api/v1/users/{user}", "/api/v1/users/{user}/remove"}
ALARM = "0" * 24


@pytest.fixture
def shared(context: Context) -> Context:
    """Edge barn is acme's and stands in Hall 4; shop is bolt's."""
    hub = context.hub
    assert isinstance(hub, StillHub)
    changes = {"barn": {"tenant": "acme", "site": "Hall 4"}, "shop": {"tenant": "bolt"}}
    hub.all = [msgspec.structs.replace(one, **changes[one.edge]) for one in hub.all]
    return context


@pytest.fixture
def client(shared: Context) -> Iterator[TestClient]:
    app = make_app(shared, answers_of={"acme": shared.answers}.get)
    with TestClient(app, backend="trio", follow_redirects=False) as client:
        assert client.portal is not None
        keys = client.portal.start_task_soon(shared.answers.run)
        yield client
        keys.cancel()


@pytest.mark.slow
def test_a_password_is_kept_as_salted_scrypt() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("scrypt$32768$8$3$")
    assert PASSWORD not in stored
    assert is_password(PASSWORD, stored)
    assert not is_password(PASSWORD + " ", stored)
    assert not is_password("x" * 10_000, stored)
    assert hash_password(PASSWORD) != stored


def test_where_there_is_no_user_nobody_is_asked(client: TestClient) -> None:
    page = client.get("/", headers=HTML)
    assert page.status_code == 200
    assert "/account" not in page.text
    assert client.get("/account", headers=HTML).status_code == 403


def test_a_user_logs_in_looks_and_logs_out(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    ana = make_user(registry, logins, "Ana")
    assert ana.name == "ana"
    led = client.get("/edges/barn/chart?entity=meter0", headers=HTML)
    assert (led.status_code, led.headers["location"]) == (
        303, "/login?next=%2Fedges%2Fbarn%2Fchart%3Fentity%3Dmeter0",
    )  # fmt: skip
    asked = client.get("/api/v1/edges")
    assert asked.status_code == 401
    assert "www-authenticate" not in asked.headers  # a dialogue would open over the page
    assert client.get("/static/hub.css").status_code == 200
    long = client.get("/events?text=" + "x" * 3000, headers=HTML)
    assert long.headers["location"] == "/login?"
    form = client.get(led.headers["location"], headers=HTML)
    assert form.status_code == 200
    assert 'value="/edges/barn/chart?entity=meter0"' in form.text
    assert "barn<" not in form.text

    entered = client.post(
        "/login", data={"name": " ANA ", "password": PASSWORD, "next": "/edges/barn"},
        headers=FROM_OUR_PAGE,
    )  # fmt: skip
    assert (entered.status_code, entered.headers["location"]) == (303, "/edges/barn")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={SESSION_S:.0f}"} <= {
        part.strip() for part in cookie.split(";")
    }
    assert "Secure" not in cookie
    assert client.get("/edges/barn", headers=HTML).status_code == 200
    assert client.get("/api/v1/edges").json()["edges"]
    account = client.get("/account", headers=HTML)
    assert "viewer of tenant acme" in account.text
    assert client.post("/logout", headers=FROM_OUR_PAGE).status_code == 303
    assert client.get("/api/v1/edges").status_code == 401
    client.cookies.set(COOKIE, entered.cookies[COOKIE])
    assert client.get("/api/v1/edges").status_code == 401


def test_behind_tls_the_cookie_stays_there(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    make_user(registry, logins, "ana")
    entered = client.post(
        "/login", data={"name": "ana", "password": PASSWORD},
        headers={**FROM_OUR_PAGE, "X-Forwarded-Proto": "https"},
    )  # fmt: skip
    assert "Secure" in entered.headers["set-cookie"]


@pytest.mark.slow
def test_a_wrong_name_and_a_wrong_password_are_one_answer(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    make_user(registry, logins, "ana")
    told = set()
    for name, password in (("ana", "wrong"), ("bob", PASSWORD), ("", ""), ("\0", "\ud800")):
        form = {"name": name, "password": password.encode(errors="replace").decode()}
        answer = client.post("/login", data=form, headers=FROM_OUR_PAGE)
        assert COOKIE not in answer.cookies
        told.add((answer.status_code, answer.text))
    assert len(told) == 1
    assert told.pop()[0] == 401


def test_tokens_go_on_to_work_beside_users(
    shared: Context, registry: Registry, logins: Logins
) -> None:
    token = "esapi.of-the-hub"
    digest = hashlib.sha256(token.encode()).hexdigest()
    settings = ApiSettings(allowed_hosts=("testserver",), write_token_sha256=(digest,))
    make_user(registry, logins, "ana")
    app = make_app(msgspec.structs.replace(shared, settings=settings))
    with TestClient(app, backend="trio", follow_redirects=False) as client:
        for auth in ({"Authorization": f"Bearer {token}"}, {}):
            answer = client.get("/api/v1/edges", headers=auth)
            assert answer.status_code == (200 if auth else 401)
        asked = {"command": ["SET", "a", "1"]}
        wrong = {"Authorization": "Bearer wrong", **HTML}
        assert client.post("/api/v1/keys/command", json=asked, headers=wrong).status_code == 401
        refused = client.get("/api/v1/users", headers={"Authorization": f"Bearer {token}"})
        assert (refused.status_code, refused.json()["field"]) == (403, "role")


# -- roles -----------------------------------------------------------------------------------------


def changing(app: Guard) -> list[str]:
    """The path of every route that may change something."""
    starlette: Any = app._app
    found = list[str]()
    for route in starlette.routes:
        if isinstance(route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route, Route)
        if "POST" in (route.methods or ()):
            found.append(route.path.replace(":path", ""))
    return found


def may(user: User | None, path: str, edge: str) -> bool:
    """What the documentation says of roles."""
    if path in OWN:
        return True
    if user is None:
        return False
    if path in TRIED:
        return True
    site = {"barn": "Hall 4", "shop": "shop"}[edge]
    if path in OPERATED and user.role is Role.OPERATOR:
        return not user.sites or site in user.sites
    return user.role is Role.ADMIN


ASKERS: dict[str, tuple[Role, tuple[str, ...]] | None] = {
    "nobody": None, "viewer": (Role.VIEWER, ()), "admin": (Role.ADMIN, ()),
    "operator": (Role.OPERATOR, ()), "at-hall": (Role.OPERATOR, ("Hall 4",)),
    "at-shop": (Role.OPERATOR, ("shop", "Hall 5")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("who", ASKERS)
def test_each_role_may_do_what_it_says_and_no_more(
    client: TestClient, shared: Context, registry: Registry, logins: Logins, who: str
) -> None:
    """Every route that is there, for every role: a new one is here without being told."""
    app = client.app
    assert isinstance(app, Guard)
    make_user(registry, logins, "somebody")
    asker = ASKERS[who]
    user = None
    if asker is not None:
        # Of the hub as a whole, so that both edges are seen.
        user = make_user(registry, logins, who, asker[0], tenant=None, sites=asker[1])
        log_in(client, user)
    found = changing(app)
    assert set(found) >= OPERATED | OWN | USERS
    assert len(found) > len(OPERATED | OWN | USERS)
    for path in found:
        if path in OWN:
            continue
        for edge in ("barn", "shop"):
            url = filled(path, IDS | {"edge": edge, "user": "nobody-there"})
            url = url.replace("alarms/1/", f"alarms/{ALARM}/")
            is_form = not path.startswith("/api/")
            answer = client.post(
                url, params={"entity": "meter0"} if path == "/edges/{edge}/entity" else {},
                data={"do": "ack"} if is_form else None, json=None if is_form else body_of(path),
            )  # fmt: skip
            expected = may(user, path, edge)
            if user is None:
                assert answer.status_code == 401, path
            else:
                assert (answer.status_code != 403) == expected, (who, path, edge, answer.text)
            if answer.status_code == 403:
                assert answer.json()["field"] == "role"
    for endpoint in routes.ENDPOINTS:
        if endpoint.path == "/healthz":
            continue
        status = client.get(filled(endpoint.path, IDS)).status_code
        is_admin = user is not None and user.role is Role.ADMIN
        refused = 401 if user is None else 403
        is_open = user is not None and (endpoint.right is None or is_admin)
        assert (status != refused) == is_open, (who, endpoint.path)


def body_of(path: str) -> dict[str, Any]:
    """A body that is right, so that nothing but the role can refuse it."""
    bodies: dict[str, dict[str, Any]] = {
        "/api/v1/edges/{edge}/entities": {"entity": "x"},
        "/api/v1/edges/{edge}/entities/delete": {"entity": "x"},
        "/api/v1/edges/{edge}/attributes": {"entity": "x", "scope": "shared"},
        "/api/v1/edges/{edge}/claim": {"entity": "x"},
        "/api/v1/edges/{edge}/relations": {"entity": "x", "type": "y", "to": "z"},
        "/api/v1/edges/{edge}/relations/delete": {"entity": "x", "type": "y", "to": "z"},
        "/api/v1/edges/{edge}/alarms": {"entity": "x", "type": "y", "severity": "MINOR"},
        "/api/v1/edges/{edge}/rpc": {"device": "scale", "method": "tare"},
        "/api/v1/edges/{edge}/tunnels": {"host": "10.0.0.1", "port": 22},
        "/api/v1/keys/command": {"command": ["SET", "a", "1"]},
        "/api/v1/edges": {"edge": "new"},
        "/api/v1/edges/{edge}/customer": {"customer": "Mill"},
        "/api/v1/edges/{edge}/forget": {"confirm": "another"},
        "/api/v1/edges/{edge}/events": {"action": "updated", "entity": "x"},
        "/api/v1/edges/{edge}/downlink/clean": {"older_than_s": 60},
        "/api/v1/conflicts/{id}/resolve": {"choice": "winner"},
        "/api/v1/rules": {"name": "x", "files": {}},
        "/api/v1/edges/{edge}/rules/run": {"bundle": "basket", "message": {"t": 1}},
        "/api/v1/rules/unassign": {"edges": ["nobody"]},
        "/api/v1/rules/{bundle}/assign": {"edges": ["nobody"]},
        "/api/v1/objects/{object}/assign": {"edges": ["nobody"]},
        "/api/v1/objects/{object}/unassign": {"edges": ["nobody"]},
        "/api/v1/users": {"user": "new", "role": "viewer", "password": PASSWORD},
    }
    return bodies.get(path, {})


def test_the_rights_of_actions_are_as_documented() -> None:
    wanted = {one.path: one.right for one in routes.ACTIONS}
    assert {path for path, right in wanted.items() if right is Right.USERS} == USERS
    operated = {path for path, right in wanted.items() if right is Right.OPERATE}
    assert operated == {path for path in OPERATED if path.startswith("/api/")}


def test_who_may_not_write_may_ask_for_keys(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "vera"))
    asked = client.post("/api/v1/keys/command", json={"command": ["HGET", "basket", "apples"]})
    assert asked.json() == {"reply": "3"}
    refused = client.post("/api/v1/keys/command", json={"command": ["SET", "a", "1"]})
    assert (refused.status_code, "vera is viewer" in refused.text) == (403, True)


def test_pages_show_an_operator_the_buttons_of_their_sites(
    client: TestClient, shared: Context, registry: Registry, logins: Logins
) -> None:
    path = "/edges/barn/entity?entity=meter0"
    for name, sites, has_form in (("here", ("Hall 4",), True), ("there", ("shop",), False)):
        user = make_user(registry, logins, name, Role.OPERATOR, sites=sites)
        log_in(client, user)
        page = client.get(path, headers=HTML).text
        assert ('method="post"' in page.partition("<main>")[2]) == has_form
        assert ("needs another role" in page) == (not has_form)
        assert 'value="winner"' not in client.get("/conflicts", headers=HTML).text


def test_what_a_user_did_bears_their_name(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    alarms = "/api/v1/edges/barn/alarms"
    asked = {"entity": "Scale", "type": "Too heavy", "severity": "MAJOR", "by": "bob"}
    raised = client.post(alarms, json=asked).json()
    assert raised["raised_by"] == "ana"
    acked = client.post(f"{alarms}/{raised['id']}/ack", json={"by": "bob"}).json()
    assert acked["acked_by"] == "ana"
    form = {"do": "clear", "id": raised["id"]}
    client.post("/edges/barn/entity", params={"entity": "Scale"}, data=form)
    (cleared,) = client.get(alarms).json()["alarms"]
    assert cleared["cleared_by"] == "ana"
    call = {"device": "scale", "method": "tare", "by": "bob"}
    assert client.post("/api/v1/edges/barn/rpc", json=call).json()["by"] == "ana"


def test_who_claims_a_device_is_kept_and_with_what_secret_is_not(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    offered = claims.offer("of the scale", time.time_ns() // 1_000_000 + 600_000, "salt")
    asked = {"entity": "Scale", "scope": "server", "set": {"claim": offered}}
    assert client.post("/api/v1/edges/barn/attributes", json=asked).status_code == 200
    body = {"entity": "Scale", "secret": "of the scale", "by": "bob"}
    done = client.post("/api/v1/edges/barn/claim", json=body).json()
    assert done["server"]["claimed"]["value"]["by"] == "ana"
    (claimed, _) = client.get("/api/v1/audit").json()["entries"]
    assert (claimed["by"], claimed["what"]) == ("ana", "claim")
    assert json.loads(claimed["detail"]) == {"entity": "Scale", "kind": "device"}


def test_what_users_change_is_kept_for_admins(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    """By the API and by the pages' buttons; no password is in it, and no failed attempt."""
    log_in(client, make_user(registry, logins, "joe", Role.OPERATOR))
    attributes = "/api/v1/edges/barn/attributes"
    for value, status in ((21.5, 200), ("x" * 100_000, 400)):
        asked = {"entity": "Scale", "scope": "shared", "set": {"limit": value}}
        assert (client.post(attributes, json=asked).status_code == 200) == (status == 200)
    form = {"do": "set", "scope": "shared", "name": "limit", "value": "22"}
    client.post("/edges/barn/entity", params={"entity": "Scale"}, data=form)
    client.post("/api/v1/keys/command", json={"command": ["GET", "a"]})  # changes nothing
    assert client.get("/api/v1/audit").status_code == 403
    assert "What users have changed" not in client.get("/account", headers=HTML).text

    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    new = {"user": "eve", "role": "viewer", "password": "a long secret"}
    client.post("/api/v1/users", json=new)
    client.post("/api/v1/users/eve/remove", json={})
    found = client.get("/api/v1/audit").json()
    told = [(one["by"], one["what"], one["edge"]) for one in found["entries"]]
    assert told == [
        ("ana", "users/remove", ""), ("ana", "users", ""), ("joe", "attributes", "barn"),
        ("joe", "attributes", "barn"),
    ]  # fmt: skip
    details = [json.loads(one["detail"]) for one in found["entries"]]
    assert details[0]["user"] == "eve"
    assert details[2]["value"] == "22"
    assert details[3]["set"] == {"limit": 21.5}
    assert "secret" not in json.dumps(found)
    page = client.get("/account", headers=HTML).text
    assert page.count('id="changed-') == 4
    one = client.get("/api/v1/audit", params={"limit": 1, "by": "joe"}).json()
    rest = client.get("/api/v1/audit", params={"by": "joe", "after": one["next"]}).json()
    assert [*one["entries"], *rest["entries"]] == found["entries"][2:]
    assert client.get("/api/v1/audit", params={"edge": "shop"}).json()["entries"] == []
    log_in(client, make_user(registry, logins, "bolts", Role.ADMIN, tenant="bolt"))
    assert [one for one in registry.audit.page("bolt", before=1 << 62, limit=9)[0]] == []


def test_what_pages_assign_is_kept_as_what_the_api_does(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    for do in ("assign", "unassign"):
        form = {"do": do, "bundle": "basket 1"}
        assert client.post("/edges/barn/rules", data=form).status_code == 303
    client.post("/api/v1/rules/basket/assign", json={"edges": ["barn"]})
    client.post("/api/v1/rules/unassign", json={"edges": ["barn"]})
    assert client.post("/edges/barn/rules", data={"bundle": "none 1"}).status_code == 404
    told = [one["what"] for one in client.get("/api/v1/audit").json()["entries"]]
    assert told == ["rules/unassign", "rules/assign"] * 2


def test_a_change_is_answered_while_the_registry_is_away(
    client: TestClient, registry: Registry, logins: Logins, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    (tmp_path / "registry.db").rename(tmp_path / "aside")
    asked = {"entity": "Scale", "scope": "shared", "set": {"limit": 1}}
    assert client.post("/api/v1/edges/barn/attributes", json=asked).status_code == 200
    assert "audit not written" in caplog.text
    assert "ana" in caplog.text
    assert client.get("/api/v1/audit").status_code == 503
    assert "It cannot be read now" in client.get("/account", headers=HTML).text


# -- pages from elsewhere --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"}, {"Origin": "null"},
        {"Origin": "http://other.testserver"}, {},
    ],
    ids=lambda headers: next(iter(headers.values()), "says nothing"),
)  # fmt: skip
def test_no_page_from_elsewhere_changes_anything_by_a_session(
    client: TestClient, registry: Registry, logins: Logins, headers: dict[str, str]
) -> None:
    cookie = log_in(client, make_user(registry, logins, "ana", Role.ADMIN, tenant=None))
    del client.headers["Sec-Fetch-Site"]
    app = client.app
    assert isinstance(app, Guard)
    for path in changing(app):
        answer = client.post(filled(path, IDS), headers=headers, data={"do": "ack"})
        assert (answer.status_code, answer.json()["field"]) == (403, "Origin"), path
    assert logins.find(cookie) is not None
    ours = {"Origin": "http://testserver"}
    assert client.post("/logout", headers=ours).status_code == 303


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "x", "",
     "/\r\nSet-Cookie: a=b", "///x", "/\t/evil.example", "//[", "https://["],
)  # fmt: skip
def test_logging_in_leads_nowhere_else(path: str) -> None:
    assert local(path) == "/"
    assert local("/edges/barn?a=b") == "/edges/barn?a=b"


@pytest.mark.parametrize("origin", ["http://[", "//[", "http://]:x", "null", "", "://"])
def test_an_origin_that_is_no_address_is_one_from_elsewhere(
    client: TestClient, registry: Registry, logins: Logins, origin: str
) -> None:
    ana = make_user(registry, logins, "ana", Role.ADMIN)
    form = {"name": ana.name, "password": PASSWORD}
    refused = client.post("/login", data=form, headers={"Origin": origin})
    assert (refused.status_code, refused.json()["field"]) == (403, "Origin")
    shown = client.get("/login", params={"next": origin}, headers=HTML)
    assert shown.status_code == 200


# -- sessions --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_another_password_ends_the_other_sessions(registry: Registry) -> None:
    logins = logins_of(registry)
    ana = make_user(registry, logins, "ana")
    bob = make_user(registry, logins, "bob")
    mine, other = [await logins.log_in("ana", PASSWORD, "192.0.2.1") for _ in range(2)]
    bobs = await logins.log_in(bob.name, PASSWORD, "192.0.2.1")
    with pytest.raises(ApiError):
        await logins.change_password(mine, "wrong", "another horse", "192.0.2.1")
    assert logins.find(other) is not None
    await logins.change_password(mine, PASSWORD, "another horse", "192.0.2.1")
    assert logins.find(mine) is not None
    assert logins.find(other) is None
    assert logins.find(bobs) is not None
    with pytest.raises(ApiError):
        await logins.log_in(ana.name, PASSWORD, "192.0.2.1")
    assert await logins.log_in(ana.name, "another horse", "192.0.2.1")
    # By an admin, or on the hub's machine: all of them end.
    registry.users.set_password("ana", "a third horse")
    await logins.refresh()
    assert logins.find(mine) is None


async def test_a_session_ends_after_a_week_and_with_its_user(registry: Registry) -> None:
    now = 1000.0
    logins = Logins(registry.users, registry.audit, clock=lambda: now)
    make_user(registry, logins, "ana", Role.ADMIN)
    token = await logins.log_in("ana", PASSWORD, "192.0.2.1")
    now += SESSION_S - 1
    found = logins.find(token)
    assert found is not None
    assert found[1].role is Role.ADMIN
    registry.users.set_role("ana", Role.VIEWER)  # counts for who is in
    logins.set(registry.users.all())
    found = logins.find(token)
    assert found is not None
    assert found[1].role is Role.VIEWER
    now += 2
    assert logins.find(token) is None
    token = await logins.log_in("ana", PASSWORD, "192.0.2.1")
    logins.set([])
    assert logins.find(token) is None
    assert not logins.has_users


async def test_sessions_are_bounded_and_the_oldest_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins_module, "USER_SESSIONS_MAX", 3)
    monkeypatch.setattr(logins_module, "SESSIONS_MAX", 4)
    logins = logins_of(registry)
    make_user(registry, logins, "ana")
    make_user(registry, logins, "bob")
    anas = [await logins.log_in("ana", PASSWORD, "192.0.2.1") for _ in range(4)]
    assert [logins.find(one) is not None for one in anas] == [False, True, True, True]
    bobs = [await logins.log_in("bob", PASSWORD, "192.0.2.1") for _ in range(2)]
    assert [logins.find(one) is not None for one in (*anas[1:], *bobs)] == [
        False, True, True, True, True,
    ]  # fmt: skip
    assert len(logins._sessions) == 4


async def test_no_tenant_ends_the_sessions_of_another(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins_module, "SESSIONS_MAX", 3)
    logins = logins_of(registry)
    for name, tenant in (("bob", "bolt"), ("ana", "acme"), ("joe", "acme")):
        make_user(registry, logins, name, tenant=tenant)
    opened = {
        nth: await logins.log_in(name, PASSWORD, "192.0.2.1")
        for nth, name in enumerate(("bob", "ana", "joe", "ana", "joe"))
    }
    assert [nth for nth, one in opened.items() if logins.find(one)] == [0, 3, 4]


async def test_what_lasts_ends_with_its_session(
    shared: Context, registry: Registry, logins: Logins, nursery: trio.Nursery
) -> None:
    ana = make_user(registry, logins, "ana")
    cookie = await logins.log_in(ana.name, PASSWORD, "192.0.2.1")
    app = make_app(shared, answers_of={"acme": shared.answers}.get)
    settings = ApiSettings(port=0, allowed_hosts=("127.0.0.1",))
    url: str = await nursery.start(serve_http, app, settings, trio.Event())
    host, port = url.removeprefix("http://").split(":")
    head = f"GET /api/v1/live HTTP/1.0\r\nHost: {host}\r\nCookie: {COOKIE}={cookie}\r\n\r\n"
    heard = b""
    with trio.fail_after(100):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(head.encode())
            while b"\r\n\r\n" not in heard:
                heard += await stream.receive_some()
            assert shared.live.watchers == 1
            registry.users.remove("ana")
            await logins.refresh()
            while await stream.receive_some():
                pass
    assert heard.startswith(b"HTTP/1.1 200")
    assert shared.live.watchers == 0


@pytest.mark.slow
@pytest.mark.parametrize("change", ["remove", "role", "sites", "password", "token"])
async def test_who_may_no_more_when_the_body_has_come_changes_nothing(
    shared: Context, registry: Registry, logins: Logins, change: str
) -> None:
    """A body may take minutes, in which somebody is removed who has begun one before."""
    make_user(registry, logins, "ana", Role.OPERATOR if change == "sites" else Role.ADMIN)
    tokens = TenantTokens()
    header = (b"cookie", f"{COOKIE}={await logins.log_in('ana', PASSWORD, '')}".encode())
    if change == "token":
        digest = hashlib.sha256(b"secret").hexdigest()
        token = ApiToken(label="a", tenant="acme", sha256=digest, may_write=True, created_ns=0)
        tokens.set([token])
        header = (b"authorization", b"Bearer secret")
    path, asked = "/api/v1/rules/unassign", {"edges": ["barn"]}
    if change == "sites":
        path = "/api/v1/edges/barn/rpc"
        asked = {"device": "scale", "method": "tare"}  # type: ignore[dict-item]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [
            (b"host", b"localhost"), (b"content-type", b"application/json"),
            (b"sec-fetch-site", b"same-origin"), header,
        ],
    }  # fmt: skip
    body = json.dumps(asked).encode()

    async def receive() -> dict[str, Any]:
        nonlocal body
        part, body = body[:5], body[5:]
        if not body:
            match change:
                case "remove":
                    registry.users.remove("ana")
                case "role":
                    registry.users.set_role("ana", Role.VIEWER)
                case "sites":
                    registry.users.set_role("ana", Role.OPERATOR, ["elsewhere"])
                case "password":
                    registry.users.set_password("ana", "another horse")
            tokens.set([])
            await logins.refresh()
        return {"type": "http.request", "body": part, "more_body": bool(body)}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = make_app(shared, answers_of={"acme": shared.answers}.get, tenant_tokens=tokens)
    await app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert shared.rules is not None
    assert "barn" in shared.rules.bundles.assignments()


# -- guessing --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_guesses_are_limited_by_name_and_by_network(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(
        logins_module, "DECOY", make_user(registry, logins_of(registry), "x").password
    )
    logins = Logins(registry.users, registry.audit, clock=lambda: now)
    make_user(registry, logins, "ana")
    make_user(registry, logins, "bob")

    async def status(name: str, password: str, address: str) -> int:
        try:
            await logins.log_in(name, password, address)
        except ApiError as error:
            return error.status
        return 200

    for nth in range(NAME_TRIES):
        assert await status("ana", "wrong", f"192.0.2.{nth}") == 401
    # The right one is refused, too, or guessing would go on; others get in.
    assert await status("ana", PASSWORD, "198.51.100.1") == 429
    assert await status("bob", PASSWORD, "192.0.2.1") == 200
    now += WINDOW_S + 1
    assert await status("ana", PASSWORD, "198.51.100.1") == 200

    for nth in range(NETWORK_TRIES):
        assert await status(f"name{nth}", "wrong", f"2001:db8::{nth:x}") == 401
    assert await status("bob", PASSWORD, "2001:db8::ffff") == 429
    assert await status("bob", PASSWORD, "2001:db8:0:1::1") == 200
    now += WINDOW_S + 1
    assert await status("bob", PASSWORD, "2001:db8::ffff") == 200


def test_what_others_guess_keeps_nobody_out_whose_browser_is_known(
    client: TestClient, registry: Registry, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy all come from one address, and so do the wrong passwords of one of them."""
    for name in ("NAME_TRIES", "NETWORK_TRIES"):
        monkeypatch.setattr(getattr(logins, f"_failed_of_{name[:-6].lower()}"), "_most", 2)
    monkeypatch.setattr(logins._failed_of_browser, "_most", 2)
    ana, bob = (make_user(registry, logins, name) for name in ("ana", "bob"))

    def status(user: User, password: str, browser: str) -> int:
        form = {"name": user.name, "password": password}
        client.cookies.clear()
        headers = FROM_OUR_PAGE | ({"Cookie": f"{BROWSER_COOKIE}={browser}"} if browser else {})
        return client.post("/login", data=form, headers=headers).status_code

    known = dict[User, str]()
    for user in (ana, bob):
        form = {"name": user.name, "password": PASSWORD}
        answer = client.post("/login", data=form, headers=FROM_OUR_PAGE)
        cookies = answer.headers.get_list("set-cookie")
        (cookie,) = [one for one in cookies if one.startswith(BROWSER_COOKIE)]
        assert {"HttpOnly", "SameSite=lax", "Path=/login"} <= set(cookie.split("; "))
        known[user] = cookie.partition("=")[2].partition(";")[0]
    for _ in range(2):
        assert status(ana, "wrong", "") == 401
    assert status(ana, PASSWORD, "") == 429  # of the name, and of the network
    assert status(bob, PASSWORD, "") == 429
    assert status(ana, PASSWORD, known[ana]) == 303
    for browser in (known[bob], known[ana] + "0", ".", "x" * 9000, "\udcff"):
        assert status(ana, PASSWORD, browser.encode(errors="replace").decode()) == 429
    # A browser that is known may not guess for ever, and is one browser.
    for _ in range(2):
        assert status(bob, "wrong", known[bob]) == 401
    assert status(bob, PASSWORD, known[bob]) == 429
    assert status(ana, PASSWORD, known[ana]) == 303
    registry.users.set_password("ana", "another horse")
    logins.set(registry.users.all())
    assert status(ana, "another horse", known[ana]) == 429


async def test_who_is_in_changes_the_password_while_others_guess(registry: Registry) -> None:
    logins = logins_of(registry)
    make_user(registry, logins, "ana")
    token = await logins.log_in("ana", PASSWORD, "192.0.2.1")
    for _ in range(NAME_TRIES):
        logins._failed_of_name.note("ana")
    await logins.change_password(token, PASSWORD, "another horse", "192.0.2.1")


def test_what_is_remembered_of_guesses_is_bounded(registry: Registry) -> None:
    logins = Logins(registry.users, registry.audit, clock=time.monotonic)
    for nth in range(2 * KEYS_MAX):
        logins._failed_of_name.note(f"name{nth}")
    assert len(logins._failed_of_name._failed) == KEYS_MAX


async def test_few_wait_to_be_let_in(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A flood of logins takes neither threads nor memory: one is hashed at a time."""
    monkeypatch.setattr(logins_module, "WAITING_MAX", 1)
    logins = logins_of(registry)
    make_user(registry, logins, "ana")
    begun, go_on = trio.Event(), trio.Event()

    async def hold() -> None:
        async with logins._one_at_a_time:
            begun.set()
            await go_on.wait()

    nursery.start_soon(hold)
    await begun.wait()
    entered = list[str]()

    async def log_in_late() -> None:
        entered.append(await logins.log_in("ana", PASSWORD, "192.0.2.1"))

    nursery.start_soon(log_in_late)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ApiError, match="at once"):
        await logins.log_in("ana", PASSWORD, "192.0.2.1")
    go_on.set()
    while not entered:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert logins.find(entered[0]) is not None


# -- users by users --------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_admin_changes_users_of_their_tenant_alone(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    make_user(registry, logins, "bolts", tenant="bolt")
    make_user(registry, logins, "chief", Role.ADMIN, tenant=None)
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    new = {"user": "Joe", "role": "operator", "password": "a long secret", "sites": ["Hall 4"]}
    made = client.post("/api/v1/users", json=new)
    assert (made.json()["user"], made.json()["tenant"]) == ("joe", "acme")
    assert "password" not in made.text
    seen = client.get("/api/v1/users", params={"limit": 1}).json()
    assert [one["user"] for one in seen["users"]] == ["ana"]
    rest = client.get("/api/v1/users", params={"limit": 1, "after": seen["next"]}).json()
    assert [one["user"] for one in rest["users"]] == ["joe"]
    assert rest["next"] is None
    for other in ("bolts", "chief", "nobody"):
        for path, change in (
            ("", {"role": "viewer"}),
            ("/remove", {}),
            ("", {"password": "x" * 12}),
        ):
            refused = client.post(f"/api/v1/users/{other}{path}", json=change)
            assert refused.status_code == 404, (other, path)
            assert refused.json()["error"] == f"no user {other!r}"
    changed = client.post("/api/v1/users/joe", json={"role": "viewer"}).json()
    assert (changed["role"], changed["sites"]) == ("viewer", [])
    own: list[tuple[str, dict[str, Any]]] = [
        ("ana", {"role": "viewer"}),
        ("ANA", {"sites": []}),
        ("ana/remove", {"by": "bob"}),
    ]
    for path, change in own:
        assert client.post(f"/api/v1/users/{path}", json=change).status_code == 409
    for wrong, problem in (
        ({"user": "joe", "role": "viewer", "password": "a long secret"}, "is taken"),
        ({"user": "bolts", "role": "viewer", "password": "a long secret"}, "is taken"),
        ({"user": "a b", "role": "viewer", "password": "a long secret"}, "no name of a user"),
        ({"user": "new", "role": "viewer", "password": " " * 12}, "characters"),
        ({"user": "new", "role": "viewer", "password": "short"}, "characters"),
        (new | {"user": "new", "role": "viewer"}, "operator"),
        ({"user": "new", "role": "king", "password": "a long secret"}, "king"),
    ):  # fmt: skip
        refused = client.post("/api/v1/users", json=wrong)
        assert refused.status_code in (400, 409), wrong
        assert problem in refused.text + refused.json()["remedy"], refused.text
    assert client.post("/api/v1/users/joe/remove", json={}).json() == {"user": "joe"}
    assert [one.name for one in registry.users.all()] == ["ana", "bolts", "chief"]


def test_who_changes_their_own_password_gives_the_present_one(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN))
    new = {"password": "another horse", "by": "somebody else"}
    for old, status, field in (("", 400, "old_password"), ("wrong", 401, "password")):
        refused = client.post("/api/v1/users/Ana", json={**new, "old_password": old})
        assert (refused.status_code, refused.json()["field"]) == (status, field)
    assert client.get("/api/v1/users").status_code == 200  # the session goes on: nothing changed
    own = {**new, "old_password": PASSWORD}
    assert client.post("/api/v1/users/ana", json=own).status_code == 200
    (entry, *_) = registry.audit.page("acme", before=1 << 62, limit=9)[0]
    assert PASSWORD not in entry.detail


@pytest.mark.slow
def test_an_admin_of_the_hub_names_whose_user_it_is(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "chief", Role.ADMIN, tenant=None))
    new = {"user": "ann", "role": "viewer", "password": "a long secret"}
    made = client.post("/api/v1/users", params={"tenant": "acme"}, json=new).json()
    assert made["tenant"] == "acme"
    assert client.post("/api/v1/users", json=new | {"user": "bea"}).json()["tenant"] is None
    names = [one["user"] for one in client.get("/api/v1/users").json()["users"]]
    assert names == ["ann", "bea", "chief"]


@pytest.mark.slow
def test_the_page_of_an_account_changes_the_password(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana"))
    new = "another horse"
    for form, status, text in (
        ({"old": PASSWORD, "new": new, "again": "x"}, 400, "not the same twice"),
        ({"old": PASSWORD, "new": "short", "again": "short"}, 400, "10 to 200"),
        ({"old": "wrong", "new": new, "again": new}, 401, "no such name and password"),
        ({"old": PASSWORD, "new": new, "again": new}, 200, "The password is changed"),
    ):
        page = client.post("/account", data=form, headers=HTML)
        assert (page.status_code, text in page.text) == (status, True), page.text
        assert re.search(r"scrypt|another horse", page.text) is None
    assert client.get("/account", headers=HTML).status_code == 200


def test_what_is_not_a_form_is_told(client: TestClient, registry: Registry, logins: Logins) -> None:
    make_user(registry, logins, "ana")
    large = {"name": "ana", "password": "x" * 5000}
    assert client.post("/login", data=large, headers=FROM_OUR_PAGE).status_code == 413
    assert client.post("/login", json={}, headers=FROM_OUR_PAGE).status_code == 415
    answer = client.post("/login", data={"name": "ana"}, headers=FROM_OUR_PAGE)
    assert (answer.status_code, answer.json()["field"]) == (400, "password")
