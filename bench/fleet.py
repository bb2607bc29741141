"""A thousand edges on one hub: how late are acks, what does news cost, and what does an edge?

    python -m bench.fleet --edges 1000 --seconds 60

The hub is a real one in a process of its own, with log, keys, projectors and HTTP. The edges are
many in one more process: each has a connection with CURVE and a real `Sender`, sends a batch of 50
readings every 30 s, at a time of its own, and has a question for keys waiting at the hub, as an
edge with keys in use has. Journals are not on disk: the hub is what is measured.

Prints milliseconds from sending a batch to its ack (p50, p99), the hub's CPU in a batch and its
share of a core while nobody sends, its memory an edge, and how long news of one key takes to the
three edges that want it.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import httpx2
import msgspec
import psutil
import trio
import zmq

from edgesync import EdgeNode, Lane, Reading
from edgesync._native import batch
from edgesync.demo.site import free_ports
from edgesync.store.journal import EdgeStore
from edgesync_transport import descriptors
from edgesync_transport import sender as core
from edgesync_transport.dealer import ZmqConnect
from edgesync_transport.keys import load_or_create_keys, new_key_pair
from edgesync_transport.messages import Codec, Page, Pull
from edgesync_transport.sockets import DEFAULT_SETTINGS, new_context
from edgesync_transport.window import LanePositions, SenderSettings
from hubd.registry import open_registry
from hubd.serve import KEYS

if TYPE_CHECKING:
    from edgesync_transport.link import Link

POLL: Final = 50
EVERY_S: Final = 30.0
HEARTBEAT_S: Final = 30.0
HOLD_S: Final = 50.0
SETTLE_S: Final = 10.0
IDLE_S: Final = 30.0
NEWS_S: Final = 10.0
GREETINGS_AT_A_TIME: Final = 50
WANTED_BY: Final = 3
NEWS: Final = 10
NOWHERE: Final = LanePositions(tail=0, floor=0, safe=0, trimmed=0)


class Journal:
    """Polls that every edge sends as its own: packed once, with the hashes that join them."""

    def __init__(self, polls: int) -> None:
        self.batches: dict[int, core.Loaded] = {}
        self.tails = [0]
        self.chains = {0: 0}
        chance = Random(1)
        with tempfile.TemporaryDirectory() as folder, EdgeNode.local(Path(folder)) as node:
            for _ in range(polls):
                at = time.time_ns()
                node.ingest_sync([
                    Reading("plant", f"s{n}", round(chance.uniform(10, 400), 1), at)
                    for n in range(POLL)
                ])  # fmt: skip
                self._take(node.store)

    def _take(self, store: EdgeStore) -> None:
        first = self.tails[-1] + 1
        rows = store.read(Lane.BULK, first)
        codec, payload = batch.pack(rows.data, prev_chain=rows.prev_chain)
        self.batches[first] = core.Loaded(
            lane=Lane.BULK, first=first, last=rows.last, prev_chain=rows.prev_chain,
            last_chain=rows.last_chain, codec=Codec(codec), payload=payload,
        )  # fmt: skip
        self.tails.append(rows.last)
        self.chains[rows.last] = rows.last_chain


class Figures:
    """What the edges have seen, together."""

    def __init__(self) -> None:
        self.acks_s: list[float] = []
        self.connected = 0
        self.pages = 0
        self.news_at: dict[str, list[float]] = {}


class SimulatedEdge:
    """A `Sender` over a real connection, and a question for keys that waits."""

    def __init__(self, number: int, connect: ZmqConnect, journal: Journal, seen: Figures) -> None:
        self.name = f"edge{number}"
        self._number = number
        self._connect = connect
        self._journal = journal
        self._seen = seen
        self._polls = 0
        self._sent_at: dict[int, float] = {}
        self._cursor = Pull(
            epoch=0, token=0, keyspace=bytes(16), replica=0, base=0, after=0, made=0
        )
        shared = [(b"three/", True)] if number < WANTED_BY else []
        self._scope = msgspec.msgpack.encode([(b"site/%d/" % number, True), *shared, (b"", False)])
        settings = SenderSettings(heartbeat_s=HEARTBEAT_S, linger_s=(0.0, 0.0, 0.0))
        self._sender = core.Sender(
            (NOWHERE, NOWHERE, NOWHERE), incarnation=os.urandom(16), wall_ns=time.time_ns,
            chain_at=lambda _lane, seq: journal.chains.get(seq), random=Random(number),
            settings=settings,
        )  # fmt: skip
        self._link: Link

    async def run(self, slots: trio.CapacityLimiter, produces: trio.Event) -> None:
        async with slots:
            self._link = await self._connect()
            await self._link.wait_up()
            await self._step(core.LinkUp())
            while not self._sender.epoch:
                await self._step(core.Received(await self._link.receive()))
            await self._ask()
            self._seen.connected += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_producing, produces)
            while True:
                message = await self._link.receive()
                if isinstance(message, Page):
                    await self._take(message)
                else:
                    await self._step(core.Received(message))

    async def _keep_producing(self, produces: trio.Event) -> None:
        next_poll = trio.current_time() + Random(self._number).uniform(0, EVERY_S)
        while True:
            with trio.move_on_at(min(next_poll, self._sender.due_at(trio.current_time()) + 1.0)):
                await trio.sleep_forever()
            await self._step(core.Tick())
            if trio.current_time() >= next_poll:
                next_poll += EVERY_S
                if produces.is_set() and self._polls + 1 < len(self._journal.tails):
                    self._polls += 1
                    tail = self._journal.tails[self._polls]
                    self._sent_at[tail] = trio.current_time()
                    await self._step(core.Grown(Lane.BULK, tail))

    async def _step(self, event: core.Event) -> None:
        now = trio.current_time()
        for effect in self._sender.step(event, now):
            match effect:
                case core.Transmit(message):
                    await self._link.send(message)
                case core.Load(lane=lane, first=first):
                    if (loaded := self._journal.batches.get(first)) and lane is Lane.BULK:
                        await self._step(loaded)
                case core.Mark(lane=Lane.BULK, floor=floor):
                    for tail in [tail for tail in self._sent_at if tail <= floor]:
                        self._seen.acks_s.append(now - self._sent_at.pop(tail))

    async def _ask(self, wait_s: float = 0.0) -> None:
        self._cursor = msgspec.structs.replace(
            self._cursor, epoch=self._sender.epoch, token=self._cursor.token + 1, wait_s=wait_s,
            payload=self._scope,
        )  # fmt: skip
        await self._link.send(self._cursor)

    async def _take(self, page: Page) -> None:
        if page.token != self._cursor.token:
            return
        is_named = (page.replica, page.keyspace) == (self._cursor.replica, self._cursor.keyspace)
        if page.payload and is_named and self._cursor.base:
            self._seen.news_at.setdefault(self.name, []).append(time.monotonic())
        elif is_named:
            self._seen.pages += 1
        self._cursor = msgspec.structs.replace(
            self._cursor, replica=page.replica, keyspace=page.keyspace, start=page.start,
            base=page.position if is_named and page.is_all else self._cursor.base,
            after=page.position if is_named else 0,
        )  # fmt: skip
        await self._ask(HOLD_S if is_named and page.is_all else 0.0)


class Hub:
    """A hub in a process of its own, and the keys of its edges."""

    def __init__(self, folder: Path, edges: int) -> None:
        self.link_port, self.http_port = free_ports(2)
        self._config = folder / "hub.toml"
        listen = f"tcp://127.0.0.1:{self.link_port}"
        self._run(
            "init", "--listen", listen, "--port", str(self.http_port),
            "--heartbeat", f"{HEARTBEAT_S:.0f}s",
        )  # fmt: skip
        self.public = load_or_create_keys(folder / "data" / KEYS).public
        self.pairs = [new_key_pair() for _ in range(edges)]
        with contextlib.closing(open_registry(folder / "data")) as registry:
            for number, pair in enumerate(self.pairs):
                invited = registry.enrolments.invite(f"edge{number}", valid_s=3600.0)
                registry.enrolments.redeem(invited.routing_key, invited.secret, pair.public)
        with (folder / "hub.log").open("wb") as out:
            command = [sys.executable, "-m", "hubd", "--config", str(self._config), "run"]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        self._seen = psutil.Process(self.process.pid)

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "hubd", "--config", str(self._config), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    async def command(self, *words: str) -> None:
        """Carry out a command on the hub's keys, as a client of its API does."""
        url = f"http://127.0.0.1:{self.http_port}/api/v1/keys/command"
        body = {"commands": [list(words)]}
        async with httpx2.AsyncClient() as client:
            (await client.post(url, json=body)).raise_for_status()

    async def wait_ready(self) -> None:
        while True:
            try:
                await self.command("PING")
            except httpx2.TransportError:
                await trio.sleep(0.1)
            else:
                return

    def cpu_s(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def uss(self) -> int:
        return int(self._seen.memory_full_info().uss)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


async def measure(hub: Hub, seconds: float) -> dict[str, float]:
    """Connect all edges, let them be, let them send, let three of them hear."""
    seen, produces = Figures(), trio.Event()
    journal = Journal(2 + int(seconds / EVERY_S))
    slots = trio.CapacityLimiter(GREETINGS_AT_A_TIME)
    settings = msgspec.structs.replace(DEFAULT_SETTINGS, vanished_s=2 * HEARTBEAT_S)
    context = new_context()
    context.set(zmq.MAX_SOCKETS, 65_000)
    await hub.wait_ready()
    empty_bytes, begun = hub.uss(), trio.current_time()
    found: dict[str, float] = {"edges": len(hub.pairs)}
    async with trio.open_nursery() as nursery:
        for number, pair in enumerate(hub.pairs):
            connect = ZmqConnect(
                f"tcp://127.0.0.1:{hub.link_port}", server_key=hub.public, keys=pair,
                settings=settings, context=context, nursery=nursery,
            )  # fmt: skip
            edge = SimulatedEdge(number, connect, journal, seen)
            nursery.start_soon(edge.run, slots, produces)
        while seen.connected < len(hub.pairs):  # noqa: ASYNC110 - counts of many tasks
            await trio.sleep(0.05)
        found["connected_s"] = trio.current_time() - begun
        await trio.sleep(SETTLE_S)
        found["kb_an_edge"] = (hub.uss() - empty_bytes) / len(hub.pairs) / 1e3
        cpu_s = hub.cpu_s()
        await trio.sleep(IDLE_S)
        idle = (hub.cpu_s() - cpu_s) / IDLE_S
        found["idle_core_percent"] = 100 * idle
        cpu_s, pages = hub.cpu_s(), seen.pages
        produces.set()
        await trio.sleep(seconds)
        batches = len(seen.acks_s)
        found["pages_a_second"] = (seen.pages - pages) / seconds
        found["cpu_ms_a_batch"] = 1e3 * (hub.cpu_s() - cpu_s - idle * seconds) / max(1, batches)
        found["batches"] = batches
        found["ack_p50_ms"], found["ack_p99_ms"] = percentiles_ms(seen.acks_s)
        latencies: list[float] = []
        for nth in range(NEWS):
            seen.news_at.clear()
            begun = time.monotonic()
            await hub.command("SET", "three/x", str(nth))
            with trio.move_on_after(NEWS_S):
                while len(seen.news_at) < WANTED_BY:  # noqa: ASYNC110 - counts of many tasks
                    await trio.sleep(0.002)
            latencies += [at - begun for times in seen.news_at.values() for at in times]
        found["news_reached"] = len(latencies) / NEWS
        found["news_p50_ms"], found["news_max_ms"] = (
            1e3 * statistics.median(latencies or [math.nan]), 1e3 * max(latencies or [math.nan])
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(context.term)
    return {name: round(value, 1) for name, value in found.items()}


def percentiles_ms(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds) or [math.nan]
    return 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[int(len(ordered) * 0.99)]


def fleet(edges: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run it; returns what was measured."""
    descriptors.raise_limit()
    hub = Hub(folder, edges)
    try:
        return trio.run(measure, hub, seconds)
    finally:
        hub.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgesync-fleet-") as place:
        print(json.dumps(fleet(wanted.edges, wanted.seconds, Path(place))))


if __name__ == "__main__":
    main()
