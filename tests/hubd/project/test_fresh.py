"""Points in memory and in rows are one: at any moment, after kills, with a disk that refuses."""

import contextlib
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing
from alembic import command
from alembic.config import Config
from sqlalchemy.engine.interfaces import DBAPIConnection

from edgesync.model import series_id
from hubd.log.base import Entry
from hubd.project import base
from hubd.project.base import Health, apply_entries
from hubd.project.beside import read_beside
from hubd.project.cursors import read_cursor
from hubd.project.feed import Cursor
from hubd.project.live import Live
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, database, open_state, points, tables, views
from hubd.state.rollups import HOUR_NS, HOURS, MINUTES
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.conftest import Opener
from tests.hubd.project.test_follow import following

SECOND = 10**9
NAME = ("meter", "Power")
LOG = b"g" * 16


def entries_of(name: str, positions: range, readings: int = 10) -> list[Entry]:
    edge, made = Edge(name, origin=positions.start), []
    for position in positions:
        for nth in range(readings):
            second = position * readings + nth
            edge.readings(START_NS + second * SECOND, {NAME: float(second)})
        made.append(edge.entry(position))
    return made


def values_of(connection: sa.Connection, edge: str) -> list[object]:
    row = views.series_by_id(connection, edge, series_id(*NAME))
    if row is None:
        return []
    return [point.value for point in points.all_points(connection, row.ref)]


def take(state: State, projector: TelemetryProjector, entries: list[Entry]) -> None:
    state.write_now(lambda c: apply_entries(projector, c, entries))
    state.write_now(lambda c: projector.move(c, Cursor(entries[-1].position)))


def begun(state: State, now_ns: int = START_NS + 3 * HOUR_NS) -> TelemetryProjector:
    projector = TelemetryProjector(Live(), clock_ns=lambda: now_ns)
    state.write_now(projector.begin)
    return projector


def store(state: State, projector: TelemetryProjector) -> None:
    state.write_now(lambda c: projector.store(c, is_idle=True))


def test_a_question_sees_each_point_once_while_pages_are_written(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.state.rollups.HOURS", HOURS._replace(dense=1))  # also as rows
    projector = begun(state)
    entries = entries_of("barn", range(1, 121))
    take(state, projector, entries[:1])
    problems: list[object] = []
    is_over = threading.Event()

    def look(connection: sa.Connection) -> tuple[int, int, int, int, object]:
        row = views.series_by_id(connection, "barn", series_id(*NAME))
        assert row is not None
        values = values_of(connection, "barn")
        hours = points.bucket_page(connection, HOURS, row.ref, 0, 1 << 62, 0, 99)
        total = views.totals(connection)["barn"].readings
        assert values == [float(n) for n in range(10, 10 + len(values))]
        return row.points, len(values), sum(hour.points for hour in hours), total, row.value

    def ask() -> None:
        before = 0
        while not is_over.is_set():
            try:
                count, listed, in_hours, total, value = state.read_now(look)
                # Memory may grow between two of these; nothing is missing, doubled, or goes back.
                assert before <= count <= listed <= in_hours <= total
                assert value >= count + 9  # type: ignore[operator]
                before = total
            except Exception as error:
                problems.append(error)
                return

    asking = threading.Thread(target=ask)
    asking.start()
    for entry in entries[1:]:
        take(state, projector, [entry])
        store(state, projector)
    is_over.set()
    asking.join()
    assert not problems
    assert state.read_now(look)[:4] == (1200, 1200, 1200, 1200)


def test_of_edges_stored_up_to_different_entries_each_goes_on_where_it_is(state: State) -> None:
    projector = begun(state, START_NS)
    slow, quick = entries_of("slow", range(1, 8, 2)), entries_of("quick", range(2, 9, 2), 3000)
    log = sorted([*slow, *quick], key=lambda entry: entry.position)
    take(state, projector, log[:6])
    assert projector.is_due(is_idle=False)  # the quick one has many points
    store(state, projector)
    assert state.read_now(lambda c: read_cursor(c, "telemetry")) == Cursor()
    stored = state.read_now(lambda c: c.execute(sa.select(tables.stored)).all())
    assert [tuple(row) for row in stored] == [("quick", 6)]
    for _ in range(2):
        projector = begun(state)
        take(state, projector, log)
        for edge, made in (("slow", slow), ("quick", quick)):
            values = state.read_now(lambda c, edge=edge: values_of(c, edge))  # type: ignore[misc]
            size = 10 if edge == "slow" else 3000
            assert values == [float(e.position * size + n) for e in made for n in range(size)]
            assert state.read_now(views.totals)[edge].readings == len(values)
        store(state, projector)
    assert state.read_now(lambda c: read_cursor(c, "telemetry")) == Cursor(8)


@pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
async def test_while_the_disk_refuses_new_points_are_seen_and_stored_later(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.01,))
    chance = random.Random(1)
    values = [chance.random() for _ in range(5000)]
    edge, log = Edge("barn"), list[Entry]()
    for nth, value in enumerate(values):
        edge.readings(START_NS + nth * SECOND, {NAME: value})
        if nth % 1000 == 999:
            log.append(edge.entry(len(log) + 1))
    shelf = Shelf(log[:2])
    with state.engines.writer.connect() as connection:  # migrations left room as well
        connection.connection.dbapi_connection.execute("VACUUM")  # type: ignore[union-attr]
    pages = 1 << 30

    @sa.event.listens_for(state.engines.writer, "checkout")
    def allow_or_not(raw: DBAPIConnection, *_: object) -> None:
        raw.cursor().execute(f"PRAGMA max_page_count = {pages}")

    async with following(shelf, state) as projectors:
        telemetry = projectors.progress[0]
        await projectors.reach(2)
        pages = 1  # as many as there are
        shelf.put(*log[2:])
        await telemetry.reach(5)
        await telemetry.until(Health.FAILING)
        assert "full" in telemetry.error
        assert state.read_now(lambda c: values_of(c, "barn")) == values
        pages = 1 << 30
        await telemetry.until(Health.FOLLOWING)
        assert telemetry.skipped == 0
    assert state.read_now(lambda c: values_of(c, "barn")) == values


