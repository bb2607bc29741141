"""Past readings to the hub once more, from the journal and from the series that an edge keeps."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Reading, resend
from edgesync._native import batch
from edgesync._native.write import Write
from edgesync.errors import EdgesyncError, RecordError, StoreFull
from edgesync.events import EventQuery
from edgesync.model import Lane, RecordKind, series_id
from edgesync.parts import resend as resend_part
from edgesync.parts.resend import NO_HUB, OLD_HUB, ResendJob, ResendPart, ResendUnderWay
from edgesync.resend import Range
from edgesync.status import ResendStatus
from edgesync.store.journal import META
from edgesync.store.resend import NotStored
from edgesync_transport.messages import Feature
from hubd.log.base import Append, Appended, Log, NotAppended
from hubd.log.memory import MemoryLog
from tests.edgesync.sync.test_driver import PATIENCE_S, SECOND, Hub, entries, until

pytestmark = [pytest.mark.feature("S30"), pytest.mark.slow]

POWER, NOTE = series_id("m", "P"), series_id("m", "Note")
ALL = Range(0, 1 << 62)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def node_of(hub: Hub, *, retain: str = "8mb", **series: object) -> EdgeNode:
    node = hub.node(retain=retain)
    settings = node.settings
    section = msgspec.structs.replace(settings.series, **series)
    return EdgeNode(msgspec.structs.replace(settings, series=section), folder=node.folder)


def seconds(first: int, count: int) -> list[Reading]:
    return [Reading("m", "P", n / 8, n * SECOND) for n in range(first, first + count)]


async def resent(log: Log) -> list[resend.Run]:
    """All runs of RESENT records, in the order of the log; never two records in a batch."""
    found: list[resend.Run] = []
    for entry in await entries(log):
        if entry.payload and entry.codec.value < 2:
            records = [one for _, one in batch.events(entry.codec, entry.payload)]
            again = [one for one in records if one.kind == RecordKind.RESENT]
            assert len(again) <= 1, "the next one waits until the hub has the one before"
            for record in again:
                found += resend.decode(record.body)
    return found


def times(runs: Sequence[resend.Run], series: int = POWER) -> Counter[int]:
    return Counter(
        time_ns // SECOND for run in runs if run.series == series for time_ns in run.times
    )


def part_of(node: EdgeNode) -> ResendPart:
    part: ResendPart = node.part("resend")
    return part


def state_of(node: EdgeNode) -> ResendStatus:
    found = node.status().resend
    assert found is not None
    return found


def since_in(refusal: NotStored) -> int:
    """Return the time that a refusal says to give, in nanoseconds."""
    return resend.parse_time(str(refusal).partition("--from ")[2].split()[0], 0)


def checked_from_oldest(node: EdgeNode, to_ns: int) -> ResendJob:
    """Ask for all that is still there; what is told of can go before it is asked for."""
    since_ns = 0
    while True:
        try:
            return part_of(node)._checked(Range(since_ns, to_ns))
        except NotStored as refusal:
            since_ns = since_in(refusal)


async def begun_from_oldest(node: EdgeNode, to_ns: int) -> Range:
    while True:
        wanted = checked_from_oldest(node, to_ns).wanted
        with contextlib.suppress(NotStored):
            await part_of(node).begin(wanted)
            return wanted


async def done(node: EdgeNode) -> ResendStatus:
    await until(lambda: state_of(node).is_done)
    return state_of(node)


async def test_a_range_comes_again_from_the_journal_with_its_types_and_texts(hub: Hub) -> None:
    async with hub.running(), node_of(hub) as edge:
        await edge.ingest(seconds(0, 500))
        await edge.ingest([Reading("m", "Note", f"n{n}", n * SECOND) for n in range(500)])
        await edge.ingest([Reading("other", "P", 1, n * SECOND) for n in range(500)])
        await edge.sync(PATIENCE_S)
        await part_of(edge).begin(Range(100 * SECOND, 200 * SECOND, entity="m"))
        found = await done(edge)
        assert (found.readings, found.missed, found.share) == (200, 0, 1.0)
        await edge.sync(PATIENCE_S)
        runs = await resent(hub.log)
        assert times(runs) == times(runs, NOTE) == Counter(range(100, 200))
        assert {run.series for run in runs} == {POWER, NOTE}
        values = [value for run in runs if run.series == NOTE for value in run.values]
        assert values == [f"n{n}" for n in range(100, 200)]
        told = edge.events(EventQuery(text="resent"))
        assert msgspec.json.decode(told[0].body) == {
            "what": "resent", "from_ns": 100 * SECOND, "to_ns": 200 * SECOND, "entity": "m",
            "key": "", "readings": 200, "missed": 0,
        }  # fmt: skip


async def test_what_the_journal_has_let_go_comes_from_the_kept_series(hub: Hub) -> None:
    async with hub.running(), node_of(hub, retain="0b", ingested=True, keep=2000) as edge:
        for first in range(0, 40_000, 10_000):
            await edge.ingest(seconds(first, 10_000))
        await edge.ingest([Reading("m", "Count", 3, 39_999 * SECOND)])
        await edge.sync(PATIENCE_S)
        await until(lambda: edge.store.state(Lane.BULK).trimmed == edge.recorder.tails()[Lane.BULK])
        wanted = Range(38_500 * SECOND, 39_500 * SECOND, key="P")
        await part_of(edge).begin(wanted)
        await done(edge)
        await part_of(edge).begin(Range(39_999 * SECOND, 40_000 * SECOND, key="Count"))
        await done(edge)
        await edge.sync(PATIENCE_S)
        runs = await resent(hub.log)
        assert times(runs) == Counter(range(38_500, 39_500))
        values = {
            time_ns // SECOND: value
            for run in runs
            if run.series == POWER
            for time_ns, value in zip(run.times, run.values, strict=True)
        }
        assert values == {n: n / 8 for n in range(38_500, 39_500)}
        count = next(run for run in runs if run.series == series_id("m", "Count"))
        assert (count.vtype, list(count.values)) == (1, [3])  # a whole number again


@pytest.mark.parametrize("keep", [0, 1000])
async def test_a_range_that_is_not_there_any_more_is_refused(hub: Hub, keep: int) -> None:
    async with (
        hub.running(),
        node_of(hub, retain="0b", ingested=keep > 0, keep=max(keep, 1)) as edge,
    ):
        for first in range(0, 40_000, 10_000):
            await edge.ingest(seconds(first, 10_000))
        await edge.sync(PATIENCE_S)
        await until(lambda: edge.store.state(Lane.BULK).trimmed == edge.recorder.tails()[Lane.BULK])
        expected = "1970-01-01T1" if keep else "no readings any more"
        with pytest.raises(NotStored, match=expected) as refused:
            await part_of(edge).begin(Range(0, 40_000 * SECOND))
        assert "m/P" in str(refused.value)
        with pytest.raises(NotStored, match="no series nothing/"):
            await part_of(edge).begin(Range(0, 1, entity="nothing"))
        with pytest.raises(EdgesyncError, match="is no range"):
            await part_of(edge).begin(Range(1, 1))
        assert edge.status().resend is None
        if keep:  # from where the refusal says on, it goes
            wanted = await begun_from_oldest(edge, 40_000 * SECOND)
            await done(edge)
            assert min(times(await resent(hub.log))) * SECOND == wanted.from_ns


async def test_without_a_link_nothing_piles_up_and_with_one_all_of_it_comes(hub: Hub) -> None:
    async with node_of(hub) as edge:
        async with hub.running():
            await edge.ingest(seconds(0, 20_000))
            await edge.sync(PATIENCE_S)
        await until(lambda: edge.status().link.epoch == 0)
        tail = edge.store.state(Lane.BULK).tail
        await part_of(edge).begin(ALL)
        await until(lambda: state_of(edge).problem == NO_HUB)
        with pytest.raises(ResendUnderWay, match="--stop"):
            await part_of(edge).begin(ALL)
        assert edge.store.state(Lane.BULK).tail == tail
        async with hub.running():
            await done(edge)
            await edge.sync(PATIENCE_S)
    assert times(await resent(hub.log)) == Counter(range(20_000))


async def test_of_ranges_that_are_asked_for_at_once_one_is_taken_and_the_others_are_told(
    hub: Hub,
) -> None:
    """None is said to be taken and then forgotten for another one."""
    taken: list[Range] = []
    wanted = [Range(0, end * SECOND) for end in range(1, 11)]
    async with node_of(hub) as edge:
        await edge.ingest(seconds(0, 10))

        async def ask(one: Range) -> None:
            with contextlib.suppress(ResendUnderWay):
                await part_of(edge).begin(one)
                taken.append(one)

        async with trio.open_nursery() as nursery:
            for one in wanted:
                nursery.start_soon(ask, one)
        assert [one.to_ns for one in taken] == [state_of(edge).to_ns]
        await part_of(edge).stop()
        write, asked = Write(), list[Callable[[], None]]()
        for one in wanted:  # as the hub asks, in one batch
            event = Event(type=EventType.RESEND, body=msgspec.json.encode(one), time_ns=0)
            asked.append(part_of(edge).stage(write, event))
        await edge.part("resend").context.recorder.store.submit(write)
        for done_with in asked:
            done_with()
        assert state_of(edge).to_ns == wanted[0].to_ns
        told = [json.loads(one.body) for one in edge.events(EventQuery())]
        assert len([one for one in told if one.get("what") == "resend_refused"]) == 9
    async with node_of(hub) as edge:
        assert state_of(edge).to_ns == wanted[0].to_ns


async def test_a_range_that_the_hub_asks_for_is_not_lost_to_one_that_is_asked_for_here(
    hub: Hub,
) -> None:
    """... while it is being stored; one that could not be stored is in nobody's way for long."""
    event = Event(type=EventType.RESEND, body=msgspec.json.encode(Range(0, 5 * SECOND)), time_ns=0)
    async with node_of(hub) as edge:
        part, store = part_of(edge), edge.part("resend").context.recorder.store
        await edge.ingest(seconds(0, 10))
        part.stage(Write(), event)  # the store is full, say, and the hub tells it again
        write = Write()
        begun = part.stage(write, event)
        with pytest.raises(ResendUnderWay, match="--stop"):
            await part.begin(ALL)
        await store.submit(write)
        begun()
        assert state_of(edge).to_ns == 5 * SECOND
        await part.stop()
        part.stage(Write(), event)
        with pytest.raises(ResendUnderWay, match="--stop"):
            await part.begin(ALL)
        await part.stop()
        await part.begin(Range(0, 7 * SECOND))
    async with node_of(hub) as edge:
        assert state_of(edge).to_ns == 7 * SECOND


