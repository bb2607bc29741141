"""Deadlines and clocks that are wrong: a TTL is seconds from then, whatever the machine shows."""

import time
from pathlib import Path
from random import Random

import pytest
import trio

from edgesync import EdgeNode
from edgesync.cells import DATABASE
from edgesync.store import edgecells
from edgesync.store.clock import OFF_MS, STEP_MS, ClockMark
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore
from hubd.cells import HubCells
from tests.sites import Sites, settle

pytestmark = pytest.mark.feature("S25")

DAY_NS = 24 * 3600 * 10**9
DAY_MS = DAY_NS // 10**6
YEARS_NS = -400 * DAY_NS
TTL_S = 3600
SLACK_S = 300  # a test may be slow; a clock that is wrong is so by days


class WallClock:
    """A machine's clock that is off by so much."""

    def __init__(self, off_ns: int) -> None:
        self.off_ns = off_ns

    def __call__(self) -> int:
        return time.time_ns() + self.off_ns


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def is_right(left: object) -> bool:
    assert isinstance(left, int)
    return TTL_S - SLACK_S < left <= TTL_S + 5


def shows(key: str, *at: EdgeNode | HubCells) -> bool:
    asks = [one.ask if isinstance(one, HubCells) else one.cells.ask for one in at]
    return all(ask("GET", [key]) == b"v" and is_right(ask("TTL", [key])) for ask in asks)


@pytest.mark.slow
@pytest.mark.parametrize("off_ns", [YEARS_NS, 2 * DAY_NS])
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_clock_set_right_before_the_hub_is_seen(
    sites: Sites, off_ns: int, is_restarted: bool
) -> None:
    clock = WallClock(off_ns)
    async with sites.node("late", wall_ns=clock) as late:
        late.set("lease", "v", ttl_s=TTL_S)
        late.command("HSET", "h", "f", "v")
        late.command("EXPIRE", "h", TTL_S)
        assert shows("lease", late)
        if not is_restarted:
            clock.off_ns = 0
            assert shows("lease", late)
            assert late.cells.expire() == 0
    clock.off_ns = 0
    async with sites.node("late", wall_ns=clock) as late, sites.node("b") as b:
        late.cells.expire()
        assert shows("lease", late)
        assert late.command("HGET", "h", "f") == b"v"
        async with sites.hub() as hub:
            b.cells.note_changes()
            await settle(late, b)
            assert shows("lease", late, b, hub)
            assert is_right(b.command("TTL", "h"))


@pytest.mark.slow
@pytest.mark.parametrize("off_ns", [YEARS_NS, 2 * DAY_NS, 10 * 60 * 10**9])
async def test_the_offset_that_was_measured_is_applied(sites: Sites, off_ns: int) -> None:
    clock = WallClock(off_ns)
    async with sites.node("off", wall_ns=clock) as off, sites.node("b") as b:
        off.set("before", "v", ttl_s=TTL_S)
        async with sites.hub() as hub:
            await settle(off, b)
            off.set("ours", "v", ttl_s=TTL_S)
            b.set("others", "v", ttl_s=TTL_S)
            await settle(off, b, off)
            for key in ("before", "ours", "others"):
                assert shows(key, off, b, hub), key
            clock.off_ns = 0
            off.set("after", "v", ttl_s=TTL_S)
            await settle(off, b)
            for key in ("before", "ours", "others", "after"):
                assert shows(key, off, b, hub), key
        clock.off_ns = 30 * DAY_NS  # nobody is there to say what it should be
        off.set("alone", "v", ttl_s=TTL_S)
        assert off.cells.expire() == 0
        assert shows("alone", off)
        assert shows("others", off)
    async with sites.node("off", wall_ns=clock) as off, sites.node("b") as b:
        off.cells.expire()
        assert shows("alone", off)
        assert shows("others", off)
        async with sites.hub() as hub:
            b.cells.note_changes()
            await settle(off, b)
            assert shows("alone", off, b, hub)


