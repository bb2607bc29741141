"""Group commit: one sync for all who wait, an answer each, and no harm from a neighbour."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write
from edgesync.errors import StoreError, StoreUnwritable
from edgesync.store.commit import GroupCommit

BULK = 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "store"), databases=("lanes", "things")) as store:
        yield store


def append(body: bytes = b"fact", count: int = 1, lane: int = BULK) -> Write:
    write = Write()
    write.append_many(lane, 1, [body] * count)
    return write


def bad() -> Write:
    write = append(b"never")
    write.mark(BULK, 1 << 50, 0)
    return write


async def test_every_task_learns_its_own_tails(store: Store) -> None:
    with GroupCommit(store) as commit:
        tails: list[tuple[int, int, int]] = []

        async def produce(count: int) -> None:
            for _ in range(20):
                tails.append(await commit.submit(append(count=count)))

        async with trio.open_nursery() as nursery:
            for count in (1, 2, 3):
                nursery.start_soon(produce, count)
        assert len({tail[BULK] for tail in tails}) == 60
        assert max(tails) == (0, 0, 120)
        assert commit.stats().writes == 60
        assert commit.stats().groups <= 60


async def test_an_answer_means_stored(store: Store) -> None:
    with GroupCommit(store) as commit:
        tails = await commit.submit(append(b"a"))
        assert Journal(store).state(BULK).tail == tails[BULK] == 1


@pytest.mark.feature("S14")
async def test_one_bad_write_does_not_fail_its_neighbours(store: Store) -> None:
    with GroupCommit(store) as commit:
        answers: dict[int, str] = {}

        async def good(number: int) -> None:
            await commit.submit(append(b"%d" % number))
            answers[number] = "stored"

        async def wrong(number: int) -> None:
            with pytest.raises(ValueError, match="beyond the tail"):
                await commit.submit(bad())
            answers[number] = "refused"

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(wrong if number % 8 == 3 else good, number)
        assert sorted(answers.values()) == ["refused"] * 5 + ["stored"] * 35
        assert Journal(store).state(BULK).tail == 35
        assert commit.stats().refused == 5


def test_plain_threads_use_the_same_writer(store: Store) -> None:
    with GroupCommit(store) as commit:
        seen: list[int] = []

        def produce() -> None:
            for _ in range(25):
                seen.append(commit.submit_sync(append())[BULK])

        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == list(range(1, 101))
        with pytest.raises(ValueError, match="beyond the tail"):
            commit.submit_sync(bad())


async def test_whoever_blocks_the_loop_and_those_who_wait_take_turns(store: Store) -> None:
    """Some carry their own write out while others queue; each is answered for its own."""
    with GroupCommit(store) as commit:
        seen: list[int] = []

        def produce() -> None:
            seen.extend(commit.submit_sync(append())[BULK] for _ in range(50))

        async def submit() -> None:
            for _ in range(50):
                seen.append((await commit.submit(append()))[BULK])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.to_thread.run_sync, produce)
                nursery.start_soon(submit)
        assert sorted(seen) == list(range(1, 301))
        assert commit.stats().writes == 300


async def test_a_queue_that_is_full_makes_its_producers_wait(store: Store) -> None:
    with GroupCommit(store, queue_writes_max=2, queue_bytes_max=100) as commit:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(commit.submit, append(bytes(60)))
        assert Journal(store).state(BULK).tail == 50
        # One write larger than the whole queue still passes, alone.
        assert (await commit.submit(append(bytes(5000))))[BULK] == 51


async def test_a_cancelled_write_is_stored_whole_or_not_at_all(store: Store) -> None:
    with GroupCommit(store) as commit:
        done = 0
        for _ in range(50):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(commit.submit, append(count=3))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        await commit.submit(append())
        done = Journal(store).state(BULK).tail
        assert done % 3 == 1


def test_closing_carries_out_what_is_queued(store: Store) -> None:
    commit = GroupCommit(store)
    threads = [threading.Thread(target=commit.submit_sync, args=(append(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    commit.close()
    assert Journal(store).state(BULK).tail == 8
    with pytest.raises(StoreError, match="closed"):
        commit.submit_sync(append())


class FailingStore:
    """A store whose disk refuses as often as it is told to."""

    def __init__(self, store: Store, failures: int) -> None:
        self.store = store
        self.failures = failures
        self.reopened = 0

    @property
    def path(self) -> str:
        return self.store.path

    def apply(self, write: Write) -> tuple[int, int, int]:
        if self.failures:
            self.failures -= 1
            raise StoreUnwritable(path=self.path, problem="Input/output error")
        return self.store.apply(write)

    def reopen(self) -> None:
        self.reopened += 1
        self.store.reopen()


def test_one_refusal_of_the_disk_is_not_acknowledged_and_opens_again(store: Store) -> None:
    failing = FailingStore(store, 1)
    with GroupCommit(failing) as commit:  # type: ignore[arg-type]
        with pytest.raises(StoreUnwritable):
            commit.submit_sync(append())
        assert commit.broken is None
        assert commit.submit_sync(append())[BULK] == 1
    assert failing.reopened == 1


def test_a_second_refusal_in_a_row_ends_writing(store: Store) -> None:
    failing = FailingStore(store, 2)
    with GroupCommit(failing) as commit:  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(StoreUnwritable):
                commit.submit_sync(append())
        assert commit.broken is not None
        with pytest.raises(StoreUnwritable):
            commit.submit_sync(append())
        assert Journal(store).state(BULK).tail == 0


def test_the_window_has_a_limit(store: Store) -> None:
    with pytest.raises(ValueError, match="window"):
        GroupCommit(store, window_s=0.05)


def test_a_refusal_now_and_one_later_are_not_two_in_a_row(store: Store) -> None:
    failing = FailingStore(store, 1)
    with GroupCommit(failing) as commit:  # type: ignore[arg-type]
        for number in range(1, 4):
            failing.failures = 1
            with pytest.raises(StoreUnwritable):
                commit.submit_sync(append())
            assert commit.submit_sync(append())[BULK] == number
        assert commit.broken is None


class Watched(FailingStore):
    """A store that notes which thread carries writes out."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, 0)
        self.threads: list[threading.Thread] = []

    def apply(self, write: Write) -> tuple[int, int, int]:
        self.threads.append(threading.current_thread())
        return super().apply(write)