@pytest.mark.parametrize(
    "wanted",
    [Range(0, 9_999_999_999_999_999_999), Range(-9_999_999_999_999_999_999, 1), Range(5, -5),
     Range(resend.ALWAYS, resend.NEVER)],
)  # fmt: skip
async def test_a_range_of_any_size_is_taken_or_refused(hub: Hub, wanted: Range) -> None:
    async with node_of(hub) as edge:
        await edge.ingest(seconds(0, 10))
        with contextlib.suppress(EdgesyncError):
            await part_of(edge).begin(wanted)
        write = Write()
        event = Event(type=EventType.RESEND, body=msgspec.json.encode(wanted), time_ns=0)
        with contextlib.suppress(RecordError):
            part_of(edge).stage(write, event)


async def test_a_hub_that_does_not_know_of_it_is_sent_nothing(hub: Hub) -> None:
    async with hub.running(), node_of(hub) as edge:
        await edge.ingest(seconds(0, 100))
        await edge.sync(PATIENCE_S)
        driver = edge.part("link").driver
        assert driver.sender.features & Feature.RESENT
        driver.sender.features = Feature(0)
        await part_of(edge).begin(ALL)
        await until(lambda: state_of(edge).problem == OLD_HUB)
        await part_of(edge).stop()
        assert state_of(edge).is_done
        assert await resent(hub.log) == []


