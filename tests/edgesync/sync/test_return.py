"""A hub that was away is found again at once; a hub that refuses is spared."""

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgesync import EdgeNode
from edgesync.store.journal import EdgeStore
from edgesync.sync.driver import SyncDriver
from edgesync_transport.backoff import BackoffSettings
from edgesync_transport.breaker import BreakerSettings
from edgesync_transport.lanes.window import SenderSettings
from edgesync_transport.link import Connect
from edgesync_transport.memory import MemoryHub, MemoryLink, open_memory_hub
from edgesync_transport.messages import Bye, Hello, Message, RefuseCode, Refused, Welcome
from edgesync_transport.receiver import FLOORS_NONE
from tests.edgesync.sync.test_bad_link import Silent
from tests.edgesync.sync.test_driver import Hub, readings, values
from tests.sites import until

pytestmark = pytest.mark.feature("S3")

HOUR_S = 3600.0
# What an edge may take to notice that its hub is there.
NOTICED_S = 0.1

Answer = Callable[[Hello], Message]


def grant(hello: Hello, spread_s: float = 0.0) -> Welcome:
    return Welcome(
        nonce=hello.nonce, protocol=1, epoch=1, generation=bytes(16), lanes=FLOORS_NONE,
        clock_ns=0, heartbeat_s=1e9, spread_s=spread_s,
    )  # fmt: skip


def refuse(hello: Hello) -> Refused:
    return Refused(nonce=hello.nonce, epoch=0, code=RefuseCode.UNAVAILABLE, reason="no disk")


class Greetings:
    """A hub that answers greetings as the test likes, and notes when they came."""

    def __init__(self, hub: MemoryHub, driver: SyncDriver) -> None:
        self.hub = hub
        self._driver = driver
        self.answer: Answer = grant
        self.at: list[float] = []
        self._came = trio.Event()

    async def run(self) -> None:
        while True:
            peer, message = await self.hub.receive()
            if isinstance(message, Hello):
                self.at.append(trio.current_time())
                self._came.set()
                self._came = trio.Event()
                await self.hub.send(peer, self.answer(message))

    def connect_with(self, connect: Connect) -> None:
        self._driver._connect = connect

    async def last(self, seconds: float) -> None:
        """Let a session last, once its marks are stored: a disk knows no virtual time."""
        await self._driver.wait_session()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.autojump_threshold = 0.1
        await self._driver._settled.wait()
        clock.autojump_threshold = 0
        await trio.sleep(seconds)

    async def another(self) -> float:
        """Return when the next greeting comes."""
        await self._came.wait()
        return self.at[-1]


@pytest.fixture
async def greetings(tmp_path: Path) -> AsyncIterator[Greetings]:
    async with open_memory_hub(random=Random(1)) as hub, trio.open_nursery() as nursery:
        with EdgeStore(tmp_path / "store") as store:
            driver = SyncDriver(
                store,
                hub.connect_as("barn"),
                Silent(),
                settings=SenderSettings(heartbeat_s=1e9),
                backoff=BackoffSettings(),
                breaker=BreakerSettings(),
                random=Random(1),
            )
            found = Greetings(hub, driver)
            nursery.start_soon(found.run)
            nursery.start_soon(driver.run)
            await found.another()
            yield found
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("away_s", [0.01, 5.0, HOUR_S, 30 * 24 * HOUR_S])
async def test_a_hub_is_found_at_once_however_long_it_was_away(
    autojump_clock: MockClock, greetings: Greetings, away_s: float
) -> None:
    await greetings.last(HOUR_S)
    greetings.hub.cut()
    await trio.sleep(away_s)
    greetings.hub.mend()
    back_at = trio.current_time()
    assert await greetings.another() - back_at <= NOTICED_S


async def test_a_hub_that_is_away_for_the_breakers_time_is_no_hub_that_refused(
    autojump_clock: MockClock,
    greetings: Greetings,
) -> None:
    greetings.answer = refuse
    greetings.hub.cut()
    await trio.sleep(HOUR_S)
    greetings.hub.mend()
    await greetings.another()
    greetings.hub.cut()
    await trio.sleep(HOUR_S)
    greetings.hub.mend()
    back_at = trio.current_time()
    assert await greetings.another() - back_at <= NOTICED_S


async def test_a_hub_that_refuses_is_asked_ever_more_seldom(
    autojump_clock: MockClock, greetings: Greetings
) -> None:
    """3, 6, 12 and 24 s and five minutes after that, each ± 20 %."""
    await greetings.last(HOUR_S)
    greetings.answer = refuse
    greetings.hub.cut()
    greetings.hub.mend()
    begun = len(greetings.at)
    await trio.sleep(HOUR_S)
    assert 4 + 1 + 10 <= len(greetings.at) - begun <= 5 + 1 + 12


async def test_who_asks_for_a_session_while_the_disk_is_waited_for_has_no_pause_after_it(
    autojump_clock: MockClock, greetings: Greetings
) -> None:
    driver = greetings._driver

    def refuse_with_chores(hello: Hello) -> Message:
        driver._settled = trio.Event()
        return refuse(hello)

    await greetings.last(HOUR_S)
    driver.retry_now()  # what was asked for in a session is no reason to hurry after it
    greetings.answer = refuse_with_chores
    greetings.hub.cut()
    greetings.hub.mend()
    await greetings.another()
    for is_asked_for in (True, False):
        await wait_all_tasks_blocked()
        if is_asked_for:
            driver.retry_now()
        asked_at = trio.current_time()
        driver._settled.set()
        assert (await greetings.another() - asked_at <= NOTICED_S) is is_asked_for


