"""What went between edges and hub: found within bounded work, exported, and given up."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from starlette.testclient import TestClient

from edgesync.model import Action, EventType
from edgesync_transport.messages import Lane
from hubd.api import Context, exports, make_app
from hubd.api.errors import ApiError
from hubd.api.exports import EventsExport, Exports
from hubd.api.logins import Logins
from hubd.project.base import apply_entries
from hubd.project.events import EventsProjector
from hubd.registry import Registry, Role
from hubd.rpc.service import RpcService
from hubd.state import views
from tests.hubd.batches import START_NS, Edge
from tests.hubd.logins import log_in, make_user
from tests.hubd.still import StillHub

pytestmark = pytest.mark.feature("S10")

EVENTS = "/api/v1/events"
EXPORT = "/api/v1/events/export"


def every_page(client: httpx2.Client, **query: Any) -> tuple[list[dict[str, Any]], int]:
    """Follow `next` to the end; returns the events, and how many pages they were on."""
    found, pages, after = list[dict[str, Any]](), 0, dict[str, str]()
    while True:
        answer = client.get(EVENTS, params=query | after)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["events"]) <= query.get("limit", 100)
        found += page["events"]
        pages += 1
        if page["next"] is None:
            return found, pages
        after = {"after": page["next"]}


@pytest.mark.parametrize(
    "query",
    [
        {}, {"text": "squeaks"}, {"edge": "barn", "text": "squeaks"}, {"status": "lost"},
        {"edge": "barn", "type": "source"}, {"edge": "barn", "type": "source", "text": "no answer"},
        {"entity": "meter0"}, {"edge": "barn", "entity": "meter0"},
        {"action": "attributes_updated"},
        {"from": str(START_NS + 1)}, {"to": str(START_NS + 1), "lane": "bulk"}, {"text": "nothing"},
    ],
    ids=str,
)  # fmt: skip
def test_a_page_is_made_of_so_many_rows_and_nothing_is_missed(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    """Every filter, read whole and read three rows at a time."""
    whole, _ = every_page(client, **query)
    assert bool(whole) == (query.get("text") != "nothing")
    monkeypatch.setattr(views, "LOOKED_AT_MAX", 3)
    found, pages = every_page(client, limit=2, **query)
    assert found == whole
    # With these an index leads to the few that may fit, and no more are looked at.
    is_led = "edge" in query and not {"type", "entity"}.isdisjoint(query)
    assert (pages >= 4) != is_led


@pytest.mark.parametrize("query", [{}, {"text": "555"}, {"text": "token"}, {"limit": 2}], ids=str)
def test_secrets_are_neither_shown_nor_found(
    context: Context, client: httpx2.Client, query: dict[str, Any]
) -> None:
    """In pages and exports; a search would else find a hash out, a letter at a time."""
    edge = Edge("barn", origin=9)
    told = {"token_sha256": "5" * 64, "by": "ana"}
    for kind, action, body in (
        (EventType.ENTITY, Action.CREDENTIALS_UPDATED, json.dumps(told)),
        (EventType.CUSTOM, Action.NONE, json.dumps({"password": "5" * 64})),
        (EventType.LIFECYCLE, Action.NONE, json.dumps({"body": json.dumps(told)})),
        (EventType.CUSTOM, Action.NONE, json.dumps(told)[:70]),
        (EventType.CUSTOM, Action.NONE, '{"n":"555"}'),
    ):
        edge.event(kind, body.encode(), action=action)
    entries = [edge.entry(9), edge.refused(10, b"\xff" + json.dumps(told).encode(), "no record")]
    projector = EventsProjector(context.live)
    context.state.write_now(lambda connection: apply_entries(projector, connection, entries))
    found, _ = every_page(client, **query)
    bodies = [one["body"] for one in found if "token_sha256" in str(one["body"])]
    assert len(bodies) == (0 if query.get("text") == "555" else 3)
    assert any("555" in str(one["body"]) for one in found) == (query.get("text") != "token")
    exported = client.get(EXPORT, params={key: query[key] for key in query if key != "limit"}).text
    for shown in (str(found), exported):
        assert "5" * 8 not in shown
        assert "35" * 8 not in shown  # of bytes that are no text


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_an_export_has_what_the_pages_have(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for query in ({}, {"edge": "barn", "type": "source"}, {"text": "nothing"}):
        events, _ = every_page(client, **query)
        answer = client.get(EXPORT, params={"format": "ndjson", **query})
        assert [json.loads(line) for line in answer.text.splitlines()] == events
        assert answer.headers["content-type"] == "application/x-ndjson"
        answer = client.get(EXPORT, params=query)
        assert answer.headers["content-disposition"] == 'attachment; filename="events.csv"'
        rows = rows_of(answer.text)
        assert [row["n"] for row in rows] == [str(event["n"]) for event in events]
        assert list(rows[0] if rows else exports.COLUMNS) == list(exports.COLUMNS)
    monkeypatch.setattr(exports, "PAGE_MAX", 5)
    monkeypatch.setattr(exports, "ROWS_MAX", 6)
    events, _ = every_page(client)
    first = rows_of(client.get(EXPORT).text)
    assert (len(first), first[-1]["status"]) == (11, "more")
    after = first[-1]["reason"].removeprefix("after=")
    lines = client.get(EXPORT, params={"format": "ndjson", "after": after}).text.splitlines()
    assert [json.loads(line) for line in lines] == events[10:]
    last = client.get(EXPORT, params={"format": "ndjson"}).text.splitlines()[-1]
    assert json.loads(last) == {"status": "more", "next": after}


def test_what_is_wrong_is_told_before_the_file_begins(client: httpx2.Client) -> None:
    for query, status in (
        ({"format": "xls"}, 400), ({"type": "nothing"}, 400), ({"edge": "nobody"}, 404),
        ({"limit": "5"}, 400), ({"from": "yesterday"}, 400), ({"after": "x"}, 400),
    ):  # fmt: skip
        assert client.get(EXPORT, params=query).status_code == status, query


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "\uff1d1"])
def test_a_spreadsheet_carries_nothing_out(text: str) -> None:
    assert exports._text(text) == f"'{text}"
    assert exports._text(-5) == "-5"
    assert exports._text({"a": text}).startswith("{")


async def test_few_exports_are_made_at_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "EXPORTS_MAX", 1)
    made = Exports()
    answer = await made.events(context, EventsExport())
    parts = answer.body_iterator.__aiter__()
    await parts.__anext__()
    with pytest.raises(ApiError, match="1 exports are being made"):
        await made.events(context, EventsExport())
    async for _ in parts:
        pass
    again = await made.events(context, EventsExport(format="ndjson"))
    assert len([part async for part in again.body_iterator]) == 1


async def test_as_few_are_made_of_many_that_are_asked_for_at_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "EXPORTS_MAX", 2)
    made, statuses = Exports(), list[int]()

    async def ask() -> None:
        try:
            await made.events(context, EventsExport())
        except ApiError as error:
            statuses.append(error.status)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert statuses == [503] * 8


async def test_an_export_that_is_wrong_or_left_at_once_gives_its_place_back(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "EXPORTS_MAX", 1)
    made = Exports()

    async def send(_message: object) -> None:
        await trio.sleep_forever()

    for _ in range(3):
        with pytest.raises(ApiError, match="nobody"):
            await made.events(context, EventsExport(edge="nobody"))
        answer = await made.events(context, EventsExport())
        with trio.CancelScope() as scope:
            scope.cancel()
            await answer({"type": "http"}, trio.sleep_forever, send)


# -- from the hub to edges -------------------------------------------------------------------------


@pytest.fixture
def hub(context: Context) -> Context:
    """Two edges of two tenants, for both of which something waits."""
    hub = context.hub
    assert isinstance(hub, StillHub)
    whose = {"barn": "acme", "shop": "bolt"}
    hub.all = [msgspec.structs.replace(one, tenant=whose[one.edge]) for one in hub.all]
    return context


@pytest.fixture
def browser(hub: Context) -> Iterator[httpx2.Client]:
    app = make_app(hub, answers_of={"acme": hub.answers}.get)
    with TestClient(app, backend="trio", follow_redirects=False) as client:
        yield client


def call(client: httpx2.Client, edge: str, method: str) -> None:
    asked = {"device": "scale", "method": method}
    assert client.post(f"/api/v1/edges/{edge}/rpc", json=asked).status_code == 200


def test_what_waits_for_edges_is_listed_in_order(browser: httpx2.Client) -> None:
    for method in ("zero", "print"):
        call(browser, "barn", method)
    call(browser, "shop", "open")
    found = browser.get("/api/v1/downlink").json()
    assert found["next"] is None
    shown = [(one["edge"], one["seq"], one["body"]["method"]) for one in found["records"]]
    assert shown == [
        ("barn", 1, "tare"), ("barn", 2, "zero"), ("barn", 3, "print"), ("shop", 1, "open"),
    ]  # fmt: skip
    assert {one["type"] for one in found["records"]} == {"rpc_request"}
    paged, after = list[Any](), dict[str, str]()
    while True:
        page = browser.get("/api/v1/downlink", params={"limit": 1, **after}).json()
        paged += page["records"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert paged == found["records"]
    only = browser.get("/api/v1/downlink", params={"edge": "shop"}).json()
    assert [one["edge"] for one in only["records"]] == ["shop"]
    assert browser.get("/api/v1/downlink", params={"edge": "nobody"}).status_code == 404
    acmes = browser.get("/api/v1/downlink", params={"tenant": "acme"}).json()
    assert {one["edge"] for one in acmes["records"]} == {"barn"}


def test_what_an_edge_has_acknowledged_waits_no_more(
    browser: httpx2.Client, rpc: RpcService
) -> None:
    call(browser, "barn", "zero")
    rpc.delivery.journal.mark("barn", {Lane.CRITICAL: 1})
    found = browser.get("/api/v1/downlink").json()["records"]
    assert [(one["edge"], one["seq"]) for one in found] == [("barn", 2)]
    page = browser.get("/events", headers={"Accept": "text/html"}).text
    assert "waiting-barn-critical-2" in page
    assert "waiting-barn-critical-1" not in page


def test_an_admin_gives_up_what_waits(
    browser: httpx2.Client, registry: Registry, logins: Logins
) -> None:
    log_in(browser, make_user(registry, logins, "vera", Role.OPERATOR))
    page = browser.get("/events", headers={"Accept": "text/html"}).text
    assert "waiting-barn-critical-1" in page
    assert "Give up all" not in page
    for path in ("/edges/barn/give-up", "/api/v1/edges/barn/downlink/clear"):
        assert browser.post(path).status_code == 403
    log_in(browser, make_user(registry, logins, "ana", Role.ADMIN))
    page = browser.get("/events", headers={"Accept": "text/html"}).text
    assert "Give up all that waits for barn" in page
    assert browser.post("/edges/shop/give-up").status_code == 404  # bolt's
    assert browser.post("/edges/barn/give-up").headers["location"] == "/events?tenant=acme"
    assert browser.get("/api/v1/downlink").json()["records"] == []
    given_up = browser.get("/api/v1/rpc/basket").json()
    assert (given_up["state"], "given up" in given_up["reason"]) == ("EXPIRED", True)
    again = browser.post("/api/v1/edges/barn/downlink/clear").json()
    assert again == {"edge": "barn", "records": 0}


def test_the_page_says_when_it_does_not_know(browser: httpx2.Client, tmp_path: Path) -> None:
    """A registry that is away: nothing is said to wait, and nothing not to."""
    (tmp_path / "registry.db").rename(tmp_path / "aside")
    page = browser.get("/events", headers={"Accept": "text/html"}).text
    assert "Not known now" in page
    assert "Nothing waits" not in page


def test_the_page_finds_what_it_is_asked_for(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    html = {"Accept": "text/html"}
    asked = {
        "edge": "barn", "type": "attributes", "action": "attributes_updated", "entity": "door",
        "lane": "bulk", "status": "stored", "text": "SQUEAKS", "from": str(START_NS),
        "to": str(START_NS + 1),
    }  # fmt: skip
    page = client.get("/events", params=asked, headers=html).text
    assert page.count('id="event-') == 1
    (link,) = {part.split('"')[0] for part in page.split('href="')[1:] if "format=csv" in part}
    exported = client.get(link.replace("&amp;", "&"))
    assert len(rows_of(exported.text)) == 1
    for name, wrong in (("type", "x"), ("from", "yesterday"), ("lane", "x"), ("edge", "nobody")):
        assert client.get("/events", params={name: wrong}, headers=html).status_code in (400, 404)
    monkeypatch.setattr(views, "LOOKED_AT_MAX", 3)
    page = client.get("/events", params={"text": "squeaks"}, headers=html).text
    assert "None among those looked at" in page
    assert 'id="older"' in page