async def test_it_goes_on_after_a_stop_and_readings_of_now_pass(hub: Hub) -> None:
    """Every reading arrives, those about the stop twice at most; live ones are between them."""
    async with hub.running():
        async with node_of(hub) as edge:
            for first in range(0, 60_000, 10_000):
                await edge.ingest(seconds(first, 10_000))
            await edge.sync(PATIENCE_S)
            await part_of(edge).begin(Range(0, 50_000 * SECOND))
            live = 100_000
            while state_of(edge).readings < 10_000:
                before = sum(times(await resent(hub.log)).values())
                live += 1
                await edge.ingest(seconds(live, 1))
                await edge.sync(PATIENCE_S)
                after = sum(times(await resent(hub.log)).values())
                # One record was on its way; more of them may follow, and none goes before.
                assert after - before < 20 * resend.POINTS_MAX
            assert not state_of(edge).is_done
        async with node_of(hub) as edge:
            assert not state_of(edge).is_done
            found = await done(edge)
            assert found.missed == 0
            await edge.sync(PATIENCE_S)
    again = times(await resent(hub.log))
    assert set(again) == set(range(50_000))
    # It went on from its place: of the record on its way at the stop, no more.
    assert again.total() - 50_000 <= resend.POINTS_MAX


async def test_a_damaged_row_costs_its_range_alone(hub: Hub) -> None:
    async with node_of(hub) as edge:
        await edge.ingest(seconds(0, 10))
        write = Write()
        write.put(META, resend_part.KEY, b"\xc1damaged")
        await edge.store.submit(write)
    async with node_of(hub) as edge:
        assert edge.status().resend is None
        await part_of(edge).begin(Range(0, 5 * SECOND))
    async with node_of(hub) as edge:
        assert state_of(edge).to_ns == 5 * SECOND


