"""Conflicts and replicas over HTTP: listed, resolved, given up; counted in stats and metrics."""

from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from edgesync.cells import Argument
from hubd.api import Context, make_app
from hubd.cells import HubCells
from hubd.cells.proposals import Proposal, Resolve, decode
from hubd.client import HubClient
from hubd.errors import HubRefused
from tests.hubd.keys import Till, meet, open_answers

pytestmark = pytest.mark.feature("L3", "L13")


def two(cells: HubCells, one: tuple[Argument, ...], other: tuple[Argument, ...]) -> None:
    """Two more edges write without knowing of each other."""
    n = len(cells.replicas())
    meet(cells, (f"edge-{n}", one), (f"edge-{n + 1}", other))


async def post(url: str, path: str, body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(
            f"{url}/api/v1/{path}", content=msgspec.json.encode(body),
            headers={"content-type": "application/json"},
        )  # fmt: skip


async def newest(context: Context) -> Proposal:
    """Return the newest entry of the hub's log."""
    *_, entry = await context.answers.log.read(0)
    return decode(entry)


async def test_a_conflict_tells_who_wrote_what_and_is_resolved_durably(
    hub: HubClient, context: Context
) -> None:
    (one,) = await hub.conflicts()
    assert (one.id, one.kind, one.key, one.cell, one.name) == (1, "VALUE", "price", "string", "")
    assert one.winner is not None
    assert sorted((side.edge, side.value) for side in (one.winner, *one.losers)) == [
        ("barn", "10"), ("shop", "12"),
    ]  # fmt: skip
    done = await hub.resolve(one.id)
    assert (done.id, done.status) == (1, "resolved")
    assert isinstance(await newest(context), Resolve)
    assert await hub.get("price") == str(one.winner.value).encode()
    assert await hub.conflicts() == []
    assert [x.status for x in await hub.conflicts("")] == ["resolved"]
    with pytest.raises(HubRefused, match="is resolved") as caught:
        await hub.resolve(one.id)
    assert caught.value.status == 409
    with pytest.raises(HubRefused, match="no conflict 7") as caught:
        await hub.resolve(7)
    assert caught.value.status == 404


async def test_a_loser_or_another_value_can_be_taken(hub: HubClient, context: Context) -> None:
    (one,) = await hub.conflicts()
    (loser,) = one.losers
    await hub.resolve(one.id, side=loser)
    assert await hub.get("price") == str(loser.value).encode()
    two(context.cells, ("HSET", "h", "f", "1"), ("HSET", "h", "f", "2"))
    (other,) = await hub.conflicts(prefix="h")
    assert (other.cell, other.name) == ("field", "f")
    await hub.resolve(other.id, value=b"\xff3")
    assert await hub.hgetall("h") == {b"f": b"\xff3"}
    with pytest.raises(ValueError, match="not both"):
        await hub.resolve(other.id, side=loser, value="x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other", "cell", "name"),
    [
        (("HSET", "k", "f", "1"), ("HSET", "k", "f", "2"), "field", "f"),
        (("ZADD", "k", "1", "m"), ("ZADD", "k", "2", "m"), "member", "m"),
        (("SET", "k", "é" * 40), ("SET", "k", b"x" + "é".encode() * 40), "string", ""),
        (("SET", "k", b"\xff\xfe"), ("SET", "k", ""), "string", ""),
    ],
)
async def test_each_kind_of_cell_can_be_shown_and_settled(
    hub: HubClient, context: Context, one: Any, other: Any, cell: str, name: str
) -> None:
    two(context.cells, one, other)
    (found,) = await hub.conflicts(prefix="k")
    assert (found.cell, found.name) == (cell, name)
    for side in (found.winner, *found.losers):
        assert side is not None
        if "é" in str(one):
            assert str(side.value).strip("x").strip("é") == "", "no letter is cut through"
    assert (await hub.resolve(found.id)).status == "resolved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "choice"),
        ({"choice": "loser"}, "choice"),
        ({"choice": "winner", "value": "x"}, "value"),
        ({"choice": "value"}, "value"),
        ({"choice": "value", "value": 5}, "value"),
        ({"choice": "value", "value": "x", "number": 1}, "number"),
        ({"choice": "dot"}, "replica"),
        ({"choice": "dot", "replica": 1}, "number"),
        ({"choice": "dot", "replica": -1, "number": 1}, "replica"),
        ({"choice": "dot", "replica": 99, "number": 99}, "choice"),
        ({"choice": "dot", "replica": 10**30, "number": 1}, "choice"),
        ({"choice": "winner", "because": "x"}, "because"),
    ],
)
async def test_a_wrong_choice_is_told_what_there_is(url: str, body: Any, field: str) -> None:
    answer = await post(url, "conflicts/1/resolve", body)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert answer.json()["remedy"]


