"""Where owned and derived state may be: tests of it run over SQLite and over PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from hubd.db.engine import parse_url
from hubd.state import State, open_state
from hubd.state.file import open_beside
from hubd.state.schema import Hub, open_schema, open_schema_beside

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
