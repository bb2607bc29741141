"""Edges as a whole over HTTP and from Python, and events for them by their action."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from edgesync._native import event as event_codec
from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.model import Scope, entity
from edgesync.entities.view import SpaceView
from edgesync.errors import StoreFull
from edgesync.model import Action, EventType, Lane
from hubd.api import Context, edge_events, make_app
from hubd.api.logins import Logins
from hubd.client import HubClient
from hubd.edge_service import EdgeService
from hubd.errors import HubRefused
from hubd.registry import Registry, Role
from hubd.rpc.service import RpcService
from tests.hubd.keys import meet
from tests.hubd.logins import log_in, make_user
from tests.hubd.still import NOW_NS, StillHub

pytestmark = pytest.mark.feature("S28")


@pytest.fixture
def shared(context: Context) -> Context:
    """Edge barn is acme's, shop is bolt's; both have labels, one has a customer."""
    hub = context.hub
    assert isinstance(hub, StillHub)
    said = {
        "barn": {"tenant": "acme", "site": "Hall 4", "label": "Old Barn", "type": "farm"},
        "shop": {"tenant": "bolt", "customer": "Mill & Co"},
    }
    hub.all = [msgspec.structs.replace(one, **said[one.edge]) for one in hub.all]
    return context


@pytest.fixture
def client(shared: Context) -> Iterator[TestClient]:
    with TestClient(make_app(shared), backend="trio") as client:
        assert client.portal is not None
        keys = client.portal.start_task_soon(shared.answers.run)
        yield client
        keys.cancel()


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    answer = client.post(f"/api/v1/edges{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: httpx2.Client, path: str, **body: Any) -> tuple[int, str]:
    answer = client.post(f"/api/v1/edges{path}", json=body)
    return answer.status_code, answer.json()["field"]


def waiting(rpc: RpcService, edge: str = "barn") -> list[tuple[str, str, str, Any]]:
    """What waits for an edge: type, action, entity and body of each event."""
    found = []
    for one in rpc.delivery.journal.waiting([edge], ("", 0, 0), 100):
        kind, action, _, name, body, *_ = event_codec.decode(one.body)
        found.append((EventType(kind).name, Action(action).name, name, msgspec.json.decode(body)))
    return found


# -- edges -----------------------------------------------------------------------------------------


def test_an_edge_is_created_changed_and_given_a_token(
    client: TestClient, registry: Registry
) -> None:
    made = post(client, "", edge="till-9", label="Till nine", type="till", prefixes=["till/"])
    assert (made["is_new"], made["has_joined"], made["tenant"]) == (True, False, "default")
    changed = post(client, "", edge="till-9", label="The till", site="Hall 4")
    assert not changed["is_new"]
    assert (changed["label"], changed["type"], changed["site"]) == ("The till", "till", "Hall 4")
    assert changed["prefixes"] == ["till/"]
    assert post(client, "", edge="till-9", label="", prefixes=[])["label"] == ""
    assert registry.edges.one("till-9").prefixes == ()
    # Of an edge of another tenant: by its own.
    assert post(client, "", edge="barn", label="Barn")["tenant"] == "acme"
    token = post(client, "/barn/token")
    assert token["token"] == "token of barn"
    assert len(registry.enrolments.guests()) == 4  # the one of before is told that it is no good


BODIES: dict[str, dict[str, Any]] = {
    "customer": {"customer": "Mill"}, "forget": {"confirm": "nowhere"},
    "events": {"action": "deleted", "entity": "x"}, "downlink/clean": {"older_than_s": 1},
}  # fmt: skip


def test_what_is_no_edge_is_refused_with_the_field(client: TestClient, registry: Registry) -> None:
    assert refused(client, "", edge="no name") == (400, "edge")
    assert refused(client, "", edge="a", label="x" * 256) == (400, "label")
    assert refused(client, "", edge="a", label="a\nb") == (400, "label")
    assert refused(client, "", edge="a", prefixes=["p" * 2000]) == (400, "prefixes")
    assert refused(client, "?tenant=bolt", edge="barn") == (404, "tenant")
    assert {one.name for one in registry.edges.all()} == {"barn", "mill", "shop"}
    for path in ("token", "customer", "forget", "sync", "events", "downlink/clean"):
        body = BODIES.get(path, {})
        assert refused(client, f"/nowhere/{path}", **body) == (404, "edge"), path


def test_a_name_that_is_anothers_is_taken(shared: Context) -> None:
    """A tenant is told no more than that."""
    app = make_app(shared, answers_of={"bolt": shared.answers}.get)
    with TestClient(app, backend="trio") as client:
        answer = client.post("/api/v1/edges?tenant=bolt", json={"edge": "barn"})
        assert answer.status_code == 409
        assert "acme" not in answer.text
        assert post(client, "?tenant=bolt", edge="kiosk")["tenant"] == "bolt"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["barn", "shop"]), ("site=Hall 4", ["barn"]), ("type=farm", ["barn"]),
        ("customer=Mill %26 Co", ["shop"]), ("state=lost", ["shop"]), ("text=OLD", ["barn"]),
        ("text=sho", ["shop"]), ("text=sho&site=Hall 4", []),
    ],
)  # fmt: skip
def test_edges_are_found_by_what_is_said_of_them(
    client: TestClient, query: str, expected: list[str]
) -> None:
    found = client.get(f"/api/v1/edges?{query}").json()
    assert [one["link"]["edge"] for one in found["edges"]] == expected
    first = client.get(f"/api/v1/edges?{query}&limit=1").json()
    assert (first["next"] is not None) == (len(expected) > 1)


@pytest.mark.feature("S9")
def test_a_customer_is_shown_to_the_edge_and_told_with_an_event(
    client: TestClient, shared: Context, rpc: RpcService, registry: Registry
) -> None:
    before = waiting(rpc)
    assert post(client, "/barn/customer", customer="Ana's Farm", by="ana")["customer"]
    assert post(client, "/barn/customer", customer="Ana's Farm")  # once more: nothing new
    view = SpaceView(shared.answers.cells.space, shared.answers.cells.now_ms)
    own = records.find(view, entity("barn", "edge", "barn"))
    assert own is not None
    assert own.fields == {"customer": "Ana's Farm"}
    assert records.find(view, entity("barn", "customer", "Ana's Farm"))
    assert registry.edges.one("barn").customer == "Ana's Farm"
    post(client, "/barn/customer", customer="")
    own = records.find(view, entity("barn", "edge", "barn"))
    assert own is not None
    assert own.fields == {}
    told = [one for one in waiting(rpc) if one not in before]
    facts = {"kind": "edge", "customer": "Ana's Farm", "by": "hub"}
    assert told == [
        ("ENTITY", "ASSIGNED_TO_CUSTOMER", "barn", facts | {"by": "ana"}),
        ("ENTITY", "UNASSIGNED_FROM_CUSTOMER", "barn", facts),
    ]
    assert refused(client, "/barn/customer", customer="a\x01") == (400, "customer")


def test_an_edge_is_forgotten_when_its_name_is_said_twice(
    client: TestClient, registry: Registry, rpc: RpcService
) -> None:
    assert refused(client, "/barn/forget", confirm="born") == (400, "confirm")
    assert "barn" in {one.name for one in registry.edges.all()}
    gone = post(client, "/barn/forget", confirm="barn")
    assert gone == {"edge": "barn", "lag_records": 0, "downlink_records": 1}
    assert "barn" not in {one.name for one in registry.edges.all()}
    assert waiting(rpc) == []


async def test_forgetting_is_done_again_where_the_keys_could_not_be_stored(
    shared: Context, hub: HubClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_edge: str) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=9)

    answers = shared.answers
    meet(answers.cells, ("barn", ("SET", "a", "1")))
    assert answers.cells.names.get("barn") is not None
    with monkeypatch.context() as patched:
        patched.setattr(answers, "give_up", full)
        with pytest.raises(HubRefused, match="full"):
            await hub.delete_edge("barn")
    assert "barn" not in {one.name for one in registry.edges.all()}
    assert (await hub.delete_edge("barn")).edge == "barn"
    assert answers.cells.names.get("barn") is None
    with pytest.raises(HubRefused, match="no edge 'barn'"):
        await hub.delete_edge("barn")


def test_a_sync_is_a_call_of_the_edge_itself(client: TestClient, rpc: RpcService) -> None:
    call = post(client, "/barn/sync", full=False, ttl_s=60)
    assert (call["device"], call["method"], call["state"]) == ("@edge", "sync", "QUEUED")
    assert call["params"] == {"full": False}
    assert ("RPC_REQUEST", "RPC_CALL", "@edge") in [one[:3] for one in waiting(rpc)]


def test_what_an_edge_lacks_is_listed_with_what_waits_for_it(client: TestClient) -> None:
    post(client, "/barn/entities", entity="Scale", fields={"profile": "heavy"})
    post(client, "/barn/relations", entity="Scale", type="Contains", to="Cell")
    found = client.get("/api/v1/edges/barn/missing").json()
    assert found["bundle"].startswith("basket")
    assert found["chains"] == []
    assert found["waiting"] == [
        {"what": "device/Scale", "lacks": "device_profile/heavy"},
        {"what": "device/Scale Contains device/Cell", "lacks": "device/Cell"},
    ]
    assert client.get("/api/v1/edges/nowhere/missing").status_code == 404


def test_a_chain_that_leads_nowhere_is_missing(client: TestClient, context: Context) -> None:
    """One of a bundle of before that chain was checked, as a restored registry may have."""
    assert context.rules is not None
    found = context.rules.bundles.bundle("acme", "basket")
    chain = msgspec.json.decode(next(iter(found.files.values())))
    chain["metadata"]["ruleChainConnections"] = [
        {"fromIndex": 0, "targetRuleChainId": {"entityType": "RULE_CHAIN", "id": "gone"},
         "additionalInfo": {}, "type": "Success"}
    ]  # fmt: skip
    spoiled = msgspec.structs.replace(
        found, files={"root.json": msgspec.json.encode(chain).decode()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.rules.bundles, "bundle", lambda *_: spoiled)
        told = client.get("/api/v1/edges/barn/missing").json()["chains"]
    assert [one["lacks"] for one in told] == [["gone"]]


# -- events for edges ------------------------------------------------------------------------------

ONE = {"entity": "Scale"}
EACH: list[tuple[str, dict[str, Any]]] = [
    ("added", {"body": {"fields": {"label": "a"}}}),
    ("updated", {"body": {"fields": {"label": "b"}}}),
    ("assigned_to_edge", {}),
    ("attributes_updated", {"body": {"set": {"limit": 9, "unit": "kg"}}}),
    ("attributes_deleted", {"body": {"delete": ["unit"]}}),
    ("relation_add_or_update", {"body": {"type": "Contains", "to": "Cell"}}),
    ("relation_add_or_update", {"body": {"type": "Uses", "to": "Cell"}}),
    ("relation_deleted", {"body": {"type": "Uses", "to": "Cell"}}),
    ("assigned_to_customer", {"body": {"customer": "Mill"}}),
    ("added", {"type": "alarm", "body": {"type": "Too heavy", "severity": "MAJOR"}}),
]


@pytest.mark.feature("S9")
def test_every_action_has_its_effect(
    client: TestClient, shared: Context, rpc: RpcService, registry: Registry
) -> None:
    one = entity("barn", "device", "Scale")
    view = SpaceView(shared.answers.cells.space, shared.answers.cells.now_ms)
    seen = set[tuple[str, str]]()

    def do(action: str, **asked: Any) -> Any:
        saved = post(client, "/barn/events", action=action, **{**ONE, **asked})
        seen.add((saved["type"], saved["action"]))
        return saved

    for action, asked in EACH:
        do(action, **asked)
    record = records.find(view, one)
    assert record is not None
    assert record.fields == {"label": "b", "customer": "Mill"}
    assert attributes.read(view, one, Scope.SHARED) == {"limit": 9}
    assert [it.type for it in relations.relations_from(view, one)] == ["Contains"]
    id_ = alarms.alarm_id(one, "Too heavy")
    do("alarm_ack", entity="", body={"id": id_})
    do("alarm_clear", entity="", body={"id": id_})
    assert alarms.find_alarm(view, "barn", id_).status == "CLEARED_ACK"  # type: ignore[union-attr]
    do("relations_deleted", entity="Cell")
    assert relations.relations_from(view, one) == []
    do("unassigned_from_customer", body={"customer": "Mill"})
    do("unassigned_from_edge")
    assert records.find(view, one) is None
    do("deleted")
    do("assigned_to_customer", entity="barn", kind="edge", body={"customer": "Mill"})
    do("unassigned_from_customer", entity="barn", kind="edge")
    assert registry.edges.one("barn").customer == ""
    do("rpc_call", body={"method": "tare"})
    reading = {"key": "P", "value": 1.5, "time_ns": NOW_NS, "unit": "W"}
    do("timeseries_updated", body={"readings": [reading]})
    do("timeseries_deleted", body={"keys": ["P"]})
    do("credentials_updated", body={"token": "a very long one"})
    saved = do("none", entity="", body={"any": [1, None]})
    assert (saved["type"], saved["lane"], saved["seq"] > 0) == ("CUSTOM", "normal", True)
    assert seen == {(kind.name, action.name) for kind, action in edge_events.ACTS}
    # Each action of the vocabulary is one of them.
    assert {action for _, action in edge_events.ACTS} == set(Action)
    told = {(kind, action): body for kind, action, _, body in waiting(rpc)}
    assert told["TELEMETRY", "TIMESERIES_UPDATED"] == {"readings": [reading]}
    digest = hashlib.sha256(b"a very long one").hexdigest()
    assert told["ENTITY", "CREDENTIALS_UPDATED"]["token_sha256"] == digest
    shown = client.get("/api/v1/downlink").text
    assert "(secret)" in shown
    assert "a very long one" not in shown
    assert digest not in shown


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("action", {"action": "explode"}), ("action", {"action": "alarm_ack", "type": "entity"}),
        ("type", {"action": "added", "type": "nothing"}), ("action", {}),
        ("entity", {"action": "added", "entity": ""}), ("id", {"action": "alarm_ack"}),
        ("readings", {"action": "timeseries_updated"}),
        ("token", {"action": "credentials_updated", "body": {"token": "short"}}),
        ("kind", {"action": "credentials_updated", "kind": "asset"}),
        ("customer", {"action": "assigned_to_customer"}),
        ("entity", {"action": "unassigned_from_customer", "kind": "edge"}),
        ("scope", {"action": "attributes_updated", "body": {"scope": "mine", "set": {"a": 1}}}),
        ("readings", {"action": "timeseries_updated", "body": {"readings": [{"key": "P"}]}}),
    ],
)  # fmt: skip
def test_an_event_that_is_none_says_what_is_wrong(
    client: TestClient, rpc: RpcService, field: str, asked: dict[str, Any]
) -> None:
    before = waiting(rpc)
    answer = client.post("/api/v1/edges/barn/events", json={"entity": "Scale", **asked})
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert answer.json()["remedy"]
    assert waiting(rpc) == before


def test_events_that_wait_for_too_long_are_given_up(
    client: TestClient, rpc: RpcService, registry: Registry
) -> None:
    for n in range(3):
        post(client, "/barn/events", action="none", body={"n": n})
    count = len(waiting(rpc))
    # What was sent is younger than an hour, by the clock of the journal.
    journal = rpc.delivery.journal
    now_ns = journal._clock_ns()
    assert journal.give_up_before("barn", now_ns - 3600 * 10**9) == []
    assert len(waiting(rpc)) == count
    gone = journal.give_up_before("barn", now_ns + 10**9)
    assert gone == [(Lane.CRITICAL, 1, 1), (Lane.NORMAL, 1, 3)]
    assert waiting(rpc) == []
    assert journal.give_up_before("barn", now_ns + 10**9) == []
    assert post(client, "/barn/downlink/clean", older_than_s=0) == {"edge": "barn", "records": 0}


@pytest.mark.feature("C14")
def test_what_users_do_with_edges_is_kept_without_tokens(
    client: TestClient, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "ana", Role.ADMIN, tenant=None))
    post(client, "", edge="kiosk", label="Kiosk")
    post(client, "/barn/sync")
    told = {"action": "credentials_updated", "entity": "pump", "body": {"token": "a very long one"}}
    post(client, "/barn/events", **told)
    found = client.get("/api/v1/audit").json()["entries"]
    assert [(one["what"], one["edge"]) for one in found] == [
        ("events", "barn"), ("sync", "barn"), ("edges", "kiosk"),
    ]  # fmt: skip
    assert "pump" in found[0]["detail"]
    assert "a very long one" not in str(found)


# -- from Python -----------------------------------------------------------------------------------


@pytest.mark.feature("L13")
async def test_a_program_does_all_of_it(
    shared: Context, hub: HubClient, edge_service: EdgeService
) -> None:
    assert [one.link.edge for one in await hub.edges(site="Hall 4")] == ["barn"]
    assert (await hub.edge("barn")).link.label == "Old Barn"
    made = await hub.save_edge("kiosk", label="Kiosk", type="till", site="Hall 1", prefixes=["k/"])
    assert (made.is_new, made.prefixes) == (True, ("k/",))
    assert (await hub.edge_token("barn")).token == "token of barn"
    assert (await hub.assign_edge("barn", "Mill")).customer == "Mill"
    assert (await hub.unassign_edge("barn")).customer == ""
    assert (await hub.sync_edge("barn")).device == "@edge"
    assert (await hub.missing("barn")).waiting == []
    saved = await hub.save_event("barn", "none", body={"say": "hello"})
    assert saved.seq > 0
    assert len(await hub.events("barn", limit=3)) == 3
    assert "say" in str([one.body for one in await hub.waiting_events("barn")])
    assert await hub.clean_events("barn", 0.0) >= 0
    assert (await hub.delete_edge("barn")).edge == "barn"
    with pytest.raises(HubRefused):
        await hub.edge_token("nowhere")
