"""One edge floods a hub: how late are the newest values of the others, what does the hub hold?

    python -m bench.fairness --flood backlog --edges 20

The hub is a real one in a process of its own. Quiet edges send a reading twice a second, with the
time of sending, and their newest values are asked for over HTTP: what of their age is beyond that
half second is how late they are. Meanwhile somebody floods:

    backlog   edges hand over 14 days of its polls, 50 values a minute, one of them changing
    series    an edge names 100,000 series it has never had, a reading each
    poison    an edge sends batches that are none, again and again
    tenant    four edges of one tenant send for 30 s as fast as they may, ten times its limit

Prints the worst and median lateness in milliseconds, without the flood and with it, seconds until
it was all there, readings a second of it, and the hub's memory before, at most, and afterwards.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import httpx2
import trio

from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.demo.site import free_ports
from edgesync.model import EventType, RecordKind, ValueType, series_id
from edgesync.store.journal import EdgeStore
from edgesync_transport import sender as core
from edgesync_transport.dealer import ZmqConnect
from edgesync_transport.keys import KeyPair, load_or_create_keys, new_key_pair
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.messages import Batch, Codec, Lane, Nack
from edgesync_transport.sockets import DEFAULT_SETTINGS, new_context
from hubd.data_folder import KEYS
from hubd.registry import open_registry

if TYPE_CHECKING:
    from edgesync_transport.link import Link

MINUTE_NS: Final = 60 * 10**9
DAYS: Final = 14
POLL: Final = 50
NEW_SERIES: Final = 100_000
EVERY_S: Final = 0.5
ASK_S: Final = 0.1
CALM_S: Final = 10.0
FLOOD_S: Final = 30.0
FLOODS: Final = ("backlog", "series", "poison", "tenant")
LOUD: Final = 4
TENANT_READINGS: Final = 50_000
NOWHERE: Final = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
HUB_TOML: Final = """
[hub]
listen = ["tcp://127.0.0.1:{link}"]
[api]
port = {http}
[limits]
tenant_readings = {tenant_readings}
burst = "1s"
"""


def backlog() -> Iterator[tuple[int, bytes]]:
    """Yield what an edge stores of 14 days of a poll a minute, with a clock that jitters."""
    chance = Random(1)
    ids = [series_id("meter", f"P{n}") for n in range(POLL)]
    begun_ns = time.time_ns() - DAYS * 1440 * MINUTE_NS
    for n in ids[:1]:
        yield RecordKind.EVENT, declaration("meter", f"P{n}", begun_ns)
    for minute in range(DAYS * 1440):
        at_ns = begun_ns + minute * MINUTE_NS + chance.randrange(10**9)
        values = [chance.uniform(0, 100), *[1.0] * (POLL - 1)]
        yield RecordKind.READINGS, batch.readings(at_ns, ValueType.F64, ids, values)


def new_series() -> Iterator[tuple[int, bytes]]:
    at_ns = time.time_ns()
    for first in range(0, NEW_SERIES, 100):
        names = [f"{n:06}" for n in range(first, first + 100)]
        for name in names:
            yield RecordKind.EVENT, declaration("flood", name, at_ns)
        ids = [series_id("flood", name) for name in names]
        yield RecordKind.READINGS, batch.readings(at_ns, ValueType.F64, ids, [1.0] * 100)


def declaration(entity: str, key: str, at_ns: int) -> bytes:
    body = json.dumps({"entity": entity, "key": key, "unit": "", "type": "f64"}).encode()
    return event.encode(EventType.SERIES, 0, 0, "", body, at_ns, at_ns, 0)


class Journal:
    """Records of a bulk lane in memory; it may grow."""

    def __init__(self, records: Iterator[tuple[int, bytes]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgesync-journal-")
        self._store = EdgeStore(Path(self._folder.name) / "store", sync="none")
        self.add(records)

    def add(self, records: Iterator[tuple[int, bytes]]) -> int:
        write = Write()
        for count, (kind, body) in enumerate(records, 1):
            write.append(Lane.BULK, kind, body)
            if count % 10_000 == 0:
                self._store.submit_sync(write)
                write = Write()
        self._store.submit_sync(write)
        return self.tail

    @property
    def tail(self) -> int:
        return self._store.state(Lane.BULK).tail

    def chain_at(self, _lane: Lane, seq: int) -> int | None:
        return 0 if not seq else self._store.read(Lane.BULK, seq, limit_records=1).last_chain

    def load(self, asked: core.Load) -> core.Loaded:
        limit = min(asked.limit_records, asked.last_max - asked.first + 1)
        rows = self._store.read(
            Lane.BULK, asked.first, limit_records=limit, limit_bytes=asked.limit_bytes
        )
        codec, payload = batch.pack(rows.data, prev_chain=rows.prev_chain)
        return core.Loaded(
            Lane.BULK, asked.first, rows.last, rows.prev_chain, rows.last_chain, Codec(codec),
            payload,
        )  # fmt: skip

    def close(self) -> None:
        self._store.close()
        self._folder.cleanup()


class FloodingEdge:
    """A `Sender` over a real connection that sends what its journal has."""

    def __init__(self, connect: ZmqConnect, journal: Journal) -> None:
        self._connect = connect
        self.journal = journal
        self.sender = core.Sender(
            (NOWHERE, NOWHERE, NOWHERE), incarnation=os.urandom(16), wall_ns=time.time_ns,
            chain_at=journal.chain_at, random=Random(1),
            settings=SenderSettings(linger_s=(0.0, 0.0, 0.0)),
        )  # fmt: skip
        self.pauses = 0
        self.link: Link

    async def greet(self) -> None:
        self.link = await self._connect()
        await self.link.wait_up()
        await self.step(core.LinkUp())
        while not self.sender.epoch:
            await self.step(core.Received(await self.link.receive()))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            while True:
                await self.step(core.Received(await self.link.receive()))

    async def grow(self) -> None:
        await self.step(core.Grown(Lane.BULK, self.journal.tail))

    async def all_there(self) -> None:
        while self.sender.backlog:  # noqa: ASYNC110 - what another task does
            await trio.sleep(0.01)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(0.05)
            await self.step(core.Tick())

    async def step(self, happened: core.Event) -> None:
        for effect in self.sender.step(happened, trio.current_time()):
            match effect:
                case core.Transmit(message):
                    await self.link.send(message)
                case core.Load():
                    await self.step(self.journal.load(effect))
                case core.Report(kind="slowed"):
                    self.pauses += 1
                case core.Hangup(reason):
                    raise RuntimeError(reason)


async def poison(edge: FloodingEdge, refusals: list[int]) -> None:
    """Send nonsense, eight at a time, as fast as it is refused."""
    nonsense = Batch(
        epoch=edge.sender.epoch, incarnation=edge.sender.incarnation, lane=Lane.BULK, first=1,
        last=1000, prev_chain=0, last_chain=1, codec=Codec.COLUMNS,
        payload=(1 << 20).to_bytes(4, "little") + Random(1).randbytes(400_000),
    )  # fmt: skip
    for _ in range(8):
        await edge.link.send(nonsense)
    while True:
        if isinstance(await edge.link.receive(), Nack):
            refusals[0] += 1
            await edge.link.send(nonsense)


class Hub:
    """A hub in a process of its own, the keys of its edges, and what it says."""

    def __init__(self, folder: Path, tenant_readings: int) -> None:
        self._folder = folder
        self.link_port, self.http_port = free_ports(2)
        self._config = folder / "hub.toml"
        self._config.write_text(HUB_TOML.format(
            link=self.link_port, http=self.http_port, tenant_readings=tenant_readings
        ))  # fmt: skip
        data = folder / "data"
        data.mkdir()
        self.public = load_or_create_keys(data / KEYS).public
        self.pairs: dict[str, KeyPair] = {}
        self.process: subprocess.Popen[bytes]

    def register(self, tenants: dict[str, Sequence[str]]) -> None:
        with contextlib.closing(open_registry(self._folder / "data")) as registry:
            for tenant, names in tenants.items():
                if tenant != "default":
                    registry.tenants.add(tenant)
                for name in names:
                    pair = self.pairs[name] = new_key_pair()
                    invited = registry.enrolments.invite(name, tenant=tenant, valid_s=3600.0)
                    registry.enrolments.redeem(invited.routing_key, invited.secret, pair.public)

    def start(self) -> None:
        command = [sys.executable, "-m", "hubd", "--config", str(self._config), "run"]
        with (self._folder / "hub.log").open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def memory(self) -> int:
        """Return what it holds of its own, without the pages of its files that are mapped."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        ((kib,),) = (line.split()[1:2] for line in status.splitlines() if line[:7] == "RssAnon")
        return int(kib) * 1024

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Watch:
    """How late the newest values of quiet edges are, and how much the hub holds at most."""

    def __init__(self, hub: Hub, names: Sequence[str]) -> None:
        self._hub = hub
        self._names = names
        self._client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{hub.http_port}", timeout=60.0
        )
        self.late_s: list[float] = []
        self.most = 0

    async def ready(self) -> None:
        while True:
            try:
                await self._client.get("/healthz")
            except httpx2.TransportError:
                await trio.sleep(0.1)
            else:
                return

    async def keep_asking(self) -> None:
        nth = 0
        while True:
            nth += 1
            await trio.sleep(ASK_S)
            asked_ns = time.time_ns()
            name = self._names[nth % len(self._names)]
            answer = await self._client.get(f"/api/v1/edges/{name}/latest")
            found = answer.json()["latest"]
            if found:
                ((newest,),) = (list(keys.values()) for keys in found.values())
                self.late_s.append(max(0.0, (asked_ns - newest["time_ns"]) / 1e9 - EVERY_S))
            self.most = max(self.most, self._hub.memory())

    async def settled(self, edges: int) -> None:
        """Return when all projectors have come to the end of the log."""
        while True:
            stats = (await self._client.get("/api/v1/stats")).json()
            if not any(one["lag"] for one in stats["projectors"]):
                return
            await trio.sleep(0.05)

    async def growth(self, seconds: float) -> dict[str, float]:
        """Return what the hub holds after so long, and how much more each hour.

        What comes in is in memory for an hour and in pages then, so in its first hour the hub grows
        by what is told beside it: readings more each hour, of 16 bytes.
        """
        at, held, fresh = [], [], await self._fresh()
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await trio.sleep(min(seconds, 10.0))
            at.append(trio.current_time() / 3600)
            held.append(self._hub.memory() / (1 << 20))
        slope = statistics.linear_regression(at, held).slope if len(at) > 1 else 0.0
        return {
            "memory_after_mb": self._hub.memory() / 1e6,
            "growth_mib_an_hour": slope,
            "fresh_an_hour": (await self._fresh() - fresh) * 3600 / max(seconds, 1.0),
        }

    async def _fresh(self) -> float:
        """Return how many readings are in memory alone."""
        text = (await self._client.get("/metrics")).text
        ((count,),) = (
            line.split()[1:]
            for line in text.splitlines()
            if line.startswith("edgesync_hub_fresh_readings ")
        )
        return float(count)

    async def problems(self) -> list[str]:
        found: list[str] = (await self._client.get("/healthz")).json()["problems"]
        return found


