"""Many simulated edges in one process: a program that `bench.fleet` runs.

    python -m bench.edges PLAN.JSON FIRST COUNT

Each edge has a connection of its own with CURVE, a real `Sender`, and with `keys` in the plan a
question for keys that waits at the hub. It comes back as `edgesync.sync.driver` does: at once after
a loss, and while nobody answers it looks for the hub as often as that told. Journals are in memory,
and one for all: the hub is what is measured, and cannot tell.

Reads commands from standard input, one a line, and answers each with a line of JSON:

    produce   send a poll every `every_s` from now on, at a time of one's own
    rest      send no more
    figures   what was seen since the last time it was asked for
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio
import zmq

from edgesync import EdgeNode, Lane, Reading
from edgesync._native import batch
from edgesync.store.journal import EdgeStore
from edgesync.sync.cells import HOLD_S
from edgesync.sync.driver import LOOK_S
from edgesync_transport import descriptors
from edgesync_transport import sender as core
from edgesync_transport.backoff import Backoff, BackoffSettings
from edgesync_transport.dealer import LinkLost, ZmqConnect, ZmqLink
from edgesync_transport.keys import KeyPair
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.messages import Codec, Page, Pull
from edgesync_transport.sockets import DEFAULT_SETTINGS, new_context

GREETINGS_AT_A_TIME: Final = 50
WANTED_BY: Final = 3
NOWHERE: Final = LanePositions(tail=0, floor=0, safe=0, trimmed=0)
SOCKETS_MAX: Final = 65_000
# How often a sender is told the time while nothing is under way.
TICK_S: Final = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes of a fleet know.

    keys      whether edges ask for keys
    pairs     of each edge
    poll      readings that share one time
    """

    address: str
    server_key: str
    pairs: list[KeyPair]
    keys: bool = True
    poll: int = 50
    polls: int = 100
    every_s: float = 30.0
    heartbeat_s: float = 30.0