async def test_a_program_without_a_link_may_ask_for_it(hub: Hub) -> None:
    """As `edgesync resend` does where no daemon runs: the daemon does it after its start."""
    async with hub.running():
        async with node_of(hub) as edge:
            await edge.ingest(seconds(0, 1000))
            await edge.sync(PATIENCE_S)
        with node_of(hub) as stopped:
            part_of(stopped).begin_sync(Range(0, 10 * SECOND))
        async with node_of(hub) as edge:
            assert (await done(edge)).readings == 10
            await edge.sync(PATIENCE_S)
    assert times(await resent(hub.log)) == Counter(range(10))


async def test_a_range_that_could_not_be_stored_is_in_nobodys_way(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_write: Write) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=9)

    async with node_of(hub) as edge:
        await edge.ingest(seconds(0, 10))
        with monkeypatch.context() as full:
            full.setattr(part_of(edge).context.recorder.store, "submit", refuse)
            with pytest.raises(StoreFull):
                await part_of(edge).begin(ALL)
        assert edge.status().resend is None
        await part_of(edge).begin(Range(0, 10 * SECOND))
        await part_of(edge).stop()
    async with node_of(hub) as edge:  # it stays ended
        assert state_of(edge).is_done


async def test_a_stop_that_meets_the_commit_of_a_record_ends_the_range(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub.running():
        async with node_of(hub) as edge:
            await edge.ingest(seconds(0, 100))
            await edge.sync(PATIENCE_S)
            part, stopped = part_of(edge), trio.Event()
            store = part.context.recorder.store
            submit = store.submit

            async def stop_meanwhile(write: Write) -> tuple[int, int, int]:
                tails = await submit(write)
                if part._job is not None and not part._job.is_done:
                    with trio.CancelScope(shield=True):
                        await part.stop()
                    stopped.set()
                return tails

            monkeypatch.setattr(store, "submit", stop_meanwhile)
            await part.begin(ALL)
            await stopped.wait()
            assert state_of(edge).is_done
        async with node_of(hub) as edge:
            assert (state_of(edge).is_done, state_of(edge).readings) == (True, 0)


async def test_a_store_that_is_full_delays_a_range_and_costs_none_of_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend_part, "RETRY_S", 0.01)
    async with hub.running(), node_of(hub) as edge:
        await edge.ingest(seconds(0, 100))
        await edge.sync(PATIENCE_S)
        store, refusals = part_of(edge).context.recorder.store, 0
        submit = store.submit

        async def refuse(write: Write) -> tuple[int, int, int]:
            nonlocal refusals
            if part_of(edge)._job is not None and refusals < 3:
                refusals += 1
                raise StoreFull(used_bytes=9, limit_bytes=9)
            return await submit(write)

        monkeypatch.setattr(store, "submit", refuse)
        await part_of(edge).begin(ALL)
        assert (await done(edge)).readings == 100
        assert refusals == 3
        await edge.sync(PATIENCE_S)
    assert times(await resent(hub.log)) == Counter(range(100))


async def test_a_walk_goes_on_from_any_of_its_steps_and_leaves_nothing_out(hub: Hub) -> None:
    async with hub.running(), node_of(hub) as edge:
        await edge.ingest(seconds(0, 3000))
        await edge.sync(PATIENCE_S)
        part = part_of(edge)
        job = part._checked(ALL)
        steps = list(part._walk(job).steps(job.position))
        for nth, step in enumerate(steps):
            walked = [*steps[: nth + 1], *part._walk(job).steps(step.position)]
            runs = [run for one in walked if one.body for run in resend.decode(one.body)]
            assert set(times(runs)) == set(range(3000)), nth


async def test_without_a_hub_there_is_nobody_to_send_to(tmp_path: Path) -> None:
    async with EdgeNode({"edge": {"name": "barn"}}, folder=tmp_path) as edge:
        await edge.ingest(seconds(0, 10))
        with pytest.raises(EdgesyncError, match="no hub"):
            await part_of(edge).begin(ALL)
        await trio.lowlevel.checkpoint()


