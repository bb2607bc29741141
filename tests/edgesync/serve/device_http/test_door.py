"""The door for HTTP devices, over real sockets, into a real store."""

import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from edgesync import EdgeNode, Event, Reading
from edgesync.demo.site import free_ports
from edgesync.errors import StoreFull
from edgesync.events import EventQuery
from edgesync.model import Lane
from edgesync.serve.device_http import server as server_module
from edgesync.serve.device_http.door import device_http_server
from edgesync.serve.device_http.server import DeviceHttpServer
from edgesync_transport import places
from tests.edgesync.serve.mqtt.door import DEVICES, RefusingKeys, make_certificate
from tests.sites import until

PATIENCE_S = 60
SCALE = "/api/v1/SCALE_TOKEN/"
Answer = tuple[int, dict[str, str], bytes]


class Client:
    """HTTP over a socket, by another copy of the protocol than the door's own state."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"Host": "edge", "Content-Length": str(len(raw)), **headers}
        request = h11.Request(method=method, target=path, headers=list(head.items()))
        sent = self.connection.send(request) or b""
        sent += self.connection.send(h11.Data(data=raw)) or b""
        await self.stream.send_all(sent + (self.connection.send(h11.EndOfMessage()) or b""))
        answer = await self.hear()
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        return answer

    async def hear(self) -> Answer:
        response, body = None, b""
        with trio.fail_after(PATIENCE_S):
            while not isinstance(event := self.connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    data = await self.stream.receive_some(65_536)
                    self.connection.receive_data(bytes(data))
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += event.data
        assert response is not None
        headers = {name.decode(): value.decode() for name, value in response.headers}
        return response.status_code, headers, body

    async def is_closed(self) -> bool:
        with trio.fail_after(PATIENCE_S):
            try:
                while await self.stream.receive_some(65_536):
                    pass
            except trio.BrokenResourceError:
                pass
        return True


class Door:
    def __init__(self, node: EdgeNode, server: DeviceHttpServer, ports: Sequence[int]) -> None:
        self.node, self.server, self.ports = node, server, ports

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_tcp_stream("127.0.0.1", self.ports[0]) as stream:
            yield Client(stream)

    def values(self) -> dict[tuple[str, str], Any]:
        return {(one.entity, one.key): one.value for one in self.node.latest()}


class Full:
    """A store that takes nothing."""

    async def ingest(self, _readings: Sequence[Reading]) -> None:
        raise StoreFull(used_bytes=1, limit_bytes=1)

    async def emit(self, _event: Event) -> None:
        raise StoreFull(used_bytes=1, limit_bytes=1)


class Gated:
    """The store, behind a gate."""

    def __init__(self, node: EdgeNode) -> None:
        self.node = node
        self.gate = trio.Event()

    async def ingest(self, readings: Sequence[Reading]) -> None:
        await self.gate.wait()
        await self.node.ingest(readings)

    async def emit(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        await self.gate.wait()
        await self.node.emit(event, lane)


@asynccontextmanager
async def open_door(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    recorder: Any = None,
    **sections: Any,
) -> AsyncIterator[Door]:
    section = dict(settings or {})
    if not {"port", "tls_port"} & section.keys():
        (section["port"],) = free_ports(1)
    path = folder / section.get("devices", "mqtt-devices.toml")
    path.write_text(DEVICES)
    path.chmod(0o600)
    async with (
        EdgeNode({"device_http": section, **sections}, folder=folder) as node,
        trio.open_nursery() as nursery,
    ):
        server = device_http_server(
            node.settings, folder, recorder(node) if recorder else node, wall_ns=node.wall_ns,
            entities=lambda: node.entities,
        )  # fmt: skip
        yield Door(node, server, await nursery.start(server.serve))
        nursery.cancel_scope.cancel()


@pytest.mark.feature("S29")
async def test_a_device_posts_telemetry_and_attributes(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        posted = {"ts": 1_790_000_000_123, "values": {"w": 412.5}}
        status, headers, body = await client.ask("POST", SCALE + "telemetry", posted)
        assert (status, body, headers["content-length"]) == (200, b"", "0")
        assert (await client.ask("POST", SCALE + "attributes", {"model": "S7"}))[0] == 200
        assert door.values() == {("Scale", "w"): 412.5}
        (event, *_) = door.node.events(EventQuery(entity="Scale"))
        assert json.loads(event.body)["values"] == {"model": "S7"}
        status, _, body = await client.ask("GET", SCALE + "attributes?clientKeys=model")
        assert (status, json.loads(body)) == (200, {"client": {"model": "S7"}})
        status, _, body = await client.ask(
            "POST", SCALE + "rpc", {"method": "getSessionLimits", "params": {}}
        )
        assert (status, json.loads(body)["maxPayloadSize"]) == (200, 65_536)
        assert (await client.ask("POST", SCALE + "claim", {"secretKey": "s"}))[0] == 200
        assert "claim" in door.node.entities.attributes("device", "Scale", "server")
        assert door.server.status().readings == 1
        assert door.server.status().requests == 5


@pytest.mark.feature("S29")
async def test_a_request_is_answered_when_it_is_on_disk(tmp_path: Path) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    answers: list[Answer] = []
    async with (
        open_door(tmp_path, recorder=gated) as door,
        door.client() as client,
        door.client() as other,
        trio.open_nursery() as nursery,
    ):

        async def post() -> None:
            answers.append(await client.ask("POST", SCALE + "telemetry", {"a": 1}))

        nursery.start_soon(post)
        # Answered though it came later: it has nothing to store.
        assert (await other.ask("GET", SCALE + "attributes"))[0] == 200
        await until(lambda: door.server.status().requests == 2)
        assert not answers
        assert door.values() == {}
        gates[0].gate.set()
        await until(lambda: bool(answers))
        assert answers[0][0] == 200
        assert door.values() == {("Scale", "a"): 1}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/api/v1/NOBODY/telemetry", {"a": 1}, 401, "no device"),
        ("POST", "/api/v1/%53CALE_TOKEN/telemetry", {"a": 1}, 200, ""),
        ("POST", SCALE + "telemetry", b"{", 400, "is not JSON"),
        ("POST", SCALE + "telemetry", b'{"a":1e999}', 400, '"field":"a"'),
        ("POST", SCALE + "telemetry", b"\xff", 400, "UTF-8"),
        ("POST", SCALE + "telemetry", b"[" * 60_000, 400, "nested"),
        ("POST", SCALE + "telemetry", {"": 1}, 400, "1 to 255 characters"),
        ("POST", SCALE + "telemetry", [{"ts": "x", "values": {}}], 400, '"field":"[0].ts"'),
        ("POST", SCALE + "telemetry", {"a": "x" * 70_000}, 413, "device_http.body_limit"),
        ("POST", SCALE + "attributes", [1], 400, "no object"),
        ("GET", SCALE + "telemetry", b"", 405, "takes POST"),
        ("DELETE", SCALE + "attributes", b"", 405, "GET, POST"),
        ("GET", SCALE + "attributes?clientKeys", b"", 400, "query"),
        ("POST", SCALE + "rpc", {"no": "method"}, 400, '"field":"method"'),
        ("GET", SCALE + "rpc?timeout=ten", b"", 400, '"field":"timeout"'),
        ("POST", SCALE + "claim", {"durationMs": 0}, 400, '"field":"durationMs"'),
        ("GET", SCALE + "claim", b"", 405, "takes POST"),
        ("POST", SCALE + "other", {}, 404, "telemetry, attributes, rpc"),
        ("POST", "/api/v1/", {}, 404, "/api/v1/TOKEN/telemetry"),
        ("GET", "/", b"", 404, "/api/v1/TOKEN/telemetry"),
    ],
)
async def test_what_is_wrong_is_said_and_costs_that_request(
    tmp_path: Path, method: str, path: str, body: Any, status: int, said: str
) -> None:
    settings = {"type_cast": False}
    async with open_door(tmp_path, settings) as door:
        async with door.client() as client:
            found, headers, text = await client.ask(method, path, body)
            assert (found, said in text.decode()) == (status, True), text
            if status != 200:
                assert headers["content-type"] == "application/json"
                assert json.loads(text)["status"] == status
            if headers.get("connection") != "close":
                assert (await client.ask("POST", SCALE + "telemetry", {"b": 2}))[0] == 200
        async with door.client() as client:
            assert (await client.ask("POST", SCALE + "telemetry", {"c": 3}))[0] == 200
        assert door.values()[("Scale", "c")] == 3
        refused = door.server.status().refusals
        assert all("TOKEN" not in one.topic + one.problem for one in refused)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\0" * 10 + b"\r\n\r\n", 400),
        (b"GET " + b"/" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\n"
         + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", 431),
        (b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\n"
         b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\n"
         b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
         + b"8001\r\n" + b"x" * 0x8001 + b"\r\n", 413),
    ],
)  # fmt: skip
async def test_hostile_bytes_end_in_an_answer_and_a_closed_connection(
    tmp_path: Path, raw: bytes, status: int
) -> None:
    async with open_door(tmp_path) as door:
        async with door.client() as client:
            await client.stream.send_all(raw)
            assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 %d" % status)
            assert await client.is_closed()
        async with door.client() as client:
            assert (await client.ask("POST", SCALE + "telemetry", {"c": 3}))[0] == 200


async def test_a_body_in_chunks_and_one_that_waits_to_be_asked_for(tmp_path: Path) -> None:
    head = b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\n"
    async with open_door(tmp_path) as door, door.client() as client:
        await client.stream.send_all(
            head + b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
        )
        assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 200")
        await client.stream.send_all(head + b"Expect: 100-continue\r\nContent-Length: 7\r\n\r\n")
        assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 100")
        await client.stream.send_all(b'{"b":2}')
        assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 200")
        assert door.values() == {("Scale", "a"): 1, ("Scale", "b"): 2}


async def test_two_requests_at_once_are_answered_in_order(tmp_path: Path) -> None:
    one = b"POST /api/v1/SCALE_TOKEN/telemetry HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n"
    async with open_door(tmp_path) as door, door.client() as client:
        await client.stream.send_all(one + b'{"a":1}' + one + b'{"a":}}' + one + b'{"a":3}')
        found = b""
        with trio.fail_after(PATIENCE_S):
            while found.count(b"HTTP/1.1 ") < 3:
                found += await client.stream.receive_some(65_536)
        assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]
        assert door.values() == {("Scale", "a"): 3}


async def test_a_full_store_acknowledges_nothing_and_says_when_to_come_again(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path, recorder=lambda _node: Full()) as door, door.client() as client:
        status, headers, body = await client.ask("POST", SCALE + "telemetry", {"a": 1})
        assert (status, headers["retry-after"]) == (503, "5")
        assert json.loads(body)["message"] == door.server.status().problem != ""
        assert door.server.status().readings == 0


async def test_what_the_store_took_back_is_not_acknowledged(tmp_path: Path) -> None:
    """Its event was stored, and by then nothing was refused any more."""
    async with open_door(tmp_path, recorder=RefusingKeys) as door, door.client() as client:
        for wanted in (503, 200):
            status, _, _ = await client.ask("POST", SCALE + "attributes", {"seen": 1})
            assert status == wanted
        assert door.node.entities.attributes("device", "Scale") == {"seen": 1}


async def test_more_series_than_there_may_be_are_refused_alone(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path, series={"max": 2}) as door,
        door.client() as client,
    ):
        assert (await client.ask("POST", SCALE + "telemetry", {"a": 1, "b": 1}))[0] == 200
        status, _, body = await client.ask("POST", SCALE + "telemetry", {"c": 1})
        assert (status, "series" in body.decode()) == (507, True)
        assert (await client.ask("POST", SCALE + "telemetry", {"a": 2}))[0] == 200


async def test_a_stranger_does_not_hold_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STRANGER_S", 0.3)
    async with open_door(tmp_path, {"connections_max": 2}) as door, AsyncExitStack() as stack:
        known = await stack.enter_async_context(door.client())
        assert (await known.ask("POST", SCALE + "telemetry", {"a": 1}))[0] == 200
        silent = await stack.enter_async_context(door.client())
        late = await stack.enter_async_context(door.client())
        assert (await late.ask("POST", SCALE + "telemetry", {"a": 2}))[0] == 200
        assert await silent.is_closed()
        assert (await known.ask("POST", SCALE + "telemetry", {"a": 3}))[0] == 200


@pytest.mark.feature("S29")
@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_device_that_holds_all_connections_gives_way_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    """I8: with keep-alive, or with requests that do not come to their end."""
    monkeypatch.setattr(places, "BUSY_S", 0.2)
    monkeypatch.setattr(places, "IDLE_S", 0.1)
    async with open_door(tmp_path, {"connections_max": 4}) as door, AsyncExitStack() as stack:
        gate = await stack.enter_async_context(door.client())
        assert (await gate.ask("POST", "/api/v1/GATE_TOKEN/telemetry", {"a": 1}))[0] == 200
        held = [await stack.enter_async_context(door.client()) for _ in range(3)]
        for one in held:
            assert (await one.ask("POST", SCALE + "telemetry", {"a": 1}))[0] == 200
            if not is_idle:
                head = f"POST {SCALE}telemetry HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
                await one.stream.send_all(head.encode())
        if not is_idle:
            await until(lambda: door.server.status().requests == 7)
            await gate.stream.send_all(b"G")  # in the midst of a request, and its only one
            held_by = door.server._places._held.values()
            await until(lambda: not any(one.is_idle for every in held_by for one in every))
        late = await stack.enter_async_context(door.client())
        assert (await late.ask("POST", "/api/v1/GATE_TOKEN/telemetry", {"a": 2}))[0] == 200
        assert await held[0].is_closed()
        assert door.server.status().connections == 4


async def test_a_token_that_is_taken_away_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CREDENTIALS_S", 0.0)
    async with open_door(tmp_path) as door:
        async with door.client() as client:
            assert (await client.ask("POST", SCALE + "telemetry", {"a": 1}))[0] == 200
            (tmp_path / "mqtt-devices.toml").write_text(DEVICES.replace("SCALE_TOKEN", "NEW_TOKEN"))
            assert (await client.ask("POST", SCALE + "telemetry", {"a": 2}))[0] == 401
        async with door.client() as client:
            assert (await client.ask("POST", "/api/v1/NEW_TOKEN/telemetry", {"a": 3}))[0] == 200
        assert door.server.status().rejected == 1


@pytest.mark.setting("device_http.tls_port", "device_http.certificate", "device_http.key")
async def test_a_device_speaks_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (port,) = free_ports(1)
    settings = {"tls_port": port, "certificate": certificate.name, "key": key.name}
    async with open_door(tmp_path, settings):
        for posts in (3, 1):  # the second time with a certificate that has taken its place
            context = ssl.create_default_context(cafile=str(certificate))
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            stream = trio.SSLStream(
                plain, context, server_hostname="127.0.0.1", https_compatible=True
            )
            async with stream:
                client = Client(stream)
                for _ in range(posts):
                    posted = {f"key {k}": "x" * 200 for k in range(100)}
                    assert (await client.ask("POST", SCALE + "telemetry", posted))[0] == 200
            make_certificate(tmp_path)


@pytest.mark.setting(
    "device_http.host", "device_http.port", "device_http.devices", "device_http.connections_max",
    "device_http.body_limit",
)  # fmt: skip
async def test_the_door_is_as_the_file_says(tmp_path: Path) -> None:
    settings = {
        "host": "127.0.0.2", "devices": "who.toml", "connections_max": 1, "body_limit": "1 KiB",
    }  # fmt: skip
    async with (
        open_door(tmp_path, settings) as door,
        await trio.open_tcp_stream("127.0.0.2", door.ports[0]) as stream,
        await trio.open_tcp_stream("127.0.0.2", door.ports[0]) as second,
    ):
        client, waiting = Client(stream), Client(second)
        assert (await client.ask("POST", SCALE + "telemetry", {"x": "x" * 900}))[0] == 200
        await stream.send_all(b"G")  # busy: it gives way to nobody
        (held,) = door.server._places._held.values()
        await until(lambda: not any(one.is_idle for one in held))
        with trio.move_on_after(0.3) as limit:
            await waiting.ask("POST", SCALE + "telemetry", {"b": 1})
        assert limit.cancelled_caught
    async with (
        open_door(tmp_path, settings) as door,
        await trio.open_tcp_stream("127.0.0.2", door.ports[0]) as stream,
    ):
        client = Client(stream)
        assert (await client.ask("POST", SCALE + "telemetry", {"x": "x" * 1100}))[0] == 413


@pytest.mark.setting("device_http.type_cast")
async def test_text_is_a_number_if_the_file_says_so(tmp_path: Path) -> None:
    for is_on, stored in ((True, 5), (False, "5")):
        folder = tmp_path / str(is_on)
        folder.mkdir()
        async with open_door(folder, {"type_cast": is_on}) as door, door.client() as client:
            assert (await client.ask("POST", SCALE + "telemetry", {"a": "5"}))[0] == 200
            assert door.values() == {("Scale", "a"): stored}


async def test_curl_posts(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        url = f"http://127.0.0.1:{door.ports[0]}/api/v1/SCALE_TOKEN/telemetry"
        command = [
            "curl", "-sS", "--fail-with-body", "-d", '{"a":1}',
            "-H", "Content-Type: application/json", url, url,
        ]  # fmt: skip
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run(command, capture_output=True, text=True, check=False)
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert door.server.status().readings == 2


@pytest.mark.setting("device_http.guesses_max")
async def test_who_guesses_is_held_up_and_who_was_let_in_is_not(tmp_path: Path) -> None:
    async def status(door: Door, token: str, what: str = "telemetry") -> int:
        async with door.client() as client:
            return (await client.ask("POST", f"/api/v1/{token}/{what}", {"a": 1}))[0]

    async with open_door(tmp_path, {"guesses_max": 5}) as door:
        assert await status(door, "SCALE_TOKEN") == 200
        for _ in range(7):
            assert await status(door, "NOBODY") == 401
        for number in range(4):
            assert await status(door, f"GUESS_{number}", "attributes") == 401
        assert await status(door, "GATE_TOKEN") == 429
        assert await status(door, "GATE_TOKEN", "claim") == 429
        assert await status(door, "SCALE_TOKEN") == 200
        assert door.server.status().held_up == 2
