"""What HTTP devices wait for: calls of a real hub, and shared attributes that change."""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import Raw

from edgesync import EdgeNode
from edgesync.rpc.model import State
from edgesync.serve.device_http import server as server_module
from tests.edgesync.serve.device_http.test_door import SCALE, Answer, Client, open_door
from tests.edgesync.serve.mqtt.door import DEVICES
from tests.edgesync.sync.rpc_hub import RpcHub, call, final
from tests.edgesync.sync.test_driver import until

pytestmark = [pytest.mark.feature("S24", "S29"), pytest.mark.slow]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RpcHub]:
    made = RpcHub(tmp_path)
    yield made
    made.registry.close()


class Site:
    def __init__(self, node: EdgeNode, port: int) -> None:
        self.node, self.port = node, port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Client(stream)


@asynccontextmanager
async def open_site(hub: RpcHub) -> AsyncIterator[Site]:
    node, port = hub.device_node("device_http")
    async with node, node.serving():
        yield Site(node, port)


async def polled(client: Client, timeout_ms: int = 30_000) -> dict[str, Any]:
    status, _, body = await client.ask("GET", f"{SCALE}rpc?timeout={timeout_ms}")
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


async def test_a_device_is_called_and_answers(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site, site.client() as client:
        first = await service.send("default", "barn", call("m0", {"v": 1}, device="Scale"))
        second = await service.send("default", "barn", call("m1", device="Scale"))
        asked = await polled(client)
        assert (asked["method"], asked["params"]) == ("m0", {"v": 1})
        await until(lambda: hub.calls.one(None, first.id).state is State.DELIVERED)  # type: ignore[union-attr]
        status, _, _ = await client.ask("POST", f"{SCALE}rpc/{asked['id']}", {"ok": True})
        assert status == 200
        done = await final(service, first)
        assert (done.state, done.answer) == (State.ANSWERED, Raw(b'{"ok": true}'))
        assert (await polled(client))["method"] == "m1"
        assert hub.calls.one(None, second.id) is not None
        await client.ask("POST", f"{SCALE}rpc/{asked['id']}", {"ok": 2})  # it has answered already
        assert (await final(service, first)).answer == Raw(b'{"ok": true}')


async def test_a_call_that_comes_while_a_device_waits_is_sent_at_once(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site, site.client() as client:
        found: list[dict[str, Any]] = []

        async def wait() -> None:
            found.append(await polled(client))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: site.node.status().rpc.devices == 1)  # type: ignore[union-attr]
            await service.send("default", "barn", call("now", device="Scale"))
        assert [one["method"] for one in found] == ["now"]
        assert site.node.status().rpc.devices == 0  # type: ignore[union-attr]


async def test_a_device_that_went_away_gets_the_call_when_it_asks_again(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        async with site.client() as gone:
            ask = f"GET {SCALE}rpc?timeout=60000 HTTP/1.1\r\nHost: a\r\n\r\n"
            await gone.stream.send_all(ask.encode())
            await until(lambda: site.node.status().rpc.devices == 1)  # type: ignore[union-attr]
        await until(lambda: site.node.status().rpc.devices == 0)  # type: ignore[union-attr]
        sent = await service.send("default", "barn", call("m", device="Scale"))
        async with site.client() as client:
            asked = await polled(client)
            assert asked["method"] == "m"
            await client.ask("POST", f"{SCALE}rpc/{asked['id']}", 1)
        assert (await final(service, sent)).state is State.ANSWERED


async def test_what_a_device_calls_is_answered_here(hub: RpcHub) -> None:
    async with hub.serving(), open_site(hub) as site, site.client() as client:

        async def add(_device: str, params: Any) -> Any:
            return {"sum": sum(params)}

        site.node.part("rpc").register("add", add)
        status, _, body = await client.ask(
            "POST", SCALE + "rpc", {"method": "add", "params": [1, 2]}
        )
        assert (status, json.loads(body)) == (200, {"sum": 3})
        status, _, body = await client.ask("POST", SCALE + "rpc", {"method": "no", "params": 1})
        assert (status, "error" in json.loads(body)) == (200, True)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("rpc?timeout=10", 408, "ask again"),
        ("attributes/updates?timeout=10", 408, "ask again"),
        ("rpc?timeout=x", 400, '"field":"timeout"'),
        ("rpc?timeout=-5", 400, '"field":"timeout"'),
        ("attributes/updates?timeout=99999999999", 400, '"field":"timeout"'),
    ],
)
async def test_a_wait_has_an_end(tmp_path: Path, path: str, status: int, said: str) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        found, _, body = await client.ask("GET", SCALE + path)
        assert (found, said in body.decode()) == (status, True), body
        assert (await client.ask("POST", SCALE + "telemetry", {"a": 1}))[0] == 200


