"""Entities of an edge over the API: edited, related, alarmed and removed, in its tenant's keys."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import trio

from edgesync.entities import alarms, claims, relations
from edgesync.entities.model import entity
from edgesync.entities.view import SpaceView
from hubd.api import edge_events
from hubd.api import entities as api
from hubd.api.context import Context
from hubd.api.edge_shapes import NewEvent
from hubd.api.entity_shapes import AlarmsPage, EntityBody, OfEdge, OneEntity
from hubd.api.params import OneEdge

EDGE = "/api/v1/edges/barn"
pytestmark = pytest.mark.feature("S8", "S19")


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    answer = client.post(f"{EDGE}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(client: httpx2.Client, path: str, **params: str) -> Any:
    answer = client.get(f"{EDGE}/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: httpx2.Client, path: str, body: Any, status: int = 400) -> Any:
    answer = client.post(f"{EDGE}/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_entity_is_created_changed_and_removed(client: httpx2.Client) -> None:
    found = post(client, "entities", entity="Scale 7", fields={"label": "by the gate", "n": 1})
    assert found["fields"] == {"label": "by the gate", "n": 1}
    assert found["created_ns"] > 0
    post(client, "entities", entity="Scale 7", fields={"label": "new", "n": None})
    post(client, "entities", entity="Root/1", kind="rule_chain")
    post(client, "entities", entity="odd", kind="quantum_gate")
    listed = get(client, "entities")["entities"]
    assert [(one["kind"], one["entity"]) for one in listed] == [
        ("device", "Scale 7"), ("quantum_gate", "odd"), ("rule_chain", "Root/1"),
    ]  # fmt: skip
    assert listed[0]["fields"] == {"label": "new"}
    first = get(client, "entities", limit="1")
    rest = get(client, "entities", limit="5", after=first["next"])
    assert len(rest["entities"]) == 2
    assert [one["entity"] for one in get(client, "entities", kind="device")["entities"]] == [
        "Scale 7"
    ]
    post(client, "attributes", entity="Scale 7", scope="shared", set={"limit": 900})
    assert post(client, "entities/delete", entity="Scale 7")["removed"] == {
        "shared": 1, "entity": 2
    }  # fmt: skip
    assert post(client, "entities/delete", entity="Scale 7") == {"removed": {}}
    assert len(get(client, "entities")["entities"]) == 2


def test_a_device_that_offers_itself_is_claimed_once(client: httpx2.Client) -> None:
    soon = time.time_ns() // 1_000_000 + 600_000
    for name, until_ms in (("Scale 7", soon), ("Scale 8", soon - 1_200_000)):
        offered = claims.offer("secret", until_ms, "salt")
        shown = post(client, "attributes", entity=name, scope="server", set={"claim": offered})
        assert shown["server"]["claim"]["value"] == offered | {"digest": "(secret)"}
    for name, secret in (("Scale 7", "wrong"), ("Scale 8", "secret"), ("Scale 9", "secret")):
        problem = refused(client, "claim", {"entity": name, "secret": secret})
        assert problem["error"] == "no device of this name may be claimed with it now"
        assert problem["field"] == "secret"
    found = post(client, "claim", entity="Scale 7", secret="secret", by="ana")["server"]
    assert list(found) == ["claimed"]
    assert found["claimed"]["value"]["by"] == "ana"
    again = claims.offer("secret", soon, "salt")
    post(client, "attributes", entity="Scale 7", scope="server", set={"claim": again})
    problem = refused(client, "claim", {"entity": "Scale 7", "secret": "secret", "by": "bob"})
    assert problem["field"] == "entity"
    assert "by 'ana'" in problem["error"]
    for odd in (7, {"digest": 1}, {"until_ms": soon}, {"until_ms": "x", "digest": "", "salt": ""}):
        post(client, "attributes", entity="odd", scope="server", set={"claim": odd})
        assert refused(client, "claim", {"entity": "odd", "secret": ""})["field"] == "secret"


async def test_of_two_who_claim_a_device_at_once_one_has_it(
    url: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked at the offer before either is in the log, and one of them is there late."""
    until_ms = time.time_ns() // 1_000_000 + 600_000
    async with httpx2.AsyncClient(base_url=f"{url}{EDGE}", timeout=60) as client:
        offered = {"claim": claims.offer("secret", until_ms, "salt")}
        await client.post("/attributes", json={"entity": "7", "scope": "server", "set": offered})
        run, waiting, is_answered = context.answers.run_commands, list[object](), trio.Event()
        both = trio.Event()

        async def late(commands: Any) -> Any:
            waiting.append(commands)
            if len(waiting) == 2:
                both.set()
                await is_answered.wait()
            await both.wait()
            return await run(commands)

        monkeypatch.setattr(context.answers, "run_commands", late)
        answers: dict[str, int] = {}

        async def claim(by: str) -> None:
            body = {"entity": "7", "secret": "secret", "by": by}
            answers[by] = (await client.post("/claim", json=body)).status_code
            is_answered.set()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for by in ("ana", "bob"):
                    nursery.start_soon(claim, by)
        found = (await client.get("/attributes", params={"entity": "7"})).json()
        by = found["server"]["claimed"]["value"]["by"]
        assert sorted(answers.values()) == [200, 409]
        assert answers[by] == 200


