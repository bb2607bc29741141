"""What carries the journals to edges: a registry that is away for a while delays, and no more."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgesync._native import event as event_codec
from edgesync.model import EventType
from edgesync_transport.lanes.events import DownFloors, Grown, Load, Loaded, Lost, Mark
from edgesync_transport.messages import Lane, LaneFloor
from edgesync_transport.receiver import DownOffer, Event, Regreet
from hubd.downlink import delivery as delivery_module
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import AGE_MAX_NS, Journal
from hubd.errors import OwnedUnusable
from hubd.registry import open_registry
from tests.sites import until

pytestmark = pytest.mark.feature("S1", "S6")

NONE = LaneFloor(floor=0, chain=0, safe=0)
STRANGER = DownFloors(b"", (NONE, NONE, NONE))
FIRST = Load(Lane.CRITICAL, first=1, last_max=9, limit_records=9, limit_bytes=1 << 20)


class AwayJournal(Journal):
    """A journal whose registry may be away."""

    is_away = False
    refused = 0
    max_age_ns = AGE_MAX_NS

    def _come(self) -> None:
        if self.is_away:
            self.refused += 1
            raise OwnedUnusable("registry.db", "is away")

    def begin(self, edge: str, theirs: DownFloors) -> tuple[DownOffer, str]:
        self._come()
        return super().begin(edge, theirs)

    def load(self, edge: str, asked: Load) -> Any:
        self._come()
        return super().load(edge, asked)

    def mark(self, edge: str, floors: dict[Lane, int]) -> None:
        self._come()
        super().mark(edge, floors)

    def give_up_old(self, max_age_ns: int = AGE_MAX_NS) -> dict[str, int]:
        self._come()
        return super().give_up_old(min(self.max_age_ns, max_age_ns))


class Ear:
    """Who is told what became of records, and the link that edges are told through."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.told: list[tuple[str, Event]] = []
        self.arrivals: list[tuple[str, Lane, int]] = []
        self.losses: set[tuple[str, Lane, int, int]] = set()

    async def step(self, edge: str, event: Event) -> None:
        self.told.append((edge, event))

    def arrived(self, edge: str, lane: Lane, floor: int) -> None:
        assert self._journal.view(edge).lanes[lane].floor == floor, "noted before it is told"
        self.arrivals.append((edge, lane, floor))

    def lost(self, edge: str, lane: Lane, first: int, last: int, _reason: str) -> None:
        self.losses.add((edge, lane, first, last))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwayJournal]:
    monkeypatch.setattr(delivery_module, "RETRY_S", 0.01)
    with closing(open_registry(tmp_path)) as registry:
        for edge in ("barn", "mill"):
            registry.enrolments.invite(edge, valid_s=900)
        yield AwayJournal(registry.owned)


@asynccontextmanager
async def delivering(journal: Journal) -> AsyncIterator[tuple[Delivery, Ear]]:
    delivery, ear = Delivery(journal), Ear(journal)
    delivery.observer = ear
    async with trio.open_nursery() as nursery:
        nursery.start_soon(delivery.run, ear.step)
        await trio.testing.wait_all_tasks_blocked()
        yield delivery, ear
        nursery.cancel_scope.cancel()


def append(journal: Journal, count: int, edge: str = "barn") -> None:
    raw = event_codec.encode(EventType.CUSTOM, 0, 2, "pump", b"x", 1, 2, 0)
    for _ in range(count):
        journal.send(edge, Lane.CRITICAL, [raw])


async def test_what_could_not_be_read_is_read_when_the_registry_is_back(
    journal: AwayJournal,
) -> None:
    append(journal, 3)
    async with delivering(journal) as (delivery, ear):
        journal.is_away = True
        delivery.take("barn", FIRST)
        await until(lambda: journal.refused >= 3)
        assert ear.told == []
        journal.is_away = False
        await until(lambda: bool(ear.told))
    ((edge, loaded),) = ear.told
    assert isinstance(loaded, Loaded)
    assert (edge, loaded.first, loaded.last) == ("barn", 1, 3)


async def test_what_arrived_while_the_registry_was_away_is_noted_after_it(
    journal: AwayJournal,
) -> None:
    append(journal, 3)
    append(journal, 2, "mill")
    async with delivering(journal) as (delivery, ear):
        journal.is_away = True
        delivery.take("barn", Lost(Lane.CRITICAL, 1, 1, "restored"))
        delivery.take("barn", Mark(Lane.CRITICAL, 1, 1))
        delivery.take("mill", Mark(Lane.CRITICAL, 1, 1))
        await until(lambda: journal.refused >= 2)
        assert ear.arrivals == []
        delivery.take("barn", Mark(Lane.CRITICAL, 3, 3))
        await until(lambda: journal.refused >= 5)
        journal.is_away = False
        await until(lambda: len(ear.arrivals) == 2)
    assert sorted(ear.arrivals) == [("barn", Lane.CRITICAL, 3), ("mill", Lane.CRITICAL, 1)]
    assert ear.losses == {("barn", Lane.CRITICAL, 1, 1)}
    assert (journal.view("barn").records, journal.view("mill").records) == (0, 1)


