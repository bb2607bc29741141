"""What SQLite and PostgreSQL are for the hub: transactions, stopped statements, errors, texts."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from edgesync.errors import ConfigError
from hubd.db import dialect
from hubd.db.engine import open_postgresql, open_sqlite, parse_url, shown
from hubd.db.faults import Fault, fault_of
from hubd.db.limits import stopping_when
from hubd.db.migrations import Migrations
from hubd.owned.migrate import MIGRATIONS as owned_migrations
from hubd.state.file import MIGRATIONS as state_migrations
from tests.postgresql import Server

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

metadata = sa.MetaData()
note = sa.Table(
    "note",
    metadata,
    sa.Column("name", dialect.Text, primary_key=True),
    sa.Column("body", dialect.TextBytes),
    sa.Column("count", sa.BigInteger),
)

Open = Callable[..., sa.Engine]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens one database again and again, as several programs do."""
    engines: list[sa.Engine] = []
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("database")

    def open_engine(pool_size: int = 2, busy_s: float = 5.0) -> sa.Engine:
        if url:
            where = parse_url(url)
            engine = open_postgresql(where, "its own", pool_size=pool_size, busy_s=busy_s)
        else:
            path = tmp_path / "a.db"
            wal = ("journal_mode = WAL",)
            engine = open_sqlite(path, pragmas=wal, pool_size=pool_size, busy_s=busy_s)
        engines.append(engine)
        return engine

    first = open_engine()
    with first.execution_options(writes=True).begin() as connection:
        if url:
            connection.exec_driver_sql('CREATE SCHEMA "its own"')
        metadata.create_all(connection)
    yield open_engine
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(opened: Open) -> sa.Engine:
    return opened()


def write(engine: sa.Engine, name: str, count: int = 1) -> None:
    statement = dialect.insert(note).values(name=name, count=count)
    statement = statement.on_conflict_do_update(
        index_elements=[note.c.name], set_={"count": note.c.count + statement.excluded.count}
    )
    with engine.execution_options(writes=True).begin() as connection:
        connection.execute(statement)


def test_a_row_that_is_there_is_added_to(engine: sa.Engine) -> None:
    write(engine, "a", 3)
    write(engine, "a", 4)
    with engine.begin() as connection:
        assert connection.execute(sa.select(note.c.name, note.c.count)).all() == [("a", 7)]


def test_what_is_read_is_of_one_moment(opened: Open) -> None:
    engine = opened()
    question = sa.select(sa.func.count()).select_from(note)
    with engine.begin() as connection:
        assert connection.scalar(question) == 0
        write(opened(), "meanwhile")
        assert connection.scalar(question) == 0
    with engine.begin() as connection:
        assert connection.scalar(question) == 1


def test_who_writes_is_alone_from_the_beginning(opened: Open) -> None:
    """Two that read, think and write would else both see what the other is about to change."""
    first, second = opened(), opened(busy_s=0.2)
    with first.execution_options(writes=True).connect() as connection, connection.begin():
        with pytest.raises(sa.exc.OperationalError) as refused:
            write(second, "b")
        assert fault_of(refused.value) is Fault.LOCKED
    write(second, "b")


