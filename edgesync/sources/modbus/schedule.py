"""When which group of a device is due: fixed rate, no drift, no bursts.   [sans-IO]

Times are monotonic seconds. A group is due at start + n x period whatever the polls take. A poll
that comes too late leaves out the turns it missed and counts them; it never catches up.
"""

import math
from collections.abc import Iterable


class Schedule:
    """The groups of one device, all first due at `start_s`."""

    def __init__(self, periods: Iterable[tuple[str, float]], start_s: float) -> None:
        self._periods = dict(periods)
        self._start_s = start_s
        self._turn = dict.fromkeys(self._periods, 0)
        self.overruns = 0

    @property
    def next_s(self) -> float:
        """When the next group is due."""
        return min((self._at(group) for group in self._periods), default=math.inf)

    @property
    def shortest_s(self) -> float:
        return min(self._periods.values(), default=math.inf)

    def take(self, now_s: float) -> frozenset[str]:
        """Return the groups due at `now_s` and move each on to its next turn."""
        due = frozenset(group for group in self._periods if self._at(group) <= now_s)
        for group in due:
            # Turn n+1 lies ahead of now even if rounding puts now a hair before turn n.
            passed = math.floor((now_s - self._start_s) / self._periods[group] + 1e-9)
            self.overruns += max(passed - self._turn[group], 0)
            self._turn[group] = max(passed, self._turn[group]) + 1
        return due

    def restart(self, now_s: float) -> None:
        """Make every group due at `now_s`; turns missed until then are not overruns."""
        self._start_s = now_s
        self._turn = dict.fromkeys(self._periods, 0)

    def _at(self, group: str) -> float:
        return self._start_s + self._turn[group] * self._periods[group]