async def keep_sending(edge: FloodingEdge) -> None:
    ids = [series_id("quiet", "now")]
    await trio.sleep(Random(id(edge)).uniform(0, EVERY_S))
    while True:
        body = batch.readings(time.time_ns(), ValueType.F64, ids, [1.0])
        edge.journal.add(iter([(RecordKind.READINGS, body)]))
        await edge.grow()
        await trio.sleep(EVERY_S)


async def measure(
    hub: Hub, flood: str, quiet: Sequence[str], loud: Sequence[str], after_s: float
) -> Any:
    context, watch = new_context(), Watch(hub, quiet)
    await watch.ready()
    source = {"series": new_series, "backlog": backlog, "tenant": backlog}.get(flood)
    records = list(source()) if source else []
    found: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:

            async def edge_of(name: str, records: list[tuple[int, bytes]]) -> FloodingEdge:
                journal = Journal(iter(records))
                stack.callback(journal.close)
                connect = ZmqConnect(
                    f"tcp://127.0.0.1:{hub.link_port}", server_key=hub.public,
                    keys=hub.pairs[name], settings=DEFAULT_SETTINGS, context=context,
                    nursery=nursery,
                )  # fmt: skip
                edge = FloodingEdge(connect, journal)
                await edge.greet()
                return edge

            for name in quiet:
                edge = await edge_of(name, [])
                nursery.start_soon(edge.run)
                nursery.start_soon(keep_sending, edge)
            floods = [await edge_of(name, records) for name in loud]
            await trio.sleep(EVERY_S * 2)
            nursery.start_soon(watch.keep_asking)
            await trio.sleep(CALM_S)
            found |= late("calm", watch.late_s)
            watch.late_s.clear()
            found["memory_before_mb"] = hub.memory() / 1e6
            begun, refusals = trio.current_time(), [0]
            if flood == "poison":
                with trio.move_on_after(FLOOD_S):
                    await poison(floods[0], refusals)
                found["refusals_a_second"] = refusals[0] / FLOOD_S
            else:
                for edge in floods:
                    nursery.start_soon(edge.run)
                    await edge.grow()
                with trio.move_on_after(FLOOD_S if flood == "tenant" else 600.0):
                    for edge in floods:
                        await edge.all_there()
            took_s = trio.current_time() - begun
            problems = await watch.problems()
            if flood != "tenant":
                await watch.settled(len(quiet))
            found |= late("flood", watch.late_s)
            found["seconds"] = took_s
            found["readings_a_second"] = sum(one.sender.lanes[2].floor for one in floods) / took_s
            if flood in ("backlog", "tenant"):
                found["readings_a_second"] *= POLL
            found["pauses"] = sum(one.pauses for one in floods)
            found["memory_most_mb"] = watch.most / 1e6
            found |= await watch.growth(after_s)
            nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(context.term)
    return {name: round(value, 1) for name, value in found.items()} | {"problems": problems}


