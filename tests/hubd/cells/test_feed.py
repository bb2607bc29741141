"""One reader of the log for the keys of all tenants."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from edgesync._native.batch import Record
from edgesync.errors import StoreFull
from hubd.cells import Answers, HubCells
from hubd.cells.feed import Feed, SharedFeed
from hubd.cells.keyspaces import Keyspaces, cells_path
from hubd.log.base import Entry
from tests.hubd.batches import Edge, Shelf
from tests.hubd.keys import Till

pytestmark = pytest.mark.feature("C14")


class CountingShelf(Shelf):
    """Counts the entries that are read of it."""

    reads = 0

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        found = await super().read(after, limit_bytes=limit_bytes)
        self.reads += len(found)
        return found


class Reader:
    """A tenant that takes what its feed gives as fast as it may."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.position = 0
        self.refused = 0  # the store has what was up to here, and refuses what is taken next
        self.edges: list[tuple[int, str]] = []
        self.may_go = trio.Event()
        self.may_go.set()

    def _pass(self, position: int) -> None:
        assert position > self.position
        self.position = position

    async def run(self, *, pause: Random | None = None) -> None:
        while True:
            portion = await self._feed.read(self.position, self._pass)
            assert portion.upto > self.position
            self.edges += [(entry.position, entry.edge) for entry in portion.entries]
            self.position, self.refused = self.refused or portion.upto, 0
            await self.may_go.wait()
            if pause is not None and pause.random() < 0.3:
                await trio.sleep(pause.random())


TENANTS = [f"tenant{nth}" for nth in range(8)]


def owner_of(edge: str) -> str:
    return edge.partition("-")[0]


def entry(position: int, tenant: str) -> Entry:
    edge = Edge(f"{tenant}-barn")
    edge.event(100, b"[" + b"1" * 1000 + b"]")
    return edge.entry(position)


@asynccontextmanager
async def reading(shelf: Shelf, *, pause: Random | None = None) -> AsyncIterator[dict[str, Reader]]:
    feed = SharedFeed(shelf, owner_of)  # type: ignore[arg-type]  # reads are all it does
    readers = {tenant: Reader(feed.join(tenant)) for tenant in TENANTS}
    async with trio.open_nursery() as nursery:
        for reader in readers.values():
            nursery.start_soon(partial(reader.run, pause=pause))
        nursery.start_soon(feed.run, 0)
        yield readers
        nursery.cancel_scope.cancel()


async def reach(readers: dict[str, Reader], position: int) -> None:
    with trio.fail_after(1000):
        while min(reader.position for reader in readers.values()) < position:  # noqa: ASYNC110
            await trio.sleep(0.01)


def wanted(entries: Sequence[Entry], tenant: str) -> list[tuple[int, str]]:
    return [(one.position, one.edge) for one in entries if owner_of(one.edge) == tenant]


async def test_each_entry_is_read_once_however_many_tenants_there_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf = CountingShelf()
    entries = [entry(position, TENANTS[position % 3]) for position in range(1, 61)]
    async with reading(shelf) as readers:
        for one in entries:
            shelf.put(one)
            await reach(readers, one.position)
    assert shelf.reads == len(entries)
    for tenant, reader in readers.items():
        assert reader.edges == wanted(entries, tenant)


