"""Owned state in PostgreSQL: a server that is away or hangs is an error in time, and passes."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hubd.db.engine import parse_url
from hubd.errors import OwnedBusy, OwnedUnusable
from hubd.owned import database as owned_database
from hubd.registry import Registry, open_registry
from tests.postgresql import Server

pytestmark = pytest.mark.feature("S6")


@pytest.fixture
def registry(tmp_path: Path, database: str) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, parse_url(database))) as found:
        yield found


def test_a_server_that_starts_again_is_used_again(registry: Registry, postgresql: Server) -> None:
    registry.enrolments.invite("barn", valid_s=900)
    postgresql.kill()
    try:
        for _ in range(2):
            with pytest.raises(OwnedUnusable, match=r"^postgresql://hub@/hub"):
                registry.edges.all()
    finally:
        postgresql.start()
    registry.enrolments.invite("shop", valid_s=900)
    assert [edge.name for edge in registry.edges.all()] == ["barn", "shop"]


def test_a_server_that_hangs_does_not_hold_up_whoever_asks(
    registry: Registry, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.owned.read() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    monkeypatch.setattr(owned_database, "ANSWER_S", 0.1)
    with postgresql.silent(pid), pytest.raises(OwnedUnusable, match="did not answer"):
        registry.edges.all()
    assert registry.edges.all() == []


def test_a_command_that_changes_something_is_waited_for_so_long(
    tmp_path: Path, database: str
) -> None:
    url = parse_url(database)
    with (
        closing(open_registry(tmp_path, url)) as slow,
        closing(open_registry(tmp_path, url, busy_s=0.05)) as hasty,
        slow.owned.change(),
    ):
        assert hasty.edges.all() == []
        with pytest.raises(OwnedBusy, match="try again"):
            hasty.tenants.add("acme")


def test_a_role_that_owns_the_schema_needs_no_other_right(
    tmp_path: Path, postgresql: Server, database: str
) -> None:
    postgresql.execute("DROP ROLE IF EXISTS modest")
    postgresql.execute("CREATE ROLE modest LOGIN")
    try:
        url = parse_url(database).set(username="modest")
        with pytest.raises(OwnedUnusable, match="permission denied"):
            open_registry(tmp_path, url)
        postgresql.execute("CREATE SCHEMA edgesync AUTHORIZATION modest", "hub")
        with closing(open_registry(tmp_path, url)) as registry:
            registry.tenants.add("acme")
    finally:
        postgresql.execute("DROP SCHEMA IF EXISTS edgesync CASCADE", "hub")
        postgresql.execute("DROP ROLE modest")


def test_only_the_schema_is_touched_and_the_password_is_not_told(
    tmp_path: Path, postgresql: Server, database: str
) -> None:
    url = parse_url(database).set(password="secret")
    with closing(open_registry(tmp_path, url)) as registry:
        assert "secret" not in registry.name
    schemas = postgresql.execute(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^pg_' "
        "AND schemaname <> 'information_schema'",
        "hub",
    )
    assert schemas == [("edgesync",)]
    assert list(tmp_path.iterdir()) == []
