"""Edges with keys and their hub in one process, over real sockets and on real disks."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any

import trio

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from edgesync.entities.keys import policies
from edgesync_transport.keys import new_key_pair, write_keys
from edgesync_transport.link import Peer
from edgesync_transport.messages import Message
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from edgesync_transport.zap import KeyTable
from hubd.cells import Answers, HubCells
from hubd.link.sessions import HubLink
from hubd.log.lmdb import LmdbLog
from hubd.presence import Presence

PATIENCE_S = 120


class Sites:
    """A hub that can be switched on and off, and the nodes that know it.

    wall_ns   the clock of all that are given no other
    sent      every message the hub has sent: (edge, message)
    grants    prefixes of keys that edges are told of, if not of all
    spoiled   turns a message into another one on its way, if that is wanted
    """

    def __init__(
        self,
        folder: Path,
        *,
        retire_after_s: float = 1e9,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.folder = folder
        self.wall_ns = wall_ns
        self.keys = new_key_pair()
        self.table = KeyTable({})
        (port,) = free_ports(1)
        self.address = f"tcp://127.0.0.1:{port}"
        self.retire_after_s = retire_after_s
        self.sent: list[tuple[str, Message]] = []
        self.spoiled: Callable[[Message], Message] = lambda message: message
        self.grants: dict[str, tuple[bytes, ...]] = {}
        self.cells: HubCells
        self.answers: Answers

    @asynccontextmanager
    async def hub(self, *, is_reachable: bool = True) -> AsyncIterator[HubCells]:
        hub_log = LmdbLog(self.folder / "hub" / "log")
        try:
            self.cells = HubCells(
                self.folder / "hub" / "cells",
                hub_log.generation,
                hub_log.head,
                random=SystemRandom(),
                wall_ns=self.wall_ns,
                strategies=policies([]),
            )
            with contextlib.closing(self.cells):
                if is_reachable:
                    async with self._serving(hub_log):
                        yield self.cells
                else:
                    yield self.cells
        finally:
            with trio.CancelScope(shield=True):
                await hub_log.aclose()

    @asynccontextmanager
    async def _serving(self, hub_log: LmdbLog) -> AsyncIterator[None]:
        self.answers = Answers(
            self.cells, hub_log, retire_after_s=self.retire_after_s,
            grant_of=lambda edge: self.grants.get(edge, ()),
        )  # fmt: skip
        async with open_hearing([self.address], server_keys=self.keys, edges=self.table) as hearing:
            send = hearing.send

            async def note(peer: Peer, message: Message) -> None:
                self.sent.append((peer.edge, message))
                await send(peer, self.spoiled(message))

            hearing.send = note  # type: ignore[method-assign]
            settings = ReceiverSettings(heartbeat_s=1.0)
            link = HubLink(
                hearing,
                hub_log,
                Presence(hub_log),
                settings,
                answers=self.answers,
                wall_ns=self.wall_ns,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(self.answers.run)
                nursery.start_soon(link.run)
                yield
                nursery.cancel_scope.cancel()

    def node(
        self,
        name: str,
        *,
        folder: Path | None = None,
        wall_ns: Callable[[], int] | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        **sections: Any,
    ) -> EdgeNode:
        folder = folder or self.folder / name
        folder.mkdir(exist_ok=True, parents=True)
        if not (folder / "edge.keys").exists():
            pair = new_key_pair()
            write_keys(folder / "edge.keys", pair)
            self.table.add(pair.public, name)
        settings = self.settings(name) | sections
        return EdgeNode(
            settings, folder=folder, wall_ns=wall_ns or self.wall_ns, monotonic_ns=monotonic_ns
        )

    def settings(self, name: str) -> dict[str, Any]:
        """Return how a node meets this hub, and quickly again."""
        return {
            "edge": {"name": name},
            "hub": {"endpoint": self.address, "server_key": self.keys.public},
            "sync": {
                "heartbeat": "1s", "reconnect_base": "50ms", "reconnect_cap": "200ms",
                "breaker_failures": 1000,
            },
        }  # fmt: skip


async def settle(*nodes: EdgeNode, rounds: int = 2) -> None:
    """Let everybody hear of everything."""
    for _ in range(rounds):
        for node in nodes:
            await node.sync(PATIENCE_S)


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_S * 100):
        if is_so():
            return
        await trio.sleep(0.01)
    raise TimeoutError("it never became so")
