"""Large objects over the API: shown, assigned, forgotten; each tenant's its own."""

from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
import trio

from edgesync.objects.model import ObjectState, Standing, pack_states
from edgesync.units import Bytes
from edgesync_transport.messages import ObjectReport
from hubd.api import object_bytes
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.logins import Logins
from hubd.api.objects import OneObject
from hubd.objects.service import ObjectService
from hubd.objects.settings import ObjectsSection
from hubd.objects.store import ObjectView
from hubd.registry import Registry
from tests.hubd.logins import log_in, make_user

pytestmark = pytest.mark.feature("S22")


def test_an_object_is_shown_assigned_taken_back_and_forgotten(client: httpx2.Client) -> None:
    names = [
        (one["tenant"], one["name"]) for one in client.get("/api/v1/objects").json()["objects"]
    ]
    assert names == [("acme", "basket"), ("default", "basket")]  # the operator asks
    found = client.get("/api/v1/objects/basket").json()
    assert (found["size"], found["edges"]) == (6, [])
    done = client.post("/api/v1/objects/basket/assign", json={"edges": ["mill"]})
    assert done.json() == {"object": "basket", "edges": ["mill"]}
    refused = client.post("/api/v1/objects/basket/remove", json={})
    assert (refused.status_code, refused.json()["field"]) == (409, "name")
    done = client.post("/api/v1/objects/basket/unassign", json={"all": True})
    assert done.json()["edges"] == ["mill"]
    assert client.post("/api/v1/objects/basket/remove", json={}).json()["name"] == "basket"
    assert client.get("/api/v1/objects/basket").status_code == 404


