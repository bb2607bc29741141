"""The real driver and the real hub over a link that loses, doubles, reorders and is cut."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
import trio

from edgesync import Lane
from edgesync._native import batch
from edgesync._native.journal import Rows
from edgesync._native.write import Write
from edgesync.errors import StoreUnwritable
from edgesync.model import RecordKind, ValueType
from edgesync.store.journal import EdgeStore
from edgesync.sync.driver import SyncDriver
from edgesync_transport.backoff import BackoffSettings
from edgesync_transport.breaker import BreakerSettings
from edgesync_transport.lanes.window import SenderSettings
from edgesync_transport.memory import MemoryHub, Weather, open_memory_hub
from edgesync_transport.receiver import ReceiverSettings
from hubd.link.sessions import HubLink
from hubd.log.lmdb import LmdbLog
from hubd.presence import Presence
from tests.edgesync.sync.test_driver import until, values

RECORDS = 400
SENDER = SenderSettings(
    batch_records_max=32, linger_s=(0.0, 0.001, 0.001), ack_timeout_s=0.2, greeting_timeout_s=0.2,
    heartbeat_s=0.2,
)  # fmt: skip
# Sessions follow each other far faster than two gateways with one key would make them.
RECEIVER = ReceiverSettings(heartbeat_s=0.2, takeovers_max=100_000)
STORMS = {
    "loss": Weather(loss=0.2),
    "doubles out of order": Weather(double=0.5, delay_s=0.01),
    "all of it": Weather(loss=0.1, double=0.2, delay_s=0.02),
}


class FailingStore(EdgeStore):
    """A store whose disk refuses for a while, now and then."""

    refusals = 0

    async def acknowledge(self, lane: Lane, floor: int, safe: int) -> None:
        self._refuse()
        await super().acknowledge(lane, floor, safe)

    def read(
        self, lane: Lane, first: int, *, limit_records: int = 65536, limit_bytes: int = 4 << 20
    ) -> Rows:
        self._refuse()
        return super().read(lane, first, limit_records=limit_records, limit_bytes=limit_bytes)

    def _refuse(self) -> None:
        self.refusals += 1
        if self.refusals % 3 == 1:
            raise StoreUnwritable(path=self.path, problem="input/output error")


class Silent:
    """A watcher that nobody looks at."""

    def link_report(self, kind: str, facts: Mapping[str, str | int | float]) -> None: ...

    def record_dead(self, lane: Lane, seq: int, reason: str) -> None: ...

    def records_lost(self, lane: Lane, first: int, last: int, reason: str) -> None: ...

    def hub_forgot(self, generation: bytes) -> None: ...


async def produce(store: EdgeStore, driver: SyncDriver, random: Random) -> None:
    """Append RECORDS readings, a few at a time, while the link does what it does."""
    number = 0
    while number < RECORDS:
        write = Write()
        for _ in range(min(random.randint(1, 12), RECORDS - number)):
            body = batch.readings(number, ValueType.F64, [1], [float(number)])
            write.append(Lane.BULK, RecordKind.READINGS, body)
            number += 1
        driver.grown(await store.submit(write))
        await trio.sleep(random.expovariate(1 / 0.01))


async def pull_cables(hub: MemoryHub, random: Random) -> None:
    while True:
        await trio.sleep(random.expovariate(1 / 0.15))
        hub.cut()
        await trio.sleep(random.expovariate(1 / 0.02))
        hub.mend()


@pytest.mark.feature("S2")
async def test_a_disk_that_refuses_delays_but_ends_nothing(tmp_path: Path) -> None:
    random = Random(3)
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    async with open_memory_hub(random=random) as hub:
        with FailingStore(tmp_path / "store") as store:
            driver = make_driver(store, hub, random)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(HubLink(hub, log, Presence(log), RECEIVER).run)
                nursery.start_soon(driver.run)
                await produce(store, driver, random)
                with trio.fail_after(60):
                    await driver.wait_durable((0, 0, RECORDS))
                    await until(lambda: store.state(Lane.BULK).floor == RECORDS)
                nursery.cancel_scope.cancel()
        assert store.refusals > 1
    assert await values(log) == [float(n) for n in range(RECORDS)]
    await log.aclose()


def make_driver(
    store: EdgeStore, hub: MemoryHub, random: Random, settings: SenderSettings = SENDER
) -> SyncDriver:
    return SyncDriver(
        store,
        hub.connect_as("barn"),
        Silent(),
        settings=settings,
        backoff=BackoffSettings(base_s=0.005, cap_s=0.05),
        breaker=BreakerSettings(failures_max=100_000),
        random=random,
    )


@pytest.mark.feature("S3", "S4", "S26")
@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_everything_arrives_once_and_in_order(storm: str, seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    async with open_memory_hub(random=random, weather=STORMS[storm]) as hub:
        link = HubLink(hub, log, Presence(log), RECEIVER)
        with EdgeStore(tmp_path / "store") as store:
            driver = make_driver(store, hub, random)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                nursery.start_soon(driver.run)
                async with trio.open_nursery() as storms:
                    storms.start_soon(pull_cables, hub, random)
                    await produce(store, driver, random)
                    storms.cancel_scope.cancel()
                hub.mend()
                with trio.fail_after(60):
                    await driver.wait_durable((0, 0, RECORDS))
                nursery.cancel_scope.cancel()
        assert driver.reconnects > 0
    assert await values(log) == [float(n) for n in range(RECORDS)]
    await log.aclose()
