"""A state in PostgreSQL is a schema: found, left, dropped, refused; another's is never touched."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
import trio

from edgesync.errors import StoreVersion
from hubd.db.engine import parse_url
from hubd.errors import DatabaseTaken
from hubd.project import base
from hubd.project.base import Health
from hubd.state import State, schema, tables, views
from hubd.state.schema import Hub, StateSchema, open_schema
from tests.hubd.batches import Edge, Shelf
from tests.hubd.conftest import HUB, LOG, Opener
from tests.hubd.project.test_follow import entries_of, following
from tests.hubd.state.test_damage import all_stored, until
from tests.postgresql import EMPTY, Server

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information' ORDER BY 1"

pytestmark = pytest.mark.parametrize("opener", ["postgresql"], indirect=True)


def schemas(postgresql: Server) -> list[object]:
    return [name for (name,) in postgresql.execute(SCHEMAS, "hub")]


def set_format(state: State, number: int) -> None:
    meta = tables.meta
    change = meta.update().where(meta.c.name == "format").values(value=str(number).encode())
    state.write_now(lambda c: c.execute(change))
    state.close()


def test_one_of_a_newer_version_is_refused_and_one_of_an_older_made_anew(
    opener: Opener, postgresql: Server
) -> None:
    set_format(opener(), tables.FORMAT + 1)
    with pytest.raises(StoreVersion, match="upgrade edgesync"):
        opener()
    assert schemas(postgresql) == ["edgesync_state_1", "public"]
    postgresql.execute("UPDATE edgesync_state_1.meta SET value = '3' WHERE name = 'format'", "hub")
    opener().close()
    # What the log has no more may be in the one before.
    assert schemas(postgresql) == ["edgesync_state_1", "edgesync_state_2", "public"]
    for generation in (b"1" * 16, b"2" * 16, b"1" * 16):
        opener(generation).close()
    assert schemas(postgresql) == ["edgesync_state_4", "edgesync_state_5", "public"]


def test_the_state_of_another_hub_is_refused_by_its_name(opener: Opener, database: str) -> None:
    opener().close()
    for generation in (LOG, b"other log"):
        with pytest.raises(DatabaseTaken, match=r"another hub \(key of this hub, here:/hub\)"):
            open_schema(parse_url(database), Hub("another", "there:/hub"), generation)
    open_schema(parse_url(database), HUB, LOG).close()


def test_schemas_with_names_like_these_stay(opener: Opener, postgresql: Server) -> None:
    others = ["edgesync_state", "edgesync_state_x", "edgesync_state_2_old", "Edgesync_state_7"]
    for name in others:
        postgresql.execute(f'CREATE SCHEMA "{name}"', "hub")
    for generation in (b"1", b"2", b"3"):
        opener(generation).close()
    mine = ["edgesync_state_2", "edgesync_state_3"]
    assert sorted(map(str, schemas(postgresql))) == sorted([*others, *mine, "public"])


@pytest.mark.parametrize("gone", ["SCHEMA edgesync_state_1", "TABLE edgesync_state_1.latest"])
async def test_what_somebody_drops_under_a_hub_is_made_again(
    opener: Opener, postgresql: Server, gone: str
) -> None:
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3]))
    with contextlib.closing(opener()) as state:
        async with following(shelf, state) as projectors:
            await projectors.reach(3)
            await all_stored(state, shelf)  # else its locks and those of the drop may meet
            postgresql.execute(f"DROP {gone} CASCADE", "hub")
            shelf.put(*entries_of(Edge("shed"), [4]))
            if gone.startswith("TABLE"):  # what nobody asks for is not missed
                with pytest.raises(sa.exc.ProgrammingError):
                    await state.read(lambda c: views.find_series(c, "barn", "meter", "Power"))
            await until(lambda: state.rebuilds > 0)
            await projectors.reach(4)
            assert [one.skipped for one in projectors.progress] == [0, 0, 0]
            assert [one.health for one in projectors.progress] == [Health.FOLLOWING] * 3
        totals = state.read_now(views.totals)
        assert (totals["barn"].readings, totals["barn"].events) == (3, 3)
        assert (totals["shed"].readings, totals["shed"].events) == (1, 1)


async def test_a_connection_that_is_lost_loses_no_state(
    opener: Opener, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has come further since the hub began; what it was made of may be dropped by now."""
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.05,))
    shelf = Shelf([])
    with contextlib.closing(opener(head=lambda: shelf.head)) as state:
        async with following(shelf, state) as projectors:
            shelf.put(*entries_of(Edge("barn"), [1, 2]))
            await all_stored(state, shelf)
            pid = await state.write(lambda c: c.scalar(sa.select(sa.func.pg_backend_pid())))
            postgresql.execute(f"SELECT pg_terminate_backend({pid})", "hub")
            life = state.life
            shelf.put(*entries_of(Edge("shed"), [3]))
            await until(lambda: state.life > life)
            await projectors.reach(3)
        assert schemas(postgresql) == ["edgesync_state_1", "public"]