@pytest.mark.parametrize(("path", "body", "status", "field"), [
    ("none/assign", {"edges": ["mill"]}, 404, "object"),
    ("basket/assign", {"edges": []}, 400, "edges"),
    ("basket/assign", {"edges": ["mill"], "all": True}, 400, "edges"),
    ("basket/assign", {"edges": ["mill", "barn"]}, 404, "edge"),
    ("basket/unassign", {"edges": ["barn"]}, 404, "edge"),
    ("none/remove", {}, 404, "object"),
    ("a%20b/remove", {}, 400, "object"),
])  # fmt: skip
def test_mistakes_name_the_field(
    client: httpx2.Client, path: str, body: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post(f"/api/v1/objects/{path}", json=body)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


CONTENT = "/api/v1/objects/model/content"
BINARY = {"Content-Type": "application/octet-stream"}


def test_bytes_come_in_as_a_body_and_go_out_as_a_file(
    client: httpx2.Client, objects: ObjectService
) -> None:
    data = bytes(range(256)) * 1000
    made = client.post(CONTENT, content=data, headers=BINARY)
    assert (made.status_code, made.json()["size"]) == (200, len(data))
    found = client.get(CONTENT)
    assert (found.content, found.headers["content-type"]) == (data, "application/octet-stream")
    assert found.headers["etag"] == f'"{made.json()["sha256"]}"'
    client.post(CONTENT, content=b"newer", headers=BINARY)
    assert client.get(CONTENT).content == b"newer"
    (objects.store.path(client.get("/api/v1/objects/model").json()["sha256"])).unlink()
    assert client.get(CONTENT).status_code == 503
    assert client.get("/api/v1/objects/none/content").status_code == 404


def test_a_body_that_is_refused_leaves_nothing(
    client: httpx2.Client, objects: ObjectService
) -> None:
    before = sorted(objects.store.folder.iterdir())
    refused = client.post(CONTENT, content=b"", headers=BINARY)
    assert (refused.status_code, refused.json()["field"]) == (409, "size")
    objects.store.settings = ObjectsSection(size_max=Bytes(10))
    refused = client.post(CONTENT, content=b"x" * 11, headers=BINARY)
    assert (refused.status_code, "`size_max`" in refused.json()["remedy"]) == (409, True)
    refused = client.post(CONTENT, content=b"x", headers={"Content-Type": "text/plain"})
    assert (refused.status_code, refused.json()["field"]) == (415, "Content-Type")
    elsewhere = {**BINARY, "Origin": "https://elsewhere.example"}
    assert client.post(CONTENT, content=b"x", headers=elsewhere).status_code == 403
    assert client.get(CONTENT).status_code == 404
    assert sorted(objects.store.folder.iterdir()) == before


def test_who_may_not_write_may_read_bytes(
    client: httpx2.Client, registry: Registry, logins: Logins
) -> None:
    log_in(client, make_user(registry, logins, "vera", tenant=None))
    refused = client.post(CONTENT, content=b"x", headers=BINARY)
    assert (refused.status_code, refused.json()["field"]) == (403, "role")
    assert client.get("/api/v1/objects/basket/content").content == b"apples"


def test_only_so_many_are_on_their_way(client: httpx2.Client) -> None:
    for _ in range(2 * object_bytes.PLACES_MAX):  # each gives its place back
        assert client.get("/api/v1/objects/basket/content").content == b"apples"
        assert client.post(CONTENT, content=b"x", headers=BINARY).status_code == 200
        assert client.post(CONTENT, content=b"", headers=BINARY).status_code == 409
    with pytest.raises(ApiError, match="on their way"):
        object_bytes._acquire(trio.Semaphore(0))


async def test_a_download_that_is_cancelled_before_it_begins_gives_its_place_back(
    context: Context, objects: ObjectService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session has ended just then, say."""
    bytes_of_objects, scopes = object_bytes.ObjectBytes(), list[trio.CancelScope]()
    look = objects.store.one

    def one(tenant: str, name: str) -> ObjectView:
        trio.from_thread.run_sync(scopes[-1].cancel)
        return look(tenant, name)

    monkeypatch.setattr(objects.store, "one", one)
    for _ in range(object_bytes.PLACES_MAX):
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await bytes_of_objects.download(context, OneObject(object="basket"))
        assert scope.cancelled_caught
    assert bytes_of_objects._downloads.value == object_bytes.PLACES_MAX


def test_an_edges_objects_are_what_is_assigned_and_what_it_told(
    client: httpx2.Client, objects: ObjectService
) -> None:
    def shown() -> Any:
        found = client.get("/api/v1/edges/barn/objects").json()
        return found["is_current"], [
            (one["name"], one["standing"], one["have"]) for one in found["objects"]
        ]

    assert shown() == (False, [("basket", "wanted", 0)])
    listing = objects.store.listings()["barn"]
    (ref,) = listing.wanted
    told = [
        ObjectState(ref.name, ref.sha256, ref.size, 3, Standing.FETCHING),
        ObjectState("old", "0" * 64, 9, 9, Standing.KEPT),
    ]
    report = ObjectReport(epoch=1, listing=listing.digest(), payload=pack_states(told))
    objects.hear("barn", report)
    assert shown() == (True, [("basket", "fetching", 3), ("old", "kept", 9)])
    objects.hear("barn", ObjectReport(epoch=1, listing="", payload=b"\xc1"))  # no report
    assert shown()[0]
    objects.store.unassign("acme", "old", ["barn"])
    assert shown() == (False, [("basket", "fetching", 3), ("old", "removing", 9)])


async def test_what_an_edge_tells_while_it_is_noted_is_noted_next(
    objects: ObjectService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("basket", "old"):
        objects.store.unassign("acme", name, ["barn"])
    listing = objects.store.listings()["barn"]
    note, noted, is_done = objects.store.removed, list[list[str]](), trio.Event()

    def hear(*there: str) -> None:
        states = [ObjectState(name, "0" * 64, 9, 9, Standing.HELD) for name in there]
        report = ObjectReport(epoch=1, listing=listing.digest(), payload=pack_states(states))
        objects.hear("barn", report)

    def removed(edge: str, names: Sequence[str]) -> None:
        noted.append(sorted(names))
        note(edge, names)
        trio.from_thread.run_sync(hear if len(noted) == 1 else is_done.set)

    monkeypatch.setattr(objects.store, "removed", removed)
    hear("old")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(objects._keep_looking)
        with trio.fail_after(60):
            await is_done.wait()
        nursery.cancel_scope.cancel()
    assert noted == [["basket"], ["basket", "old"]]
    assert "barn" not in objects.store.listings()
