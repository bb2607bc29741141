"""When which group of a device is due: fixed rate, no drift, no bursts.   [sans-IO]

Times are monotonic seconds. A group is due at its anchor + n x period whatever the polls take. A
poll that comes too late leaves out the turns it missed and counts them; it never catches up. The
anchors of many devices are spread over the period (`phase`), so that they are not all asked in the
same instant.
"""

import math
from collections.abc import Collection, Iterable
from typing import Final

# The first poll comes at once, but not of all devices in the same instant.
FIRST_SPREAD_S: Final = 1.0


class Schedule:
    """The groups of one device, all first due within a second after `start_s`.

    phase   from 0 to 1: where in the period this device is due
    """

    def __init__(
        self, periods: Iterable[tuple[str, float]], start_s: float, phase: float = 0.0
    ) -> None:
        self._periods = dict(periods)
        self._phase = phase
        self._turn = dict.fromkeys(self._periods, 0)
        self.overruns = 0
        self.begin(start_s)

    def begin(self, start_s: float) -> None:
        """Count from `start_s` on."""
        shortest_s = self.shortest_s
        self._anchors = dict.fromkeys(self._periods, start_s)
        if self._phase:
            for group, period_s in self._periods.items():
                # On the fastest group's turns: groups that are due together share requests.
                turns = math.floor(self._phase * period_s / shortest_s + 1e-9)
                self._anchors[group] += (self._phase + turns) * shortest_s
        self._all_at_s: float | None = start_s
        if self._phase:
            self._all_at_s += self._phase * min(shortest_s, FIRST_SPREAD_S)

    @property
    def next_s(self) -> float:
        """When the next group is due."""
        if self._all_at_s is not None:
            return self._all_at_s
        return min((self._at(group) for group in self._periods), default=math.inf)

    @property
    def shortest_s(self) -> float:
        return min(self._periods.values(), default=math.inf)

    def take(self, now_s: float, running: Collection[str] = ()) -> frozenset[str]:
        """Return the groups due at `now_s` and move each on to its next turn.

        running   groups whose last turn has not ended: theirs is left out
        """
        due = self._due(now_s)
        for group in due:
            # Turn n+1 lies ahead of now even if rounding puts now a hair before turn n.
            passed = math.floor((now_s - self._anchors[group]) / self._periods[group] + 1e-9)
            if self._all_at_s is None:
                self.overruns += max(passed - self._turn[group], 0)
                passed = max(passed, self._turn[group])
            else:
                self.overruns += math.floor((now_s - self._all_at_s) / self._periods[group] + 1e-9)
            self.overruns += group in running
            self._turn[group] = passed + 1
        if due:
            self._all_at_s = None
        return due.difference(running)

    def restart(self, now_s: float) -> None:
        """Make every group due at `now_s`; turns missed until then are not overruns."""
        self._all_at_s = now_s

    def _due(self, now_s: float) -> frozenset[str]:
        if self._all_at_s is not None:
            return frozenset(self._periods if self._all_at_s <= now_s else ())
        return frozenset(group for group in self._periods if self._at(group) <= now_s)

    def _at(self, group: str) -> float:
        return self._anchors[group] + self._turn[group] * self._periods[group]