async def test_without_room_to_take_in_what_is_committed_memory_is_filled_again(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, left = TelemetryProjector._append, [2]

    def no_room_at_the_third(self: TelemetryProjector, step: object) -> None:
        append(self, step)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError("no room")

    monkeypatch.setattr(TelemetryProjector, "_append", no_room_at_the_third)
    async with following(Shelf(entries_of("barn", range(1, 6))), state) as projectors:
        await projectors.reach(5)
        assert projectors.progress[0].skipped == 0
    assert left[0] < 0
    assert state.read_now(lambda c: values_of(c, "barn")) == [float(n) for n in range(10, 60)]


async def test_a_projector_that_never_has_room_is_failing_and_not_in_a_hurry(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, has_room, losses = TelemetryProjector._append, [False], [0]

    def no_room_for_the_third(self: TelemetryProjector, step: Any) -> None:
        if step.entry.position == 3 and not has_room[0]:
            losses[0] += 1
            raise MemoryError("no room")
        append(self, step)

    monkeypatch.setattr(TelemetryProjector, "_append", no_room_for_the_third)
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.01, 0.02, 3600.0))
    seen: set[Health] = set()
    async with following(Shelf(entries_of("barn", range(1, 4))), state) as projectors:
        telemetry = projectors.progress[0]
        with trio.fail_after(60):
            await telemetry.until(Health.FAILING)
        while losses[0] < 3:  # a new beginning is no end of the trouble
            await telemetry.changed()
            seen.add(telemetry.health)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert losses[0] == 3
        assert telemetry.position < 3
        assert "no room" in telemetry.error
        assert seen == {Health.FAILING}
    has_room[0] = True
    async with following(Shelf(entries_of("barn", range(1, 4))), state) as projectors:
        await projectors.reach(3)
        assert projectors.progress[0].health is Health.FOLLOWING


def test_memory_stays_within_its_bound_while_a_long_log_is_read_again(state: State) -> None:
    """Replay is the same path as running: each page it writes is progress a kill cannot undo."""
    bound, most = 256 << 10, 0
    log = entries_of("barn", range(1, 101), 200) + entries_of("shed", range(101, 201), 200)
    projector = TelemetryProjector(Live(), memory_bytes=bound)
    reached = []
    for kill in (120, 80, 200):  # each life ends so many entries after it began
        state.write_now(projector.begin)
        entries = [entry for entry in log if entry.position > projector.position]
        for entry in entries[:kill]:
            take(state, projector, [entry])
            most = max(most, sum(one.table.nbytes for one in state.fresh.edges.values()))
            while projector.is_due(is_idle=False):
                state.write_now(lambda c: projector.store(c, is_idle=False))
        stored = sa.select(sa.func.sum(tables.page.c.points))
        reached.append(state.read_now(lambda c, stored=stored: c.scalar(stored)))  # type: ignore[misc]
    assert reached == sorted(set(reached))
    assert most < 2 * bound
    for edge, start in (("barn", 200), ("shed", 20_200)):
        values = state.read_now(lambda c, edge=edge: values_of(c, edge))  # type: ignore[misc]
        assert values == [float(n) for n in range(start, start + 20_000)]


