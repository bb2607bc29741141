"""Much more goes through a hub than its log may hold, and nothing is missing in the end."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from edgesync_transport.messages import Codec, Lane
from hubd.cells import Answers, HubCells
from hubd.cells.feed import Feed
from hubd.cells.keyspaces import Keyspaces, cells_path
from hubd.log.base import Append, Appended, Entry, Log, LogFull
from hubd.log.lmdb import LmdbLog
from hubd.log.memory import MemoryLog
from hubd.log.retention import STATE_BACKUP, Policy, Readers, Retention
from hubd.project.gaps import read_gaps
from hubd.project.live import Live
from hubd.project.projectors import VIEWS, Projectors, run_projectors
from hubd.project.readers import ProjectorReaders
from hubd.state import State, open_state, views
from hubd.state.copies import copy_state
from tests.hubd.batches import INCARNATION, START_NS, Edge
from tests.hubd.keys import Till
from tests.hubd.log.test_contract import NOWHERE

pytestmark = pytest.mark.feature("S32")

MIB = 1 << 20
NAME = ("meter", "Power")
EDGES = 20


class Site:
    """An edge: readings, a key, and ballast, as gaps that carry bytes nobody looks at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.readings = self.keys = self.epoch = 0
        self._edge, self._till = Edge(name, origin=hash(name) & 0xFFFF), Till(name)
        self._ballast = 0
        self.batches: list[Append] = []

    async def begin(self, log: Log) -> None:
        self.epoch = (await log.open_session(self.name, INCARNATION, NOWHERE)).epoch

    def write(self, ballast: bytes) -> list[Append]:
        """Return the batches of one round."""
        for _ in range(20):
            self._edge.readings(START_NS + self.readings * 10**9, {NAME: float(self.readings)})
            self.readings += 1
        self._till.do("SET", f"{self.name}:{self.keys}", "1")
        self.keys += 1
        self._ballast += 1
        gap = Append(
            edge=self.name, epoch=self.epoch, incarnation=INCARNATION, lane=Lane.CRITICAL,
            first=self._ballast, last=self._ballast, prev_chain=self._ballast - 1,
            last_chain=self._ballast, codec=Codec.GAP, payload=ballast,
        )  # fmt: skip
        self.batches = [self._asked(self._edge.entry(1)), self._asked(self._till.entry(1)), gap]
        return self.batches

    def _asked(self, entry: Entry) -> Append:
        return Append(
            edge=self.name, epoch=self.epoch, incarnation=INCARNATION, lane=entry.lane,
            first=entry.first, last=entry.last, prev_chain=entry.first - 1, last_chain=entry.last,
            codec=entry.codec, payload=entry.payload,
        )  # fmt: skip


class Hub:
    """The parts of a hub that read its log and keep it small."""

    def __init__(self, log: Log, state: State, keyspaces: Keyspaces, policy: Policy) -> None:
        self.log, self.state, self.keyspaces = log, state, keyspaces
        self.projectors = Projectors(Live())
        readers: list[Readers] = [ProjectorReaders(state, self.projectors), keyspaces]
        self.retention = Retention(log, policy, readers)

    async def append(self, batches: list[Append]) -> None:
        """Append as an edge does that is told to come again."""
        with trio.fail_after(120):
            while True:
                try:
                    answers = await self.log.append(batches)
                except LogFull:
                    await trio.sleep(0.05)
                else:
                    assert all(isinstance(answer, Appended) for answer in answers), answers
                    return

    async def reach_head(self) -> None:
        with trio.fail_after(120):
            await self.projectors.reach(self.log.head)
            while min((await self.keyspaces.cursors()).values()) < self.log.head:
                self.keyspaces.press(self.log.head)
                await trio.sleep(0.01)


