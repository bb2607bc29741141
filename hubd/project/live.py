"""The newest readings and events, for whoever watches right now.

A watcher that cannot keep up gets the newest value of each series and misses those between; what it
must not miss, it asks the history for. So what waits for a watcher is bounded by what it watches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Final

import msgspec
import trio

from edgesync.model import Value
from hubd.rules.reports import Reports

WATCHERS_MAX: Final = 256
SERIES_WAITING_MAX: Final = 4096


class Update(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The newest reading of a series.

    points   how many readings the series has by now: it tells who watches whether some were missed
    """

    edge: str
    series: int
    entity: str
    key: str
    unit: str
    time_ns: int
    value: Value
    points: int

    @cached_property
    def json(self) -> bytes:
        """The reading as clients get it, encoded once however many watch."""
        fields = msgspec.structs.asdict(self)
        return msgspec.json.encode({**fields, "series": f"{self.series:016x}"})


class TooManyWatchers(Exception):
    """All places are taken; one becomes free when somebody stops watching."""


def _everything(_edge: str) -> bool:
    return True


class Watcher:
    """What has happened since the last `take`, of what the watcher asked for."""

    def __init__(self, series: frozenset[int], sees: Callable[[str], bool] = _everything) -> None:
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
        if self._series and update.series not in self._series:
            return
        if not self._sees(update.edge):
            return
        if len(self._updates) < SERIES_WAITING_MAX:  # I7
            self._updates[update.edge, update.series] = update
        self._news.set()

    def touch(self, edge: str) -> None:
        if self._sees(edge):
            self._edges.add(edge)
            self._news.set()


_Watchers = defaultdict[str | None, set[Watcher]]


class Live:
    """Projectors publish, watchers watch. All in Trio's thread.

    rules   what edges tell of their rule chains
    """

    def __init__(self) -> None:
        # By the edge that they watch, None for all; those of `_of_readings` are in `_all`, too.
        self._all = _Watchers(set)
        self._of_readings = _Watchers(set)
        self.rules = Reports()

    @property
    def watchers(self) -> int:
        return sum(map(len, self._all.values()))

    def watches(self, edge: str) -> bool:
        """Return whether somebody watches readings of `edge`; call it from any thread."""
        return edge in self._of_readings or None in self._of_readings

    @contextmanager
    def watch(
        self,
        edge: str | None = None,
        series: frozenset[int] = frozenset(),
        sees: Callable[[str], bool] = _everything,
        *,
        readings: bool = True,
    ) -> Iterator[Watcher]:
        """Watch one edge or all, some series or all; raises TooManyWatchers.

        sees       of which edges anything may be told
        readings   whether readings are wanted, too: somebody has to make them
        """
        if self.watchers >= WATCHERS_MAX:
            raise TooManyWatchers(f"{WATCHERS_MAX} watchers already")
        watcher = Watcher(series, sees)
        places = [self._all, self._of_readings] if readings else [self._all]
        for place in places:
            place[edge].add(watcher)
        try:
            yield watcher
        finally:
            for place in places:
                place[edge].discard(watcher)
                if not place[edge]:
                    del place[edge]

    def publish(self, updates: list[Update]) -> None:
        for update in updates:
            for watcher in _of(self._of_readings, update.edge):
                watcher.offer(update)

    def touch(self, edge: str) -> None:
        """Say that `edge` has new events, or another state."""
        for watcher in _of(self._all, edge):
            watcher.touch(edge)


def _of(watchers: _Watchers, edge: str) -> Iterator[Watcher]:
    for watched in (edge, None):
        yield from watchers.get(watched, ())
