"""A hub's folder with settings for it, and gateways that belong to it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import trio

from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports
from edgesync_transport.keys import KeyPair, new_key_pair, write_keys
from hubd import data_folder, serve
from hubd.registry import Invitation, Registry, open_registry
from hubd.settings import Settings, from_table
from tests.sites import PATIENCE_S


class Yard:
    """A hub's folder, its settings, and gateways that belong to it."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        link, http = free_ports(2)
        self.url = f"http://127.0.0.1:{http}"
        hub = {"listen": [f"tcp://127.0.0.1:{link}"], "database": database}
        self.settings: Settings = from_table(
            {"hub": hub, "api": {"port": http}}, file="hub.toml", environment={}
        )
        self.server_key = data_folder.load_keys(folder).public

    def registry(self) -> Registry:
        return open_registry(self.folder, data_folder.database_url(self.settings))

    def enrol(self, edge: str) -> KeyPair:
        pair = new_key_pair()
        with closing(self.registry()) as registry:
            token = registry.enrolments.invite(edge, valid_s=900)
            registry.enrolments.redeem(token.routing_key, token.secret, pair.public)
        write_keys(self.folder / edge / "edge.keys", pair)
        return pair

    @asynccontextmanager
    async def running(self, patience_s: float = PATIENCE_S) -> AsyncIterator[None]:
        """Run the hub inside the block, which may take so long."""
        stop = trio.Event()
        with trio.fail_after(patience_s):
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve.run, self.settings, self.folder, stop=stop))
                try:
                    yield
                finally:
                    stop.set()

    @asynccontextmanager
    async def edge(self, name: str) -> AsyncIterator[EdgeNode]:
        hub = {"endpoint": self.settings.hub.listen[0], "server_key": self.server_key}
        table = {"edge": {"name": name}, "hub": hub}
        async with EdgeNode(table, folder=self.folder / name) as node:
            yield node

    async def ask(self, path: str, **body: Any) -> tuple[int, Any]:
        answer = await self._send(path, **body)
        return answer.status_code, answer.json()

    async def _send(self, path: str, **body: Any) -> httpx2.Response:
        async with httpx2.AsyncClient() as client:
            method = "POST" if body else "GET"
            return await client.request(method, self.url + path, json=body or None)

    async def wait_for(self, path: str, is_wanted: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted; a hub that says "come again" has not answered yet.

        Its registry may be in another's hand for longer than it lets a client wait.
        """
        while True:
            answer = await self._send(path)
            if "retry-after" not in answer.headers and is_wanted(answer.json()):
                return answer.json()
            await trio.sleep(0.05)

    async def health(self, is_wanted: Callable[[str], bool]) -> str:
        answer = await self.wait_for("/healthz", lambda health: is_wanted(str(health["problems"])))
        return str(answer["problems"])

    async def redeem(self, token: Invitation) -> tuple[int, Any]:
        return await self.ask(
            "/api/v1/enroll", routing_key=token.routing_key, secret=token.secret,
            public_key=new_key_pair().public,
        )  # fmt: skip


async def send(node: EdgeNode) -> None:
    await node.ingest([Reading("m", "t", 1.0, time.time_ns())])
    await node.sync(PATIENCE_S)