@asynccontextmanager
async def a_hub(folder: Path, log: Log, policy: Policy) -> AsyncIterator[Hub]:
    def open_answers(tenant: str, feed: Feed) -> Answers:
        path = cells_path(folder, tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = HubCells(path, log.generation, log.head, random=Random(1), oldest=log.oldest)
        return Answers(cells, log, feed=feed)

    state = open_state(folder / "state.db", log.generation, lambda: log.head)
    with closing(state), closing(Keyspaces(log, open_answers)) as keyspaces:
        # One whose keys never change: its place in the log must not keep the log.
        keyspaces.set_tenants(["acme"], {"elsewhere": "acme"})
        hub = Hub(log, state, keyspaces, policy)
        async with trio.open_nursery() as nursery:
            await nursery.start(keyspaces.run)
            nursery.start_soon(run_projectors, log, state, hub.projectors)
            nursery.start_soon(hub.retention.run)
            yield hub
            nursery.cancel_scope.cancel()


async def pour(hub: Hub, sites: list[Site], total: int, largest: int) -> None:
    """Let the sites send so many bytes, in turn."""
    random, noise = Random(1), Random(2).randbytes(largest)
    sent = 0
    while sent < total:
        for site in sites:
            ballast = noise[: random.randint(largest // 8, largest)]
            await hub.append(site.write(ballast))
            sent += len(ballast)


def readings_of(hub: Hub) -> dict[str, int]:
    return {edge: held.readings for edge, held in hub.state.read_now(views.totals).items()}


async def check(hub: Hub, sites: list[Site], limit: int) -> None:
    await hub.reach_head()
    assert hub.log.oldest > 1
    assert hub.log.stats().used_bytes < 0.9 * limit
    with trio.fail_after(120):
        while hub.retention.standing.held_by:  # noqa: ASYNC110  # what is read is being stored
            await trio.sleep(0.01)
    assert readings_of(hub) == {site.name: site.readings for site in sites}
    assert hub.state.read_now(read_gaps) == []
    cells = hub.keyspaces.default.cells
    for site in sites:
        last = f"{site.name}:{site.keys - 1}"
        assert cells.ask("EXISTS", [f"{site.name}:0", last]) == 2


async def flow(folder: Path, log: Log, limit: int, largest: int) -> None:
    policy = Policy(keep_bytes=limit)
    sites = [Site(f"edge{nth:02}") for nth in range(EDGES)]
    away, rest = sites[0], sites[1:]
    async with a_hub(folder, log, policy) as hub:
        for site in sites:
            await site.begin(log)
        await hub.append(away.write(b"before it leaves"))
        await pour(hub, rest, 10 * limit, largest)
        await check(hub, sites, limit)
        # It does not know what came of its last batches, and is told that they are stored.
        head = log.head
        session = await log.open_session(away.name, INCARNATION, NOWHERE)
        away.epoch = session.epoch
        assert session.floors[Lane.BULK].floor == away.batches[0].last
        again = [msgspec.structs.replace(one, epoch=away.epoch) for one in away.batches]
        await hub.append(again)
        assert log.head == head
        await hub.append(away.write(b"after it has come back"))
        await check(hub, sites, limit)
    # What reads on from stored cursors lacks nothing.
    async with a_hub(folder, log, policy) as hub:
        await check(hub, sites, limit)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is so small fills in less time than lies between two looks at it."""
    monkeypatch.setattr("hubd.log.retention.PAUSE_S", 0.01)
    monkeypatch.setattr("hubd.log.retention.HELD_S", 0.02)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
async def test_ten_times_the_limit_of_a_log_goes_through_it(tmp_path: Path, kind: str) -> None:
    limit = 16 * MIB
    log: Log
    if kind == "memory":
        log = MemoryLog(limit_bytes=limit)
    else:
        log = LmdbLog(tmp_path / "log", map_bytes_max=limit)
    await flow(tmp_path, log, limit, 400_000)
    if kind == "lmdb":
        assert (tmp_path / "log" / "data.mdb").stat().st_size <= limit
    await log.aclose()


@pytest.mark.long
async def test_ten_gibibytes_go_through_a_log_of_one(tmp_path: Path) -> None:
    limit = 1024 * MIB
    log = LmdbLog(tmp_path / "log", map_bytes_max=limit)
    began = time.monotonic()
    await flow(tmp_path, log, limit, MIB)
    print(f"{10 * limit / (time.monotonic() - began) / MIB:.0f} MiB/s, {log.stats()}")
    assert (tmp_path / "log" / "data.mdb").stat().st_size <= limit
    await log.aclose()


@pytest.mark.usefixtures("hasty")
async def test_a_stuck_projector_keeps_its_entries(tmp_path: Path) -> None:
    limit = 8 * MIB
    log = LmdbLog(tmp_path / "log", map_bytes_max=limit)
    site = Site("barn")
    async with a_hub(tmp_path, log, Policy(keep_bytes=limit)) as hub:
        await site.begin(log)
        await hub.append(site.write(b"1"))
        await hub.projectors.reach(log.head)
        cursor, events = log.head, hub.projectors.all[1]

        def refuse(*_: object) -> None:
            raise MemoryError

        events.apply = refuse  # type: ignore[method-assign,assignment]
        noise = Random(2).randbytes(100_000)
        with pytest.raises(LogFull):  # noqa: PT012
            while True:
                await log.append(site.write(noise))
        with trio.fail_after(60):
            while hub.retention.standing.held_by != "projector events":  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert log.oldest <= cursor + 1
        assert hub.retention.standing.cursors["projector events"] == cursor
        assert log.stats().is_full
        del events.apply
        await hub.append(site.batches)
    await log.aclose()


@pytest.mark.usefixtures("hasty")
async def test_without_a_policy_the_log_waits_for_a_backup_with_the_state(tmp_path: Path) -> None:
    limit = 8 * MIB
    log = LmdbLog(tmp_path / "log", map_bytes_max=limit)
    site, noise = Site("barn"), Random(2).randbytes(100_000)
    async with a_hub(tmp_path, log, Policy()) as hub:
        await site.begin(log)
        while log.stats().used_bytes < 0.85 * limit:
            await hub.append(site.write(noise))
        with trio.fail_after(60):
            while hub.retention.standing.held_by != STATE_BACKUP:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert log.oldest == 1
        head = log.head
        await hub.reach_head()
        async with hub.retention.hold():
            stored = copy_state(
                tmp_path / "state.db", tmp_path / "copy.db", log.generation, VIEWS
            )  # fmt: skip
            await log.backup(tmp_path / "copy", stored=stored)
        assert stored > 0
        with trio.fail_after(60):
            while log.oldest == 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert log.oldest <= stored + 1 <= head + 1
    await log.aclose()