async def test_what_is_old_is_stored_while_the_log_stands_still(state: State) -> None:
    async with following(Shelf(entries_of("barn", range(1, 4))), state) as projectors:
        await projectors.reach(3)
        with trio.fail_after(30):
            while state.read_now(lambda c: read_cursor(c, "telemetry")) != Cursor(3):  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert state.fresh.edges["barn"].table.points == 0
    assert state.read_now(lambda c: values_of(c, "barn")) == [float(n) for n in range(10, 40)]


def test_who_reads_beside_a_hub_sees_what_it_has_in_memory(state: State, opener: Opener) -> None:
    projector, log = begun(state), entries_of("barn", range(1, 6))
    take(state, projector, log[:2])
    store(state, projector)
    take(state, projector, log[2:])
    beside = opener.beside()
    assert beside is not None
    with contextlib.closing(beside):
        for edge in ("barn", "shed"):
            found = read_beside(
                beside, edge, lambda after: [one for one in log if one.position > after],
                lambda c, edge=edge: values_of(c, edge),  # type: ignore[misc]
            )  # fmt: skip
            assert found == state.read_now(lambda c, edge=edge: values_of(c, edge))  # type: ignore[misc]
        assert not beside.fresh.edges


def test_series_with_few_points_have_no_rows_of_aggregates(state: State) -> None:
    projector = begun(state)
    edge = Edge("barn")
    for minute in range(60):
        edge.readings(START_NS + minute * 60 * SECOND, {NAME: float(minute)})
    for nth in range(6000):
        edge.readings(START_NS + nth * SECOND // 10, {("meter", "Fast"): float(nth)})
    take(state, projector, [edge.entry(1)])
    store(state, projector)
    for level, rows in ((MINUTES, 10), (HOURS, 1)):
        table = level.table
        stored = state.read_now(lambda c, table=table: c.execute(sa.select(table)).all())  # type: ignore[misc]
        assert [row.points for row in stored] == [6000 // rows] * rows
    for name, in_minutes in ((NAME, [1] * 60), (("meter", "Fast"), [600] * 10)):
        row = state.read_now(
            lambda c, name=name: views.series_by_id(c, "barn", series_id(*name))  # type: ignore[misc]
        )
        assert row is not None
        ref = row.ref
        for level, wanted in ((MINUTES, in_minutes), (HOURS, [sum(in_minutes)])):
            found = state.read_now(
                lambda c, ref=ref, level=level: points.bucket_page(  # type: ignore[misc]
                    c, level, ref, START_NS, START_NS + HOUR_NS, 0, 99
                )
            )
            assert [bucket.points for bucket in found] == wanted


def test_a_state_of_rows_for_each_series_is_made_again_as_pages(tmp_path: Path) -> None:
    path, log = tmp_path / "state.db", entries_of("barn", range(1, 4))
    old = sa.create_engine(f"sqlite:///{path}")
    with old.begin() as connection:
        config = Config()
        folder = Path(database.__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for statement in (
            "INSERT INTO meta VALUES ('generation', x'" + LOG.hex() + "')",
            "INSERT INTO projector_cursor VALUES ('telemetry', 3, 0, 0), ('events', 3, 0, 0)",
            "INSERT INTO projector_skip VALUES ('telemetry', 2, 'barn', 2, 1, 2, 'x')",
            f"INSERT INTO series VALUES (5, 'barn', {tables.signed(series_id(*NAME))},"
            " 'meter', 'Power', 'W')",
            "INSERT INTO latest VALUES (5, 30, 0, 1, 0, 0, NULL)",
            "INSERT INTO edge_totals VALUES ('barn', 30, 7, 0, 0, 1, 1, 0)",
            "INSERT INTO rollup_1h VALUES (5, 0, 30, 0, 1, 2, 0, 1, 0, 1)",
        ):
            connection.exec_driver_sql(statement)
    old.dispose()
    with contextlib.closing(open_state(path, LOG, lambda: 3)) as state:
        assert state.read_now(lambda c: read_cursor(c, "events")) == Cursor(3)
        take(state, begun(state), log)
        row = state.read_now(lambda c: views.find_series(c, "barn", *NAME))
        assert row is not None
        assert (row.ref, row.unit, row.points, row.value) == (5, "W", 30, 39.0)
        totals = state.read_now(views.totals)["barn"]
        assert (totals.readings, totals.events, totals.series) == (30, 7, 1)
        hours = state.read_now(lambda c: points.bucket_page(c, HOURS, 5, 0, 1 << 62, -1, 9))
        assert [hour.points for hour in hours] == [30]
        assert state.read_now(lambda c: views.skips(c, 9)) == []