async def test_a_value_that_is_too_large_is_refused(url: str) -> None:
    answer = await post(
        url, "conflicts/1/resolve", {"choice": "value", "value": "x" * ((1 << 20) + 1)}
    )
    assert (answer.status_code, answer.json()["field"]) == (413, "value")


@pytest.mark.slow
async def test_conflicts_come_in_pages(hub: HubClient, context: Context, url: str) -> None:
    for n in range(6):
        two(context.cells, ("SET", f"many:{n}", "1"), ("SET", f"many:{n}", "2"))
    await hub.resolve(3)
    found: list[int] = []
    query: dict[str, Any] = {"status": "open", "prefix": "many:", "limit": 2}
    async with httpx2.AsyncClient() as client:
        while True:
            page = (await client.get(f"{url}/api/v1/conflicts", params=query)).json()
            found += [one["id"] for one in page["conflicts"]]
            if page["next"] is None:
                break
            query["after"] = page["next"]
    assert found == [2, 4, 5, 6, 7]
    assert [one.id for one in await hub.conflicts("resolved")] == [3]


async def test_replicas_are_listed_and_given_up(hub: HubClient, context: Context) -> None:
    found = await hub.replicas()
    assert [(one.edge, one.acked) for one in found] == [("barn", 1), ("shop", 1)]
    barn, shop = (one.replica for one in found)
    assert barn != shop
    change = context.cells.space.seq
    assert [one.behind for one in found] == [change, change]
    await hub.retire("barn")
    assert [one.edge for one in await hub.replicas()] == ["shop"]
    with pytest.raises(HubRefused, match="keeps no copy") as caught:
        await hub.retire("barn")
    assert caught.value.status == 404
    # It comes back as a stranger: under another name, with what it has not told yet.
    till = Till("barn")
    till.do("SET", "late", "1")
    for _ in context.cells.project(till.entry(context.cells.position + 1)):
        context.cells.note_changes()
    again = {one.edge: one.replica for one in await hub.replicas()}
    assert again["shop"] == shop
    assert again["barn"] not in (barn, shop)
    assert await hub.get("late") == b"1"


async def test_stats_and_metrics_count_them(hub: HubClient, context: Context, url: str) -> None:
    async with httpx2.AsyncClient() as client:
        before = (await client.get(f"{url}/api/v1/stats")).json()["keys"]
        await hub.resolve(1)
        after = (await client.get(f"{url}/api/v1/stats")).json()["keys"]
        text = (await client.get(f"{url}/metrics")).text
    assert (before["conflicts_open"], before["conflicts_detected"]) == (1, 1)
    assert (after["conflicts_open"], after["conflicts_detected"]) == (0, 1)
    assert (after["keys"], after["replicas"], after["skipped"]) == (2, 2, 0)
    assert after["used_bytes"] > 0
    assert after["change"] == before["change"] + 1
    samples = {
        (one.name, one.labels.get("edge", "")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert samples["edgesync_hub_conflicts_open", ""] == 0
    assert samples["edgesync_hub_conflicts_detected_total", ""] == 1
    assert samples["edgesync_hub_keys", ""] == 2
    assert samples["edgesync_hub_replica_behind", "barn"] == after["change"]
    assert samples["edgesync_hub_keys_skipped_total", ""] == 0


def test_the_operator_is_told_of_the_keys_of_every_tenant(context: Context, tmp_path: Path) -> None:
    with open_answers(tmp_path / "acme") as acmes:
        acmes.cells.ask("SET", ["price", "1"])
        acmes.cells.skipped = 3
        everyones = {"default": context.answers, "acme": acmes}
        everything = msgspec.structs.replace(context, all_answers=lambda: everyones)
        with TestClient(make_app(everything), backend="trio") as client:
            problems = client.get("/healthz").json()["problems"]
            stats = client.get("/api/v1/stats").json()
            text = client.get("/metrics").text
    assert problems == ["keys of acme: 3 entries of the log could not be carried out"]
    assert {tenant: one["keys"] for tenant, one in stats["keys_by_tenant"].items()} == {
        "default": 2, "acme": 1
    }  # fmt: skip
    assert stats["keys"] == stats["keys_by_tenant"]["default"]
    assert 'edgesync_hub_keys{tenant="acme"} 1.0' in text
    assert 'edgesync_hub_keys_skipped_total{tenant="acme"} 3.0' in text
    assert 'edgesync_hub_replica_acked{edge="barn"}' in text