def test_writers_follow_each_other(opened: Open) -> None:
    def count_up() -> None:
        engine = opened(busy_s=30)
        for _ in range(20):
            with engine.execution_options(writes=True).begin() as connection:
                seen = connection.scalar(sa.select(note.c.count)) or 0
                connection.execute(note.update().values(count=seen + 1))

    write(opened(), "a", 0)
    threads = [threading.Thread(target=count_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened().begin() as connection:
        assert connection.scalar(sa.select(note.c.count)) == 60


def test_a_statement_is_stopped_and_its_connection_goes_on(opened: Open) -> None:
    with opened(pool_size=1).connect() as connection:
        before = connection.connection.dbapi_connection
        for _ in range(2):
            ends_at = time.monotonic() + 0.05
            with (
                pytest.raises(sa.exc.DBAPIError) as stopped,
                stopping_when(connection, lambda at=ends_at: time.monotonic() > at),  # type: ignore[misc]
            ):
                connection.exec_driver_sql(ENDLESS)
            assert fault_of(stopped.value) is Fault.STOPPED
            connection.rollback()
        assert connection.scalar(sa.select(sa.func.count()).select_from(note)) == 0
        assert connection.connection.dbapi_connection is before


def test_errors_have_one_meaning(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError) as gone, engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert fault_of(gone.value) is Fault.DAMAGED
    with pytest.raises(sa.exc.IntegrityError) as twice, engine.begin() as connection:
        connection.execute(note.insert(), [{"name": "a"}, {"name": "a"}])
    assert fault_of(twice.value) is Fault.BAD_DATA
    assert fault_of(ValueError()) is None


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(st.text(st.one_of(st.sampled_from("\0\ufdd0\ufdd1\ufdd2\ufde0é\\'%aZ"),
                                    st.characters(exclude_categories=["Cs"]))), min_size=2),
    body=st.one_of(st.binary(), st.text().map(str.encode),
                   st.sampled_from([b"\0", b"\xff", "\ufdd2\ufde1\ufde2".encode(), b"\xed\xa0"])),
)  # fmt: skip
def test_texts_and_bytes_come_back_and_are_sorted_alike(
    engine: sa.Engine, names: set[str], body: bytes
) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(note.insert(), [{"name": name, "body": body} for name in names])
        question = sa.select(note.c.name, note.c.body).order_by(note.c.name)
        rows = connection.execute(question).all()
        assert {row.name for row in rows} == names
        plain = [row.name for row in rows if dialect.SPECIAL.search(row.name) is None]
        assert plain == sorted(plain)
        assert {row.body for row in rows} == {body}
        transaction.rollback()


def test_what_is_told_of_a_url_has_no_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    url = parse_url("postgresql://hub@db.example.org:5433/edgesync", file)
    assert url.password == "s3cret"
    assert shown(url) == "postgresql://hub@db.example.org:5433/edgesync"
    assert shown(parse_url("postgres://hub:s3cret@db/x")) == "postgresql://hub@db/x"
    parameters = "postgresql://hub@db/x?"
    for bad in (
        f"{parameters}password=s3cret", f"{parameters}sslpassword=s3cret",
        f"{parameters}nonsense=s3cret", "mysql://hub:s3cret@db", "s3cret@:::",
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            parse_url(bad)
        assert "s3cret" not in str(refused.value)
    with pytest.raises(ConfigError, match="nowhere"):
        parse_url("postgresql://hub@db/x", tmp_path / "nowhere")


def test_a_parameter_that_libpq_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match="parameters that there are not: nonsense"):
        parse_url("postgresql://hub@db/x?nonsense=1&sslmode=require")
    assert parse_url("postgresql://hub@/x?host=/tmp&host=/run&connect_timeout=3").query


def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    engine = open_postgresql(parse_url(f"postgresql://hub@/hub?host={tmp_path}"), "s")
    with pytest.raises(sa.exc.OperationalError) as away:
        engine.connect()
    assert fault_of(away.value) is Fault.AWAY


def test_a_server_that_says_no_more_is_given_up(postgresql: Server, database: str) -> None:
    """A connection whose server stands still ends with its limit, not with the server's."""
    engine = open_postgresql(parse_url(database), "s")
    with engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with (
            postgresql.silent(int(str(pid))),
            pytest.raises(sa.exc.OperationalError) as stopped,
            stopping_when(connection, lambda: True),
        ):
            connection.exec_driver_sql("SELECT 1")
        assert fault_of(stopped.value) is Fault.STOPPED
    engine.dispose()


def raws_of(engine: sa.Engine) -> list[Any]:
    """Return a list that gets every connection of the driver that the engine makes."""
    made: list[Any] = []
    event.listen(engine, "connect", lambda raw, _entry: made.append(raw), insert=True)
    return made


def is_closed(raw: Any) -> bool:
    if isinstance(raw, sqlite3.Connection):
        try:
            raw.total_changes  # noqa: B018
        except sqlite3.ProgrammingError:
            return True
        return False
    return bool(raw.closed)


@pytest.mark.parametrize("moment", ["it is made", "it is used"])
def test_no_connection_outlives_its_engine(opened: Open, moment: str) -> None:
    """A thread that reads when the hub closes its database goes on, and ends a moment later."""
    engine = opened()
    made = raws_of(engine)
    if moment == "it is made":
        event.listen(engine, "connect", lambda *_: engine.dispose())
    with engine.begin() as connection:
        if moment == "it is used":
            engine.dispose()
        assert connection.scalar(sa.select(sa.literal(1))) == 1
        assert [is_closed(raw) for raw in made] == [False]
    assert [is_closed(raw) for raw in made] == [True]


def test_a_connection_that_cannot_be_made_ready_is_closed(database: str, tmp_path: Path) -> None:
    """Its first statements fail: a server may just have been killed, a file be rotten."""
    engines = [
        open_sqlite(tmp_path / "a.db", pragmas=["journal_mode = ("]),
        open_postgresql(parse_url(database), "s", session=["SELECT 1 / 0"]),
    ]
    for engine in engines:
        made = raws_of(engine)
        with pytest.raises((sa.exc.DBAPIError, sqlite3.Error, psycopg.Error)):
            engine.connect()
        assert [is_closed(raw) for raw in made] == [True]


@pytest.mark.parametrize("migrations", [owned_migrations, state_migrations])
def test_the_newest_script_is_the_one_that_all_others_lead_to(migrations: Migrations) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations._folder))
    assert migrations.newest == ScriptDirectory.from_config(config).get_current_head()


@pytest.mark.parametrize("count", [0, 1, 100])
def test_rows_of_any_number_are_inserted_as_they_are(engine: sa.Engine, count: int) -> None:
    texts = ["", "\t\n\\.", "\\N", "é\0\ufdd1", "a,b"]
    rows = [
        {"name": f"{n} {texts[n % 5]}", "body": texts[n % 5].encode() + b"\xff", "count": n or None}
        for n in range(count)
    ]
    with engine.execution_options(writes=True).begin() as connection:
        dialect.insert_rows(connection, note, rows)
    question = sa.select(note).order_by(note.c.count)
    with engine.begin() as connection:
        found = [dict(row._mapping) for row in connection.execute(question)]
    assert sorted(found, key=str) == sorted(rows, key=str)
    if not rows:
        return
    with (
        pytest.raises(sa.exc.IntegrityError) as twice,
        engine.execution_options(writes=True).begin() as connection,
    ):
        dialect.insert_rows(connection, note, rows)
    assert fault_of(twice.value) is Fault.BAD_DATA
    with engine.begin() as connection:
        assert len(connection.execute(question).all()) == count
