"""A projecting process is killed at random moments; the state is right in the end."""

import random
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgesync.model import EventType
from hubd.db.engine import parse_url
from hubd.log.base import Entry
from hubd.state import points, views
from hubd.state.views import EventFilter
from tests.hubd.batches import START_NS, Edge
from tests.hubd.project.follower import open_at, save

ROOT = Path(__file__).parents[3]
NAMES = [("meter", f"Register{i}") for i in range(5)]
BATCHES, POLLS = 300, 20
LOG = b"g" * 16
SECOND = 10**9


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where the state is: a path or a URL."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("database"))
    return str(tmp_path / "state.db")


def log_of(batches: int, polls: int) -> list[Entry]:
    edge, entries = Edge("barn"), []
    for position in range(1, batches + 1):
        for poll in range(polls):
            second = position * polls + poll
            edge.readings(START_NS + second * SECOND, {name: second for name in NAMES})
        edge.event(EventType.CUSTOM, str(position).encode())
        entries.append(edge.entry(position))
    return entries


@pytest.mark.parametrize(
    ("place", "seed"), [("sqlite", 1), ("sqlite", 2), ("postgresql", 1)], indirect=["place"]
)
def test_killed_at_random_moments_nothing_is_missing_or_doubled(
    place: str, tmp_path: Path, seed: int
) -> None:
    save(log_of(BATCHES, POLLS), tmp_path / "log")
    rng = random.Random(seed)
    kills = 0
    while not follow_for(place, tmp_path / "log", rng.randint(10, 99), rng.uniform(0.0, 0.003)):
        kills += 1
    assert kills >= BATCHES // 100 - 1
    compare(place, LOG, BATCHES, POLLS)


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.long)])
def test_a_state_killed_while_it_is_made_anew_is_as_one_that_never_was(
    place: str, tmp_path: Path, kills: int
) -> None:
    """Each time it is of another log or version, or some of its tables are gone: at any moment."""
    save(log_of(20, 5), tmp_path / "log")
    rng = random.Random(7)
    others = Bystander(place, tmp_path)
    for kill in range(kills):
        generation = b"%016d" % (kill // 2)
        if kill % 2:
            others.drop_table(rng.choice(["page", "meta", "latest", "projector_cursor"]))
        elif kill % 4:
            others.make_older()
        # The first line says that it is about to open the state.
        follow_for(place, tmp_path / "log", 1, rng.uniform(0.0, 0.4), generation)
    assert follow_for(place, tmp_path / "log", 1 << 30, 0.0, b"f" * 16)
    compare(place, b"f" * 16, 20, 5)
    others.check()


class Bystander:
    """Somebody else's tables beside the state, and somebody who drops those of the state."""

    def __init__(self, place: str, folder: Path) -> None:
        self._is_file = not place.startswith("postgresql:")
        self._engine = sa.create_engine(
            f"sqlite:///{place}" if self._is_file else parse_url(place), poolclass=sa.NullPool
        )
        self._owned = folder / "registry.db"
        if self._is_file:
            self._owned.write_bytes(b"owned")
            return
        with self._engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA edgesync")
            connection.exec_driver_sql("CREATE SCHEMA edgesync_state_of_mine")
            for schema in ("edgesync", "edgesync_state_of_mine"):
                connection.exec_driver_sql(f"CREATE TABLE {schema}.t AS SELECT 1 AS x")

    def drop_table(self, name: str) -> None:
        with self._engine.begin() as connection:
            if self._is_file:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
                return
            for schema in self._schemas(connection):
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {schema}.{name}")

    def make_older(self) -> None:
        """Have the state be of an earlier version, which in a file is migrated."""
        if self._is_file:
            return
        with self._engine.begin() as connection:
            for schema in self._schemas(connection):
                if sa.inspect(connection).has_table("meta", schema):
                    change = f"UPDATE {schema}.meta SET value = '3' WHERE name = 'format'"
                    connection.exec_driver_sql(change)

    def _schemas(self, connection: sa.Connection) -> list[str]:
        question = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^edgesync_state_[0-9]+$'"
        return list(connection.exec_driver_sql(question).scalars())

    def check(self) -> None:
        if self._is_file:
            assert self._owned.read_bytes() == b"owned"
            return
        with self._engine.begin() as connection:
            assert len(self._schemas(connection)) <= 2  # the one before is kept
            for schema in ("edgesync", "edgesync_state_of_mine"):
                assert connection.exec_driver_sql(f"SELECT x FROM {schema}.t").scalar() == 1


def follow_for(place: str, log: Path, lines: int, seconds: float, generation: bytes = LOG) -> bool:
    """Let the follower say so much, and live a moment longer; return whether that was the end."""
    command = [sys.executable, "-m", "tests.hubd.project.follower"]
    with subprocess.Popen(
        [*command, str(log), place, generation.decode()],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = list(islice(process.stdout, lines))
        time.sleep(seconds)
        process.kill()
        return "done\n" in [*said, *process.stdout]


def compare(place: str, generation: bytes, batches: int, polls: int) -> None:
    state = open_at(place, generation)
    wanted = list(range(polls, (batches + 1) * polls))
    rows = state.read_now(lambda c: views.series_of(c, "barn", 0, 99))
    assert len(rows) == len(NAMES)
    for row in rows:
        ref = row.ref
        found = state.read_now(lambda c, ref=ref: list(points.all_points(c, ref)))  # type: ignore[misc]
        assert [point.value for point in found] == wanted
    events = state.read_now(lambda c: views.events(c, EventFilter(edge="barn"), None, 9999))
    assert [event.body for event in events][::-1] == list(range(1, batches + 1))
    total = state.read_now(views.totals)["barn"]
    assert (total.readings, total.events) == (len(wanted) * len(NAMES), batches)
    state.close()
