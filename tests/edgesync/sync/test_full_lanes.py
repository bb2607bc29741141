"""An edge that is too small for the outage: the hub's log and its gaps account for every record."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Lane, Reading
from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.model import EventType, RecordKind, ValueType
from edgesync.store.journal import EdgeStore
from edgesync.store.settings import Overflow, Policy
from edgesync.sync.driver import SyncDriver
from edgesync_transport.lanes.sender import GIVEN_WAY
from edgesync_transport.memory import open_memory_hub
from edgesync_transport.messages import Codec
from hubd.link.sessions import HubLink
from hubd.log.base import Append, Appended, Entry, Log, NotAppended
from hubd.log.lmdb import LmdbLog
from hubd.presence import Presence
from tests.edgesync.sync.test_bad_link import RECEIVER, SENDER, STORMS, make_driver, pull_cables
from tests.edgesync.sync.test_driver import PATIENCE_S, Hub, entries, until, values

pytestmark = pytest.mark.feature("L1")

BULK = Lane.BULK
RECORDS = 3000


def opened(path: Path, how: Overflow, records: int) -> EdgeStore:
    policy = Policy(overflow=how, records=records, keep_every=3)
    return EdgeStore(path, overflow={BULK: policy})


async def produce(
    store: EdgeStore, driver: SyncDriver, random: Random, first: int = 0, end: int = RECORDS
) -> None:
    """Append readings first .. end - 1, faster than the link takes them."""
    number = first
    while number < end:
        write = Write()
        for _ in range(min(random.randint(1, 40), end - number)):
            body = batch.readings(number, ValueType.F64, [1], [float(number)])
            write.append(BULK, RecordKind.READINGS, body)
            number += 1
        tails = await store.submit(write)
        driver.gone(BULK, store.state(BULK).trimmed)
        driver.grown(tails)
        await trio.sleep(random.expovariate(1 / 0.002))


def seqs_of(found: list[Entry]) -> tuple[Counter[int], Counter[int]]:
    """Return how often each seq of the bulk lane is there, and how often in a gap."""
    there: Counter[int] = Counter()
    gaps: Counter[int] = Counter()
    for entry in found:
        if entry.lane == BULK:
            kind = gaps if entry.codec == Codec.GAP else there
            kind.update(range(entry.first, entry.last + 1))
    return there, gaps


def told_of(found: list[Entry]) -> list[dict[str, int]]:
    told = []
    for entry in found:
        if entry.lane == Lane.CRITICAL and entry.codec in (Codec.ROWS, Codec.COLUMNS):
            for _, record in batch.columns(entry.codec, entry.payload)[1]:
                decoded = event.decode(record.body)
                if decoded[0] == EventType.LOSS:
                    told.append(json.loads(decoded[4]))
    return told


async def check(log: Log, tail: int) -> None:
    found = await entries(log)
    there, gaps = seqs_of(found)
    once = there + gaps
    assert set(once) <= set(range(1, tail + 1))
    assert max(once.values()) == 1
    told = told_of(found)
    covered = {seq for one in told for seq in range(one["first"], one["last"] + 1)}
    assert set(gaps) <= covered  # every gap has its loss record
    read = Counter(await values(log))
    assert max(read.values()) == 1  # nothing twice, whatever was put back under its old id
    assert len(read) + sum(one["readings"] for one in told) >= RECORDS
    assert gaps


@pytest.mark.parametrize("how", ["drop_oldest", "downsample"])
@pytest.mark.parametrize("storm", ["calm", *STORMS])
async def test_every_record_is_there_or_in_a_gap_once(
    storm: str, how: Overflow, tmp_path: Path
) -> None:
    random = Random(storm + how)
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    weather = {} if storm == "calm" else {"weather": STORMS[storm]}
    async with open_memory_hub(random=random, **weather) as hub:
        with opened(tmp_path / "store", how, records=300) as store:
            driver = make_driver(store, hub, random)
            await produce(store, driver, random, end=RECORDS // 3)  # nobody there yet
            async with trio.open_nursery() as nursery:
                nursery.start_soon(HubLink(hub, log, Presence(log), RECEIVER).run)
                nursery.start_soon(driver.run)
                async with trio.open_nursery() as storms:
                    storms.start_soon(pull_cables, hub, random)
                    await produce(store, driver, random, first=RECORDS // 3)
                    storms.cancel_scope.cancel()
                hub.mend()
                driver.grown((store.state(Lane.CRITICAL).tail, 0, 0))
                tails = (store.state(Lane.CRITICAL).tail, 0, store.state(BULK).tail)
                with trio.fail_after(PATIENCE_S):
                    await driver.wait_durable(tails)
                nursery.cancel_scope.cancel()
            assert store.overflow.shed(BULK).records > 0
            await check(log, store.state(BULK).tail)
    await log.aclose()


@pytest.mark.parametrize("how", ["drop_oldest", "downsample"])
async def test_after_an_outage_hub_and_loss_records_agree_to_the_reading(
    how: Overflow, tmp_path: Path
) -> None:
    """Over real sockets, restarted in between; nothing was under way, so there is no doubt."""
    hub = Hub(tmp_path)

    def node() -> EdgeNode:
        made = hub.node()
        lanes = {"bulk": {"overflow": how, "capacity": 200, "keep_every": 3}}
        sync = {
            "heartbeat": "1s", "reconnect_base": "50ms", "reconnect_cap": "200ms",
            "breaker_failures": 1000, "lanes": lanes,
        }  # fmt: skip
        link = {"endpoint": hub.address, "server_key": hub.keys.public}
        return EdgeNode({"edge": {"name": "barn"}, "hub": link, "sync": sync}, folder=made.folder)

    for start in (0, 500):
        async with node() as edge:
            for n in range(start, start + 500):
                await edge.ingest([Reading("m", "P", float(n), n)])
    async with hub.running(), node() as edge:
        await edge.sync(PATIENCE_S)
        await until(lambda: edge.status().pending == 0)
        found = await entries(hub.log)
        there, gaps = seqs_of(found)
        tail = edge.store.state(BULK).tail
        assert there + gaps == Counter(range(1, tail + 1))
        assert [one.reason for one in found if one.codec == Codec.GAP] == [GIVEN_WAY]
        told = told_of(found)
        read = await values(hub.log)
        assert len(set(read)) == len(read) == 1000 - sum(one["readings"] for one in told)
        assert 999.0 in read
        assert edge.status().lanes[BULK].dropped == sum(one["records"] for one in told)


class HeldLog(LmdbLog):
    """A log on a disk that answers only once `go` is set."""

    go: trio.Event

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        await self.go.wait()
        return await super().append(batches)


async def test_a_drop_while_connected_ends_no_session(tmp_path: Path) -> None:
    """What is under way when the oldest go is told apart from what waits."""
    random = Random(5)
    patient = msgspec.structs.replace(SENDER, ack_timeout_s=60.0)
    log = HeldLog(tmp_path / "log", map_bytes_max=64 << 20)
    log.go = trio.Event()
    async with open_memory_hub(random=random) as hub:
        with opened(tmp_path / "store", "drop_oldest", records=600) as store:
            driver = make_driver(store, hub, random, patient)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(HubLink(hub, log, Presence(log), RECEIVER).run)
                nursery.start_soon(driver.run)
                epoch = await driver.wait_session()
                await produce(store, driver, random)
                driver.grown((store.state(Lane.CRITICAL).tail, 0, 0))
                tails = (store.state(Lane.CRITICAL).tail, 0, store.state(BULK).tail)
                log.go.set()
                with trio.fail_after(PATIENCE_S):
                    await driver.wait_durable(tails)
                assert driver.epoch == epoch
                nursery.cancel_scope.cancel()
            await check(log, store.state(BULK).tail)
    await log.aclose()