async def test_a_new_tenant_takes_what_the_log_has_while_nobody_sends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The feed begins where the other tenants are, and the new one waits for it already."""
    shelf = Shelf()
    entries = [entry(position, TENANTS[position % 2]) for position in range(1, 10)]
    shelf.put(*entries)
    feed = SharedFeed(shelf, owner_of)  # type: ignore[arg-type]  # reads are all it does
    reader = Reader(feed.join(TENANTS[0]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(feed.run, 9)
        await reach({TENANTS[0]: reader}, 9)
        nursery.cancel_scope.cancel()
    assert reader.edges == wanted(entries, TENANTS[0])


async def test_a_tenant_that_is_stuck_holds_nobody_and_little_memory(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.cells.feed.HELD_BYTES", 20_000)
    shelf = Shelf()
    entries = [entry(position, TENANTS[position % 2]) for position in range(1, 201)]
    async with reading(shelf) as readers:
        stuck = readers[TENANTS[0]]
        shelf.put(*entries[:2])
        await reach(readers, 2)
        stuck.may_go = trio.Event()
        others = {name: one for name, one in readers.items() if one is not stuck}
        for one in entries[2:]:
            shelf.put(one)
            await reach(others, one.position)
            assert stuck._feed._feed.held_bytes <= 20_000  # type: ignore[attr-defined]
        assert stuck.position < 10
        stuck.may_go.set()
        await reach(readers, 200)
        # It is on time again.
        shelf.put(entry(201, TENANTS[0]))
        await reach(readers, 201)
        assert stuck._feed._is_on_time  # type: ignore[attr-defined]
    for tenant, reader in readers.items():
        assert reader.edges == wanted([*entries, entry(201, TENANTS[0])], tenant)


async def test_what_was_not_stored_is_read_again(autojump_clock: trio.testing.MockClock) -> None:
    shelf = Shelf()
    entries = [entry(position, TENANTS[0]) for position in range(1, 6)]
    shelf.put(*entries)
    async with reading(shelf) as readers:
        await reach(readers, 5)
        reader = readers[TENANTS[0]]
        reader.refused = 2
        shelf.put(entry(6, TENANTS[0]))
        await reach(readers, 6)
        shelf.put(entry(7, TENANTS[0]))
        await reach(readers, 7)
    assert [position for position, _ in reader.edges] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
async def test_every_tenant_gets_its_entries_once_and_in_order(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    monkeypatch.setattr("hubd.cells.feed.HELD_BYTES", random.choice([1, 3000, 50_000]))
    monkeypatch.setattr("hubd.cells.feed.READ_BYTES", random.choice([1, 5000]))
    shelf, entries = Shelf(), []
    position = 0
    async with reading(shelf, pause=random) as readers:
        for _ in range(100):
            position += random.choice([1, 1, 1, 4])  # damaged ones are left out
            entries.append(entry(position, random.choice(TENANTS[: random.randint(1, 8)])))
            shelf.put(entries[-1])
            if random.random() < 0.4:
                await trio.sleep(random.random())
        await reach(readers, position)
    for tenant, reader in readers.items():
        assert reader.edges == wanted(entries, tenant)


async def test_keys_of_many_tenants_are_made_of_one_log(tmp_path: Path) -> None:
    """Also of those who come while it is read, and of those that were behind at a start."""
    shelf = CountingShelf()
    tills = {name: Till(f"{name}-till") for name in TENANTS}
    owners = {f"{name}-till": name for name in TENANTS}

    def open_answers(tenant: str, feed: Feed) -> Answers:
        path = cells_path(tmp_path, tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = HubCells(path, shelf.generation, shelf.head, random=Random(1))
        return Answers(cells, shelf, feed=feed)  # type: ignore[arg-type]

    def write(tenant: str, key: str) -> None:
        tills[tenant].do("SET", key, "1")
        shelf.put(tills[tenant].entry(shelf.head + 1))

    async def carried_out(keyspaces: Keyspaces) -> None:
        with trio.fail_after(20):
            while min(one.cells.position for _, one in keyspaces.all()) < shelf.head:  # noqa: ASYNC110
                await trio.sleep(0.01)

    for nth in range(2):
        with ExitStack() as stack:
            keyspaces = Keyspaces(shelf, open_answers)  # type: ignore[arg-type]
            stack.callback(keyspaces.close)
            keyspaces.set_tenants(TENANTS[:4], owners)
            async with trio.open_nursery() as nursery:
                for name in TENANTS:
                    write(name, f"before{nth}")
                await nursery.start(keyspaces.run)
                await carried_out(keyspaces)
                keyspaces.set_tenants(TENANTS, owners)
                for name in TENANTS:
                    write(name, f"meanwhile{nth}")
                await carried_out(keyspaces)
                nursery.cancel_scope.cancel()
            for name in TENANTS:
                answers = keyspaces.of(name)
                assert answers is not None
                names = [f"{word}{n}" for n in range(nth + 1) for word in ("before", "meanwhile")]
                assert answers.cells.ask("EXISTS", names) == len(names)
                assert answers.cells.space.keys == len(names)


async def test_a_tenant_whose_disk_refuses_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.cells.answers.RETRY_S", 0.01)
    monkeypatch.setattr("hubd.cells.feed.HELD_BYTES", 1000)
    shelf, tills = Shelf(), {name: Till(f"{name}-till") for name in TENANTS[:3]}
    refuses = True

    class RefusingCells(HubCells):
        def project(self, entry: Entry, records: Sequence[Record] | None = None) -> Iterator[None]:
            if refuses:
                raise StoreFull(used_bytes=1, limit_bytes=1, where="disk")
            return super().project(entry, records)

    def open_answers(tenant: str, feed: Feed) -> Answers:
        kind = RefusingCells if tenant == TENANTS[0] else HubCells
        path = cells_path(tmp_path, tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = kind(path, shelf.generation, shelf.head, random=Random(1))
        return Answers(cells, shelf, feed=feed)  # type: ignore[arg-type]

    async def reach_head(*names: str) -> None:
        with trio.fail_after(20):
            while any(cells[name].position < shelf.head for name in names):  # noqa: ASYNC110
                await trio.sleep(0.01)

    with closing(Keyspaces(shelf, open_answers)) as keyspaces:  # type: ignore[arg-type]
        keyspaces.set_tenants(tills, {f"{name}-till": name for name in tills})
        cells = {name: answers.cells for name, answers in keyspaces.all()}
        async with trio.open_nursery() as nursery:
            await nursery.start(keyspaces.run)
            for nth in range(30):
                for till in tills.values():
                    till.do("SET", f"key{nth}", "1" * 100)
                    shelf.put(till.entry(shelf.head + 1))
                await reach_head(*TENANTS[1:3], "default")
            assert cells[TENANTS[0]].position == 0
            refuses = False
            await reach_head(*cells)
            nursery.cancel_scope.cancel()
        assert {name: one.space.keys for name, one in cells.items()} == {
            "default": 0, **dict.fromkeys(tills, 30)
        }  # fmt: skip
