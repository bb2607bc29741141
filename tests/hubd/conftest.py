"""Where owned and derived state may be: tests of it run over SQLite and over PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from hubd.db.engine import parse_url
from hubd.owned.database import FILE, SCHEMA
from hubd.settings import RetentionSection
from hubd.state import State, open_state
from hubd.state.file import open_beside
from hubd.state.schema import Hub, open_schema, open_schema_beside
from hubd.state.upkeep import passes

LOG: Final = b"g" * 16
HUB: Final = Hub("key of this hub", "here:/hub")


class Opener(Protocol):
    """Opens one state, again and again; `is_file` if it is a file."""

    is_file: bool

    def __call__(self, generation: bytes = LOG, head: Callable[[], int] | None = None) -> State: ...

    def beside(self) -> State | None:
        """Open the state to read from."""
        ...


class _Opener:
    def __init__(self, path: Path, url: str) -> None:
        self.is_file = not url
        self._path = path
        self._url = url
        self.opened: list[State] = []

    def __call__(self, generation: bytes = LOG, head: Callable[[], int] | None = None) -> State:
        if self._url:
            state = open_schema(parse_url(self._url), HUB, generation, head)
        else:
            state = open_state(self._path, generation, head)
        self.opened.append(state)
        return state

    def beside(self) -> State | None:
        if self._url:
            return open_schema_beside(parse_url(self._url))
        return open_beside(self._path)


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Return what opens the state; what a test leaves open is closed after it."""
    url = request.getfixturevalue("database") if request.param == "postgresql" else ""
    made = _Opener(tmp_path / "state.db", url)
    yield made
    for state in made.opened:
        state.close()


@pytest.fixture
def state(opener: Opener) -> State:
    return opener()


@pytest.fixture(params=["sqlite", "postgresql"])
def owned_url(request: pytest.FixtureRequest) -> sa.URL | None:
    """Return the URL of an empty database, None for a file in the hub's folder."""
    if request.param == "sqlite":
        return None
    return parse_url(request.getfixturevalue("database"))


class RegistryPlace:
    """Where the registry of a hub is, and what somebody may do to it behind the hub's back."""

    def __init__(self, folder: Path, url: sa.URL | None) -> None:
        self.folder = folder
        self.url = url
        self._aside = f"{SCHEMA}_aside" if url else f"{FILE}.aside"

    def take_away(self) -> None:
        """Leave nothing there; `put_back` undoes it."""
        self._rename(SCHEMA if self.url else FILE, self._aside)

    def put_back(self) -> None:
        """Have there what was taken away, in place of what is there."""
        if self.url is not None:
            self._execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        self._rename(self._aside, SCHEMA if self.url else FILE)

    @property
    def is_empty(self) -> bool:
        if self.url is None:
            return not (self.folder / FILE).exists()
        return self._execute(f"SELECT 1 FROM pg_namespace WHERE nspname = '{SCHEMA}'") == []

    def _rename(self, old: str, new: str) -> None:
        if self.url is None:
            (self.folder / old).replace(self.folder / new)
        else:
            self._execute(f"ALTER SCHEMA {old} RENAME TO {new}")

    def _execute(self, statement: str) -> list[Any]:
        assert self.url is not None
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            done = connection.exec_driver_sql(statement)
            return list(done) if done.returns_rows else []


@pytest.fixture
def registry_place(tmp_path: Path, owned_url: sa.URL | None) -> RegistryPlace:
    return RegistryPlace(tmp_path, owned_url)


def kept_up(state: State, keep: RetentionSection, now_ns: int) -> int:
    """Take all steps of upkeep that there are; returns how many."""
    steps = 0
    for one in passes(keep, {}, now_ns):
        while not one.is_over:
            step = state.read_now(one.plan)
            if step is not None:
                state.write_now(step)
                steps += 1
    return steps


def refusing(state: State) -> Callable[[bool], None]:
    """Return what makes the database of a state read-only for its writer, and lets it write."""
    refuses = [False]

    @sa.event.listens_for(state.engines.writer, "checkout")
    def allow_or_not(raw: DBAPIConnection, *_: object) -> None:
        if state.engines.writer.dialect.name == "sqlite":
            raw.cursor().execute(f"PRAGMA query_only = {int(refuses[0])}")
        else:
            raw.cursor().execute(f"SET default_transaction_read_only = {int(refuses[0])}")
            raw.commit()

    def refuse(is_so: bool) -> None:
        refuses[0] = is_so

    return refuse