def late(when: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [float("nan")]
    return {
        f"{when}_late_p50_ms": 1e3 * ordered[len(ordered) // 2],
        f"{when}_late_max_ms": 1e3 * ordered[-1],
    }


def fairness(
    flood: str, edges: int, loud_edges: int, folder: Path, *, after_s: float = CALM_S
) -> Any:
    """Run it; returns what was measured."""
    hub = Hub(folder, TENANT_READINGS if flood == "tenant" else 1_000_000)
    quiet = [f"quiet{n}" for n in range(edges)]
    loud = [f"loud{n}" for n in range(loud_edges)]
    hub.register({"default": quiet, "noisy": loud})
    hub.start()
    try:
        return trio.run(partial(measure, hub, flood, quiet, loud, after_s))
    finally:
        hub.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flood", choices=FLOODS, default="backlog")
    parser.add_argument("--edges", type=int, default=20, help="quiet ones")
    parser.add_argument("--loud", type=int, help="others")
    parser.add_argument("--after", type=float, default=CALM_S, help="seconds; 3600 for a slope")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgesync-fairness-") as place:
        loud = wanted.loud or (LOUD if wanted.flood == "tenant" else 1)
        found = fairness(wanted.flood, wanted.edges, loud, Path(place), after_s=wanted.after)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