async def test_a_plain_thread_carries_its_own_write_out_when_nothing_is_before_it(
    store: Store,
) -> None:
    watched, here = Watched(store), threading.current_thread()
    with GroupCommit(watched) as commit:  # type: ignore[arg-type]
        commit.submit_sync(append())
        assert watched.threads == [here]
        await commit.submit(append())
        assert watched.threads[1] is not here
        with pytest.raises(ValueError, match="beyond the tail"):
            commit.submit_sync(bad())
        assert commit.submit_sync(append())[BULK] == 3
        stats = commit.stats()
        assert (stats.writes, stats.refused, stats.busy_s) == (4, 1, 0.0)
    with pytest.raises(StoreError, match="its writer is closed"):
        commit.submit_sync(append())


class SlowStore(FailingStore):
    """A store that stores nothing before it may."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, 0)
        self.may = threading.Event()

    def apply(self, write: Write) -> tuple[int, int, int]:
        self.may.wait()
        return super().apply(write)


async def test_a_queue_is_bounded_in_bytes_too(store: Store) -> None:
    slow = SlowStore(store)
    with GroupCommit(slow, queue_bytes_max=10_000) as commit:  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(commit.submit, append(bytes(1000)))
            await trio.testing.wait_all_tasks_blocked()
            assert 0 < commit.stats().queued_bytes <= 10_000
            slow.may.set()
        assert commit.stats().writes == 50
    assert Journal(store).state(BULK).tail == 50


async def test_a_write_that_waits_for_room_keeps_its_turn(store: Store) -> None:
    """A later one on the same row, from whoever blocks the loop, must not be stored before it."""
    slow = SlowStore(store)

    def put(value: bytes) -> Write:
        write = Write()
        write.put("things", b"row", value)
        return write

    with GroupCommit(slow, queue_writes_max=1) as commit:  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            for write in (append(), append(), put(b"older")):
                nursery.start_soon(commit.submit, write)
                await trio.testing.wait_all_tasks_blocked()
            slow.may.set()
            commit.submit_sync(put(b"newer"))
        assert store.get("things", b"row") == b"newer"


async def test_a_write_that_waits_for_room_can_be_withdrawn(store: Store) -> None:
    slow = SlowStore(store)
    with GroupCommit(slow, queue_writes_max=1) as commit:  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit.submit, append())
            while commit.stats().queued:
                await trio.lowlevel.checkpoint()  # it is being carried out
            nursery.start_soon(commit.submit, append())
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0) as scope:
                await commit.submit(append(b"withdrawn"))
            assert scope.cancelled_caught
            slow.may.set()
    assert Journal(store).state(BULK).tail == 2
