"""A state whose file rots is moved aside and made again from the log; no entry is blamed for it."""

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from hubd.log.base import Entry
from hubd.project.base import Health
from hubd.project.cursors import read_cursor
from hubd.project.feed import Part
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, StateDamaged, open_state, points, tables, views
from hubd.state.damage import is_damage
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.conftest import LOG, Opener
from tests.hubd.project.test_follow import following

PAGE = 4096
NAMES = [("meter", f"P{n}") for n in range(20)]
POLLS = 150


def entries(positions: range) -> list[Entry]:
    edge = Edge("barn", origin=positions.start)
    made = []
    for position in positions:
        for poll in range(POLLS):
            at = START_NS + (position * POLLS + poll) * 10**9
            edge.readings(at, {name: position + poll / 7 for name in NAMES})
        edge.event(100)
        made.append(edge.entry(position))
    return made


FIRST, LATER = entries(range(1, 11)), entries(range(11, 14))


async def fill(opener: Opener, shelf: Shelf) -> None:
    state = opener()
    async with following(shelf, state) as projectors:
        await projectors.reach(shelf.head)
        await all_stored(state, shelf)
    state.close()


async def all_stored(state: State, shelf: Shelf) -> None:
    """Return once the rows have all of the log: its entries are hours old."""
    await until(
        lambda: state.read_now(lambda c: read_cursor(c, "telemetry")).position == shelf.head
    )


def damage(path: Path, first_page: int, share: float, *, where: str = "head") -> int:
    """Write 16 random bytes into so many of the pages from `first_page` on; returns how many."""
    rng, bad = random.Random(2), 0
    with path.open("r+b") as file:
        for page in range(first_page, path.stat().st_size // PAGE):
            if rng.random() < share:
                file.seek(page * PAGE + (0 if where == "head" else rng.randrange(PAGE - 16)))
                file.write(rng.randbytes(16))
                bad += 1
    return bad


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  # it is reached on other threads
        await trio.sleep(0.001)


def compare(state: State, made: list[Entry]) -> None:
    totals = state.read_now(views.totals)["barn"]
    assert (totals.readings, totals.events) == (len(made) * POLLS * len(NAMES), len(made))
    for row in state.read_now(lambda c: views.series_of(c, "barn", 0, 99)):
        ref = row.ref
        found = state.read_now(lambda c, ref=ref: list(points.all_points(c, ref)))  # type: ignore[misc]
        assert [point.value for point in found] == [
            entry.position + poll / 7 for entry in made for poll in range(POLLS)
        ]
    assert state.read_now(lambda c: views.skips(c, 10)) == []
    if state.engines.reader.dialect.name == "sqlite":
        problem = state.read_now(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
        assert problem == "ok"


@pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("first_page", "share", "where"),
    [(0, 1.0, "head"), (1, 1.0, "body"), (0, 0.0, "all")],
)
async def test_what_rotted_while_the_hub_stood_still_is_made_again(
    opener: Opener, tmp_path: Path, first_page: int, share: float, where: str
) -> None:
    path, shelf = tmp_path / "state.db", Shelf(FIRST)
    await fill(opener, shelf)
    if where == "all":
        path.write_bytes(b"not a database, but long enough to look like one" * 100)
    else:
        assert damage(path, first_page, share, where=where)
    state = opener()
    shelf.put(*LATER)
    async with following(shelf, state) as projectors:
        await until(lambda: state.rebuilds > 0)
        await projectors.reach(shelf.head)
        assert [one.skipped for one in projectors.progress] == [0, 0, 0]
        assert [one.health for one in projectors.progress] == [Health.FOLLOWING] * 3
    compare(state, FIRST + LATER)
    assert (tmp_path / "state.db.damaged").exists()
    assert state.last_rebuild is not None
    assert state.last_rebuild.reason
    state.close()


@pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
async def test_pages_that_rot_while_the_hub_runs_are_found_by_what_uses_them(
    opener: Opener,
    tmp_path: Path,
) -> None:
    path, shelf = tmp_path / "state.db", Shelf(FIRST)
    await fill(opener, shelf)
    state = opener()
    async with following(shelf, state) as projectors:
        await projectors.reach(shelf.head)
        await all_stored(state, shelf)
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        state.engines.dispose()  # what SQLite remembers of pages hides the damage until it forgets
        assert damage(path, 5, 0.5)
        shelf.put(*LATER)
        await until(lambda: state.rebuilds > 0)
        await projectors.reach(shelf.head)
        assert [one.skipped for one in projectors.progress] == [0, 0, 0]
    compare(state, FIRST + LATER)
    state.close()


async def test_a_reader_that_meets_damage_has_it_made_again(opener: Opener) -> None:
    shelf = Shelf(FIRST)
    await fill(opener, shelf)
    state = opener()
    async with following(shelf, state) as projectors:
        await projectors.reach(shelf.head)
        await all_stored(state, shelf)
        life = state.life
        spoil = tables.page.update().values(data=b"\1" * 40)
        await state.write(lambda c: c.execute(spoil))
        with pytest.raises(StateDamaged):
            await state.read(lambda c: list(points.all_points(c, 1)))
        await state.replaced(life)
        await until(lambda: all(one.position == 0 for one in projectors.progress))
        await projectors.reach(shelf.head)
    compare(state, FIRST)
    state.close()


@pytest.mark.parametrize(
    "wrong", [tables.latest.delete(), tables.latest.update().values(points=1499)]
)
async def test_what_only_this_state_refuses_is_the_states_fault(
    opener: Opener, wrong: sa.Executable
) -> None:
    """Rows that contradict each other, on pages that are sound: no page check finds that."""
    shelf = Shelf(FIRST)
    await fill(opener, shelf)
    state = opener()
    state.write_now(lambda c: c.execute(wrong))
    shelf.put(*LATER)
    async with following(shelf, state) as projectors:
        await until(lambda: state.rebuilds > 0)
        await projectors.reach(shelf.head)
        assert [one.skipped for one in projectors.progress] == [0, 0, 0]
    compare(state, FIRST + LATER)
    state.close()


class Refusing(TelemetryProjector):
    """Fails at one entry, whatever the state is."""

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        super().apply(connection, parts)
        if any(part.entry.position == 4 for part in parts):
            raise sa.exc.IntegrityError("statement", {}, Exception("NOT NULL constraint failed"))

    def blank(self) -> TelemetryProjector:
        return Refusing(Live())


async def test_what_an_empty_state_refuses_too_is_skipped_alone(opener: Opener) -> None:
    state, shelf = opener(), Shelf(FIRST)
    projectors = Projectors(Live())
    projectors.all = (Refusing(Live()), *projectors.all[1:])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_projectors, shelf, state, projectors)
        await projectors.reach(shelf.head)
        nursery.cancel_scope.cancel()
    skips = state.read_now(lambda c: views.skips(c, 10))
    assert [(one.name, one.position) for one in skips] == [("telemetry", 4)]
    assert "IntegrityError" in skips[0].error
    assert state.rebuilds == 0
    state.close()