async def test_sessions_that_do_not_hold_are_not_begun_anew_at_once(
    autojump_clock: MockClock,
    greetings: Greetings,
) -> None:
    """One that is cut short says nothing: a hub may be stopped just when it is found."""
    waits = []
    for _ in range(4):
        await greetings.last(0.0)
        greetings.hub.cut()
        greetings.hub.mend()
        cut_at = trio.current_time()
        waits.append(await greetings.another() - cut_at)
    assert waits[0] <= NOTICED_S
    assert waits[1] >= 2.0
    assert waits[3] > 1.5 * waits[2] > 2 * waits[1]


async def test_a_hub_that_hangs_up_in_the_greeting_may_have_been_stopped_just_then(
    autojump_clock: MockClock,
    greetings: Greetings,
) -> None:
    """Nothing was refused: it is tried again at once, though not for ever."""

    def hang_up(hello: Hello) -> Message:
        greetings.hub.cut()
        greetings.hub.mend()
        return grant(hello)

    await greetings.last(HOUR_S)
    greetings.answer = hang_up
    greetings.hub.cut()
    greetings.hub.mend()
    greeted_at = [await greetings.another() for _ in range(8)]
    waits = [after - before for before, after in itertools.pairwise(greeted_at)]
    assert waits[0] <= NOTICED_S
    assert waits[1] >= 1.0
    assert waits[-1] > HOUR_S / 20  # it never lets anybody in: spared like one that refuses


async def test_a_session_that_held_makes_up_for_one_that_did_not(
    autojump_clock: MockClock,
    greetings: Greetings,
) -> None:
    for lasts_s in (0.0, HOUR_S, 0.0):
        await greetings.last(lasts_s)
        greetings.hub.cut()
        greetings.hub.mend()
        cut_at = trio.current_time()
        assert await greetings.another() - cut_at <= NOTICED_S


async def test_a_fleet_comes_back_over_the_time_its_hub_has_told(
    autojump_clock: MockClock, greetings: Greetings
) -> None:
    greetings.answer = lambda hello: grant(hello, spread_s=30.0)
    await greetings.last(HOUR_S)
    greetings.hub.cut()
    greetings.hub.mend()
    cut_at = trio.current_time()
    assert await greetings.another() - cut_at <= NOTICED_S  # a cut of its own line: at once
    waits = []
    for _ in range(8):
        await greetings.last(60.0)
        greetings.hub.cut()
        await trio.sleep(1.0)
        greetings.hub.mend()
        back_at = trio.current_time()
        waits.append(await greetings.another() - back_at)
    assert max(waits) <= 30.0
    assert max(waits) > 5.0


async def test_edges_that_lose_their_hub_together_begin_to_look_at_any_time_of_the_spread(
    autojump_clock: MockClock, greetings: Greetings
) -> None:
    """Looks of one edge have a pause, those of a fleet must not fall into the same second."""
    spread_s, looks = 30.0, list[float]()

    class Noting:
        async def __call__(self, look_s: float | None = None) -> MemoryLink:
            if look_s is not None:
                looks.append(trio.current_time() - lost_at)
            return greetings.hub.open("barn", look_s)

    greetings.answer = lambda hello: grant(hello, spread_s=spread_s)
    greetings.connect_with(Noting())
    for _ in range(20):
        await greetings.last(60.0)
        greetings.hub.cut()
        lost_at = trio.current_time()
        await trio.sleep(spread_s)
        greetings.hub.mend()
        await greetings.another()
    for part in range(3):
        assert [one for one in looks if part <= one // (spread_s / 3) < part + 1], looks


async def test_a_hub_that_says_goodbye_is_not_run_after(
    autojump_clock: MockClock, greetings: Greetings
) -> None:
    spread_s = 20.0

    waits = []
    for _ in range(6):
        await greetings.last(60.0)
        for link in list(greetings.hub._links.values()):
            link.arrive(Bye(epoch=1, reason="the hub stops", spread_s=spread_s))
        gone_at = trio.current_time()
        waits.append(await greetings.another() - gone_at)
    assert all(0.0 <= wait_s <= spread_s for wait_s in waits)
    assert max(waits) - min(waits) > 1.0


@pytest.mark.feature("S26")
async def test_over_sockets_a_hub_is_found_without_any_pause(tmp_path: Path) -> None:
    """The first pause of back-off is longer than this test may take."""
    hub = Hub(tmp_path)
    edge = patient_node(hub)
    async with edge:
        for turn in range(3):
            await until(lambda: "nothing answers" in edge.status().link.problem)
            await edge.ingest(readings(turn * 10, 10))
            async with hub.running():
                await edge.sync(30.0)
        assert await values(hub.log) == [float(n) for n in range(30)]


def patient_node(hub: Hub) -> EdgeNode:
    plain = hub.node()
    sync = {"reconnect_base": "1h", "reconnect_cap": "1h", "breaker_open": "1h"}
    return EdgeNode(
        {
            "edge": {"name": "barn"},
            "hub": {"endpoint": hub.address, "server_key": hub.keys.public},
            "sync": sync,
        },
        folder=plain.folder,
    )