async def test_an_answer_to_no_call_is_refused(hub: RpcHub) -> None:
    async with hub.serving(), open_site(hub) as site, site.client() as client:
        for path in ("rpc/77", "rpc/x", "rpc/"):
            assert (await client.ask("POST", SCALE + path, {"ok": True}))[0] == 404


async def test_changes_of_shared_attributes_are_told_once(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        entities = door.node.entities
        entities.set_attributes("device", "Scale", {"limit": 900, "unit": "kg"}, "shared")
        _, _, body = await client.ask("GET", SCALE + "attributes?sharedKeys=limit")
        assert json.loads(body) == {"shared": {"limit": 900}}
        # Between two questions.
        entities.set_attributes("device", "Scale", {"limit": 950}, "shared")
        status, _, body = await client.ask("GET", SCALE + "attributes/updates")
        assert (status, json.loads(body)) == (200, {"limit": 950})
        found: list[Answer] = []

        async def wait() -> None:
            found.append(await client.ask("GET", SCALE + "attributes/updates"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: door.server.status().requests == 3)
            await trio.sleep(0.05)
            assert not found
            entities.delete_attributes("device", "Scale", ["unit"], "shared")
        assert json.loads(found[0][2]) == {"deleted": ["unit"]}


async def test_changes_that_could_not_be_written_are_told_again(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        entities = door.node.entities
        async with door.client() as client:
            await client.ask("GET", SCALE + "attributes?sharedKeys=limit")
        async with door.client() as gone:
            ask = f"GET {SCALE}attributes/updates HTTP/1.1\r\nHost: a\r\n\r\n"
            await gone.stream.send_all(ask.encode())
            await until(lambda: door.server.status().requests == 2)
        await until(lambda: door.server.status().connections == 0)
        entities.set_attributes("device", "Scale", {"limit": 900}, "shared")
        async with door.client() as client:
            _, _, body = await client.ask("GET", SCALE + "attributes/updates")
            assert json.loads(body) == {"limit": 900}


async def test_a_wait_is_longer_than_a_request_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 0.2)
    async with open_door(tmp_path) as door, door.client() as client:
        status, _, _ = await client.ask("GET", SCALE + "attributes/updates?timeout=500")
        assert status == 408


@pytest.mark.feature("S29")
async def test_one_device_does_not_take_the_places_of_others(tmp_path: Path) -> None:
    """I8: with a client that asks again and leaves what it asked before."""
    places = server_module.WAITS_MAX + 2
    async with (
        open_door(tmp_path, {"connections_max": places}) as door,
        trio.open_nursery() as nursery,
        contextlib.AsyncExitStack() as stack,
    ):
        answers: list[tuple[int, int]] = []

        def has_come(count: int) -> bool:
            return door.server.status().requests >= count

        async def wait(number: int, client: Client) -> None:
            status, _, _ = await client.ask("GET", SCALE + "rpc?timeout=300000")
            answers.append((number, status))

        for number in range(places):
            client = await stack.enter_async_context(door.client())
            nursery.start_soon(wait, number, client)
            await until(functools.partial(has_come, number + 1))
        await until(lambda: len(answers) == 2)
        assert answers == [(0, 408), (1, 408)]
        nursery.cancel_scope.cancel()


@pytest.mark.feature("F24")
async def test_who_was_removed_while_it_waits_is_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CREDENTIALS_S", 0.0)
    async with open_door(tmp_path) as door, trio.open_nursery() as nursery:
        found: list[Answer] = []

        async def wait(client: Client) -> None:
            found.append(await client.ask("GET", SCALE + "attributes/updates"))

        async with door.client() as client:
            nursery.start_soon(wait, client)
            await until(lambda: door.server.status().requests == 1)
            (tmp_path / "mqtt-devices.toml").write_text(DEVICES.replace("SCALE_TOKEN", "ANOTHER"))
            door.node.entities.set_attributes("device", "Scale", {"limit": 900}, "shared")
            await until(lambda: bool(found))
        assert found[0][0] == 401
        async with door.client() as client:
            _, _, body = await client.ask("GET", "/api/v1/ANOTHER/attributes/updates")
            assert json.loads(body) == {"limit": 900}