def error(code: int, text: str = "") -> sa.exc.OperationalError:
    """Return what SQLAlchemy makes of an error of SQLite."""
    of_sqlite = sqlite3.OperationalError(text)
    of_sqlite.sqlite_errorcode = code
    return sa.exc.OperationalError("SELECT 1", {}, of_sqlite)


@pytest.mark.parametrize(
    ("raised", "is_rot"),
    [
        (StateDamaged("x"), True),
        (error(sqlite3.SQLITE_CORRUPT), True),
        (error(sqlite3.SQLITE_CORRUPT | 1 << 8), True),  # of a virtual table, an index, a sequence
        (error(sqlite3.SQLITE_NOTADB), True),
        (error(sqlite3.SQLITE_IOERR_SHORT_READ), True),
        (error(sqlite3.SQLITE_IOERR_READ), True),
        (error(sqlite3.SQLITE_IOERR_CORRUPTFS), True),
        (error(sqlite3.SQLITE_ERROR, "no such table: meta"), True),
        (error(sqlite3.SQLITE_ERROR, "near FROM: syntax error"), False),
        (error(sqlite3.SQLITE_BUSY, "no such table: meta"), False),
        (error(sqlite3.SQLITE_FULL), False),
        (error(sqlite3.SQLITE_IOERR_WRITE), False),
        (error(sqlite3.SQLITE_CONSTRAINT), False),
        (sa.exc.OperationalError("SELECT 1", {}, Exception("of no code")), False),
        (OSError(5, "input/output error"), False),
        (ValueError("corrupt"), False),
    ],
)
def test_damage_is_told_from_what_is_none(raised: BaseException, is_rot: bool) -> None:
    assert is_damage(raised) is is_rot


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", LOG)
    yield state
    state.close()


async def test_a_full_disk_or_a_wrong_question_is_no_damage(sound: State) -> None:
    for question in ("SELECT * FROM", "SELECT nothing(1)"):
        with pytest.raises(sa.exc.OperationalError):
            await sound.read(lambda c, q=question: c.exec_driver_sql(q))  # type: ignore[misc]
    row = {"name": "twice", "value": b""}
    with pytest.raises(sa.exc.IntegrityError):
        await sound.write(lambda c: c.execute(tables.meta.insert(), [row, row]))
    assert not sound.is_damaged
