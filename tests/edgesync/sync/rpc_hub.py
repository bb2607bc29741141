"""A hub that calls devices, beside an edge in the same process, over real sockets."""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from edgesync_transport.keys import KeyPair
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.link.sessions import HubLink
from hubd.presence import Presence
from hubd.registry import Registry, open_registry
from hubd.rpc.calls import Calls, CallView, NewCall
from hubd.rpc.service import RpcService
from tests.edgesync.serve.mqtt.door import DEVICES
from tests.edgesync.sync.test_driver import SECOND, Hub

SENT_TOGETHER = 25


class RpcHub(Hub):
    """Hub and edge go by the clocks given here, if any are."""

    def __init__(
        self,
        folder: Path,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(folder)
        self.wall_ns, self.monotonic_ns = wall_ns, monotonic_ns
        self.open(folder)
        self.registry.enrolments.invite("barn", valid_s=900)

    def open(self, folder: Path) -> None:
        self.registry: Registry = open_registry(folder)
        self.journal = Journal(self.registry.owned)
        self.calls = Calls(
            self.registry.owned, self.journal, clock_ns=self.wall_ns,
            monotonic_ns=self.monotonic_ns,
        )  # fmt: skip

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RpcService]:
        delivery = Delivery(self.journal)
        service = RpcService(self.calls, delivery, self.log, lambda _edge: "default")
        delivery.observer = service
        settings = ReceiverSettings(heartbeat_s=1.0)
        async with open_hearing([self.address], server_keys=self.keys, edges=self.table) as hearing:
            link = HubLink(
                hearing, self.log, Presence(self.log), settings, downlink=delivery,
                wall_ns=self.wall_ns,
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                nursery.start_soon(service.run)
                yield service
                nursery.cancel_scope.cancel()

    def node(
        self, name: str = "edge", *, keys: KeyPair | None = None, retain: str = "8mb"
    ) -> EdgeNode:
        made = super().node(name, keys=keys, retain=retain)
        return EdgeNode(
            made.settings, folder=made.folder, wall_ns=self.wall_ns, monotonic_ns=self.monotonic_ns
        )

    def device_node(self, door: str = "mqtt") -> tuple[EdgeNode, int]:
        """Return an edge with a door for devices, `mqtt` or `device_http`, and its port."""
        node = self.node()
        folder = self.folder / "edge"
        path = folder / "mqtt-devices.toml"
        path.write_text(DEVICES)
        path.chmod(0o600)
        (port,) = free_ports(1)
        section = msgspec.structs.replace(getattr(node.settings, door), port=port)
        settings = msgspec.structs.replace(node.settings, **{door: section})
        made = EdgeNode(
            settings, folder=folder, wall_ns=self.wall_ns, monotonic_ns=self.monotonic_ns
        )
        return made, port


class StillClock:
    """A clock of hub and edge that goes on when a test says so."""

    passed_s = 0.0

    def wall_ns(self) -> int:
        return 1_790_000_000 * SECOND + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round(self.passed_s * SECOND)


@asynccontextmanager
async def clocked(folder: Path) -> AsyncIterator[tuple[RpcHub, StillClock]]:
    clock = StillClock()
    hub = RpcHub(folder, wall_ns=clock.wall_ns, monotonic_ns=clock.monotonic_ns)
    yield hub, clock
    hub.registry.close()


def call(method: str, params: Any = None, *, device: str = "pump", **more: Any) -> NewCall:
    more.setdefault("ttl_s", 60.0)
    return NewCall(device=device, method=method, params=msgspec.json.encode(params), **more)


def send_all(calls: Calls, edge: str, asked: Sequence[NewCall]) -> list[str]:
    """Send calls, many in a transaction, none of which may last long; returns their ids."""
    ids: list[str] = []
    for at in range(0, len(asked), SENT_TOGETHER):
        with calls._owned.write() as connection:
            for one in asked[at : at + SENT_TOGETHER]:
                ids.append(calls._send(connection, "default", edge, one)[0].id)
    return ids


async def final(service: RpcService, view: CallView) -> CallView:
    """Return a call when whoever waits for it is told that it is final, however long that takes."""
    found = await service.wait(None, view.id, math.inf)
    assert found is not None
    assert found.is_final, found
    return found
