"""A whole hub and an edge in one process, with a clock of the edge's that a test moves."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

from edgesync import EdgeNode
from hubd.downlink.journal import Journal
from hubd.rpc.calls import Calls
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard
from tests.sites import PATIENCE_S

HOUR_NS = 3600 * 10**9


class Clock:
    """A gateway's clocks: `off_ns` from the hub's, with `passed_ns` more than really have."""

    def __init__(self) -> None:
        self.off_ns = self.passed_ns = 0

    def wall_ns(self) -> int:
        return time.time_ns() + self.off_ns + self.passed_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self.passed_ns


class Ship:
    """An edge `ship`, its hub, and what each of them says."""

    def __init__(self, folder: Path) -> None:
        (folder / "ship").mkdir()
        self.yard = Yard(folder, "")
        self.yard.enrol("ship")
        self.clock = Clock()
        self.endpoint = self.yard.settings.hub.listen[0]  # or that of a cable to it
        self.sync: dict[str, Any] = {
            "heartbeat": "1s", "reconnect_base": "50ms", "reconnect_cap": "200ms",
            "breaker_failures": 1000,
        }  # fmt: skip

    def node(self, **sections: Any) -> EdgeNode:
        settings = {
            "edge": {"name": "ship"},
            "hub": {"endpoint": self.endpoint, "server_key": self.yard.server_key},
            "sync": self.sync,
            **sections,
        }  # fmt: skip
        return EdgeNode(
            settings,
            folder=self.yard.folder / "ship",
            wall_ns=self.clock.wall_ns,
            monotonic_ns=self.clock.monotonic_ns,
        )

    @contextlib.contextmanager
    def calls(self) -> Iterator[Calls]:
        """The calls of a hub that does not run."""
        with contextlib.closing(self.yard.registry()) as registry:
            yield Calls(registry.owned, Journal(registry.owned))

    @asynccontextmanager
    async def hub(self, patience_s: float = PATIENCE_S) -> AsyncIterator["HubAsked"]:
        async with (
            served(self.yard.settings, self.yard.folder, patience_s),
            httpx2.AsyncClient(base_url=self.yard.url, timeout=60) as client,
        ):
            yield HubAsked(client)


class HubAsked:
    """A hub's answers about the edge."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def tell(self, path: str, **body: Any) -> Any:
        answer = await self._client.post(f"/api/v1{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def one(self, path: str, **params: Any) -> Any:
        answer = await self._client.get(f"/api/v1{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, path: str, is_so: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as wanted; returns it."""
        with trio.fail_after(PATIENCE_S):
            while True:
                if is_so(found := await self.one(path)):
                    return found
                await trio.sleep(0.05)

    async def all(self, path: str, name: str, **params: Any) -> list[Any]:
        """Return all pages of a list."""
        found: list[Any] = []
        after: str | None = None
        while True:
            page = await self.one(path, limit=1000, **params, **({"after": after} if after else {}))
            found += page[name]
            after = page["next"]
            if after is None:
                return found
