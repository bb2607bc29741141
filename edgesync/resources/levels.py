"""From samples to levels: up at once, down slowly.

A resource that is nearly used up must be acted on in the same breath; one that has just come back
may go again in the next. So a level is left only after `CALM_S` below its threshold less `MARGIN`
points, and one step at a time: what sways around a threshold changes the level once.
"""

from enum import IntEnum
from typing import Final

import msgspec

MARGIN: Final = 5.0
CALM_S: Final = 10.0


class Level(IntEnum):
    NORMAL = 0
    WARNING = 1
    HIGH = 2
    CRITICAL = 3


class Thresholds(msgspec.Struct, frozen=True):
    """Percent above which a level is reached, rising by at least MARGIN; above 100: never."""

    warning: float
    high: float
    critical: float

    def rank(self, percent: float) -> Level:
        steps = (self.warning, self.high, self.critical)
        return Level(sum(percent > step for step in steps))


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with a resource.

    value, limit   as people know them: bytes, cores, percent of charge
    percent        what people read
    strain         what the level is judged by, 0 to 100 and worse the higher; None: not known
    stall          percent of time that work waits for this resource; None: not known
    """

    value: float
    limit: float
    percent: float
    strain: float | None = None
    stall: float | None = None


UNKNOWN: Final = Sample(value=0, limit=0, percent=0)
# Waiting lifts a level that amounts alone would give: by one above 10 %, by two above 40 %.
STALLS: Final = Thresholds(warning=10.0, high=40.0, critical=101.0)


def judge(sample: Sample, thresholds: Thresholds, margin: float = 0.0) -> Level:
    """Return the level of a sample, each of its figures worse by `margin` points."""
    level = 0
    if sample.strain is not None:
        level += thresholds.rank(sample.strain + margin)
    if sample.stall is not None:
        level += STALLS.rank(sample.stall + margin)
    return Level(min(level, Level.CRITICAL))


class Ladder:
    """The level of one resource over time.

    since   when it was reached, seconds
    """

    def __init__(self, thresholds: Thresholds, now: float) -> None:
        self.thresholds = thresholds
        self.level = Level.NORMAL
        self.since = now
        self._calm_since: float | None = None

    def step(self, sample: Sample, now: float) -> Level:
        """Take a sample at monotonic time `now` (seconds) and return the level from here on."""
        reached = judge(sample, self.thresholds)
        if reached > self.level:
            self._move(reached, now)
        elif judge(sample, self.thresholds, MARGIN) >= self.level:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= CALM_S:
            self._move(Level(self.level - 1), now)
            self._calm_since = now  # the next step takes as long again
        return self.level

    def _move(self, level: Level, now: float) -> None:
        self.level, self.since, self._calm_since = level, now, None
