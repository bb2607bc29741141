"""The newest readings and events, for whoever watches right now.

A watcher that cannot keep up gets the newest value of each series and misses those between; what it
must not miss, it asks the history for. So what waits for a watcher is bounded by what it watches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import trio

from edgesync.model import Value
from hubd.rules.reports import Reports

WATCHERS_MAX: Final = 256
SERIES_WAITING_MAX: Final = 4096


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """The newest reading of a series. `points` is how many readings the series has by now."""

    edge: str
    series: int
    entity: str
    key: str
    unit: str
    time_ns: int
    value: Value
    points: int


class TooManyWatchers(Exception):
    """All places are taken; one becomes free when somebody stops watching."""


def _everything(_edge: str) -> bool:
    return True


class Watcher:
    """What has happened since the last `take`, of what the watcher asked for."""

    def __init__(
        self, edge: str | None, series: frozenset[int], sees: Callable[[str], bool] = _everything
    ) -> None:
        self.edge = edge
        self._series = series
        self._sees = sees
        self._updates: dict[tuple[str, int], Update] = {}
        self._edges: set[str] = set()
        self._news = trio.Event()

    async def wait(self) -> None:
        """Return once there is something to take."""
        await self._news.wait()

    def take(self) -> tuple[list[Update], set[str]]:
        """The newest update of each changed series, and the edges that have new events."""
        taken = list(self._updates.values()), self._edges
        self._updates, self._edges = {}, set()
        self._news = trio.Event()
        return taken

    def offer(self, update: Update) -> None:
        if self.edge not in (None, update.edge):
            return
        if self._series and update.series not in self._series:
            return
        if not self._sees(update.edge):
            return
        if len(self._updates) < SERIES_WAITING_MAX:  # I7
            self._updates[update.edge, update.series] = update
        self._news.set()

    def touch(self, edge: str) -> None:
        if self.edge in (None, edge) and self._sees(edge):
            self._edges.add(edge)
            self._news.set()


class Live:
    """Projectors publish, watchers watch. All in Trio's thread.

    rules   what edges tell of their rule chains
    """

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self.rules = Reports()

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def watches(self, edge: str) -> bool:
        """Return whether somebody watches `edge`; call it from any thread."""
        return any(watcher.edge in (None, edge) for watcher in tuple(self._watchers))

    @contextmanager
    def watch(
        self,
        edge: str | None = None,
        series: frozenset[int] = frozenset(),
        sees: Callable[[str], bool] = _everything,
    ) -> Iterator[Watcher]:
        """Watch one edge or all, some series or all; raises TooManyWatchers.

        sees   of which edges anything may be told
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise TooManyWatchers(f"{WATCHERS_MAX} watchers already")
        watcher = Watcher(edge, series, sees)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def publish(self, updates: list[Update]) -> None:
        for watcher in self._watchers:
            for update in updates:
                watcher.offer(update)

    def touch(self, edge: str) -> None:
        """Say that `edge` has new events, or another state."""
        for watcher in self._watchers:
            watcher.touch(edge)
