"""A state in PostgreSQL is a schema: found, left, dropped, refused; another's is never touched."""

import contextlib

import pytest
import sqlalchemy as sa

from edgesync.errors import StoreVersion
from hubd.db.engine import parse_url
from hubd.errors import DatabaseTaken
from hubd.project import Health
from hubd.state import State, tables, views
from hubd.state.schema import Hub, open_schema
from tests.hubd.batches import Edge, Shelf
from tests.hubd.conftest import HUB, LOG, Opener
from tests.hubd.project.test_follow import entries_of, following
from tests.hubd.state.test_damage import all_stored, until
from tests.postgresql import Server

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