class Journal:
    """Polls that every edge sends as its own: packed once, with the hashes that join them."""

    def __init__(self, polls: int, readings: int) -> None:
        self.batches: dict[int, core.Loaded] = {}
        self.tails = [0]
        self.chains = {0: 0}
        chance = Random(1)
        with tempfile.TemporaryDirectory() as folder, EdgeNode.local(Path(folder)) as node:
            for _ in range(polls):
                at = time.time_ns()
                node.ingest_sync([
                    Reading("plant", f"s{n}", round(chance.uniform(10, 400), 1), at)
                    for n in range(readings)
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
    """What the edges of this process have seen, together."""

    def __init__(self) -> None:
        self.connected = 0
        self.clear()

    def clear(self) -> None:
        self.acks_s: list[float] = []
        self.behind = 0  # polls that fell due while the ones before were under way
        self.pages = 0
        self.news: dict[str, list[float]] = {}
        self.failures = Counter[str]()  # attempts, by cause
        self.handshakes = 0  # begun by those that led to a link
        self.links = 0

    def take(self) -> dict[str, Any]:
        found = {**vars(self)}
        self.clear()
        return found


class SimulatedEdge:
    """See the module."""

    def __init__(
        self, number: int, plan: Plan, connect: ZmqConnect, journal: Journal, seen: Figures
    ) -> None:
        self.name = f"edge{number}"
        self.connected = trio.Event()
        self._plan = plan
        self._connect = connect
        self._journal = journal
        self._seen = seen
        self._random = Random(number)
        self._backoff = Backoff(BackoffSettings(), self._random)
        self._polls = 0
        self._sent_at: dict[int, float] = {}
        self._link: ZmqLink | None = None
        self._is_told = False  # all there is: what comes now is news
        self._cursor = Pull(
            epoch=0, token=0, keyspace=bytes(16), replica=0, base=0, after=0, made=0
        )
        shared = [(b"three/", True)] if number < WANTED_BY else []
        self._scope = msgspec.msgpack.encode([(b"site/%d/" % number, True), *shared, (b"", False)])
        self._sender = core.Sender(
            (NOWHERE, NOWHERE, NOWHERE), incarnation=os.urandom(16), wall_ns=time.time_ns,
            chain_at=lambda _lane, seq: journal.chains.get(seq), random=self._random,
            settings=SenderSettings(heartbeat_s=plan.heartbeat_s, linger_s=(0.0, 0.0, 0.0)),
        )  # fmt: skip

    async def run(self, produces: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._keep_producing, produces)
            look_s: float | None = None
            while True:
                try:
                    self._link = await self._connect(look_s)
                    await self._link.wait_up()
                except LinkLost as closed:
                    look_s = await self._failed(closed, is_away=look_s is not None)
                    continue
                self._seen.links += 1
                self._seen.handshakes += self._link.handshakes
                look_s = None
                await self._talk(self._link)

    async def _failed(self, closed: LinkLost, *, is_away: bool) -> float | None:
        """Wait as the driver does; return how often to look for the hub from now on."""
        self._seen.failures[closed.cause.name] += 1
        if self._link is not None:
            self._seen.handshakes += self._link.handshakes
            await self._link.aclose()
        if closed.retry_after_s is None:
            await trio.sleep(self._backoff.next_s())
            return None
        first_s = 0.0 if is_away else self._random.uniform(0.0, self._sender.spread_s)
        await trio.sleep(max(first_s, closed.retry_after_s))
        return max(LOOK_S, self._sender.spread_s / 2)

    async def _talk(self, link: ZmqLink) -> None:
        pause_s = 0.0
        try:
            await self._step(core.LinkUp())
            while True:
                message = await link.receive()
                if isinstance(message, Page):
                    await self._take(message)
                    continue
                await self._step(core.Received(message))
                if self._sender.epoch and self._cursor.epoch != self._sender.epoch:
                    await self._welcomed()
        except LinkLost as closed:
            self._seen.failures[closed.cause.name] += 1
        except Hangup as hangup:
            self._seen.failures[hangup.why] += 1
            pause_s = hangup.retry_after_s
        self._seen.connected -= bool(self._sender.epoch)
        await link.aclose()
        await self._step(core.LinkDown())
        self._sent_at.clear()  # an ack of the next session would tell how long there was none
        await trio.sleep(pause_s)

    async def _welcomed(self) -> None:
        self._seen.connected += 1
        self._backoff.reset()
        self.connected.set()
        self._cursor = msgspec.structs.replace(self._cursor, epoch=self._sender.epoch)
        self._is_told = False
        if self._plan.keys:
            await self._ask()

    async def _keep_time(self) -> None:
        while True:
            due = self._sender.due_at(trio.current_time())
            await trio.sleep_until(max(due, trio.current_time() + TICK_S))
            await self._safely(core.Tick())

    async def _keep_producing(self, produces: trio.Event) -> None:
        await produces.wait()
        every_s = self._plan.every_s
        at = trio.current_time() + self._random.uniform(0, every_s)
        while self._polls + 1 < len(self._journal.tails):
            await trio.sleep_until(at)
            await produces.wait()
            at = max(at + every_s, trio.current_time())
            self._polls += 1
            self._seen.behind += bool(self._sent_at)
            tail = self._journal.tails[self._polls]
            if self._sender.epoch:
                self._sent_at[tail] = trio.current_time()
            await self._safely(core.Grown(Lane.BULK, tail))

    async def _safely(self, event: core.Event) -> None:
        """Take an event that is no message; what ends the link, `_talk` notices by itself."""
        try:
            await self._step(event)
        except (LinkLost, Hangup):
            if self._link is not None:
                await self._link.aclose()

    async def _step(self, event: core.Event) -> None:
        now = trio.current_time()
        for effect in self._sender.step(event, now):
            match effect:
                case core.Transmit(message) if self._link is not None:
                    await self._link.send(message)
                case core.Load(lane=lane, first=first):
                    if (loaded := self._journal.batches.get(first)) and lane is Lane.BULK:
                        await self._step(loaded)
                case core.Mark(lane=Lane.BULK, floor=floor):
                    for tail in [tail for tail in self._sent_at if tail <= floor]:
                        self._seen.acks_s.append(now - self._sent_at.pop(tail))
                case core.Hangup(reason, retry_after_s):
                    raise Hangup(reason, retry_after_s)

    async def _ask(self, wait_s: float = 0.0) -> None:
        self._cursor = msgspec.structs.replace(
            self._cursor, token=self._cursor.token + 1, wait_s=wait_s, payload=self._scope
        )
        assert self._link is not None
        await self._link.send(self._cursor)

    async def _take(self, page: Page) -> None:
        if page.token != self._cursor.token or page.epoch != self._cursor.epoch:
            return
        is_named = (page.replica, page.keyspace) == (self._cursor.replica, self._cursor.keyspace)
        self._seen.pages += 1
        if page.payload and self._is_told:
            self._seen.news.setdefault(self.name, []).append(time.monotonic())
        self._cursor = msgspec.structs.replace(
            self._cursor, replica=page.replica, keyspace=page.keyspace, start=page.start,
            base=page.position if is_named and page.is_all else self._cursor.base,
            after=page.position if is_named else 0,
        )  # fmt: skip
        self._is_told = is_named and page.is_all
        await self._ask(HOLD_S if self._is_told else 0.0)


class Hangup(Exception):
    """The sender wants the link closed."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s


async def run(plan: Plan, first: int, count: int) -> None:
    """Connect the edges, a few at a time, and carry out commands until there are no more."""
    seen, produces = Figures(), trio.Event()
    journal = Journal(plan.polls, plan.poll)
    slots = trio.CapacityLimiter(GREETINGS_AT_A_TIME)
    settings = msgspec.structs.replace(DEFAULT_SETTINGS, vanished_s=2 * plan.heartbeat_s)
    context = new_context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)

    async def begin(edge: SimulatedEdge) -> None:
        async with slots:
            nursery.start_soon(edge.run, produces)
            await edge.connected.wait()

    async with trio.open_nursery() as nursery:
        for number in range(first, first + count):
            connect = ZmqConnect(
                plan.address, server_key=plan.server_key, keys=plan.pairs[number],
                settings=settings, context=context, nursery=nursery,
            )  # fmt: skip
            nursery.start_soon(begin, SimulatedEdge(number, plan, connect, journal, seen))
        while command := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            match command.strip():
                case "produce":
                    produces.set()
                case "figures":
                    pass
            print(json.dumps(seen.take()), flush=True)
        nursery.cancel_scope.cancel()
    # Its sockets are closed with the process: thousands of farewells need not be waited for.
    os._exit(0)


def main() -> None:
    descriptors.raise_limit()
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    trio.run(run, plan, int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
