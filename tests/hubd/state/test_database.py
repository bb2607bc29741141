"""Opening, upgrading and sharing the state's database."""

from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from edgesync.errors import StoreUnwritable, StoreVersion
from hubd.project.cursors import move_cursor, read_cursor
from hubd.project.feed import Cursor
from hubd.state import QueryTooSlow, State, open_state, tables
from hubd.state.database import READERS
from tests.hubd.conftest import LOG, Opener

OTHER_LOG = b"h" * 16


def remember(state: State, name: str) -> None:
    state.write_now(lambda c: c.execute(tables.meta.insert().values(name=name, value=b"")))


def names(state: State) -> set[str]:
    return state.read_now(lambda c: set(c.scalars(sa.select(tables.meta.c.name))))


def test_what_was_written_is_there_after_reopening(opener: Opener) -> None:
    state = opener()
    remember(state, "kept")
    state.close()
    state = opener()
    assert names(state) >= {"generation", "kept"}
    state.close()


def test_migrations_make_exactly_the_tables_the_code_uses(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", LOG)
    made = sa.MetaData()
    state.read_now(lambda c: made.reflect(c))
    version = sa.text("SELECT version_num FROM alembic_version")
    assert int(state.read_now(lambda c: c.scalar(version))) == tables.FORMAT
    state.close()
    wanted = {name: set(table.c.keys()) for name, table in tables.metadata.tables.items()}
    found = {name: set(table.c.keys()) for name, table in made.tables.items()}
    found.pop("alembic_version")
    assert found == wanted
    for name, table in tables.metadata.tables.items():
        indexes = {index.name for index in table.indexes}
        assert {index.name for index in made.tables[name].indexes} >= indexes


def test_a_state_made_from_another_log_is_kept_aside(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", LOG)
    remember(state, "from the first log")
    state.close()
    state = open_state(tmp_path / "state.db", OTHER_LOG)
    assert names(state) == {"generation"}
    state.close()
    state = open_state(tmp_path / "state.db.1", LOG)
    assert "from the first log" in names(state)
    state.close()


def test_a_state_that_knows_more_than_its_log_is_made_anew(opener: Opener, tmp_path: Path) -> None:
    state = opener(LOG, lambda: 7)
    state.write_now(lambda c: move_cursor(c, "telemetry", Cursor(7)))
    state.close()
    state = opener(LOG, lambda: 7)
    assert state.read_now(lambda c: read_cursor(c, "telemetry")) == Cursor(7)
    state.close()
    state = opener(LOG, lambda: 6)
    assert state.read_now(lambda c: read_cursor(c, "telemetry")) == Cursor()
    state.close()
    assert (tmp_path / "state.db.1").exists() is opener.is_file


def test_a_state_of_a_newer_hub_is_refused(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", LOG)
    state.write_now(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    state.close()
    with pytest.raises(StoreVersion, match="upgrade edgesync"):
        open_state(tmp_path / "state.db", LOG)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnwritable, match=r"state\.db"):
        open_state(tmp_path / "nowhere" / "state.db", LOG)


def test_a_change_that_fails_leaves_nothing(opener: Opener) -> None:
    state = opener()

    def half(connection: sa.Connection) -> None:
        connection.execute(tables.meta.insert().values(name="half", value=b""))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        state.write_now(half)
    assert "half" not in names(state)
    state.close()


def test_a_question_that_takes_too_long_is_stopped(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.state.database.READ_LIMIT_S", 0.05)
    state = opener()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    # More often than there are connections: each must come back to the pool.
    for _ in range(READERS + 2):
        with pytest.raises(QueryTooSlow):
            state.read_now(lambda c: c.exec_driver_sql(endless).all())
    assert "generation" in names(state)
    state.close()


async def test_readers_see_one_moment_while_a_writer_writes(opener: Opener) -> None:
    state = opener()

    def look_twice(connection: sa.Connection) -> tuple[int, int]:
        count = sa.select(sa.func.count()).select_from(tables.meta)
        before = connection.scalar(count)
        remember(state, "meanwhile")
        after = connection.scalar(count)
        assert before is not None
        assert after is not None
        return before, after

    before, after = await state.read(look_twice)
    assert before == after
    assert "meanwhile" in names(state)
    state.close()


async def test_a_large_change_ends_when_it_is_cancelled_and_is_undone(state: State) -> None:
    endless = sa.text(
        "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT max(x) FROM n"
    )
    await state.write(lambda c: c.execute(sa.text("CREATE TABLE t (x BIGINT)")))

    def change(connection: sa.Connection) -> None:
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        connection.execute(endless)

    with trio.move_on_after(0.1) as stopped:
        await state.write(change)
    assert stopped.cancelled_caught
    count = sa.text("SELECT count(*) FROM t")
    assert await state.read(lambda c: c.execute(count).scalar()) == 0
    await state.write(lambda c: c.execute(sa.text("INSERT INTO t VALUES (2)")))
    assert await state.read(lambda c: c.execute(count).scalar()) == 1
