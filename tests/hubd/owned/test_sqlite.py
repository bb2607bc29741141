"""Owned state in a file: others read and write it, and it is whole at any moment."""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from edgesync_transport.keys import new_key_pair
from hubd.errors import EnrolRefused, OwnedBusy, OwnedUnusable
from hubd.owned import database as owned_database
from hubd.owned.database import FILE
from hubd.registry import Registry, open_registry

pytestmark = pytest.mark.feature("S6")

# Works for a while, in which SQLite asks whether it is to stop.
COUNTED = sa.text(
    "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted LIMIT 50000) "
    "SELECT max(n) FROM counted"
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(open_registry(tmp_path)) as found:
        yield found


def invite(registry: Registry, edge: str = "barn", *, again: bool = False) -> tuple[str, str]:
    found = registry.enrolments.invite(edge, valid_s=900, again=again)
    return found.routing_key, found.secret


def test_a_file_held_by_another_process_is_busy(tmp_path: Path) -> None:
    with closing(open_registry(tmp_path, busy_s=0.01)) as hasty:
        token = invite(hasty)
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            assert hasty.edges.live_keys() == {}
            with pytest.raises(OwnedBusy, match="try again"):
                hasty.enrolments.redeem(*token, new_key_pair().public)
        assert hasty.enrolments.redeem(*token, new_key_pair().public) == "barn"


def test_the_file_alone_has_every_change_while_the_hub_runs(
    registry: Registry, tmp_path: Path
) -> None:
    """A killed hub leaves a WAL: without it nobody is locked out, and no revoked key is back."""
    lost, kept = new_key_pair().public, new_key_pair().public
    registry.enrolments.redeem(*invite(registry), lost)
    registry.edges.revoke("barn")
    registry.enrolments.redeem(*invite(registry, "mill"), kept)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / FILE).write_bytes((tmp_path / FILE).read_bytes())
    with closing(open_registry(copy)) as found:
        assert found.edges.live_keys() == {kept: "mill"}
        routing_key, secret = invite(found, "barn", again=True)
        with pytest.raises(EnrolRefused, match="revoked"):
            found.enrolments.redeem(routing_key, secret, lost)


def test_a_change_does_not_wait_for_who_reads(registry: Registry, tmp_path: Path) -> None:
    key = new_key_pair().public
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM edge").fetchall()
        registry.enrolments.redeem(*invite(registry), key)
        assert registry.edges.live_keys() == {key: "barn"}
        reader.execute("COMMIT")
    registry.edges.revoke("barn")  # the next change moves both
    assert not (tmp_path / f"{FILE}-wal").stat().st_size


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database, " * 100)
    with pytest.raises(OwnedUnusable, match=r"registry\.db: file is not a database"):
        open_registry(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"no database, " * 100
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(("statements", "passes"), [(4, True), (20, False)])
def test_a_transaction_of_many_statements_is_no_server_that_hangs(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, statements: int, passes: bool
) -> None:
    """On a busy machine time passes between statements; each has its own, and all have an end."""
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now, time_ns=time.time_ns)
    monkeypatch.setattr(owned_database, "time", clock)
    over = pytest.raises(OwnedUnusable, match="did not answer within 30 s")
    with nullcontext() if passes else over:  # noqa: SIM117
        with registry.owned.write() as connection:
            for _ in range(statements):
                assert connection.scalar(COUNTED) == 50_000
                now += owned_database.ANSWER_S * 0.8


def test_a_statement_that_hangs_is_given_up(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(seconds), time_ns=time.time_ns)
    monkeypatch.setattr(owned_database, "time", clock)
    over = pytest.raises(OwnedUnusable, match="did not answer within 5 s")
    with over, registry.owned.read() as connection:
        connection.scalar(COUNTED)