async def test_a_step_back_and_forth_moves_no_deadline(sites: Sites) -> None:
    clock = WallClock(0)
    async with sites.node("alone", wall_ns=clock) as alone:
        alone.set("k", "v", ttl_s=TTL_S)
        alone.set("for ever", "v")
        for off_ns in (YEARS_NS, DAY_NS, 0, -DAY_NS):
            clock.off_ns = off_ns
            assert shows("k", alone)
            # A time of day is one of the clock the client sees.
            alone.command("SET", "at", "v", "EXAT", clock() // 10**9 + TTL_S)
            assert shows("at", alone)
        assert alone.command("TTL", "for ever") == -1


async def test_a_deadline_passes_all_the_same(sites: Sites) -> None:
    at = WallClock(0)
    async with sites.node("one", wall_ns=at, monotonic_ns=at) as one:
        one.set("k", "v", ttl_s=TTL_S)
        at.off_ns = (TTL_S + 1) * 10**9  # both clocks: that time has passed
        assert one.get("k") is None
    at.off_ns = 0
    async with sites.node("two", wall_ns=at, monotonic_ns=at) as two:
        two.set("k", "v", ttl_s=TTL_S)
    at.off_ns = (TTL_S + 1) * 10**9
    async with sites.node("two", wall_ns=at, monotonic_ns=at) as two:
        assert two.get("k") is None


MARK = ClockMark(boot="a", monotonic_ms=1000, wall_ms=100 * DAY_MS)


@pytest.mark.parametrize(
    ("mark", "wall_ms", "behind_ms", "later_ms"),
    [
        (MARK, 100 * DAY_MS + 60_000, 0, 0),  # a minute without power has passed
        (MARK, 100 * DAY_MS + OFF_MS + 1, 0, OFF_MS + 1),  # so long, perhaps not
        (MARK, 5 * DAY_MS, 95 * DAY_MS, 0),  # no battery: time goes on where it was
    ],
)
def test_the_time_of_keys_after_a_boot(
    mark: ClockMark, wall_ms: int, behind_ms: int, later_ms: int
) -> None:
    assert mark.resumed("b", 5, wall_ms) == (behind_ms, later_ms)


def test_a_clock_that_is_wrong_in_the_same_way_after_a_boot() -> None:
    mark = ClockMark(boot="a", wall_ms=100 * DAY_MS, behind_ms=-2 * DAY_MS, is_known=True)
    assert mark.resumed("b", 5, 100 * DAY_MS + 60_000) == (-2 * DAY_MS, 0)
    assert mark.resumed("b", 5, 98 * DAY_MS + 60_000) == (0, 0)  # it was set right meanwhile


@pytest.mark.parametrize("off_ns", [YEARS_NS, 2 * DAY_NS])
@pytest.mark.parametrize("is_killed", [False, True])
async def test_many_deadlines_move_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_ns: int, is_killed: bool
) -> None:
    """In between, what a command reads or copies is right, and so is what a kill leaves."""
    monkeypatch.setattr(edgecells, "RESTAMPED_A_TURN", 3)
    clock = WallClock(off_ns)

    def open_cells(store: EdgeStore) -> EdgeCells:
        return EdgeCells(store, random=Random(1), wall_ns=clock, monotonic_ns=time.monotonic_ns)

    def are_right(cells: EdgeCells, *more: str) -> bool:
        keys = [f"k{n}" for n in range(1, 20)] + list(more)
        return all(is_right(cells.ask("TTL", [key])) for key in keys)

    with EdgeStore(tmp_path / "s", databases=(DATABASE,)) as store:
        cells = open_cells(store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cells.keep_committing)
            for n in range(20):
                cells.ask("SET", [f"k{n}", "v", "EX", TTL_S])
            await cells.wait_durable()
            clock.off_ns = 0
            cells.ask("RENAME", ["k0", "renamed"])
            cells.ask("SET", ["new", "v", "EX", TTL_S])
            assert not cells.tell(0)  # what is given away keeps its time
            assert are_right(cells, "renamed", "new")
            assert cells.expire() == 0
            await cells.wait_durable()
            if not is_killed:
                while not cells.tell(0):
                    assert are_right(cells, "renamed", "new")
                    await cells.wait_durable()
                    await trio.lowlevel.checkpoint()
                assert are_right(cells, "renamed", "new")
            nursery.cancel_scope.cancel()
        cells.close()
    with EdgeStore(tmp_path / "s", databases=(DATABASE,)) as store:
        again = open_cells(store)
        assert are_right(again, "renamed", "new")
        assert again.expire() == 0
        ops = again.space.take()
        stamps = [op.hlc for op in ops]
        assert stamps == sorted(stamps)
        again.close()


@pytest.mark.parametrize(
    ("step_ms", "is_known", "behind_ms", "later_ms"),
    [
        (STEP_MS - 1, False, 0, 0),  # NTP slews so much
        (STEP_MS, False, 0, STEP_MS),  # a step, and nobody knows the time: what is left stays
        (-DAY_MS, False, 0, -DAY_MS),
        (DAY_MS, True, -DAY_MS, 0),  # the hub's time goes on
    ],
)
def test_the_time_of_keys_within_a_boot(
    step_ms: int, is_known: bool, behind_ms: int, later_ms: int
) -> None:
    mark = ClockMark(boot="a", monotonic_ms=1000, wall_ms=100 * DAY_MS, is_known=is_known)
    found = mark.resumed("a", 61_000, 100 * DAY_MS + 60_000 + step_ms)
    assert found == (behind_ms, later_ms)


def test_without_a_clock_that_goes_on_there_is_the_wall_clock_alone() -> None:
    wall_ms = 100 * DAY_MS + 60_000
    assert MARK.resumed("a", 999, wall_ms) == (0, 0)  # it says so, but was begun anew
    nameless = ClockMark(monotonic_ms=1000, wall_ms=100 * DAY_MS)
    assert nameless.resumed("", 1001, wall_ms) == (0, 0)