async def test_a_server_that_falls_silent_is_given_up_and_found_again(
    opener: Opener, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateSchema, "write_limit_s", 0.2)
    monkeypatch.setattr(schema, "LEASE_S", 0.2)
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.05,))
    shelf = Shelf(entries_of(Edge("barn"), [1, 2]))
    with contextlib.closing(opener()) as state:
        async with following(shelf, state) as projectors:
            await projectors.reach(2)
            pid = await state.write(lambda c: c.scalar(sa.select(sa.func.pg_backend_pid())))
            with postgresql.silent(int(str(pid))):
                shelf.put(*entries_of(Edge("shed"), [3]))
                # While it is waited for, what was there is shown.
                await until(lambda: state.writes_for_s > 0)
                assert (await state.read(views.totals))["barn"].readings == 2
                for one in projectors.progress:
                    await one.until(Health.FAILING)
                # The other end of that connection lives, and may have a transaction to end.
                await until(lambda: "in use by another hub" in projectors.progress[0].error)
            await projectors.reach(3)
            for one in projectors.progress:
                await one.until(Health.FOLLOWING)
        totals = state.read_now(views.totals)
        assert {name: one.readings for name, one in totals.items()} == {"barn": 2, "shed": 1}
        assert state.rebuilds == 0


@pytest.fixture
def small_disk(postgresql: Server) -> Iterator[None]:
    """Have tables made on a disk of 8 MiB."""
    with postgresql.tablespace("small", "8m"):
        postgresql.execute("ALTER DATABASE hub SET default_tablespace = small", "hub")
        yield
        postgresql.execute("ALTER DATABASE hub RESET default_tablespace", "hub")
        postgresql.execute(EMPTY, "hub")


@pytest.mark.root
async def test_a_full_disk_of_the_server_is_waited_for(
    opener: Opener, postgresql: Server, small_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.05,))
    postgresql.execute("CREATE SCHEMA filler", "hub")
    fill = "CREATE TABLE filler.t{} AS SELECT md5(random()::text) FROM generate_series(1, {}::int)"
    shelf = Shelf(entries_of(Edge("barn"), [1, 2]))
    with contextlib.closing(opener()) as state:
        async with following(shelf, state) as projectors:
            await projectors.reach(2)
            rows, table = 65536, 0
            while rows:
                try:
                    postgresql.execute(fill.format(table, rows), "hub")
                    table += 1
                except psycopg.errors.DiskFull:
                    rows //= 4
            edge, last = Edge("shed"), 2
            while all(one.health is Health.FOLLOWING for one in projectors.progress):
                edge.event(100, b"x" * 4000)
                last += 1
                shelf.put(edge.entry(last))
                await trio.sleep(0.001)
            failing = [one for one in projectors.progress if one.health is Health.FAILING]
            assert "No space left on device" in failing[0].error
            postgresql.execute("DROP SCHEMA filler CASCADE", "hub")
            await projectors.reach(last)
            assert [one.skipped for one in projectors.progress] == [0, 0, 0]
        totals = state.read_now(views.totals)
        assert (totals["shed"].events, totals["barn"].readings) == (last - 2, 2)
        assert state.rebuilds == 0
