"""A real node with its door for MQTT, and a client that says exactly what a test wants."""

import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Event, Reading
from edgesync._native.write import Write
from edgesync.demo.site import free_ports
from edgesync.errors import StoreFull
from edgesync.model import Lane
from edgesync.serve.mqtt.decode import Parser
from edgesync.serve.mqtt.door import mqtt_server
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import V5, V311, Connack, Connect, Packet
from edgesync.serve.mqtt.server import MqttServer
from edgesync.store.commit import Tails

PATIENCE_S = 60
DEVICES = """
[[device]]
name = "Scale"
token = "SCALE_TOKEN"

[[device]]
name = "Gate"
token = "GATE_TOKEN"
gateway = true

[[device]]
name = "Pump"
client_id = "pump-1"
username = "pump"
password = "secret"
"""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate of 127.0.0.1, signed by itself, and its key."""
    certificate, key = folder / "mqtt.crt", folder / "mqtt.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


class RawClient:
    """Packets to and from a socket."""

    def __init__(self, stream: trio.abc.Stream, level: int) -> None:
        self.stream = stream
        self.level = level
        self.parser = Parser(2 << 20, level=level)

    async def say(self, *packets: Packet) -> None:
        await self.stream.send_all(b"".join(encode(one, self.level) for one in packets))

    async def hear(self) -> Packet | None:
        """Return the next packet, None at the end of the connection."""
        with trio.fail_after(PATIENCE_S):
            while (packet := self.parser.next()) is None:
                try:
                    data = await self.stream.receive_some(65_536)
                except trio.BrokenResourceError:
                    return None
                if not data:
                    return None
                self.parser.feed(bytes(data))
            return packet

    async def hear_nothing(self) -> bool:
        """Wait for the end of the connection, whatever comes before."""
        with trio.fail_after(PATIENCE_S):
            try:
                while await self.stream.receive_some(65_536):
                    pass
            except trio.BrokenResourceError:
                pass
        return True

    async def ask(self, packet: Packet) -> Packet | None:
        await self.say(packet)
        return await self.hear()


class Door:
    """The door of `node`."""

    def __init__(self, node: EdgeNode, server: MqttServer, port: int) -> None:
        self.node = node
        self.server = server
        self.port = port

    @asynccontextmanager
    async def client(
        self, level: int = V311, *, token: str = "SCALE_TOKEN", **connect: Any
    ) -> AsyncIterator[RawClient]:
        """A client that has been let in."""
        async with self.stranger(level) as client:
            connect = {"client_id": "c", "username": token, **connect}
            welcome = await client.ask(Connect(level=level, **connect))
            assert isinstance(welcome, Connack)
            assert welcome.reason == 0, welcome
            yield client

    @asynccontextmanager
    async def stranger(self, level: int = V5) -> AsyncIterator[RawClient]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield RawClient(stream, level)

    def values(self) -> dict[tuple[str, str], Any]:
        return {(one.entity, one.key): one.value for one in self.node.latest()}


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


class RefusingKeys(Gated):
    """A store that has no room for the next keys, and stores events once it has said so."""

    def __init__(self, node: EdgeNode) -> None:
        super().__init__(node)
        node.part("keys").cells._may_log = lambda: False

    async def emit(self, event: Event, lane: Lane = Lane.NORMAL) -> None:
        if not self.gate.is_set():
            store, cells = self.node.store, self.node.part("keys").cells
            submit = store.submit

            async def refuse(write: Write) -> Tails:
                store.submit = submit  # type: ignore[method-assign]
                await trio.lowlevel.checkpoint()
                raise StoreFull(used_bytes=1, limit_bytes=1)

            store.submit = refuse  # type: ignore[method-assign]
            with pytest.raises(StoreFull):
                await cells.wait_durable()
            self.gate.set()
        await super().emit(event, lane)


@asynccontextmanager
async def open_door(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    devices: str = DEVICES,
    recorder: Any = None,
    **sections: Any,
) -> AsyncIterator[Door]:
    """Open a node with an MQTT door beside it."""
    section = dict(settings or {})
    if not {"port", "tls_port"} & section.keys():
        (section["port"],) = free_ports(1)
    path = folder / section.get("devices", "mqtt-devices.toml")
    path.write_text(devices)
    path.chmod(0o600)
    async with (
        EdgeNode({"mqtt": section, **sections}, folder=folder) as node,
        trio.open_nursery() as nursery,
    ):
        server = mqtt_server(
            node.settings,
            folder,
            recorder(node) if recorder else node,
            wall_ns=node.wall_ns,
            entities=lambda: node.entities,
        )
        ports = await nursery.start(server.serve)
        yield Door(node, server, ports[0])
        nursery.cancel_scope.cancel()
