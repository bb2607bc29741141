"""What hits the site, and when: a plan drawn from one seed.  [sans-IO]"""

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from random import Random

CALM_S = (0.5, 2.5)
OUTAGE_S = (0.5, 4.0)
# An hour back, a minute on, ten years either way: what a dead clock battery and a first GPS fix do.
CLOCK_STEPS_S = (-3600, 60, 315_360_000, -315_360_000)


class Fault(enum.Enum):
    CUT = "cable cut"
    HUSH = "cable silent"
    KILL_EDGE = "edge killed"
    KILL_HUB = "hub killed"
    CLOCK = "edge's clock stepped"


class Strike(msgspec.Struct, frozen=True):
    """After `calm_s` of peace, `fault` for `outage_s` seconds (or by `step_s`, for the clock)."""

    calm_s: float
    fault: Fault
    outage_s: float
    step_s: int = 0


def plan(random: "Random", seconds: float) -> Iterator[Strike]:
    """Yield strikes that fill `seconds`; the first round brings every fault once."""
    left_s = seconds
    faults: list[Fault] = []
    while left_s > 0:
        if not faults:
            faults = random.sample(list(Fault), k=len(Fault))
        fault = faults.pop()
        is_clock = fault is Fault.CLOCK
        strike = Strike(
            calm_s=round(random.uniform(*CALM_S), 2),
            fault=fault,
            outage_s=0.0 if is_clock else round(random.uniform(*OUTAGE_S), 2),
            step_s=random.choice(CLOCK_STEPS_S) if is_clock else 0,
        )
        left_s -= strike.calm_s + strike.outage_s
        if left_s > 0:
            yield strike
