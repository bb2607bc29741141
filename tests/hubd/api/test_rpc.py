"""Calls of devices over the API: made, listed, waited for, and refused with what to do."""

from typing import Any

import httpx2
import msgspec
import pytest
import trio

from edgesync.rpc.model import Report, State
from hubd.api.context import Context
from hubd.downlink import journal as journal_module
from tests.hubd.serving import serve
from tests.hubd.still import of_tenant
from tests.sites import until

pytestmark = pytest.mark.feature("S24")

RPC = "/api/v1/edges/barn/rpc"


@pytest.fixture
def context(context: Context) -> Context:
    return of_tenant(context, "acme")


def asked(**more: Any) -> dict[str, Any]:
    return {"device": "scale", "method": "tare", **more}


def test_a_call_is_stored_and_found(client: httpx2.Client) -> None:
    sent = client.post(RPC, json=asked(params={"to": 0}, ttl_s=30))
    assert sent.status_code == 200
    call = sent.json()
    assert (call["state"], call["params"], call["answer"]) == ("QUEUED", {"to": 0}, None)
    assert call["expires_ns"] - call["created_ns"] == 30 * 10**9
    assert client.get(f"/api/v1/rpc/{call['id']}").json() == call
    page = client.get(RPC, params={"state": "QUEUED", "limit": 1}).json()
    rest = client.get(RPC, params={"state": "QUEUED", "after": page["next"]}).json()
    assert {one["id"] for one in (*page["calls"], *rest["calls"])} == {"basket", call["id"]}
    assert client.get("/api/v1/rpc", params={"device": "fan"}).json() == {"calls": [], "next": None}
    waiting = client.get("/api/v1/edges/barn/downlink").json()
    assert (waiting["records"], waiting["lanes"][0]["tail"]) == (2, 2)


@pytest.mark.parametrize("id", ["mine", "open-the-valve"])
def test_an_id_of_the_callers_makes_it_once(client: httpx2.Client, id: str) -> None:
    first = client.post(RPC, json=asked(id=id)).json()
    assert client.post(RPC, json=asked(id=id)).json() == first
    other = client.post(RPC, json=asked(id=id, device="fan"))
    assert (other.status_code, other.json()["field"]) == (409, "id")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"method": "m"}, "device"),
        (asked(ttl_s=0), "ttl_s"),
        (asked(ttl_s=10**9), "ttl_s"),
        (asked(method=""), "method"),
        (asked(id="no spaces"), "id"),
        (asked(wait_s=60), "wait_s"),
        (asked(one_way="yes"), "one_way"),
        (asked(colour="red"), "colour"),
    ],
)
def test_a_mistake_is_told_with_its_field(
    client: httpx2.Client, body: dict[str, Any], field: str
) -> None:
    found = client.post(RPC, json=body)
    assert (found.status_code, found.json()["field"]) == (400, field)


def test_what_is_too_much_or_nowhere_is_refused(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = client.post(RPC, json=asked(params="x" * 50_000))
    assert (large.status_code, large.json()["field"]) == (413, "params")
    nowhere = client.post("/api/v1/edges/nowhere/rpc", json=asked())
    assert (nowhere.status_code, nowhere.json()["field"]) == (404, "edge")
    assert client.get("/api/v1/rpc/nothing").status_code == 404
    monkeypatch.setattr(journal_module, "RECORDS_MAX", 1)
    full = client.post(RPC, json=asked())
    assert full.status_code == 429
    assert "wait for the edge barn" in full.json()["error"]
    assert client.get("/api/v1/edges/barn/downlink").json()["refused"] == 1


async def test_whoever_waits_is_answered_once_it_is_final(
    context: Context, nursery: trio.Nursery
) -> None:
    url = await serve(context, nursery)
    assert context.rpc is not None
    report = Report(
        id="basket", state=State.ANSWERED, at_ns=1, answer=msgspec.Raw(b'{"kg":7}')
    )  # fmt: skip
    found: list[Any] = []

    async def wait() -> None:
        def get() -> Any:
            return httpx2.get(f"{url}/api/v1/rpc/basket", params={"wait_s": 25}, timeout=60).json()

        found.append(await trio.to_thread.run_sync(get))

    with trio.fail_after(60):
        async with trio.open_nursery() as waiters:
            waiters.start_soon(wait)
            await until(lambda: bool(context.rpc and context.rpc._waiting))
            await context.rpc._store(1, [("acme", "barn", "scale", report)])
    assert (found[0]["state"], found[0]["answer"]) == ("ANSWERED", {"kg": 7})