async def test_what_arrives_while_it_cannot_be_noted_counts_before_what_came_earlier(
    journal: AwayJournal,
) -> None:
    append(journal, 3)
    append(journal, 1, "mill")

    def mark(edge: str, floors: dict[Lane, int]) -> None:
        journal.mark = journal_mark  # type: ignore[method-assign]
        for one, floor in (("barn", 3), ("mill", 1)):
            trio.from_thread.run_sync(delivery.take, one, Mark(Lane.CRITICAL, floor, floor))
        raise OwnedUnusable("registry.db", "is away")

    journal_mark, journal.mark = journal.mark, mark  # type: ignore[method-assign]
    async with delivering(journal) as (delivery, ear):
        delivery.take("barn", Mark(Lane.CRITICAL, 1, 1))
        await until(lambda: len(ear.arrivals) == 2)
    assert sorted(ear.arrivals) == [("barn", Lane.CRITICAL, 3), ("mill", Lane.CRITICAL, 1)]


async def test_what_waits_for_too_long_is_looked_for_again_and_its_edge_greets_anew(
    journal: AwayJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "UPKEEP_S", 0.01)
    journal.is_away, journal.max_age_ns = True, 1
    append(journal, 2)
    async with delivering(journal) as (_, ear):
        await until(lambda: journal.refused >= 2)
        journal.is_away = False
        await until(lambda: bool(ear.told))
        ((edge, regreet),) = ear.told
        assert isinstance(regreet, Regreet)
        assert (edge, journal.view("barn").records) == ("barn", 0)


async def test_an_edge_whose_journal_could_not_be_read_greets_anew_once(
    journal: AwayJournal,
) -> None:
    async with delivering(journal) as (delivery, ear):
        for can_be_read in (False, True):
            journal.is_away = True
            assert await delivery.begin("barn", STRANGER) is None
            await delivery.begun("barn")
            journal.is_away = False
            if can_be_read:
                assert await delivery.begin("barn", STRANGER) is not None
                await delivery.begun("barn")
            for tail in (1, 2):
                await delivery.grown("barn", Lane.CRITICAL, tail)
            first, second = (event for _, event in ear.told)
            if can_be_read:
                assert first == Grown(Lane.CRITICAL, 1)
            else:
                assert isinstance(first, Regreet)
            assert second == Grown(Lane.CRITICAL, 2)
            ear.told.clear()


async def test_what_is_stored_while_a_session_opens_is_told_once_it_is_there(
    journal: AwayJournal,
) -> None:
    async with delivering(journal) as (delivery, ear):
        await delivery.begin("barn", STRANGER)
        for tail in (1, 2):
            await delivery.grown("barn", Lane.CRITICAL, tail)
        ear.told.clear()
        await delivery.begun("barn")
        assert ear.told == [("barn", Grown(Lane.CRITICAL, 2))]
        await delivery.begun("barn")
        assert len(ear.told) == 1


async def test_an_edge_greets_anew_when_what_waited_for_it_is_given_up(
    journal: AwayJournal,
) -> None:
    async with delivering(journal) as (delivery, ear):
        append(journal, 2)
        assert await delivery.clean("barn", before_ns=1) == []
        assert ear.told == []
        assert await delivery.clean("barn", before_ns=1 << 62) == [(Lane.CRITICAL, 1, 2)]
        append(journal, 1)
        assert await delivery.clear("barn") == [(Lane.CRITICAL, 3, 3)]
        assert [type(event) for _, event in ear.told] == [Regreet, Regreet]


async def test_sessions_that_wait_for_the_registry_take_no_thread_from_others(
    journal: AwayJournal,
) -> None:
    offers: list[DownOffer | None] = []

    async def open_session(delivery: Delivery) -> None:
        offers.append(await delivery.begin("barn", STRANGER))

    async with delivering(journal) as (delivery, _), trio.open_nursery() as sessions:
        with journal._owned._lock:  # somebody is at it
            for _ in range(50):
                sessions.start_soon(open_session, delivery)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    assert None not in offers
    assert len(offers) == 50