class HeldLog(MemoryLog):
    """A log that takes its time for RESENT records: as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached, self.goes_on = trio.Event(), trio.Event()

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        if any(again_in(one.codec, one.payload) for one in batches):
            self.is_reached.set()
            await self.goes_on.wait()
        return await super().append(batches)


def again_in(codec: int, payload: bytes) -> int:
    """How many RESENT records a batch has."""
    if not payload or codec > 1:
        return 0
    return sum(one.kind == RecordKind.RESENT for _, one in batch.events(codec, payload))


async def test_readings_of_now_wait_for_one_record_and_no_more(hub: Hub) -> None:
    log = HeldLog()
    async with hub.running(log), node_of(hub) as edge:
        await edge.ingest(seconds(0, 20_000))
        await edge.sync(PATIENCE_S)
        await part_of(edge).begin(Range(0, 20_000 * SECOND))
        await log.is_reached.wait()
        for live in (100_000, 100_001):
            await edge.ingest(seconds(live, 1))
            await trio.sleep(0.1)  # were there more to come, it would come between them
        floor = edge.store.state(Lane.BULK).floor
        kinds = [one.kind for one in batch.records(edge.store.read(Lane.BULK, floor + 1).data)]
        assert kinds == [RecordKind.RESENT, RecordKind.READINGS, RecordKind.READINGS]
        log.goes_on.set()
        await done(edge)
        await edge.sync(PATIENCE_S)
        found: list[str] = []
        for entry in await entries(log):
            if entry.payload and entry.codec.value < 2:
                columns, _ = batch.columns(entry.codec, entry.payload)
                lives = [t for one in columns for t in one.times if t >= 100_000 * SECOND]
                found += ["again"] * again_in(entry.codec, entry.payload) + ["live"] * len(lives)
        assert found[:3] == ["again", "live", "live"]
        assert found.count("again") > 3


async def test_a_store_that_lets_records_go_meanwhile_counts_them(hub: Hub) -> None:
    """What is sent again takes room in the journal itself: the oldest gives way to it."""
    async with hub.running(), node_of(hub, retain="300kb") as edge:
        for first in range(0, 20_000, 1000):
            await edge.ingest(seconds(first, 1000))
        await edge.sync(PATIENCE_S)

        def is_trimmed() -> bool:
            state = edge.store.state(Lane.BULK)
            return state.stored_bytes < 400_000

        await until(is_trimmed)
        with pytest.raises(NotStored, match="give --from"):
            await part_of(edge).begin(Range(0, 20_000 * SECOND))
        wanted = await begun_from_oldest(edge, 20_000 * SECOND)
        found = await done(edge)
        await edge.sync(PATIENCE_S)
        sent = times(await resent(hub.log))
        assert sum(sent.values()) == found.readings
        lacking = set(range(wanted.from_ns // SECOND, 20_000)) - set(sent)
        assert bool(lacking) == bool(found.missed)
        assert len(sent) > 1000


async def test_what_goes_between_the_asking_and_the_first_step_is_counted(hub: Hub) -> None:
    async with hub.running(), node_of(hub, retain="300kb") as edge:
        for first in range(0, 20_000, 1000):
            await edge.ingest(seconds(first, 1000))
        await edge.sync(PATIENCE_S)
        await until(lambda: edge.store.state(Lane.BULK).stored_bytes < 400_000)
        jobs = [
            checked_from_oldest(edge, 30_000 * SECOND),
            part_of(edge)._checked(Range(19_990 * SECOND, 30_000 * SECOND)),
        ]
        since, _ = asked = {job.wanted.from_ns: job for job in jobs}
        assert since > 0
        oldest = edge.store.state(Lane.BULK).trimmed
        await edge.ingest(seconds(20_000, 2000))
        await edge.sync(PATIENCE_S)
        await until(lambda: edge.store.state(Lane.BULK).trimmed > oldest + 1000)
        missed = {
            start_ns: sum(step.missed for step in part_of(edge)._walk(job).steps(job.position))
            for start_ns, job in asked.items()
        }
        assert missed[since] > 0
        walk = part_of(edge)._walk(asked[since])
        first_ns = walk._first_reading_ns(Lane.BULK, edge.store.state(Lane.BULK).trimmed + 1)
        assert first_ns is not None
        assert {start_ns: missed[start_ns] > 0 for start_ns in asked} == {
            start_ns: start_ns < first_ns for start_ns in asked
        }