@pytest.mark.parametrize("what", ["delete", "relations_deleted", "relations", "alarms"])
async def test_a_question_about_an_entity_leaves_turns_to_others(
    context: Context, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """However many relations and alarms others of its edge have."""
    cell, scale = (entity("barn", "device", name) for name in ("Cell", "Scale 7"))
    view = context.answers.cells.view
    plan = relations.plan_relate(view, cell, "Contains", scale)
    for n in range(60):
        other = entity("barn", "device", f"Other {n}")
        plan += relations.plan_relate(view, other, "Manages", cell)
        plan += alarms.plan_raise(view, other, "x", alarms.Severity.MINOR, 1)
    await nursery.start(context.answers.run)
    await context.answers.run_commands(plan)
    reads, most = 0, 0

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def count(*asked: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*asked)

        return count

    async def others_turns() -> None:
        nonlocal reads, most
        while True:
            most, reads = max(most, reads), 0
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(api, "LOOKED_AT_A_TURN", 5)
    for name in ("fields", "field"):
        monkeypatch.setattr(SpaceView, name, counting(getattr(SpaceView, name)))
    edge, body = OneEdge(edge="barn"), EntityBody(entity="Scale 7")
    async with trio.open_nursery() as asking:
        asking.start_soon(others_turns)
        match what:
            case "delete":
                await api.delete(context, OfEdge(edge="barn"), body)
            case "relations_deleted":
                await edge_events.save(context, edge, NewEvent(entity="Scale 7", action=what))
            case "relations":
                await api.relations_of(context, OneEntity(edge="barn", entity="Scale 7"))
            case _:
                await api.alarms_of(context, AlarmsPage(edge="barn"))
        asking.cancel_scope.cancel()
    # Two turns of one task may follow each other; what the entity itself has is read at once.
    assert 0 < max(most, reads) <= 30
    if what in ("delete", "relations_deleted"):
        left = relations.all_relations(view, "barn")
        assert {it.type for it in left} == {"Manages"}


def test_attributes_are_edited(client: httpx2.Client) -> None:
    found = post(
        client, "attributes", entity="Scale 7", scope="shared",
        set={"limit": 900, "unit": "kg", "deep": {"a": [1, None]}},
    )  # fmt: skip
    assert {name: one["value"] for name, one in found["shared"].items()} == {
        "limit": 900, "unit": "kg", "deep": {"a": [1, None]},
    }  # fmt: skip
    assert all(one["updated_ns"] > 0 for one in found["shared"].values())
    post(client, "attributes", entity="Scale 7", scope="server", set={"note": "x"})
    post(client, "attributes", entity="Scale 7", scope="shared", set={"limit": 950},
         delete=["unit", "nowhere"])  # fmt: skip
    found = get(client, "attributes", entity="Scale 7")
    assert {name: one["value"] for name, one in found["shared"].items()} == {
        "limit": 950, "deep": {"a": [1, None]}
    }  # fmt: skip
    assert found["client"] == {}
    assert found["server"]["note"]["value"] == "x"
    # A device that got an attribute is there.
    assert [one["entity"] for one in get(client, "entities")["entities"]] == ["Scale 7"]
    assert get(client, "attributes", entity="nobody")["shared"] == {}


@pytest.mark.parametrize(
    ("body", "field", "remedy"),
    [
        ({"entity": "a\nb"}, "name", "leave it out"),
        ({"entity": "a", "kind": "DE VICE"}, "kind", "such as device"),
        ({"entity": "a", "scope": "client"}, "scope", "shared attribute"),
        ({"entity": "a", "set": {"": 1}}, "values.", "1 to 255 characters"),
        ({"entity": "a", "set": {"x": "y" * 70_000}}, "values.x", "at most 65536"),
        ({"entity": "a", "set": {f"n{n}": n for n in range(1001)}}, "values", "at most 1000"),
        ({"entity": ""}, "entity", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_says_field_and_remedy(
    client: httpx2.Client, body: dict[str, Any], field: str, remedy: str
) -> None:
    problem = refused(client, "attributes", {"scope": "shared", "set": {"k": 1}, **body})
    assert problem["field"] == field
    assert remedy in problem["remedy"]
    assert get(client, "entities")["entities"] == []


def test_relations_cycles_and_what_is_missing(client: httpx2.Client) -> None:
    relation = {"entity": "Barn", "kind": "asset", "type": "Contains", "to": "Scale 7"}
    found = post(client, "relations", **relation, data={"row": 3})
    assert found["relations"] == [
        {"source": "asset/Barn", "type": "Contains", "to": "device/Scale 7", "data": {"row": 3}}
    ]
    assert get(client, "relations", entity="Scale 7")["relations"] == found["relations"]
    back = {"entity": "Scale 7", "type": "Contains", "to": "Barn", "to_kind": "asset"}
    problem = refused(client, "relations", back)
    assert "asset/Barn contains device/Scale 7" in problem["error"]
    post(client, "entities", entity="Scale 7", fields={"profile": "scales"})
    found = get(client, "entities/findings")
    assert found["waiting"] == [
        {"what": "device/Scale 7", "lacks": "device_profile/scales"},
        {"what": "asset/Barn Contains device/Scale 7", "lacks": "asset/Barn"},
    ]
    assert (found["count"], found["cycles"]) == (1, [])
    post(client, "entities", entity="Barn", kind="asset")
    post(client, "entities", entity="scales", kind="device_profile")
    assert get(client, "entities/findings")["waiting"] == []
    assert post(client, "relations/delete", **relation)["relations"] == []


def test_an_alarm_is_raised_acknowledged_and_cleared(client: httpx2.Client) -> None:
    body = {"entity": "Scale 7", "type": "Too heavy", "severity": "MAJOR", "details": {"kg": 900}}
    raised = post(client, "alarms", **body)
    assert (raised["status"], raised["occurrence"]) == ("ACTIVE_UNACK", 1)
    assert raised["at_edge"] is False
    assert post(client, "alarms", **body) == raised
    acked = post(client, f"alarms/{raised['id']}/ack", by="ann")
    assert (acked["status"], acked["acked_by"]) == ("ACTIVE_ACK", "ann")
    assert post(client, f"alarms/{raised['id']}/ack", by="bob") == acked
    assert get(client, "alarms", acked="false")["alarms"] == []
    cleared = post(client, f"alarms/{raised['id']}/clear")
    assert (cleared["status"], cleared["details"]) == ("CLEARED_ACK", {"kg": 900})
    assert get(client, "alarms", status="active")["alarms"] == []
    assert get(client, "alarms", status="cleared", acked="true")["alarms"] == [cleared]
    again = post(client, "alarms", **body, by="rule")
    assert (again["occurrence"], again["status"], again["raised_by"]) == (2, "ACTIVE_UNACK", "rule")
    assert refused(client, f"alarms/{'0' * 24}/ack", {}, 404)["field"] == "id"
    assert refused(client, "alarms/nonsense/ack", {})["field"] == "id"
    assert refused(client, "alarms", {**body, "severity": "LOUD"})["field"] == "severity"
    assert refused(client, "alarms", {**body, "details": "x" * 20_000})["field"] == "details"


def test_many_alarms_come_in_pages(client: httpx2.Client) -> None:
    for number in range(7):
        post(client, "alarms", entity=f"Scale {number}", type="x", severity="MINOR")
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = get(client, "alarms", limit="3", **after)
        found += [one["entity"] for one in page["alarms"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == [f"Scale {number}" for number in range(7)]


def test_alarms_of_all_edges_come_in_pages(client: httpx2.Client) -> None:
    for edge in ("barn", "shop"):
        for number in range(3):
            body = {"entity": f"Scale {number}", "type": "x", "severity": "MINOR"}
            assert client.post(f"/api/v1/edges/{edge}/alarms", json=body).status_code == 200
    found: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("/api/v1/alarms", params={"limit": "2", **after}).json()
        found += [(one["edge"], one["entity"]) for one in page["alarms"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == [(e, f"Scale {n}") for e in ("barn", "shop") for n in range(3)]
    assert client.get("/api/v1/alarms", params={"status": "cleared"}).json()["alarms"] == []
    assert "Scale 2" in client.get("/alarms").text
    assert "Scale 2" in client.get("/alarms?all=true").text


def test_an_edge_that_nobody_knows_has_nothing(client: httpx2.Client) -> None:
    for path in ("entities", "entities/findings", "alarms", "attributes?entity=a"):
        assert client.get(f"/api/v1/edges/nowhere/{path}").status_code == 404
    answer = client.post("/api/v1/edges/nowhere/entities", json={"entity": "a"})
    assert answer.status_code == 404
