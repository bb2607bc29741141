"""How fast does the hub's log become SQL, and how fast is SQL asked?

Decides the size of a projector's transaction (`hubd.project.base.READ_BYTES`), when points are
written out (`hubd.project.schedule`), and whether one SQLite file is enough: 200,000 readings/s are
wanted, about 4,000 gateways with 50 series each at 1 Hz. Batches are made once; what is timed is
the projector with its commits until all is stored, in a new database each time.
"""

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from hubd.log.base import Entry
from hubd.project.base import Projector, apply_entries
from hubd.project.events import EventsProjector
from hubd.project.feed import Cursor
from hubd.project.live import Live
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, open_state, points, views
from tests.hubd.batches import START_NS, Edge

SECOND = 10**9
# By then everything is due to be stored.
LATER_NS = START_NS + 48 * 3600 * SECOND
SERIES = [(f"meter{i // 10}", f"Register{i % 10}") for i in range(50)]


def entries_of(polls_a_batch: int, batches: int) -> list[Entry]:
    """Batches of 50-series polls at 1 Hz, values like a meter's: one decimal, slowly moving."""
    rng = random.Random(1)
    edge = Edge("barn")
    for name in SERIES:
        edge.declare(name, "W")
    values = dict.fromkeys(SERIES, 100.0)
    made, second = [], 0
    for position in range(1, batches + 1):
        for _ in range(polls_a_batch):
            for name in SERIES:
                values[name] = round(values[name] + rng.gauss(0, 1), 1)
            edge.readings(START_NS + second * SECOND, values)
            second += 1
        made.append(edge.entry(position))
    return made


def project(state: State, entries: Sequence[Entry], entries_a_transaction: int) -> None:
    telemetry = TelemetryProjector(Live(), clock_ns=lambda: LATER_NS)
    for projector in (telemetry, EventsProjector(Live())):
        state.write_now(projector.begin)
        for at in range(0, len(entries), entries_a_transaction):
            some = entries[at : at + entries_a_transaction]
            state.write_now(partial(commit, projector=projector, entries=some))
            while projector.is_due(is_idle=False):
                state.write_now(partial(projector.store, is_idle=False))
    while telemetry.is_due(is_idle=True):
        state.write_now(partial(telemetry.store, is_idle=True))


def commit(connection: sa.Connection, projector: Projector, entries: Sequence[Entry]) -> None:
    apply_entries(projector, connection, entries)
    projector.move(connection, Cursor(entries[-1].position))


class Projection:
    """Readings a second into SQLite, both projectors, commits included."""

    params = ([1, 10, 100, 1000],)
    param_names = ("polls_a_batch",)
    unit = "readings/s"
    timeout = 120
    READINGS = 100_000

    def setup(self, polls_a_batch: int) -> None:
        batches = max(1, self.READINGS // (polls_a_batch * len(SERIES)))
        self.entries = entries_of(polls_a_batch, batches)
        self.readings = batches * polls_a_batch * len(SERIES)
        self.folder = Path(tempfile.mkdtemp(dir="."))

    def teardown(self, polls_a_batch: int) -> None:
        shutil.rmtree(self.folder)

    def track_drain(self, polls_a_batch: int) -> float:
        """A backlog: as many entries a transaction as fit into a read of the log."""
        return self._rate("drain.db", max(1, 1000 // polls_a_batch))

    def track_live(self, polls_a_batch: int) -> float:
        """One entry a transaction, as when an edge sends what it has just measured."""
        return self._rate("live.db", 1)

    def _rate(self, name: str, entries_a_transaction: int) -> float:
        rates = []
        for turn in range(3):
            state = open_state(self.folder / f"{turn}{name}", b"g" * 16)
            started = time.perf_counter()
            project(state, self.entries, entries_a_transaction)
            rates.append(self.readings / (time.perf_counter() - started))
            state.close()
        return statistics.median(rates)


class Questions:
    """What a page of the dashboard waits for: a million readings of 50 series are there."""

    def setup_cache(self) -> str:
        path = Path(tempfile.mkdtemp(dir=".")) / "state.db"
        state = open_state(path, b"g" * 16)
        project(state, entries_of(1000, 20), 4)
        state.close()
        return str(path.absolute())

    def setup(self, path: str) -> None:
        self.state = open_state(Path(path), b"g" * 16)
        found = self.state.read_now(
            partial(views.find_series, edge="barn", entity="meter0", key="Register1")
        )
        assert found is not None
        self.ref = found.ref

    def teardown(self, path: str) -> None:
        self.state.close()

    def time_latest_of_an_edge(self, path: str) -> None:
        self.state.read_now(partial(views.series_of, edge="barn", after=0, limit=200))

    def time_page_of_1000_points(self, path: str) -> None:
        start = START_NS + 10_000 * SECOND
        self.state.read_now(
            lambda c: points.page(c, self.ref, start, 1 << 62, points.NOWHERE, 1000)
        )

    def time_totals(self, path: str) -> None:
        self.state.read_now(views.totals)

    def track_bytes_a_reading(self, path: str) -> float:
        return Path(path).stat().st_size / 1_000_000

    track_bytes_a_reading.unit = "B"  # type: ignore[attr-defined]
