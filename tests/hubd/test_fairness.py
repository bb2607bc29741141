"""A flood of one edge at a whole hub: others are shown as soon as before, and it loses nothing."""

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from edgesync._native import batch, event
from edgesync.model import EventType, RecordKind, ValueType, series_id
from edgesync_transport.messages import Ack, Lane
from hubd.link import sessions
from hubd.link.lead import SMALL, Lead
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.state import State, open_state, views
from tests.hubd.links import HandEdge, Site, open_site
from tests.hubd.log.test_contract import Lanes
from tests.native.rowsmith import Draft

pytestmark = pytest.mark.feature("S4", "C14")

ROOT = Path(__file__).parents[2]
MINUTE_NS = 60 * 10**9
SERIES_MAX = 100
LEAD = 5000  # less than a batch is worth
BATCHES, NEW, POLLS, POINTS = 6, 100, 30, 20
KNOWN = [series_id("meter", f"P{n}") for n in range(POINTS)]


def declaration(entity: str, key: str) -> bytes:
    body = json.dumps({"entity": entity, "key": key, "unit": "", "type": "f64"}).encode()
    return event.encode(EventType.SERIES, 0, 0, "", body, 0, 0, 0)


def flood() -> list[Draft]:
    """Batches of old polls of known series, and of series without end, each with a reading."""
    drafts: list[Draft] = []
    chance = Random(1)

    def add(kind: int, body: bytes) -> None:
        drafts.append(Draft(kind, body, 7, len(drafts) + 1))

    for nth in range(BATCHES):
        for minute in range(nth * POLLS, (nth + 1) * POLLS):
            at_ns = minute * MINUTE_NS + chance.randrange(10**9)
            values = [chance.uniform(0, 100) for _ in KNOWN]
            add(RecordKind.READINGS, batch.readings(at_ns, ValueType.F64, KNOWN, values))
        names = [f"{nth}.{n}" for n in range(NEW)]
        for name in names:
            add(RecordKind.EVENT, declaration("flood", name))
        ids = [series_id("flood", name) for name in names]
        add(RecordKind.READINGS, batch.readings(0, ValueType.F64, ids, [1.0] * NEW))
    return drafts


@asynccontextmanager
async def open_hub(tmp_path: Path) -> AsyncIterator[tuple[Site, State, Projectors]]:
    projectors = Projectors(Live(), series=SeriesLimits(SERIES_MAX))
    async with open_site(tmp_path, projection=projectors) as site:
        site.link._lead = Lead(LEAD)
        state = open_state(tmp_path / "state.db", site.log.generation)
        with contextlib.closing(state):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_projectors, site.log, state, projectors)
                yield site, state, projectors
                nursery.cancel_scope.cancel()


async def shown(state: State, edge: str, time_ns: int) -> None:
    """Return once the newest reading of the edge's only series is that of `time_ns`."""
    while True:
        rows = await state.read(lambda c: views.series_of(c, edge, 0, 1))
        if rows and rows[0].time_ns == time_ns:
            return
        await trio.sleep(0.001)


async def floor_of(edge: HandEdge, tail: int) -> None:
    while True:
        answer = await edge.answer()
        assert isinstance(answer, Ack), answer
        if answer.floor == tail:
            return


async def test_the_others_newest_readings_are_shown_while_a_flood_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TOGETHER_WORK", 1)
    drafts = flood()
    each, lane = len(drafts) // BATCHES, Lanes(drafts)
    quiet = Lanes([
        Draft(RecordKind.READINGS, batch.readings(n, ValueType.F64, [1], [1.0]), 7, n)
        for n in range(1, 4)
    ])  # fmt: skip
    async with open_hub(tmp_path) as (site, state, projectors):
        barn, shed = site.edge(), site.edge("shed")
        await barn.greet(tail=len(drafts))
        await shed.greet(tail=3)
        for n in range(BATCHES):
            await barn.send(lane, n * each + 1, (n + 1) * each)
        for n in range(1, 4):
            await shed.send(quiet, n, n)
            await shown(state, "shed", n)
            if n == 1:
                # Of the flood, no more is in the log than may be ahead, and the batch beyond it.
                view = site.presence.edge("barn")
                assert view is not None
                assert view.lanes[Lane.BULK].floor < len(drafts)
            assert site.link._lead.total <= LEAD + SMALL + each * sessions.OTHER_WORK
        await floor_of(barn, len(drafts))
        await projectors.reach(site.log.head)
        totals = await state.read(views.totals)
        polled = BATCHES * POLLS * POINTS
        # Known series go on; of new ones as many as there is room for, and the rest is counted.
        assert totals["barn"].series == SERIES_MAX
        assert totals["barn"].readings == polled + SERIES_MAX - POINTS
        assert totals["barn"].refused == BATCHES * NEW - (SERIES_MAX - POINTS)
        assert totals["barn"].events == BATCHES * NEW
        assert totals["shed"].readings == 3


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["backlog", "series", "poison", "tenant"])
def test_nobody_is_shown_more_than_two_seconds_late(kind: str) -> None:
    """With real edges over real sockets, and the hub in a process of its own."""
    command = [sys.executable, "-m", "bench.fairness", "--flood", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["flood_late_max_ms"] <= 2000, found
    assert found["memory_most_mb"] <= found["memory_before_mb"] + 150, found
    assert found["growth_mib_an_hour"] is not None
